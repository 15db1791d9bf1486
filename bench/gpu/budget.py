"""How the minutes are shared out over the parts: by weight, and what one leaves over goes to those after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

GRACE = 10.0  # seconds that a piece may still take when its part's time is over
LEAST = 3.0  # with less than this a part is not begun


class Budget:
    """Seconds for parts that run one after the other.

    Args:
        seconds: for all of them.
        weights: of each part, by its name, in their order.
        clock: seconds that only ever grow.
    """

    def __init__(
        self, seconds: float, weights: Mapping[str, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock, self._weights = clock, dict(weights)
        self._end = clock() + seconds
        self._part_end = self._end

    @property
    def left(self) -> float:
        """Seconds that are left of everything."""
        return self._end - self._clock()

    def begin(self, part: str) -> float:
        """A part's seconds, from now on: its share by weight of what is left, among those that have not begun."""
        total = sum(self._weights.values())
        share = max(0.0, self.left) * self._weights.pop(part) / total
        self._part_end = self._clock() + share
        return share

    @property
    def over(self) -> bool:
        """Whether the part's time is over, so that no further piece of it is begun."""
        return self._clock() >= self._part_end

    def patience(self) -> float:
        """Seconds that a piece which begins now may take: the part's, and a little more, but not much of the whole."""
        own = self._part_end - self._clock()
        return max(1.0, min(own + max(GRACE, 0.5 * max(own, 0.0)), max(self.left, 0.0) + GRACE))
