"""Intervals for measured rates."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple


class Interval(NamedTuple):
    """A range of rates, both ends in [0, 1]."""

    low: float
    high: float


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
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not {confidence}")
    if n == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, failures = successes / n, n - successes
    center = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # Rounding would leave 0/n at 1e-17 and n/n below 1, which the formula gives exactly.
    return Interval(0.0 if successes == 0 else center - half, 1.0 if failures == 0 else center + half)
