"""Resampling of problems: what a statistic over problems and arms would have been with other problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.eval.stats.correlation import ranks
from dodona.eval.stats.intervals import Interval, normal_quantile

Array = np.ndarray[Any, Any]

RESAMPLES: Final = 2000
SEED: Final = 0
_DEFINED: Final = 0.95  # of the resamples, for an interval


class Correlation(NamedTuple):
    """A rank correlation over runs; None where it is undefined."""

    rho: float | None
    interval: Interval | None
    problems: int
    arms: int


def score_correlation(
    values: Sequence[float],
    correct: Array,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Correlation:
    """Spearman's rho of an arm's value (its c, its k) with whether a run of it is right, over all runs.

    A run is a pair of problem and arm. The runs of a problem hang together, so the interval comes from drawing problems
    with replacement, each with all of its runs (percentile bootstrap). It is undefined where all values or all outcomes
    are equal. It has no interval where that happens in more than one resample of twenty, or where all resamples give
    the same: no problem's outcome changed from arm to arm, which says nothing of other problems.

    Args:
        values: [A] one value an arm, infinities allowed.
        correct: [P, A] whether the run of that problem and arm is right, 0 or 1.

    Raises:
        ValueError: shapes that do not belong together.

    Source: B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; over clusters A. C.
    Davison and D. V. Hinkley, Bootstrap Methods and their Application (1997), section 3.8.
    """
    if correct.ndim != 2 or correct.shape[1] != len(values):
        raise ValueError(f"{len(values)} values against runs of shape {correct.shape}")
    problems, arms = correct.shape
    # Twice the ranks less their mean: whole numbers, so that sums are exact in any order.
    centered = np.rint(2 * ranks(values) - (arms + 1)).astype(np.int64)
    spread = math.sqrt(float((centered**2).sum()) / arms) if arms else 0.0
    if spread == 0 or problems == 0:
        return Correlation(None, None, problems, arms)
    outcomes = correct.astype(np.int64)
    sums = np.stack([outcomes @ centered, outcomes.sum(axis=1)], axis=1)  # [P, 2]
    runs = problems * arms
    (rho,) = _rho(sums.sum(axis=0, keepdims=True), runs, spread)
    if math.isnan(rho):
        return Correlation(None, None, problems, arms)
    # Problems with the same sums are alike: drawing how many of each kind is the same as drawing the problems.
    kinds, counts = np.unique(sums, axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(problems, counts / problems, size=resamples)  # [resamples, kinds]
    rhos = _rho(drawn @ kinds, runs, spread)
    defined = rhos[~np.isnan(rhos)]
    interval = None
    if len(defined) >= _DEFINED * resamples:
        normal_quantile(confidence)  # checks it
        tail = (1 - confidence) / 2
        low, high = np.quantile(defined, [tail, 1 - tail])
        interval = Interval(float(low), float(high)) if low < high else None
    return Correlation(float(rho), interval, problems, arms)


def _rho(sums: Array, runs: int, spread: float) -> Array:
    """Pearson's correlation of centred ranks with outcomes of 0 and 1, whose ranks are a linear function of them.

    Args:
        sums: [R, 2] by resample: the ranks of the right runs, summed, and their number.
    """
    rate = sums[:, 1] / runs
    scale = spread * np.sqrt(rate * (1 - rate))
    scale[(sums[:, 1] == 0) | (sums[:, 1] == runs)] = np.nan
    rhos: Array = np.clip(sums[:, 0] / runs / scale, -1, 1)
    return rhos
