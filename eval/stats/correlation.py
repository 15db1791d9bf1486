"""Rank correlation, which asks only whether one quantity rises with another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dodona.eval.stats.intervals import Interval, normal_quantile

Array = np.ndarray[Any, Any]


def ranks(values: Sequence[float] | Array) -> Array:
    """Ranks from 1, [n] float64; equal values share the mean of their ranks, infinities rank as the ends they are.

    Raises:
        ValueError: NaN, which has no rank.
    """
    array = np.asarray(values, dtype=np.float64)
    if np.isnan(array).any():
        raise ValueError("NaN has no rank")
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: Array = (last - (counts - 1) / 2)[inverse]
    return mean


def spearman(x: Sequence[float] | Array, y: Sequence[float] | Array) -> float | None:
    """Spearman's rho: Pearson's correlation of the ranks, ties by their mean rank.

    None where it is undefined: fewer than two pairs, or all values of one side equal.

    Raises:
        ValueError: sides of different lengths, or NaN.

    Source: C. Spearman, American Journal of Psychology 15 (1904) 72-101.
    """
    if len(x) != len(y):
        raise ValueError(f"{len(x)} values against {len(y)}")
    if len(x) < 2:
        return None
    rank_x, rank_y = ranks(x), ranks(y)
    rank_x, rank_y = rank_x - rank_x.mean(), rank_y - rank_y.mean()
    scale = math.sqrt(float(rank_x @ rank_x) * float(rank_y @ rank_y))
    return max(-1.0, min(1.0, float(rank_x @ rank_y) / scale)) if scale else None


def spearman_interval(rho: float, n: int, confidence: float = 0.95) -> Interval | None:
    """An interval of Spearman's rho over ``n`` independent pairs: Fisher's z with Bonett and Wright's standard error.

    Runs of several arms on one problem are no independent pairs; ``dodona.eval.stats.bootstrap`` is for them. None
    where it is undefined: fewer than four pairs, or a rho of -1 or 1, whose z is infinite.

    Raises:
        ValueError: a rho that is not in [-1, 1].

    Source: D. G. Bonett and T. A. Wright, Psychometrika 65 (2000) 23-28: the variance (1 + rho^2 / 2) / (n - 3) of z.
    """
    if not -1 <= rho <= 1:
        raise ValueError(f"a correlation lies in [-1, 1], not {rho}")
    if n < 4 or abs(rho) == 1:
        return None
    half = normal_quantile(confidence) * math.sqrt((1 + rho * rho / 2) / (n - 3))
    return Interval(math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half))
