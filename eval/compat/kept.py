"""How far a rate moves where runs leave its denominator, with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from dodona.eval.stats.intervals import Interval
from dodona.eval.stats.student import student_quantile

# Weight, honest, right, kept of the problems that Agresti and Min add: only B, only A, no difference.
_MADE_UP: Final = ((0.5, 0, 1, 1), (0.5, 1, 0, 1), (1.0, 0, 0, 1))


class Moved(NamedTuple):
    """A difference of two rates over the same problems, of which the second leaves some out."""

    difference: float  # NaN where nothing was kept
    interval: Interval


def moved(honest: Sequence[bool], right: Sequence[bool], kept: Sequence[bool], confidence: float = 0.95) -> Moved:
    """The rate of the kept problems less the honest rate of all problems.

    A rate with a denominator of its own is a ratio of two sums over problems, R' = sum y' / sum m, with m = 1 where a
    problem is kept. To first order it moves with problem i by (y'_i - R' m_i) / mean(m), the honest rate R by y_i - R,
    and the variance of the difference is that of what is left between the two, problem by problem. Student's t has one
    degree of freedom less than there are problems. The same made-up problems are added as in ``clustered_difference``,
    to which this comes down where all are kept.

    Fewer than two problems, or none kept, say nothing: (-1, 1).

    Args:
        honest: of each problem, whether it is right by the honest count.
        right: whether it is right by the other one; where a problem is not kept it makes no difference.
        kept: whether it is in the other one's denominator.

    Raises:
        ValueError: lists of different lengths.

    Source: the linearised ratio estimator of W. G. Cochran, Sampling Techniques (1977), section 6.3; the added problems
    of A. Agresti and Y. Min, Statistics in Medicine 24 (2005) 729-740.
    """
    if not len(honest) == len(right) == len(kept):
        raise ValueError(f"{len(honest)}, {len(right)} and {len(kept)} problems")
    problems, left = len(honest), sum(kept)
    if problems < 2 or not left:
        return Moved(math.nan, Interval(-1.0, 1.0))
    counted = sum(r and k for r, k in zip(right, kept, strict=True))
    rows = [(1.0, h, r and k, k) for h, r, k in zip(honest, right, kept, strict=True)]
    weight, before, after, in_it = np.array([*rows, *_MADE_UP], dtype=np.float64).T
    total = float(weight.sum())
    share = float(weight @ in_it) / total
    old, new = float(weight @ before) / total, float(weight @ after) / float(weight @ in_it)
    moves = (after - new * in_it) / share - (before - old)
    half = student_quantile(confidence, problems - 1) * math.sqrt(float(weight @ (moves * moves))) / total
    center = new - old
    interval = Interval(max(-1.0, center - half), min(1.0, center + half))
    return Moved(counted / left - sum(honest) / problems, interval)
