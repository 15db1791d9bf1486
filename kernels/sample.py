"""The next token of each row: greedy, or Gumbel-max over the filtered distribution with counter-based noise.

    score   = x / T
    id      = argmax over kept tokens of score + g,   g = -ln(-ln u)    a draw from the softmax of the kept scores
    T = 0     g = 0, T = 1, nothing filtered: the largest logit

The lowest id among equal maxima wins. u is ((word >> 9) + 1/2) 2^-23 of Philox4x32-10 with key (keys[0], keys[1]) and
counter (token // 4, position, stream, 0), of which a token takes word token % 4: nothing else enters a row's draw.

Filters, each on what the one before it left, with w = e^((x - max x) / T):

    top-k   keep scores >= the k-th largest, ties included                           0: off
    top-p   keep a token if the mass of those before it, by falling score and then
            rising id, is < p of the mass that top-k left                            1: off
    min-p   keep w >= min_p                                                          0: off

No row is sorted. A score has an order-preserving unsigned key (bfloat16: 16 bits of the logit itself; float16: 20;
float32: all 32 of the score). The smallest kept key is found four bits a launch, from the top: every program counts and
weighs the tokens of its piece of the row by the next four bits, and the first thing that the next launch does is to add
these up and to choose the lowest non-empty one of sixteen bins before which the count is < k, or the mass < p of all.
The last launch knows the exact key, the mass above it, and how many tokens of that key lie in earlier pieces: that
decides ties by id. The number of launches depends on shapes, dtypes and which filters are given, never on values.

Shape suffixes: B rows, V vocabulary. Sources: Gumbel-max, Maddison et al. 2014 (arXiv:1411.0030); Philox, Salmon et al.
2011; nucleus, Holtzman et al. 2020 (arXiv:1904.09751).
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
from dodona.kernels.portable import loop_bound
from dodona.kernels.uncertainty import Uncertainty, check_logits, choose_splits, uncertainty

MAX_VOCAB = 2**24 - 1  # counts are compared with k in float32
STREAM_SAMPLE = 1  # the stream of the committed token's noise
RADIX_BITS = 4
KEY_BITS = {torch.bfloat16: 16, torch.float16: 20, torch.float32: 32}

# A search weighs [SEARCH_BLOCK, 16] numbers at a time, hence the smaller tile.
CONFIG = {"BLOCK": 1024, "SEARCH_BLOCK": 512, "num_warps": 4, "programs_per_sm": 2}


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
    vocab = logits_BV.shape[1]
    x = logits_BV.double()
    greedy = temperature_B == 0
    scores = x / torch.where(greedy, 1.0, temperature_B.double()).unsqueeze(1)
    off = torch.zeros_like(temperature_B)
    top_k = off if filters.top_k is None else torch.where(greedy, off, filters.top_k)
    top_p = off + 1 if filters.top_p is None else torch.where(greedy, 1.0, filters.top_p)
    min_p = off if filters.min_p is None else torch.where(greedy, 0.0, filters.min_p)
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    k = torch.where((top_k > 0) & (top_k < vocab), top_k, vocab).long()
    ordered = ordered.masked_fill(ordered < ordered.gather(1, k.unsqueeze(1) - 1), -torch.inf)
    p = ordered.softmax(-1)
    beyond = (p.cumsum(-1) - p >= top_p.double().unsqueeze(1)) & (top_p < 1).unsqueeze(1)
    beyond[:, 0] = False
    kept = torch.empty_like(scores).scatter_(1, order, ordered.masked_fill(beyond, -torch.inf))
    share = (kept - kept.amax(-1, keepdim=True)).exp()
    kept = kept.masked_fill(share < min_p.double().unsqueeze(1), -torch.inf)
    ids = (kept + torch.where(greedy.unsqueeze(1), 0.0, noise_BV.double())).argmax(-1, keepdim=True)
    logprob = x.log_softmax(-1).gather(1, ids).squeeze(1)
    sampled = torch.where(greedy, 0.0, kept.log_softmax(-1).gather(1, ids).squeeze(1))
    return Sample(ids.squeeze(1), logprob, sampled)


@triton.jit
def philox_words(counter, position, stream, key0, key1):
    """The four 32-bit words of Philox4x32-10 at (counter, position, stream, 0); all uint32, broadcast together."""
    zero = counter * 0
    return tl.philox_impl(counter, zero + position, zero + stream, zero, zero + key0, zero + key1, 10)


@triton.jit
def gumbel(word):
    """Standard Gumbel noise of a 32-bit word. The logarithms must be the accurate ones: near u = 1, where the largest
    values come from, an approximate logarithm has few or no correct digits."""
    u = ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    return -tl.log(-tl.log(u))


@triton.jit
def row_noise(first, position, stream, key0, key1, BLOCK: tl.constexpr):
    """Noise ``[BLOCK]`` of tokens first, first + 1, ...; first is a multiple of 4."""
    counter = (first // 4 + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    w0, w1, w2, w3 = philox_words(counter, position, stream, key0, key1)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # [BLOCK / 4, 2, 2]: words 0 1 2 3 in memory order
    return gumbel(tl.reshape(words, [BLOCK]))


@triton.jit
def order_key(x, score, BITS: tl.constexpr):
    """An unsigned number that grows with the score; that of a 16-bit logit itself, whose quotients never coincide."""
    value = score if BITS == 32 else x
    value = tl.where(value == 0, 0.0, value)  # -0 equals 0
    bits = value.to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, ~bits, bits ^ -2147483648).to(tl.uint32, bitcast=True)
    return key >> (32 - BITS)


@triton.jit
def load_row(temperature, top_logit, row):
    """What a row's scores depend on: T (1 where greedy), 1 / T, whether it is greedy, the largest logit."""
    t = tl.load(temperature + row)
    greedy = t == 0
    t = tl.where(greedy, 1.0, t)
    m = tl.load(top_logit + row)
    return t, 1.0 / t, greedy, m


