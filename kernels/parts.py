"""Parts of a row's statistics, and how they merge.

A part of a row of logits x, with m its maximum and w_i = e^(x_i - m), is

    m,   s = sum w,   mean = sum w (x - m) / s,   spread = sum w (x - m - mean)^2,   the second largest logit, m's id.

Parts merge by Chan's rule: masses are brought to the common maximum m, S_j = s_j e^(m_j - m), means re-based to it, and

    s = sum S_j,   mean = sum S_j mean_j / s,   spread = sum [spread_j e^(m_j - m) + S_j (mean_j - mean)^2].

All terms of a sum have one sign, so nothing cancels. An empty part has m = -inf and s = 0; a NaN anywhere makes s NaN.

Source: Chan, Golub, LeVeque, "Algorithms for computing the sample variance", The American Statistician 37 (1983).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dodona.kernels.launch import num_sms

PART_FLOATS = 5  # float32 values of a part: m, s, mean, spread, second largest logit


@triton.jit
def finite_or_zero(m):
    """A pivot to subtract: the maximum, or 0 where it is infinite (an empty part, a broken row)."""
    return tl.where(tl.abs(m) == float("inf"), 0.0, m)


@triton.jit
def below(x, pivot):
    """x - pivot, at least -200, whose exponential is 0: so -inf gives weight 0 and no 0 * inf. NaN stays NaN."""
    return tl.maximum(x - pivot, -200.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def merge_two(m, s, mean, spread, m2, s2, mean2, spread2):
    """Chan's rule for two parts, elementwise."""
    top = tl.maximum(m, m2)
    pivot = finite_or_zero(top)
    d = below(m, pivot)
    d2 = below(m2, pivot)
    scale = tl.exp(d)
    scale2 = tl.exp(d2)
    mass = s * scale
    mass2 = s2 * scale2
    total = mass + mass2
    share = mass2 / tl.where(total == 0, 1.0, total)
    gap = (mean2 + d2) - (mean + d)
    gap = tl.where(mass == 0, 0.0, gap)  # an empty part has no mean
    first = tl.where(mass == 0, mean2 + d2, mean + d)
    return top, total, first + gap * share, spread * scale + spread2 * scale2 + gap * gap * mass * share


@triton.jit
def merge_many(m, s, mean, spread):
    """Chan's rule for many parts along axis 0."""
    top = tl.max(m, 0)
    pivot = finite_or_zero(top)
    d = below(m, tl.expand_dims(pivot, 0))
    scale = tl.exp(d)
    mass = s * scale
    total = tl.sum(mass, 0)
    centre = mean + d
    middle = tl.sum(mass * centre, 0) / tl.where(total == 0, 1.0, total)
    gap = centre - tl.expand_dims(middle, 0)
    return top, total, middle, tl.sum(spread * scale + mass * gap * gap, 0)


@triton.jit
def store_part(parts, part_ids, line, live, part, B, PARTS, m, s, mean, spread, second, top_id):
    """Write one part of the live rows among `line` (int64, one row or a block of them), for `load_merged` to read."""
    tl.store(parts + line * PARTS + part, m, mask=live)
    tl.store(parts + (line + B) * PARTS + part, s, mask=live)
    tl.store(parts + (line + 2 * B) * PARTS + part, mean, mask=live)
    tl.store(parts + (line + 3 * B) * PARTS + part, spread, mask=live)
    tl.store(parts + (line + 4 * B) * PARTS + part, second, mask=live)
    tl.store(part_ids + line * PARTS + part, top_id, mask=live)


@triton.jit
def load_merged(parts, part_ids, row, B, PARTS, BLOCK: tl.constexpr):
    """Merge a row's parts into one: m, s, mean, spread, second, top_id. See `Parts` for the layout."""
    part = tl.arange(0, BLOCK)
    mask = part < PARTS
    line = row.to(tl.int64)
    m = tl.load(parts + line * PARTS + part, mask=mask, other=float("-inf"))
    s = tl.load(parts + (line + B) * PARTS + part, mask=mask, other=0.0)
    mean = tl.load(parts + (line + 2 * B) * PARTS + part, mask=mask, other=0.0)
    spread = tl.load(parts + (line + 3 * B) * PARTS + part, mask=mask, other=0.0)
    second = tl.load(parts + (line + 4 * B) * PARTS + part, mask=mask, other=float("-inf"))
    part_id = tl.load(part_ids + line * PARTS + part, mask=mask, other=2**31 - 1)
    top, total, mean_all, spread_all = merge_many(m, s, mean, spread)
    top_id = tl.min(tl.where(m == top, part_id, 2**31 - 1), 0)
    runner_up = tl.max(tl.where(part_id == top_id, second, m), 0)
    return top, total, mean_all, spread_all, runner_up, top_id


class Parts(NamedTuple):
    """Scratch between the kernel that reads logits and the one that merges."""

    floats: Tensor  # [PART_FLOATS, B, parts] float32
    ids: Tensor  # [B, parts] int32

    @classmethod
    def empty(cls, rows: int, parts: int, device: torch.device) -> Parts:
        """Room for `parts` parts of each row."""
        return cls(
            torch.empty(PART_FLOATS, rows, parts, dtype=torch.float32, device=device),
            torch.empty(rows, parts, dtype=torch.int32, device=device),
        )


class Pieces(NamedTuple):
    """How rows are cut over programs."""

    splits: int  # pieces of a row
    size: int  # tokens of each, a multiple of the tile; the last may have fewer


def cut(rows: int, vocab: int, device: torch.device, tile: int, programs_per_sm: int, wanted: int | None) -> Pieces:
    """Enough pieces to occupy the device, or about as many as `wanted`, none without a token; from the shape alone."""
    count = max(1, num_sms(device) * programs_per_sm // rows) if wanted is None else wanted
    size = triton.cdiv(triton.cdiv(vocab, count), tile) * tile
    return Pieces(triton.cdiv(vocab, size), size)
