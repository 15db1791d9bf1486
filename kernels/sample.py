"""The next token of each row: greedy, or Gumbel-max over the filtered distribution with counter-based noise.

    score   = x / T
    id      = argmax over kept tokens of score + g,   g = -ln(-ln u)    a draw from the softmax of the kept scores
    T = 0     g = 0, T = 1, nothing filtered: the largest logit; likewise below 1e-20

The lowest id among equal maxima wins; `noise` says what g is made of: nothing but the row's key, position and stream.

Filters, each on what the one before it left, with w = e^((x - max x) / T):

    top-k   keep scores >= the k-th largest, ties included                           0: off
    top-p   keep a token if the mass of those before it, by falling score and then
            rising id, is < p of the mass that top-k left                            1: off
    min-p   keep w >= min_p                                                          0: off

`threshold` finds the smallest kept score of top-k and top-p; one more pass over the row draws.

Shape suffixes: B rows, V vocabulary. Sources: Gumbel-max, Maddison et al. 2014 (arXiv:1411.0030); nucleus,
Holtzman et al. 2020 (arXiv:1904.09751).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dodona.kernels.checks import FLOATS, check_integer
from dodona.kernels.launch import (
    LLAMA_SHAPES,
    CompileCase,
    check_device,
    config_for,
    let_dependents_start,
    pdl_options,
    pdl_supported,
    signature_of,
    wait_for_producers,
)
from dodona.kernels.noise import STREAM_SAMPLE, row_noise
from dodona.kernels.parts import cut
from dodona.kernels.portable import loop_bound
from dodona.kernels.threshold import (
    COLD,
    KEY_BITS,
    RADIX_BITS,
    SEARCH_BLOCK,
    STATE_TYPES,
    advance,
    find_threshold,
    order_key,
    row_scale,
    threshold_reference,
    weight,
)
from dodona.kernels.uncertainty import Uncertainty, check_logits, uncertainty

MAX_VOCAB = 2**24 - 1  # counts are compared with k in float32

CONFIG = {"BLOCK": 1024, "SEARCH_BLOCK": SEARCH_BLOCK, "num_warps": 4, "programs_per_sm": 2}


class Sample(NamedTuple):
    """A row whose statistics carry an error has id -1 and NaN log-probabilities."""

    id: Tensor  # [B] int64
    logprob: Tensor  # [B] float32, nats, under the raw distribution: temperature 1, no filter
    sampled_logprob: Tensor  # [B] float32, nats, under the one that was sampled from; 0 where T = 0


class Filters(NamedTuple):
    """What is left out before a draw; None: off for every row."""

    top_k: Tensor | None = None  # [B] int32 or int64, 0 or V and more: off
    top_p: Tensor | None = None  # [B] float32 in (0, 1], 1: off
    min_p: Tensor | None = None  # [B] float32 in [0, 1], 0: off


def sample_reference(logits_BV: Tensor, temperature_B: Tensor, noise_BV: Tensor, filters: Filters) -> Sample:
    """The definitions in float64, by sorting, plain torch; the noise is given."""
    x = logits_BV.double()
    greedy = temperature_B < COLD.value
    scores = x / torch.where(greedy, 1.0, temperature_B.double()).unsqueeze(1)
    off = torch.zeros_like(temperature_B)
    top_k = off if filters.top_k is None else torch.where(greedy, off, filters.top_k)
    top_p = off + 1 if filters.top_p is None else torch.where(greedy, 1.0, filters.top_p)
    min_p = off if filters.min_p is None else torch.where(greedy, 0.0, filters.min_p)
    kept = scores.masked_fill(~threshold_reference(scores, top_k, top_p), -torch.inf)
    share = (kept - kept.amax(-1, keepdim=True)).exp()
    kept = kept.masked_fill(share < min_p.double().unsqueeze(1), -torch.inf)
    ids = (kept + torch.where(greedy.unsqueeze(1), 0.0, noise_BV.double())).argmax(-1, keepdim=True)
    logprob = x.log_softmax(-1).gather(1, ids).squeeze(1)
    sampled = torch.where(greedy, 0.0, kept.log_softmax(-1).gather(1, ids).squeeze(1))
    return Sample(ids.squeeze(1), logprob, sampled)


@triton.jit
def _draw_kernel(
    logits, temperature, top_logit, keys, positions, min_p, limit, prefix, above, target, counts, masses,
    best_values, best_ids, kept_masses, row_stride, B, V, chunk, SPLITS,
    STREAM: tl.constexpr, BY_MASS: tl.constexpr, LEVELS: tl.constexpr, BITS: tl.constexpr,
    BLOCK: tl.constexpr, SPLIT_BLOCK: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """The best kept token of a piece of a row, and the mass of what is kept; ``prefix`` is the last search or None."""
    row = tl.program_id(0)
    split = tl.program_id(1)
    no_id: tl.constexpr = 2**31 - 1
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    t, inverse_t, greedy, m = row_scale(temperature, top_logit, row)
    key0 = tl.load(keys + 2 * row.to(tl.int64)).to(tl.uint32)
    key1 = tl.load(keys + 2 * row.to(tl.int64) + 1).to(tl.uint32)
    position = tl.load(positions + row).to(tl.uint32)
    loudness = tl.where(greedy, 0.0, 1.0)
    if prefix is not None:
        key_found, lies_above, goal, chosen = advance(
            prefix, above, target, counts, masses, limit, greedy, row, B, V, SPLITS, LEVELS - 1, BY_MASS, SPLIT_BLOCK
        )
        threshold = key_found.to(tl.uint32, bitcast=True)
        if BY_MASS:  # tokens of exactly that key in the pieces before this one
            part = tl.arange(0, SPLIT_BLOCK)
            at = ((row.to(tl.int64) + ((LEVELS - 1) % 2) * B) * SPLITS + part) * 16 + chosen
            ties = tl.sum(tl.load(counts + at, mask=part < split, other=0), 0).to(tl.float32)
    if min_p is not None:
        least = tl.where(greedy, 0.0, tl.load(min_p + row))
    line = logits + row.to(tl.int64) * row_stride
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    best_id = tl.full([BLOCK], no_id, tl.int32)
    mass = tl.zeros([BLOCK], tl.float32)
    start = split * chunk
    stop = tl.minimum(start + chunk, V)
    for tile in range(loop_bound(start), loop_bound(stop), BLOCK):
        token = tile + tl.arange(0, BLOCK)
        keep = token < stop
        x = tl.load(line + token, mask=keep, other=float("-inf")).to(tl.float32)
        score = tl.div_rn(x, t)
        w = weight(x, m, inverse_t)
        if prefix is not None:
            key = order_key(x, score, BITS)
            if BY_MASS:
                tie = (keep & (key == threshold)).to(tl.float32)
                earlier = ties + tl.cumsum(tie, 0) - tie
                keep = keep & ((key > threshold) | ((tie > 0) & (lies_above + earlier * w < goal)))
                ties += tl.sum(tie, 0)
            else:
                keep = keep & (key >= threshold)
        if min_p is not None:
            keep = keep & (w >= least)
        value = score + loudness * row_noise(tile, position, STREAM, key0, key1, BLOCK)
        value = tl.where(keep, value, float("-inf"))
        mass += tl.where(keep, w, 0.0)
        better = value > best
        best_id = tl.where(better, token, best_id)
        best = tl.where(better, value, best)
    top = tl.max(best, 0)
    at = row.to(tl.int64) * SPLITS + split
    tl.store(best_values + at, top)
    tl.store(best_ids + at, tl.min(tl.where(best == top, best_id, no_id), 0))
    tl.store(kept_masses + at, tl.sum(mass, 0))


@triton.jit
def store_draw(ids, logprobs, row, B, code, token, x, m, log_s, t, mass):
    """Write a row's draw: `x` is the drawn token's logit, `log_s` the raw distribution's ln sum e^(x - m)."""
    fine = code == 0
    greedy = t < COLD
    scale = 1.0 / tl.where(greedy, 1.0, t)
    nan = float("nan")
    sampled = tl.where(greedy, 0.0, (x - m) * scale - tl.log(mass))
    tl.store(ids + row, tl.where(fine, token, -1).to(tl.int64))
    tl.store(logprobs + row, tl.where(fine, (x - m) - log_s, nan))
    tl.store(logprobs + B + row, tl.where(fine, sampled, nan))


