"""A straight line through measured points, with an interval for its slope."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

# Student's t at 97.5 % by degrees of freedom, up to 15.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


class Line(NamedTuple):
    """``y = intercept + slope * x``, by least squares."""

    slope: float
    low: float  # 95 % interval of the slope; infinite where two points leave nothing to judge it by
    high: float
    intercept: float
    points: int

    def at(self, x: float) -> float:
        """The line's y."""
        return self.intercept + self.slope * x

    def as_dict(self) -> dict[str, float]:
        """By name, for a result file."""
        return dict(self._asdict())


def fitted(points: Sequence[tuple[float, float]]) -> Line:
    """The line through some points (x, y), which the interval takes for independent.

    Raises:
        ValueError: fewer than two different x.
    """
    count = len(points)
    if len({x for x, _ in points}) < 2:
        raise ValueError("a line needs points at two places")
    mean_x, mean_y = (sum(point[axis] for point in points) / count for axis in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    intercept = mean_y - slope * mean_x
    free = count - 2
    if free == 0:
        return Line(slope, -math.inf, math.inf, intercept, count)
    rest = sum((y - intercept - slope * x) ** 2 for x, y in points)
    error = math.sqrt(rest / free / spread) * _student(free)
    return Line(slope, slope - error, slope + error, intercept, count)


def _student(free: int) -> float:
    """The t of a 95 % interval; beyond the table by Abramowitz and Stegun, 26.7.5, which is good to three digits."""
    return _T[free - 1] if free <= len(_T) else 1.960 + 2.372 / free + 2.823 / free**2
