"""Bootstrap over problems: what a statistic of tokens would have been with other problems.

Tokens of one problem hang together, so whole problems are drawn with replacement, as many as there are. A draw is a
number of times for each problem, a weight of its rows.

A ranking statistic is then a function of weighted counts of positives and negatives by score. Scores are sorted once;
each problem's counts [problems, bins] are multiplied by the weights [resamples, problems]: one matrix product in place
of a million rows read a thousand times. Bins hold single scores where there are no more scores than bins. Otherwise
they hold neighbouring ranks, half of the bins the top tenth, and the small shift that this makes in the whole sample is
taken out of the resamples: the statistic itself is computed from all scores.

Percentile intervals over few problems are too narrow. Simulated ones of 95 % held an AUROC of clustered tokens in 87,
91, 93 and 95 of 100 cases over 10, 30, 100 and 300 problems; the mean of problems' rates of 0.1 to 0.95 in 82 to 92
over 10, 84 to 95 over 30 and 92 to 95 over 100 or more; one of 0.02 in 78 over 30, 89 over 100 and 94 over 500.

Source: B. Efron and R. J. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; over clusters A. C. Davison
and D. V. Hinkley, Bootstrap Methods and their Application (1997), section 3.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.eval.analysis.curves import auroc, average_precision, group_numbers, recall_at
from dodona.eval.stats.intervals import Interval, normal_quantile, wilson

Array = np.ndarray[Any, Any]

RESAMPLES: Final = 1000
FEW: Final = 100  # problems, below which percentile intervals are visibly too narrow
NARROW: Final = f"over fewer than {FEW} problems they are too narrow"
BINS: Final = 2048
_TOP: Final = 0.1  # the share of the rows, from the highest score on, that half of the bins hold
_DEFINED: Final = 0.95  # of the resamples, for an interval
_ALIKE: Final = 1e-12  # relative; sums of the same numbers in another order differ in their last digits
_AT_ONCE: Final = 512  # problems whose counts are held at once


class Estimate(NamedTuple):
    """A statistic, its interval, and its values in the resamples."""

    value: float  # NaN where it is undefined
    interval: Interval | None  # None where one resample of twenty leaves it undefined, or all of them are alike
    draws: Array  # [R] float64, NaN where it is undefined

    def as_dict(self) -> dict[str, float | None]:
        """For JSON."""
        low, high = (None, None) if self.interval is None else self.interval
        return {"value": None if np.isnan(self.value) else float(self.value), "low": low, "high": high}


class Ranking(NamedTuple):
    """How well one ranking finds the positives."""

    rows: int
    positives: int
    auroc: Estimate
    average_precision: Estimate
    recalls: tuple[Estimate, ...]  # at each rate


def problem_weights(problems: int, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """[resamples, problems] float32: how often each problem is drawn."""
    if problems == 0:
        return np.zeros((resamples, 0), dtype=np.float32)
    drawn = np.random.default_rng(seed).multinomial(problems, np.full(problems, 1 / problems), size=resamples)
    return drawn.astype(np.float32)


def rank(
    scores: Array,
    positive: Array,
    problem: Array,
    weights: Array,
    rates: Sequence[float] = (),
    confidence: float = 0.95,
    bins: int = BINS,
) -> Ranking:
    """AUROC, average precision and recall of a score, with percentile intervals over problems.

    Args:
        scores: [n] higher means a positive; no NaN.
        positive: [n] bool.
        problem: [n] int64, the number of each row's problem, below P.
        weights: [R, P] (``problem_weights``).
        rates: consult rates, shares of the rows, at which to give the recall.
    """
    number, count = group_numbers(scores)
    pos, neg = (np.bincount(number[which], minlength=count).astype(np.float64) for which in (positive, ~positive))
    if count > bins:
        place, count = _binned(number, pos + neg, bins), bins
    else:
        place = number
    whole = [np.bincount(place[which], minlength=count).astype(np.float64) for which in (positive, ~positive)]
    drawn = [_weighted_counts(place[which], problem[which], count, weights) for which in (positive, ~positive)]
    value, binned, draws = (_statistics(a, b, rates) for a, b in ((pos, neg), whole, drawn))
    draws = np.clip(draws + (value - binned), 0, 1)
    estimates = [
        Estimate(float(value[one]), percentile(draws[:, one], confidence), draws[:, one]) for one in range(len(value))
    ]
    return Ranking(len(scores), int(positive.sum()), estimates[0], estimates[1], tuple(estimates[2:]))


def _statistics(pos: Array, neg: Array, rates: Sequence[float]) -> Array:
    """[..., 2 + rates] AUROC, average precision and recalls."""
    both = np.stack([auroc(pos, neg), average_precision(pos, neg)], axis=-1)
    return np.concatenate([both, recall_at(pos, neg, rates)], axis=-1) if rates else both


def ratio(part: Array, whole: Array, weights: Array, confidence: float = 0.95) -> Estimate:
    """A share summed over problems: sum of ``part`` over sum of ``whole``.

    Args:
        part, whole: [P] each problem's.
        weights: [R, P].
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(np.float64(part.sum()) / np.float64(whole.sum()))
        draws = (weights @ part.astype(np.float64)) / (weights @ whole.astype(np.float64))
    return Estimate(value, None if np.isnan(value) else percentile(draws, confidence), draws)


