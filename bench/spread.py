"""Percentiles of a measurement that was repeated."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """Percentiles, in the unit of the values."""

    p20: float
    p50: float
    p80: float
    p99: float
    samples: int  # values that they are of

    def as_dict(self) -> dict[str, float]:
        """By name, for a result file."""
        return dict(self._asdict())


def spread(values: Sequence[float]) -> Spread:
    """The percentiles of some values, linearly between neighbours.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("no values, so no percentiles")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], values[0], 1)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return Spread(cuts[19], statistics.median(values), cuts[79], cuts[98], len(values))