@triton.jit
def weight(x, m, inverse_t):
    """e^((x - m) / T); 0 for -inf."""
    return tl.exp(tl.maximum((x - m) * inverse_t, -200.0))


@triton.jit
def advance(
    prefix, above, target, counts, masses, limit, greedy, row, B, V, SPLITS,
    DONE: tl.constexpr, BY_MASS: tl.constexpr, SPLIT_BLOCK: tl.constexpr,
):  # fmt: skip
    """Add up the bins of level DONE of a search and choose one: key prefix, what lies above it, target, and the bin."""
    line = row.to(tl.int64)
    bins = tl.arange(0, 16)
    part = tl.arange(0, SPLIT_BLOCK)[:, None]
    at = ((line + (DONE % 2) * B) * SPLITS + part) * 16 + bins[None, :]
    count = tl.sum(tl.load(counts + at, mask=part < SPLITS, other=0), 0)
    measure = tl.sum(tl.load(masses + at, mask=part < SPLITS, other=0.0), 0) if BY_MASS else count.to(tl.float32)
    if DONE == 0:
        old_prefix = line.to(tl.int32) * 0
        old_above = 0.0
        if BY_MASS:
            share = tl.load(limit + row)
            goal = tl.where(greedy | (share >= 1), float("inf"), share * tl.sum(measure, 0))
        else:
            k = tl.load(limit + row).to(tl.int32)
            goal = tl.where(greedy | (k <= 0) | (k > V), V, k).to(tl.float32)
    else:
        old_prefix = tl.load(prefix + DONE * B + row)
        old_above = tl.load(above + DONE * B + row)
        goal = tl.load(target + DONE * B + row)
    higher = tl.sum(tl.where(bins[None, :] > bins[:, None], measure[None, :], 0.0), 1)
    before = old_above + higher
    chosen = tl.min(tl.where((count > 0) & (before < goal), bins, 15), 0)
    new_above = tl.sum(tl.where(bins == chosen, before, 0.0), 0)
    return old_prefix * 16 + chosen, new_above, goal, chosen


@triton.jit
def store_state(prefix, above, target, row, B, level, key, lies_above, goal):
    """Keep the state after `level` levels."""
    tl.store(prefix + level * B + row, key)
    tl.store(above + level * B + row, lies_above)
    tl.store(target + level * B + row, goal)