@triton.jit
def _finish_kernel(
    logits, temperature, top_logit, top_prob, error, best_values, best_ids, kept_masses, ids, logprobs,
    row_stride, B, SPLITS, SPLIT_BLOCK: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    part = tl.arange(0, SPLIT_BLOCK)
    at = row.to(tl.int64) * SPLITS + part
    value = tl.load(best_values + at, mask=part < SPLITS, other=float("-inf"))
    part_id = tl.load(best_ids + at, mask=part < SPLITS, other=2**31 - 1)
    mass = tl.sum(tl.load(kept_masses + at, mask=part < SPLITS, other=0.0), 0)
    token = tl.min(tl.where(value == tl.max(value, 0), part_id, 2**31 - 1), 0)
    code = tl.load(error + row)
    x = tl.load(logits + row.to(tl.int64) * row_stride + token, mask=code == 0, other=0.0).to(tl.float32)
    m = tl.load(top_logit + row)
    log_s = -tl.log(tl.load(top_prob + row))
    store_draw(ids, logprobs, row, B, code, token, x, m, log_s, tl.load(temperature + row), mass)


def check_sampling(
    rows: int, temperature_B: Tensor, keys_B2: Tensor, positions_B: Tensor, filters: Filters, stream: int
) -> None:
    """Shapes, strides and dtypes of what a draw needs beside logits.

    Raises:
        ValueError: one of them is off.
    """
    for name, column in (("temperature", temperature_B), ("top_p", filters.top_p), ("min_p", filters.min_p)):
        if column is None:
            continue
        if column.dtype != torch.float32 or column.shape != (rows,) or (rows > 1 and column.stride(0) != 1):
            raise ValueError(f"{name} must be a dense float32 [{rows}], not {column.dtype} {tuple(column.shape)}")
    if filters.top_k is not None:
        check_integer("top_k", filters.top_k, (rows,))
    check_integer("positions", positions_B, (rows,))
    check_integer("keys", keys_B2, (rows, 2))
    if keys_B2.dtype != torch.int64 or not keys_B2.is_contiguous():
        raise ValueError("keys must be a contiguous int64 [rows, 2] of unsigned 32-bit words")
    if not 0 <= stream < 2**31:
        raise ValueError(f"stream must be a number from 0 to 2^31 - 1, not {stream}")


def sample(
    logits_BV: Tensor,
    temperature_B: Tensor,
    keys_B2: Tensor,
    positions_B: Tensor,
    *,
    top_k_B: Tensor | None = None,
    top_p_B: Tensor | None = None,
    min_p_B: Tensor | None = None,
    stream: int = STREAM_SAMPLE,
    statistics: Uncertainty | None = None,
    splits: int | None = None,
    config: Mapping[str, int] | None = None,
) -> Sample:
    """Draw one token a row: two launches, one more for each four bits of a threshold that top-k and top-p look for.

    Args:
        logits_BV: raw logits, bfloat16, float16 or float32; any row stride, dense within a row.
        temperature_B: float32, 0 (greedy) or more.
        keys_B2: int64, the two 32-bit words of each row's Philox key.
        positions_B: each row's generated-token index, int64 or int32.
        top_k_B: int64 or int32; 0 is off for that row. None, here and below: for all rows.
        top_p_B: float32 in (0, 1].
        min_p_B: float32 in [0, 1].
        stream: which of a sequence's independent streams of noise.
        statistics: `uncertainty` of the same logits, if it has been computed already.
        splits: programs a row, in place of the number that shape and device give.
        config: block sizes in place of the tuning table's.

    Returns:
        Ids and log-probabilities; see `Sample`.

    Raises:
        ValueError: a wrong shape, stride, dtype or device, or a vocabulary of 2^24 and more.
    """
    rows, vocab = check_logits("logits", logits_BV)
    filters = Filters(top_k_B, top_p_B, min_p_B)
    check_sampling(rows, temperature_B, keys_B2, positions_B, filters, stream)
    if vocab > MAX_VOCAB:
        raise ValueError(f"sampling needs a vocabulary of less than 2^24, not {vocab}")
    device = check_device(
        logits=logits_BV, temperature=temperature_B, keys=keys_B2, positions=positions_B, **filters._asdict()
    )
    ids = torch.empty(rows, dtype=torch.int64, device=device)
    logprobs = torch.empty(2, rows, dtype=torch.float32, device=device)
    if rows == 0:
        return Sample(ids, *logprobs.unbind(0))
    if statistics is None:
        statistics = uncertainty(logits_BV)
    blocks = config or config_for("sample", (triton.next_power_of_2(rows), vocab), device, CONFIG)
    block, search_block, warps = blocks["BLOCK"], blocks["SEARCH_BLOCK"], blocks["num_warps"]
    pieces = cut(rows, vocab, device, max(block, search_block), blocks["programs_per_sm"], splits)
    found = find_threshold(
        logits_BV, temperature_B, statistics.top_logit, top_k_B, top_p_B, pieces, search_block, warps
    )
    best = torch.empty(2, rows, pieces.splits, dtype=torch.float32, device=device)
    best_ids = torch.empty(rows, pieces.splits, dtype=torch.int32, device=device)
    bits, use_pdl = KEY_BITS[logits_BV.dtype], pdl_supported(device)
    launch = {"SPLIT_BLOCK": triton.next_power_of_2(pieces.splits), "USE_PDL": use_pdl, **pdl_options(use_pdl)}
    _draw_kernel[(rows, pieces.splits)](
        logits_BV, temperature_B, statistics.top_logit, keys_B2, positions_B, min_p_B,
        *((None,) * 6 if found is None else (found.limit, *found.search)), best[0], best_ids, best[1],
        logits_BV.stride(0), rows, vocab, pieces.size, pieces.splits, STREAM=stream,
        BY_MASS=found is not None and found.by_mass, LEVELS=bits // RADIX_BITS, BITS=bits, BLOCK=block,
        num_warps=warps, **launch,
    )  # fmt: skip
    _finish_kernel[(rows,)](
        logits_BV, temperature_B, statistics.top_logit, statistics.top_prob, statistics.error,
        best[0], best_ids, best[1], ids, logprobs, logits_BV.stride(0), rows, pieces.splits, num_warps=4, **launch,
    )  # fmt: skip
    return Sample(ids, *logprobs.unbind(0))


def compile_cases() -> Iterator[CompileCase]:
    """At one row, where it is cut over all multiprocessors, and at 256."""
    f32, i32, i64 = torch.float32, torch.int32, torch.int64
    block, warps = CONFIG["BLOCK"], CONFIG["num_warps"]
    vocab = LLAMA_SHAPES[0].vocab
    for rows, splits in ((1, triton.cdiv(vocab, block)), (256, 1)):
        chunk = triton.cdiv(vocab, block * splits) * block
        split_block = triton.next_power_of_2(splits)
        for dtype in FLOATS if rows == 1 else FLOATS[:1]:
            bits = KEY_BITS[dtype]
            for filtered in (False, True):
                signature = signature_of(
                    logits=dtype, temperature=f32, top_logit=f32, keys=i64, positions=i64,
                    **{key: value if filtered else None for key, value in STATE_TYPES.items()},
                    min_p=f32 if filtered else None, limit=f32 if filtered else None, best_values=f32, best_ids=i32,
                    kept_masses=f32, row_stride=vocab, B=rows, V=vocab, chunk=chunk, SPLITS=splits,
                )  # fmt: skip
                constexprs = {
                    "STREAM": STREAM_SAMPLE, "BY_MASS": filtered, "LEVELS": bits // RADIX_BITS, "BITS": bits,
                    "BLOCK": block, "SPLIT_BLOCK": split_block,
                }  # fmt: skip
                name = f"draw {'filtered ' if filtered else ''}[{rows}, {vocab}] {dtype}".replace("torch.", "")
                yield CompileCase(name, _draw_kernel, signature, constexprs, warps, 1)
        signature = signature_of(
            logits=torch.bfloat16, temperature=f32, top_logit=f32, top_prob=f32, error=i32, best_values=f32,
            best_ids=i32, kept_masses=f32, ids=i64, logprobs=f32, row_stride=vocab, B=rows, SPLITS=splits,
        )  # fmt: skip
        constexprs = {"SPLIT_BLOCK": split_block}
        yield CompileCase(f"finish [{rows}, {vocab}]", _finish_kernel, signature, constexprs, 4, 1)
