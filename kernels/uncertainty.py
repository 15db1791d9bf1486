"""Statistics of next-token distributions in one pass over the logits.

With p the softmax of a row x at temperature 1, m = max x and w_i = e^(x_i - m):

    lse         ln sum e^x  = m + ln s,   s = sum w
    entropy     -sum p ln p = ln s - mean,   mean = sum w (x - m) / s            nats
    varentropy  sum p (ln p + H)^2 = spread / s,   spread = sum w (x - m - mean)^2   nats^2

Pieces of a row are parts (see `parts`) and merge: lanes of a program, then programs.

Why not the power sums t1 = sum w (x - m), t2 = sum w (x - m)^2 of the whole row: t2/s - (t1/s)^2 cancels. The token at
m has the largest p, so varentropy >= p_max (t1/s)^2 >= (t1/s)^2 / n over n tokens: the cancellation can cost a factor
1 + n, which for a flat row of 128256 is all of float32 but two digits. Power sums are used only inside a group of
RUNS * VEC (at most 64) tokens that one thread holds, where they lose at most six bits; above that only sums of
non-negative terms remain, so an almost uniform row keeps its relative accuracy.

A group also keeps its maximum and which tile it came from; ids are looked at once, at the end, in the groups that hold
the row's maximum. The lowest id among equal maxima wins.

Shape suffixes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dodona.kernels.checks import FLOATS, check_float, check_integer
from dodona.kernels.launch import (
    LLAMA_SHAPES,
    CompileCase,
    check_device,
    config_for,
    let_dependents_start,
    num_sms,
    pdl_options,
    pdl_supported,
    signature_of,
    wait_for_producers,
)
from dodona.kernels.parts import (
    Parts,
    below,
    cut,
    finite_or_zero,
    load_merged,
    merge_many,
    merge_two,
    store_part,
)
from dodona.kernels.portable import loop_bound

OK, HAS_NAN, NOTHING_FINITE, HAS_INF = 0, 1, 2, 3

ROW_FLOATS = 8  # float32 results of a row, in the order of `Uncertainty`'s float fields

# One program a row, and a row over many programs. VEC tokens a thread's load, RUNS loads a group, LANES groups a tile.
ROW_CONFIG = {"RUNS": 4, "LANES": 128, "VEC": 8, "num_warps": 4, "programs_per_sm": 1}
SPLIT_CONFIG = {"RUNS": 1, "LANES": 128, "VEC": 8, "num_warps": 4, "programs_per_sm": 2}


class Uncertainty(NamedTuple):
    """A row with an error has NaN in every float and -1 as its top1: look at `error` before using it as an index."""

    lse: Tensor  # [B] float32, nats
    entropy: Tensor  # [B] float32, nats
    varentropy: Tensor  # [B] float32, nats^2
    top_logit: Tensor  # [B] float32, the largest raw logit
    top_prob: Tensor  # [B] float32
    second_prob: Tensor  # [B] float32, 0 with a vocabulary of one
    margin: Tensor  # [B] float32, top_prob - second_prob
    logprob: Tensor  # [B] float32, nats, of the given ids; NaN without an id in [0, V)
    top1: Tensor  # [B] int64, the lowest id among the largest logits
    error: Tensor  # [B] int32: 0, or 1 a NaN, 2 no finite logit, 3 a +inf


def uncertainty_reference(logits_BV: Tensor, ids_B: Tensor | None = None) -> Uncertainty:
    """The definitions in float64, two passes, plain torch."""
    x = logits_BV.double()
    error = torch.zeros(x.shape[0], dtype=torch.int32, device=x.device)
    error = error.masked_fill(~x.isfinite().any(-1), NOTHING_FINITE)
    error = error.masked_fill((x == torch.inf).any(-1), HAS_INF)
    error = error.masked_fill(x.isnan().any(-1), HAS_NAN)
    broken = error != OK
    x = x.masked_fill(broken.unsqueeze(1), 0.0)
    log_p = x.log_softmax(-1)
    p = log_p.exp()
    finite = log_p.clamp_min(-1e4)  # p ln p of a -inf logit is 0, not NaN
    entropy = -(p * finite).sum(-1)
    varentropy = (p * (finite + entropy.unsqueeze(1)).square()).sum(-1)
    top_logit = x.amax(-1)
    top1 = (x == top_logit.unsqueeze(1)).int().argmax(-1)
    top_prob = p.amax(-1)
    second = p.scatter(1, top1.unsqueeze(1), 0.0).amax(-1)
    logprob = torch.full_like(entropy, torch.nan)
    if ids_B is not None:
        known = (ids_B >= 0) & (ids_B < x.shape[1])
        given = log_p.gather(1, ids_B.long().clamp(0, x.shape[1] - 1).unsqueeze(1)).squeeze(1)
        logprob = torch.where(known, given, torch.nan)
    floats = [x.logsumexp(-1), entropy, varentropy, top_logit, top_prob, second, top_prob - second, logprob]
    floats = [value.masked_fill(broken, torch.nan) for value in floats]
    return Uncertainty._make((*floats, top1.masked_fill(broken, -1), error))


@triton.jit
def store_row(floats, top1, error, row, B, V, m, s, mean, spread, second, top_id, given, given_id):
    """Write a row's results from the part that covers it; `given` is `given_id`'s logit. Returns the error code."""
    code = tl.where(s != s, 1, tl.where(m == float("inf"), 3, tl.where(m == float("-inf"), 2, 0)))
    nan = float("nan")
    fine = code == 0
    pivot = finite_or_zero(m)
    log_s = tl.log(s)
    top_prob = 1.0 / s
    second_share = tl.exp(below(second, pivot))
    known = fine & (given_id >= 0) & (given_id < V)
    floats += row
    tl.store(floats, tl.where(fine, pivot + log_s, nan))
    tl.store(floats + B, tl.where(fine, log_s - mean, nan))
    tl.store(floats + 2 * B, tl.where(fine, spread / s, nan))
    tl.store(floats + 3 * B, tl.where(fine, m, nan))
    tl.store(floats + 4 * B, tl.where(fine, top_prob, nan))
    tl.store(floats + 5 * B, tl.where(fine, second_share * top_prob, nan))
    tl.store(floats + 6 * B, tl.where(fine, (1.0 - second_share) * top_prob, nan))
    tl.store(floats + 7 * B, tl.where(known, (given - pivot) - log_s, nan))
    tl.store(top1 + row, tl.where(fine, top_id, -1).to(tl.int64))
    tl.store(error + row, code)
    return code


@triton.jit
def _uncertainty_kernel(
    logits, ids, floats, top1, error, parts, part_ids, row_stride, B, V, chunk, SPLITS,
    RUNS: tl.constexpr, LANES: tl.constexpr, VEC: tl.constexpr, WHOLE: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    split = tl.program_id(1)
    TILE: tl.constexpr = RUNS * LANES * VEC
    no_id: tl.constexpr = 2**31 - 1
    inner = (
        tl.arange(0, LANES)[:, None, None] * VEC
        + tl.arange(0, RUNS)[None, :, None] * (LANES * VEC)
        + tl.arange(0, VEC)[None, None, :]
    )
    start = split * chunk
    stop = tl.minimum(start + chunk, V)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    line = logits + row.to(tl.int64) * row_stride
    m = tl.full([LANES], float("-inf"), tl.float32)
    s = tl.zeros([LANES], tl.float32)
    mean = tl.zeros([LANES], tl.float32)
    spread = tl.zeros([LANES], tl.float32)
    second = tl.full([LANES], float("-inf"), tl.float32)
    home = tl.zeros([LANES], tl.int32)  # where the tile of a lane's maximum begins
    for tile in range(loop_bound(start), loop_bound(stop), TILE):
        offsets = tile + inner
        x = tl.load(line + offsets, mask=offsets < stop, other=float("-inf")).to(tl.float32)
        group_m = tl.max(tl.max(x, 2), 1)
        d = below(x, finite_or_zero(group_m)[:, None, None])
        w = tl.exp(d)
        wd = w * d
        group_s = tl.sum(tl.sum(w, 2), 1)
        t1 = tl.sum(tl.sum(wd, 2), 1)
        t2 = tl.sum(tl.sum(wd * d, 2), 1)
        group_mean = t1 / tl.where(group_s == 0, 1.0, group_s)
        group_spread = tl.maximum(t2 - t1 * group_mean, 0.0)
        second = tl.maximum(second, tl.minimum(m, group_m))
        home = tl.where(group_m > m, tile, home)
        m, s, mean, spread = merge_two(m, s, mean, spread, group_m, group_s, group_mean, group_spread)

    top, total, mean_all, spread_all = merge_many(m, s, mean, spread)
    holds = m == top
    offsets = home[:, None, None] + inner
    mask = holds[:, None, None] & (offsets < stop)
    x = tl.load(line + offsets, mask=mask, other=float("-inf")).to(tl.float32)
    top_id = tl.min(tl.min(tl.min(tl.where(x == top, offsets, no_id), 2), 1), 0)
    others = tl.max(tl.max(tl.max(tl.where(offsets == top_id, float("-inf"), x), 2), 1), 0)
    elsewhere = tl.max(tl.maximum(tl.where(holds, float("-inf"), m), second), 0)
    runner_up = tl.maximum(others, elsewhere)
    if WHOLE:
        given_id = tl.load(ids + row).to(tl.int32) if ids is not None else -1
        known = (given_id >= 0) & (given_id < V)
        given = tl.load(line + given_id, mask=known, other=0.0).to(tl.float32)
        store_row(floats, top1, error, row, B, V, top, total, mean_all, spread_all, runner_up, top_id, given, given_id)
    else:
        line_number = row.to(tl.int64)
        store_part(
            parts, part_ids, line_number, row >= 0, split, B, SPLITS,
            top, total, mean_all, spread_all, runner_up, top_id,
        )  # fmt: skip


@triton.jit
def merge_kernel(
    parts, part_ids, ids, givens, floats, top1, error, given_stride, B, V, PARTS,
    GIVEN_AT_ID: tl.constexpr, BLOCK: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """One program a row: merge its parts and write its results.

    The logit of the row's given id is ``givens[row * given_stride]``, with ``GIVEN_AT_ID`` plus the id.
    """
    row = tl.program_id(0)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    m, s, mean, spread, second, top_id = load_merged(parts, part_ids, row, B, PARTS, BLOCK)
    given_id = tl.load(ids + row).to(tl.int32) if ids is not None else -1
    given = 0.0
    if ids is not None:
        at = row.to(tl.int64) * given_stride
        if GIVEN_AT_ID:
            at += given_id
        given = tl.load(givens + at, mask=(given_id >= 0) & (given_id < V), other=0.0).to(tl.float32)
    store_row(floats, top1, error, row, B, V, m, s, mean, spread, second, top_id, given, given_id)


class Results(NamedTuple):
    """Where kernels write a call's results, packed so that a launch has few arguments."""

    floats: Tensor  # [ROW_FLOATS, B] float32
    top1: Tensor  # [B] int64
    error: Tensor  # [B] int32

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> Results:
        """Room for `rows` rows."""
        return cls(
            torch.empty(ROW_FLOATS, rows, dtype=torch.float32, device=device),
            torch.empty(rows, dtype=torch.int64, device=device),
            torch.empty(rows, dtype=torch.int32, device=device),
        )

    def view(self) -> Uncertainty:
        """The same memory by name."""
        return Uncertainty._make((*self.floats.unbind(0), self.top1, self.error))


