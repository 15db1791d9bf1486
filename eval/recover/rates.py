"""Rates of completions that hang together by problem, with weights: in a fuzzy bin a problem counts in part.

A problem's completions are no independent evidence, and problems have different numbers of them, so the rate is a ratio
of two sums over problems, and its standard error is that of a ratio (linearised). With equal numbers and weights it is
that of ``dodona.eval.stats.intervals.clustered``, and so are the intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

from dodona.eval.stats.intervals import Interval, normal_quantile, score_interval, wilson
from dodona.eval.stats.student import student_quantile


class Count(NamedTuple):
    """One problem's completions."""

    right: int
    n: int


Tally: TypeAlias = Mapping[str, Count]  # by problem
Weights: TypeAlias = Mapping[str, float]  # by problem; one that is not there counts nothing


class Pooled(NamedTuple):
    """A rate over problems, with its 95 % interval."""

    rate: float  # NaN of nothing
    interval: Interval  # (0, 1) of nothing
    right: int  # of the problems that have a weight, unweighted
    n: int
    problems: int
    weight: float  # the problems' weights, summed

    def as_dict(self) -> dict[str, Any]:
        """For JSON and CSV."""
        known = not math.isnan(self.rate)
        return {
            "rate": self.rate if known else None,
            "low": self.interval.low if known else None,
            "high": self.interval.high if known else None,
            "right": self.right,
            "n": self.n,
            "problems": self.problems,
            "weight": round(self.weight, 6),
        }


class Difference(NamedTuple):
    """One rate less another on the same problems."""

    difference: float  # NaN of nothing
    interval: Interval
    reference: float  # the other rate, on these problems and weighted alike; NaN of nothing
    problems: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON and CSV."""
        known = not math.isnan(self.difference)
        return {
            "difference": self.difference if known else None,
            "low": self.interval.low if known else None,
            "high": self.interval.high if known else None,
            "reference": self.reference if known else None,
            "problems": self.problems,
        }


def pooled(tally: Tally, weights: Weights | None = None, confidence: float = 0.95) -> Pooled:
    """The rate of all completions, with an interval clustered by problem.

    The design effect (the squared standard error of the ratio over that of as many independent completions) turns the
    completions into an effective number of them, for which Wilson's interval is taken; weights count by Kish's
    effective numbers. Where all completions agree, or there is one problem, the effective number is that of the
    problems.

    Args:
        tally: right and all completions of each problem.
        weights: of the problems; None: one each.

    Source: the ratio's variance W. G. Cochran, Sampling Techniques (1977), section 6.4; effective sample size and
    interval as ``clustered``; weights L. Kish, Survey Sampling (1965), section 11.7.
    """
    z = normal_quantile(confidence)
    chosen = [(count, _weight(weights, problem)) for problem, count in tally.items()]
    chosen = [(count, weight) for count, weight in chosen if count.n > 0 and weight > 0]
    right, n = sum(count.right for count, _ in chosen), sum(count.n for count, _ in chosen)
    total = math.fsum(weight for _, weight in chosen)
    if not chosen:
        return Pooled(math.nan, Interval(0.0, 1.0), 0, 0, 0, 0.0)
    mass = math.fsum(weight * count.n for count, weight in chosen)
    rate = math.fsum(weight * count.right for count, weight in chosen) / mass
    if right == 0 or right == n:
        rate = float(right > 0)  # exactly, whatever the weights' rounding
    runs = mass * mass / math.fsum(weight * weight * count.n for count, weight in chosen)
    groups = mass * mass / math.fsum((weight * count.n) ** 2 for count, weight in chosen)
    problems = len(chosen)
    if problems < 2 or rate in (0.0, 1.0):
        return Pooled(rate, score_interval(rate, groups, z), right, n, problems, total)
    residuals = math.fsum((weight * (count.right - rate * count.n)) ** 2 for count, weight in chosen)
    variance = problems / (problems - 1) * residuals / (mass * mass)
    design_effect = variance * (runs - 1) / (rate * (1 - rate))
    effective = runs / max(1.0, design_effect)
    if any(count.n > 1 for count, _ in chosen):
        quantiles = student_quantile(confidence, max(1, round(runs) - 1)), student_quantile(confidence, problems - 1)
        effective *= (quantiles[0] / quantiles[1]) ** 2
    return Pooled(rate, score_interval(rate, effective, z), right, n, problems, total)


def against(tally: Tally, reference: Tally, weights: Weights | None = None, confidence: float = 0.95) -> Difference:
    """A rate less another one on the problems that both have, each problem weighted by its completions in ``tally``.

    The interval is Student's over the problems' own differences, with Agresti and Min's two made-up problems of the
    mean weight; with equal weights it is that of ``dodona.eval.stats.paired.clustered_difference``.
    """
    items: list[tuple[float, float, float]] = []  # weight, difference, the other rate
    for problem, count in tally.items():
        other, weight = reference.get(problem, Count(0, 0)), _weight(weights, problem)
        if count.n and other.n and weight > 0:
            base = other.right / other.n
            items.append((weight * count.n, count.right / count.n - base, base))
    if not items:
        return Difference(math.nan, Interval(-1.0, 1.0), math.nan, 0)
    mass = math.fsum(weight for weight, _, _ in items)
    difference = math.fsum(weight * d for weight, d, _ in items) / mass
    base = math.fsum(weight * rate for weight, _, rate in items) / mass
    if len(items) < 2:
        return Difference(difference, Interval(-1.0, 1.0), base, 1)
    one = mass / len(items)
    center = difference * mass / (mass + 2 * one)
    spread = math.fsum((weight * (d - center)) ** 2 for weight, d, _ in items) + one * one * (1 + 2 * center * center)
    half = student_quantile(confidence, len(items) - 1) * math.sqrt(spread) / (mass + 2 * one)
    return Difference(difference, Interval(max(-1.0, center - half), min(1.0, center + half)), base, len(items))


def beside(tally: Tally, reference: Tally, confidence: float = 0.95) -> Pooled:
    """Another rate on the problems of a tally, each weighted by its completions there; see ``against``."""
    return pooled(reference, {problem: float(count.n) for problem, count in tally.items()}, confidence)


def solve_rate(count: Count) -> tuple[float, Interval]:
    """A problem's own rate with its Wilson interval."""
    return (count.right / count.n if count.n else math.nan), wilson(count.right, count.n)


def bin_edges(bins: int) -> list[float]:
    """Equal bins of the solve rate from 0 to 1, by their edges."""
    return [place / bins for place in range(bins + 1)]


def memberships(count: Count, edges: Sequence[float]) -> list[float]:
    """How far a problem belongs to each difficulty bin: the share of its Wilson interval that lies in the bin.

    The shares add up to 1. A rate out of five samples is known to within some forty points, so a problem is in several
    bins; with very many samples it is in one.
    """
    low, high = wilson(count.right, count.n)
    return [max(0.0, min(high, b) - max(low, a)) / (high - low) for a, b in pairwise(edges)]


def _weight(weights: Weights | None, problem: str) -> float:
    return 1.0 if weights is None else weights.get(problem, 0.0)
