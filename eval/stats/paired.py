"""Two arms on the same problems: the difference with its interval, and whether chance alone could have made it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dodona.eval.stats.intervals import Interval, normal_quantile
from dodona.eval.stats.student import student_quantile

Array = np.ndarray[Any, Any]


class Pairs(NamedTuple):
    """Problems by who solved them."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def n(self) -> int:
        """All problems."""
        return sum(self)

    @property
    def difference(self) -> float:
        """B's rate less A's; NaN without problems."""
        return (self.only_b - self.only_a) / self.n if self.n else math.nan


class PValues(NamedTuple):
    """Two p-values of one table."""

    exact: float
    mid: float  # less conservative: counts half of the observed table's own probability


def mcnemar(only_a: int, only_b: int) -> PValues:
    """McNemar's test, two-sided and exact: could the problems that one arm alone solved have fallen either way?

    Given their number, those of one arm are binomial with a half. The exact p-value is computed at any count, so the
    chi-square approximation is never used. Without such problems both are 1.

    Raises:
        ValueError: a negative count.

    Source: Q. McNemar, Psychometrika 12 (1947) 153-157, in its exact form; the mid-p variant is recommended by M. W.
    Fagerland, S. Lydersen and P. Laake, BMC Medical Research Methodology 13 (2013) 91.
    """
    if min(only_a, only_b) < 0:
        raise ValueError(f"{only_a} and {only_b} problems")
    masses = _half_binomial(only_a + only_b)
    smaller = min(only_a, only_b)
    tail = 2 * math.fsum(masses[: smaller + 1])
    return PValues(min(1.0, tail), min(1.0, tail - float(masses[smaller])))


def tango(pairs: Pairs, confidence: float = 0.95) -> Interval:
    """The score interval of a difference of two rates on the same problems, B's less A's.

    Without problems it is (-1, 1). It never has zero width and never leaves [-1, 1].

    Raises:
        ValueError: a negative count, or a confidence that is not between 0 and 1.

    Source: T. Tango, Statistics in Medicine 17 (1998) 891-908.
    """
    if min(pairs) < 0:
        raise ValueError(f"a negative count in {tuple(pairs)}")
    z, n, b, c = normal_quantile(confidence), pairs.n, pairs.only_b, pairs.only_a
    if n == 0:
        return Interval(-1.0, 1.0)

    def score(difference: float) -> float:
        """Falls from plus to minus infinity over [-1, 1]."""
        first, linear = 2 * n, (2 * n - b + c) * difference - b - c
        constant = -c * difference * (1 - difference)
        root = math.sqrt(max(0.0, linear * linear - 4 * first * constant))
        # The likeliest rate of "A alone" under this difference, by the form of the root that does not cancel.
        alone = -2 * constant / (linear + root) if linear > 0 else (root - linear) / (2 * first)
        variance = n * (2 * alone + difference * (1 - difference))
        excess = b - c - n * difference
        if variance <= 0:
            return 0.0 if excess == 0 else math.copysign(math.inf, excess)
        return excess / math.sqrt(variance)

    low = -1.0 if c == n else _crossing(lambda difference: score(difference) - z, -1.0, pairs.difference)
    high = 1.0 if b == n else _crossing(lambda difference: score(difference) + z, pairs.difference, 1.0)
    return Interval(low, high)


def clustered_difference(differences: Sequence[float], confidence: float = 0.95) -> Interval:
    """An interval of a mean difference of two arms that ran several times on each problem.

    Each problem is one observation, B's rate on it less A's: the standard error is that of their mean, which is the
    cluster-robust one. Student's t has one degree of freedom less than there are problems. Two made-up problems with
    the weights 1/2 (only B), 1/2 (only A) and 1 (no difference) are added, so that the interval has a width where all
    differences are equal; that is what Agresti and Min add to a table of single runs.

    Fewer than two problems say nothing: (-1, 1).

    Raises:
        ValueError: a difference of two rates that is not in [-1, 1].

    Source: E. Miller, arXiv:2411.00640 (2024), for paired differences by problem; A. Agresti and Y. Min, Statistics in
    Medicine 24 (2005) 729-740, for the added pairs.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not (np.abs(values) <= 1).all():
        raise ValueError("a difference of two rates lies in [-1, 1]")
    if len(values) < 2:
        return Interval(-1.0, 1.0)
    n = len(values) + 2
    center = float(values.sum()) / n
    variance = (float((values * values).sum()) + 1) / n - center * center
    half = student_quantile(confidence, len(values) - 1) * math.sqrt(max(0.0, variance) / n)
    return Interval(max(-1.0, center - half), min(1.0, center + half))


def sign_flip(differences: Sequence[int]) -> float:
    """The exact two-sided p-value of a sum of differences, if each could as well have had the other sign.

    With differences of -1, 0 and 1 it is McNemar's exact test; with several runs of a problem, whose right answers of B
    less those of A are its difference, it is that test with problems as clusters. Two arms that do equally well make
    either sign as likely if they have as many runs of a problem. If not, the p-value is approximate: of two such arms,
    simulated, it was below 0.05 in up to 6 of 100 cases with one run against 3, on 10 to 500 problems, but with one
    against 16 in 19 on 30 problems that are solved in one run of twenty.

    Source: the randomisation test of paired differences of R. A. Fisher, The Design of Experiments (1935), section 21;
    the distribution is computed in full, size by size.
    """
    values = np.abs(np.asarray(differences, dtype=np.int64))
    total = abs(int(np.asarray(differences, dtype=np.int64).sum()))
    if total == 0:
        return 1.0
    divisor = int(np.gcd.reduce(values))
    sizes, counts = np.unique(values[values > 0] // divisor, return_counts=True)
    masses = np.ones(1)  # of the sum of the sizes whose sign is plus
    for size, count in zip(map(int, sizes), map(int, counts), strict=True):
        wider = np.zeros(len(masses) + size * count)
        for plus, mass in enumerate(_half_binomial(count)):
            wider[size * plus : size * plus + len(masses)] += mass * masses
        masses = wider
    # sum = 2 plus - all, so at least `total` means plus >= (all + total) / 2; both have the same parity.
    beyond = masses[(len(masses) - 1 + total // divisor) // 2 :]
    return min(1.0, 2 * math.fsum(beyond))


def _half_binomial(n: int) -> Array:
    """The probabilities of 0 to n heads in n throws of a coin."""
    steps = np.arange(1, n + 1)
    return np.exp(np.concatenate([[0.0], np.cumsum(np.log((n - steps + 1) / steps))]) - n * math.log(2))


def _crossing(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero, by bisection to the last bit."""
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