def check_logits(name: str, logits_BV: Tensor) -> tuple[int, int]:
    """Rows and vocabulary of a matrix of logits whose rows are dense.

    Raises:
        ValueError: not 2-D, not bf16, fp16 or fp32, a column stride, or a vocabulary of 0 or of 2^30 and more.
    """
    check_float(name, logits_BV, (None, None))
    rows, vocab = logits_BV.shape
    if not 0 < vocab < 2**30:
        raise ValueError(f"{name} must have a vocabulary from 1 to 2^30 - 1, not {vocab}")
    return rows, vocab


def merge(
    parts: Parts, results: Results, vocab: int, ids_B: Tensor | None, givens: Tensor | None, given_stride: int,
    given_at_id: bool,
) -> None:  # fmt: skip
    """Launch `merge_kernel` over all rows."""
    rows, count = parts.ids.shape
    use_pdl = pdl_supported(parts.ids.device)
    merge_kernel[(rows,)](
        *parts, ids_B, givens, *results, given_stride, rows, vocab, count,
        GIVEN_AT_ID=given_at_id, BLOCK=triton.next_power_of_2(count), USE_PDL=use_pdl,
        num_warps=4, **pdl_options(use_pdl),
    )  # fmt: skip


def uncertainty_results(
    logits_BV: Tensor, ids_B: Tensor | None, splits: int | None = None, config: Mapping[str, int] | None = None
) -> Results:
    """`uncertainty` with its results packed."""
    rows, vocab = check_logits("logits", logits_BV)
    if ids_B is not None:
        check_integer("ids", ids_B, (rows,))
    device = check_device(logits=logits_BV, ids=ids_B)
    results = Results.empty(rows, device)
    if rows == 0:
        return results
    default = SPLIT_CONFIG if rows < num_sms(device) else ROW_CONFIG
    blocks = config or config_for("uncertainty", (triton.next_power_of_2(rows), vocab), device, default)
    tile = blocks["RUNS"] * blocks["LANES"] * blocks["VEC"]
    pieces = cut(rows, vocab, device, tile, blocks["programs_per_sm"], splits)
    parts = Parts.empty(rows, pieces.splits, device) if pieces.splits > 1 else None
    use_pdl = pdl_supported(device)
    _uncertainty_kernel[(rows, pieces.splits)](
        logits_BV, ids_B, *results, *(parts or (None, None)), logits_BV.stride(0), rows, vocab,
        pieces.size, pieces.splits, WHOLE=parts is None, USE_PDL=use_pdl,
        RUNS=blocks["RUNS"], LANES=blocks["LANES"], VEC=blocks["VEC"],
        num_warps=blocks["num_warps"], **pdl_options(use_pdl),
    )  # fmt: skip
    if parts is not None:
        merge(parts, results, vocab, ids_B, logits_BV, logits_BV.stride(0), given_at_id=True)
    return results


