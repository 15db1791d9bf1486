"""The smallest kept score of each row under top-k and top-p, without sorting.

    top-k   keep scores >= the k-th largest, ties included
    top-p   of what top-k left, keep a token if the mass of those before it, by falling score and then rising id, is < p
            of all that top-k left;  a token weighs w = e^((x - max x) / T)

A score x / T has an order-preserving unsigned key (bfloat16: 16 bits of the logit itself; float16: 20; float32: all 32
of the score). The smallest kept key is found four bits a launch, from the top: every program counts and weighs the
tokens of its piece of the row by the next four bits, and the first thing that the next launch does is to add these up
and to choose the lowest non-empty one of sixteen bins before which the count is < k, or the mass < p of all. Whoever
reads the last level knows the exact key, the mass above it, and how many tokens of that key lie in earlier pieces: that
decides ties by id. The number of launches depends on dtypes and on which filters are given, never on values.

Greedy rows (T below COLD) keep everything. Shape suffixes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dodona.kernels.checks import FLOATS
from dodona.kernels.launch import (
    LLAMA_SHAPES,
    CompileCase,
    let_dependents_start,
    pdl_options,
    pdl_supported,
    signature_of,
    wait_for_producers,
)
from dodona.kernels.parts import Pieces
from dodona.kernels.portable import loop_bound

RADIX_BITS = 4
KEY_BITS = {torch.bfloat16: 16, torch.float16: 20, torch.float32: 32}
COLD: tl.constexpr = tl.constexpr(1e-20)  # a lower temperature is 0: scores would overflow, and noise be nothing
SEARCH_BLOCK = 512  # tokens a tile; a program weighs [SEARCH_BLOCK, 16] numbers at a time


def threshold_reference(scores_BV: Tensor, top_k_B: Tensor | None, top_p_B: Tensor | None) -> Tensor:
    """Which tokens stay, ``[B, V]`` bool, by sorting in float64, plain torch. Scores are x / T; k = 0, p = 1: off."""
    vocab = scores_BV.shape[1]
    ordered, order = scores_BV.double().sort(dim=-1, descending=True, stable=True)
    stays = torch.ones_like(ordered, dtype=torch.bool)
    if top_k_B is not None:
        k = torch.where((top_k_B > 0) & (top_k_B < vocab), top_k_B, vocab).long()
        stays &= ordered >= ordered.gather(1, k.unsqueeze(1) - 1)
    if top_p_B is not None:
        p = ordered.masked_fill(~stays, -torch.inf).softmax(-1)
        beyond = (p.cumsum(-1) - p >= top_p_B.double().unsqueeze(1)) & (top_p_B < 1).unsqueeze(1)
        beyond[:, 0] = False
        stays &= ~beyond
    return torch.empty_like(stays).scatter_(1, order, stays)


@triton.jit
def order_key(x, score, BITS: tl.constexpr):
    """An unsigned number that grows with the score; that of a 16-bit logit itself, whose quotients never coincide."""
    value = score if BITS == 32 else x
    value = tl.where(value == 0, 0.0, value)  # -0 equals 0
    bits = value.to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, ~bits, bits ^ -2147483648).to(tl.uint32, bitcast=True)
    return key >> (32 - BITS)


@triton.jit
def row_scale(temperature, top_logit, row):
    """What a row's scores depend on: T (1 where greedy), 1 / T, whether it is greedy, the largest logit."""
    t = tl.load(temperature + row)
    greedy = t < COLD
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
def _threshold_kernel(
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
    t, inverse_t, greedy, m = row_scale(temperature, top_logit, row)
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


class Search(NamedTuple):
    """The state of one search; level l reads what level l - 1 wrote, and `advance` what the last one did."""

    prefix: Tensor  # [levels + 1, B] int32: leading bits of the key
    above: Tensor  # [levels + 1, B] float32: count or mass of what has a larger key
    target: Tensor  # [levels + 1, B] float32: k, or p of all mass
    counts: Tensor  # [2, B, splits, 16] int32: tokens by the next four bits
    masses: Tensor | None  # likewise float32

    @classmethod
    def empty(cls, levels: int, rows: int, splits: int, by_mass: bool, device: torch.device) -> Search:
        """Room for a search over rows that are cut into so many pieces."""

        def scratch(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.empty(*shape, rows, *((splits, 16) if shape == (2,) else ()), dtype=dtype, device=device)

        return cls(
            scratch(torch.int32, levels + 1),
            scratch(torch.float32, levels + 1),
            scratch(torch.float32, levels + 1),
            scratch(torch.int32, 2),
            scratch(torch.float32, 2) if by_mass else None,
        )


class Threshold(NamedTuple):
    """What the last filter that is on has found; `advance` with DONE = levels - 1 reads it."""

    limit: Tensor  # [B] k or p
    search: Search
    by_mass: bool  # p


def find_threshold(
    logits_BV: Tensor,
    temperature_B: Tensor,
    top_logit_B: Tensor,
    top_k_B: Tensor | None,
    top_p_B: Tensor | None,
    pieces: Pieces,
    block: int,
    num_warps: int,
) -> Threshold | None:
    """Search for the thresholds of filters that are given; arguments have been checked, and there is a row.

    Args:
        logits_BV: raw logits.
        temperature_B: float32, 0: greedy.
        top_logit_B: float32, each row's largest logit.
        top_k_B: int64 or int32; 0: off.
        top_p_B: float32; 1: off.
        pieces: how each row is cut; the size is a multiple of `block`.
        block: tokens a tile.
        num_warps: of each program.
    """
    rows, vocab = logits_BV.shape
    use_pdl = pdl_supported(logits_BV.device)
    launch = {"USE_PDL": use_pdl, "num_warps": num_warps, **pdl_options(use_pdl)}
    bits = KEY_BITS[logits_BV.dtype]
    found: Threshold | None = None
    floor: tuple[Tensor | None, ...] = (None,) * 5
    for limit, by_mass in ((top_k_B, False), (top_p_B, True)):
        if limit is None:
            continue
        if found is not None:
            floor = (found.limit, *found.search[:4])
        found = Threshold(
            limit, Search.empty(bits // RADIX_BITS, rows, pieces.splits, by_mass, logits_BV.device), by_mass
        )
        for level in range(bits // RADIX_BITS):
            _threshold_kernel[(rows, pieces.splits)](
                logits_BV, temperature_B, top_logit_B, limit, *found.search, *floor,
                logits_BV.stride(0), rows, vocab, pieces.size, pieces.splits,
                LEVEL=level, LEVELS=bits // RADIX_BITS, BY_MASS=by_mass, BITS=bits, BLOCK=block,
                SPLIT_BLOCK=triton.next_power_of_2(pieces.splits), **launch,
            )  # fmt: skip
    return found


STATE_TYPES = {
    "prefix": torch.int32, "above": torch.float32, "target": torch.float32, "counts": torch.int32,
    "masses": torch.float32,
}  # fmt: skip


def compile_cases() -> Iterator[CompileCase]:
    """At one row, where it is cut over all multiprocessors, and at 256."""
    f32, i64 = torch.float32, torch.int64
    vocab = LLAMA_SHAPES[0].vocab
    for rows, pieces in ((1, Pieces(126, 1024)), (256, Pieces(1, triton.cdiv(vocab, 1024) * 1024))):
        for dtype in FLOATS if rows == 1 else FLOATS[:1]:
            bits = KEY_BITS[dtype]
            for by_mass, level in ((False, 1), (True, 0), (True, 1)):
                state = STATE_TYPES | ({} if by_mass else {"masses": None})
                floor = {"limit": i64, **STATE_TYPES}
                del floor["masses"]
                signature = signature_of(
                    logits=dtype, temperature=f32, top_logit=f32, limit=f32 if by_mass else i64, **state,
                    **{f"floor_{key}": value if by_mass else None for key, value in floor.items()},
                    row_stride=vocab, B=rows, V=vocab, chunk=pieces.size, SPLITS=pieces.splits,
                )  # fmt: skip
                constexprs = {
                    "LEVEL": level, "LEVELS": bits // RADIX_BITS, "BY_MASS": by_mass, "BITS": bits,
                    "BLOCK": SEARCH_BLOCK, "SPLIT_BLOCK": triton.next_power_of_2(pieces.splits),
                }  # fmt: skip
                name = f"{'top-p' if by_mass else 'top-k'} level {level} [{rows}, {vocab}] {dtype}"
                yield CompileCase(name.replace("torch.", ""), _threshold_kernel, signature, constexprs, 4, 1)
