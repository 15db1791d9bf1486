"""A limit to how long a comparison may take, on the wall clock and without signals."""

from __future__ import annotations

import time


class TooLong(Exception):
    """The time is over."""


class Clock:
    """Counts down from its construction; whoever works calls ``check`` in between."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left, 0 or more."""
        return max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Go on, or stop.

        Raises:
            TooLong: no time is left.
        """
        if time.monotonic() > self._end:
            raise TooLong