def uncertainty(
    logits_BV: Tensor,
    ids_B: Tensor | None = None,
    *,
    splits: int | None = None,
    config: Mapping[str, int] | None = None,
) -> Uncertainty:
    """Statistics of every row of logits, read once; two launches for few rows, one for many.

    Args:
        logits_BV: raw logits, bfloat16, float16 or float32; any row stride, dense within a row. -inf is probability 0.
        ids_B: int64 or int32, the token of each row whose log-probability is wanted; outside [0, V) gives NaN.
        splits: programs a row, in place of the number that shape and device give.
        config: block sizes in place of the tuning table's.

    Returns:
        Float32 nats and probabilities; see `Uncertainty`. Sums are float32 at temperature 1, natural logarithms.

    Raises:
        ValueError: a wrong shape, stride, dtype or device.
    """
    return uncertainty_results(logits_BV, ids_B, splits, config).view()


def merge_case(name: str, rows: int, vocab: int, count: int, given: torch.dtype, given_at_id: bool) -> CompileCase:
    """`merge_kernel` as `merge` launches it."""
    f32, i32, i64 = torch.float32, torch.int32, torch.int64
    signature = signature_of(
        parts=f32, part_ids=i32, ids=i64, givens=given, floats=f32, top1=i64, error=i32,
        given_stride=vocab if given_at_id else 1, B=rows, V=vocab, PARTS=count,
    )  # fmt: skip
    constexprs = {"GIVEN_AT_ID": given_at_id, "BLOCK": triton.next_power_of_2(count)}
    return CompileCase(name, merge_kernel, signature, constexprs, 4, 1)


def compile_cases() -> Iterator[CompileCase]:
    """The kernels of this file at one row, where a row is split, and at thousands; every Llama 3 has one vocabulary."""
    f32, i32, i64 = torch.float32, torch.int32, torch.int64
    vocab = LLAMA_SHAPES[0].vocab
    for dtype in FLOATS:
        for rows, blocks in ((1, SPLIT_CONFIG), (8192, ROW_CONFIG)):
            whole = rows > 1
            chunk = vocab if whole else 1024
            signature = signature_of(
                logits=dtype, ids=i64, floats=f32, top1=i64, error=i32, parts=None if whole else f32,
                part_ids=None if whole else i32, row_stride=vocab, B=rows, V=vocab, chunk=chunk,
                SPLITS=triton.cdiv(vocab, chunk),
            )  # fmt: skip
            constexprs = {key: blocks[key] for key in ("RUNS", "LANES", "VEC")} | {"WHOLE": whole}
            name = f"uncertainty [{rows}, {vocab}] {dtype}".replace("torch.", "")
            yield CompileCase(name, _uncertainty_kernel, signature, constexprs, blocks["num_warps"], 1)
    yield merge_case(f"uncertainty merge [1, {vocab}]", 1, vocab, 126, torch.bfloat16, True)