def share(part: Array, whole: Array, weights: Array) -> Estimate:
    """A ratio between 0 and 1, which has an interval where all agree, too."""
    return agreed(ratio(part, whole, weights), whole)


def agreed(found: Estimate, whole: Array) -> Estimate:
    """A share; where it is 0 or 1, which resampling never doubts, with Wilson's interval of a trial a problem."""
    if found.value not in (0, 1):
        return found
    problems = int((whole > 0).sum())
    return found._replace(interval=wilson(problems if found.value else 0, problems))


def difference(a: Estimate, b: Estimate, confidence: float = 0.95) -> Estimate:
    """Of two statistics of the same problems, drawn with the same weights."""
    draws = a.draws - b.draws
    return Estimate(a.value - b.value, percentile(draws, confidence), draws)


def percentile(draws: Array, confidence: float) -> Interval | None:
    """The percentile interval; None where too few of the resamples define the statistic, or all of them are alike.

    Resamples that are alike, as those of one problem are, say nothing of other problems.
    """
    normal_quantile(confidence)  # checks it
    defined = draws[~np.isnan(draws)]
    if not len(draws) or len(defined) < _DEFINED * len(draws):
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    alike = high - low <= _ALIKE * max(abs(low), abs(high))
    return None if alike else Interval(float(low), float(high))


def _binned(number: Array, counts: Array, bins: int) -> Array:
    """[n] the bin of each row: half of the bins for the top tenth of the rows, and no score in two bins."""
    total = counts.sum()
    share = (np.cumsum(counts) - counts) / total  # of the rows, before each group
    half = bins // 2
    upper = np.minimum(share / _TOP * half, half - 1)
    lower = half + np.minimum((share - _TOP) / (1 - _TOP) * half, half - 1)
    place: Array = np.where(share < _TOP, upper, lower).astype(np.int64)[number]
    return place


def _weighted_counts(place: Array, problem: Array, count: int, weights: Array) -> Array:
    """[R, count] float64: rows in each bin, each as often as its problem was drawn."""
    total = np.zeros((len(weights), count), dtype=np.float32)
    order = np.argsort(problem, kind="stable")
    place, problem = place[order], problem[order]
    for first in range(0, weights.shape[1], _AT_ONCE):
        last = min(first + _AT_ONCE, weights.shape[1])
        rows = slice(*np.searchsorted(problem, [first, last]))
        if rows.start == rows.stop:
            continue
        cells = (problem[rows] - first) * count + place[rows]
        counts = np.bincount(cells, minlength=(last - first) * count).reshape(last - first, count)
        total += weights[:, first:last] @ counts.astype(np.float32)
    return total.astype(np.float64)
