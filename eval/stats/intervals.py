"""Intervals for measured rates: of independent runs, and of several runs a problem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

from dodona.eval.stats.student import student_quantile


class Interval(NamedTuple):
    """A range of values, low to high."""

    low: float
    high: float


def normal_quantile(confidence: float) -> float:
    """The z of a two-sided interval: 1.96 for 0.95.

    Raises:
        ValueError: a confidence that is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The Wilson score interval of a binomial rate, without continuity correction.

    Args:
        successes: how many of ``n`` independent trials succeeded.
        n: the trials; 0 says nothing about the rate, and gives (0, 1).
        confidence: how often such an interval holds the true rate.

    Raises:
        ValueError: numbers that no experiment can give.

    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927) 209-212; recommended for small n by
    Brown, Cai and DasGupta, Statistical Science 16 (2001) 101-133.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials")
    return score_interval(successes / n if n else 0.0, n, normal_quantile(confidence))


def cluster_error(correct: Sequence[int], samples: int) -> float:
    """The cluster-robust standard error of a rate measured by ``samples`` runs of each problem.

    It is the standard error of the mean of the problems' own rates: runs of one problem are no independent evidence.
    NaN for fewer than two problems.

    Args:
        correct: for each problem, how many of its runs were right, 0 to ``samples``.
        samples: runs of each problem, 1 or more.

    Raises:
        ValueError: counts that no experiment can give.

    Source: E. Miller, "Adding Error Bars to Evals", arXiv:2411.00640 (2024), its clustered standard error for clusters
    of equal size, with the usual factor P / (P - 1) for P problems.
    """
    _check_counts(correct, samples)
    problems = len(correct)
    if problems < 2:
        return math.nan
    # In integers, so that equal rates give exactly zero.
    total, squares = sum(correct), sum(count * count for count in correct)
    spread = (problems * squares - total * total) / (samples * samples)
    return math.sqrt(spread / (problems - 1)) / problems


def clustered(correct: Sequence[int], samples: int, confidence: float = 0.95) -> Interval:
    """An interval of a rate measured by ``samples`` runs of each problem, where the problems are the clusters.

    The cluster-robust standard error gives a design effect: its square over that of as many independent runs. The runs
    divided by it (by 1 at least), and by the squared ratio of Student's quantiles at P - 1 and at runs - 1 degrees of
    freedom, are the effective number of runs, for which the Wilson interval is taken. In the middle of the range and
    for many problems this is the normal interval, mean +- 1.96 standard errors; it never leaves [0, 1]. With one run a
    problem it is Wilson's interval.

    Simulated intervals of 95 % held the rate in 94 to 96 of 100 cases in the middle of the range; near its ends, at
    0.02 and 0.95 of 30 to 100 problems whose rates differ much, in as few as 86.

    It never has zero width. Where all runs agree (0 of n, n of n) or there is one problem, the standard error is 0 or
    unknown; then the effective number of runs is the number of problems, as if all runs of a problem said the same.

    Args:
        correct: for each problem, how many of its runs were right, 0 to ``samples``.
        samples: runs of each problem, 1 or more.

    Raises:
        ValueError: numbers that no experiment can give.

    Source: standard error as ``cluster_error``; effective sample size E. L. Korn and B. I. Graubard, Survey Methodology
    24 (1998) 193-201; in the Wilson interval, C. Franco, R. J. A. Little, T. A. Louis and E. V. Slud, Journal of Survey
    Statistics and Methodology 7 (2019) 334-364.
    """
    _check_counts(correct, samples)
    z, problems, runs, total = normal_quantile(confidence), len(correct), len(correct) * samples, sum(correct)
    if problems < 2 or total in (0, runs):
        return score_interval(total / runs if runs else 0.0, problems, z)
    rate = total / runs
    design_effect = cluster_error(correct, samples) ** 2 * (runs - 1) / (rate * (1 - rate))
    effective = runs / max(1.0, design_effect)
    if samples > 1:
        effective *= (student_quantile(confidence, runs - 1) / student_quantile(confidence, problems - 1)) ** 2
    return score_interval(rate, effective, z)


def _check_counts(correct: Sequence[int], samples: int) -> None:
    if samples < 1:
        raise ValueError(f"{samples} runs of each problem")
    for count in correct:
        if not 0 <= count <= samples:
            raise ValueError(f"{count} of {samples} runs")


def score_interval(rate: float, n: float, z: float) -> Interval:
    """Wilson's formula, for an ``n`` that need not be whole."""
    if n == 0:
        return Interval(0.0, 1.0)
    center = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # Rounding would leave 0/n at 1e-17 and n/n below 1, which the formula gives exactly.
    return Interval(0.0 if rate == 0 else center - half, 1.0 if rate == 1 else center + half)
