"""Quantiles of Student's t distribution, which the standard library lacks."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Final

_EXPANSION_FROM: Final = 100  # degrees of freedom from which the expansion is exact to nine digits


def student_quantile(confidence: float, degrees: int) -> float:
    """The t of a two-sided interval: 12.706 for 0.95 and one degree of freedom, 1.96 for very many.

    Raises:
        ValueError: fewer than one degree of freedom, or a confidence that is not between 0 and 1.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4 (the distribution in
    closed form, inverted by bisection) and 26.7.5 (the expansion for many degrees of freedom).
    """
    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom")
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not {confidence}")
    if degrees >= _EXPANSION_FROM:
        return _expansion(NormalDist().inv_cdf(0.5 + confidence / 2), degrees)
    low, high = 0.0, math.pi / 2  # of the angle arctan(t / sqrt(degrees)), in which the distribution is smooth
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _within(middle, degrees) < confidence else (low, middle)
    return math.tan(low) * math.sqrt(degrees)


def _within(angle: float, degrees: int) -> float:
    """The probability that abs(t) is at most tan(angle) sqrt(degrees)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * power / (power + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _expansion(z: float, degrees: int) -> float:
    n = float(degrees)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / n + g2 / n**2 + g3 / n**3 + g4 / n**4
