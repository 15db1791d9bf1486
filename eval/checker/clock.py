"""A limit to how long a comparison may take, without signals: of time that passes, and of the thread's own work."""

from __future__ import annotations

import math
import time


class TooLong(Exception):
    """The time is over."""


class Clock:
    """Counts down from its construction, in the thread that works; whoever works calls ``check`` in between.

    Args:
        seconds: of the wall clock.
        work: processor seconds of this thread, which other programs do not use up.
    """

    def __init__(self, seconds: float, work: float = math.inf) -> None:
        self._end = time.monotonic() + seconds
        self._work_end = time.thread_time() + work

    @property
    def left(self) -> float:
        """Seconds of the wall clock that are left, 0 or more."""
        return max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Go on, or stop.

        Raises:
            TooLong: no time is left.
        """
        if time.monotonic() > self._end or time.thread_time() > self._work_end:
            raise TooLong