@triton.jit
def _search_kernel(
    logits, temperature, top_logit, limit, prefix, above, target, counts, masses,
    floor_limit, floor_prefix, floor_above, floor_target, floor_counts,
    row_stride, B, V, chunk, SPLITS,
    LEVEL: tl.constexpr, LEVELS: tl.constexpr, BY_MASS: tl.constexpr, BITS: tl.constexpr,
    BLOCK: tl.constexpr, SPLIT_BLOCK: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """One level of a search: settle the level before it, then count (and weigh) this piece's tokens by four more bits.

    With ``floor_prefix``, the finished top-k search, only what it keeps is looked at.
    """
    row = tl.program_id(0)
    split = tl.program_id(1)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    t, inverse_t, greedy, m = load_row(temperature, top_logit, row)
    if LEVEL > 0:
        key_so_far, lies_above, goal, _ = advance(
            prefix, above, target, counts, masses, limit, greedy, row, B, V, SPLITS, LEVEL - 1, BY_MASS, SPLIT_BLOCK
        )
        if split == 0:
            store_state(prefix, above, target, row, B, LEVEL, key_so_far, lies_above, goal)
        wanted = key_so_far.to(tl.uint32, bitcast=True)
    if floor_prefix is not None:
        if LEVEL == 0:
            floor, count_above, k, _ = advance(
                floor_prefix, floor_above, floor_target, floor_counts, None, floor_limit, greedy, row, B, V, SPLITS,
                LEVELS - 1, False, SPLIT_BLOCK,
            )  # fmt: skip
            if split == 0:
                store_state(floor_prefix, floor_above, floor_target, row, B, LEVELS, floor, count_above, k)
        else:
            floor = tl.load(floor_prefix + LEVELS * B + row)
        lowest = floor.to(tl.uint32, bitcast=True)
    line = logits + row.to(tl.int64) * row_stride
    bins = tl.arange(0, 16)
    count = tl.zeros([16], tl.int32)
    mass = tl.zeros([16], tl.float32)
    start = split * chunk
    stop = tl.minimum(start + chunk, V)
    for tile in range(loop_bound(start), loop_bound(stop), BLOCK):
        token = tile + tl.arange(0, BLOCK)
        inside = token < stop
        x = tl.load(line + token, mask=inside, other=float("-inf")).to(tl.float32)
        key = order_key(x, tl.div_rn(x, t), BITS)
        if LEVEL > 0:
            inside = inside & ((key >> (BITS - 4 * LEVEL)) == wanted)
        if floor_prefix is not None:
            inside = inside & (key >= lowest)
        digit = ((key >> (BITS - 4 * LEVEL - 4)) & 15).to(tl.int32)
        hit = (tl.where(inside, digit, -1)[:, None]) == bins[None, :]
        count += tl.sum(hit.to(tl.int32), 0)
        if BY_MASS:
            mass += tl.sum(tl.where(hit, weight(x, m, inverse_t)[:, None], 0.0), 0)
    at = ((row.to(tl.int64) + (LEVEL % 2) * B) * SPLITS + split) * 16 + bins
    tl.store(counts + at, count)
    if BY_MASS:
        tl.store(masses + at, mass)


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
    t, inverse_t, greedy, m = load_row(temperature, top_logit, row)
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
    greedy = t == 0
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


class _Search(NamedTuple):
    """The scratch of one threshold search; level l reads what level l - 1 wrote."""

    prefix: Tensor  # [levels + 1, B] int32: leading bits of the key
    above: Tensor  # [levels + 1, B] float32: count or mass of what has a larger key
    target: Tensor  # [levels + 1, B] float32: k, or p of all mass
    counts: Tensor  # [2, B, splits, 16] int32: tokens by the next four bits
    masses: Tensor | None  # likewise float32

    @classmethod
    def empty(cls, levels: int, rows: int, splits: int, by_mass: bool, device: torch.device) -> _Search:
        def scratch(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.empty(*shape, rows, *((splits, 16) if shape == (2,) else ()), dtype=dtype, device=device)

        return cls(
            scratch(torch.int32, levels + 1),
            scratch(torch.float32, levels + 1),
            scratch(torch.float32, levels + 1),
            scratch(torch.int32, 2),
            scratch(torch.float32, 2) if by_mass else None,
        )


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
    block, warps = blocks["BLOCK"], blocks["num_warps"]
    if splits is None:
        splits = choose_splits(rows, vocab, device, block, blocks["programs_per_sm"])
    chunk = triton.cdiv(triton.cdiv(vocab, splits), block) * block
    splits = triton.cdiv(vocab, chunk)
    use_pdl = pdl_supported(device)
    bits = KEY_BITS[logits_BV.dtype]
    levels = bits // RADIX_BITS
    shape = (logits_BV.stride(0), rows, vocab, chunk, splits)
    constants = {"LEVELS": levels, "BITS": bits, "SPLIT_BLOCK": triton.next_power_of_2(splits)}
    launch = {"USE_PDL": use_pdl, "num_warps": warps, **pdl_options(use_pdl)}

    floor: tuple[Tensor | None, ...] = (None,) * 5
    search, limit, by_mass = None, None, False
    for values, weighs in ((top_k_B, False), (top_p_B, True)):
        if values is None:
            continue
        if search is not None:
            floor = (limit, *search[:4])
        search, limit, by_mass = _Search.empty(levels, rows, splits, weighs, device), values, weighs
        for level in range(levels):
            _search_kernel[(rows, splits)](
                logits_BV, temperature_B, statistics.top_logit, limit, *search, *floor, *shape,
                LEVEL=level, BY_MASS=weighs, BLOCK=blocks["SEARCH_BLOCK"], **constants, **launch,
            )  # fmt: skip

    best = torch.empty(2, rows, splits, dtype=torch.float32, device=device)
    best_ids = torch.empty(rows, splits, dtype=torch.int32, device=device)
    _draw_kernel[(rows, splits)](
        logits_BV, temperature_B, statistics.top_logit, keys_B2, positions_B, min_p_B, limit, *(search or (None,) * 5),
        best[0], best_ids, best[1], *shape, STREAM=stream, BY_MASS=by_mass, BLOCK=block, **constants, **launch,
    )  # fmt: skip
    _finish_kernel[(rows,)](
        logits_BV, temperature_B, statistics.top_logit, statistics.top_prob, statistics.error,
        best[0], best_ids, best[1], ids, logprobs, logits_BV.stride(0), rows, splits,
        SPLIT_BLOCK=constants["SPLIT_BLOCK"], **launch,
    )  # fmt: skip
    return Sample(ids, *logprobs.unbind(0))


def compile_cases() -> Iterator[CompileCase]:
    """The kernels of this file at one row, where a row is split, and at 256."""
    f32, i32, i64 = torch.float32, torch.int32, torch.int64
    block, warps = CONFIG["BLOCK"], CONFIG["num_warps"]
    vocab = LLAMA_SHAPES[0].vocab
    for rows, splits in ((1, triton.cdiv(vocab, block)), (256, 1)):
        shape = {"row_stride": vocab, "B": rows, "V": vocab, "chunk": triton.cdiv(vocab, block * splits) * block}
        sizes = {"SPLIT_BLOCK": triton.next_power_of_2(splits)}
        state = {"prefix": i32, "above": f32, "target": f32, "counts": i32, "masses": f32}
        nothing = dict.fromkeys(state, None)
        for dtype in FLOATS if rows == 1 else FLOATS[:1]:
            bits = KEY_BITS[dtype]
            levels = bits // RADIX_BITS
            name = f"[{rows}, {vocab}] {dtype}".replace("torch.", "")
            for by_mass, level in ((False, 1), (True, 0), (True, 1)):
                floor = {"limit": i64, "prefix": i32, "above": f32, "target": f32, "counts": i32}
                signature = signature_of(
                    logits=dtype, temperature=f32, top_logit=f32, limit=f32 if by_mass else i64,
                    **(state | ({} if by_mass else {"masses": None})),
                    **{f"floor_{key}": value if by_mass else None for key, value in floor.items()},
                    **shape, SPLITS=splits,
                )  # fmt: skip
                constexprs = {"LEVEL": level, "LEVELS": levels, "BY_MASS": by_mass, "BITS": bits, **sizes}
                constexprs["BLOCK"] = CONFIG["SEARCH_BLOCK"]
                search = f"search {'top-p' if by_mass else 'top-k'} level {level} {name}"
                yield CompileCase(search, _search_kernel, signature, constexprs, warps, 1)
            for filtered in (False, True):
                signature = signature_of(
                    logits=dtype, temperature=f32, top_logit=f32, keys=i64, positions=i64,
                    min_p=f32 if filtered else None, limit=f32 if filtered else None,
                    **(state if filtered else nothing), best_values=f32, best_ids=i32, kept_masses=f32,
                    **shape, SPLITS=splits,
                )  # fmt: skip
                constexprs = {"STREAM": STREAM_SAMPLE, "BY_MASS": filtered, "LEVELS": levels, "BITS": bits, **sizes}
                constexprs["BLOCK"] = block
                draw = f"draw {'filtered ' if filtered else ''}{name}"
                yield CompileCase(draw, _draw_kernel, signature, constexprs, warps, 1)
        signature = signature_of(
            logits=torch.bfloat16, temperature=f32, top_logit=f32, top_prob=f32, error=i32, best_values=f32,
            best_ids=i32, kept_masses=f32, ids=i64, logprobs=f32, row_stride=vocab, B=rows, SPLITS=splits,
        )  # fmt: skip
        constexprs = {"SPLIT_BLOCK": sizes["SPLIT_BLOCK"]}
        yield CompileCase(f"finish [{rows}, {vocab}]", _finish_kernel, signature, constexprs, warps, 1)
