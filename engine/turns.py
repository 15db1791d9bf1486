"""One loop for all who wait for it: threads and iterators, each with a queue of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from dodona.engine.device_loop import DeviceLoop
from dodona.engine.errors import DodonaError
from dodona.engine.loop import Loop
from dodona.engine.scheduler import Scheduler
from dodona.engine.sequence import Sequence


class Turns:
    """Runs one tick at a time, and gives each sequence that is done to whom it belongs.

    Whoever waits calls ``tick`` until its queue has what it waits for; a tick advances what all others wait for, too.
    """

    def __init__(self, loop: Loop | DeviceLoop, scheduler: Scheduler) -> None:
        self.loop, self.scheduler = loop, scheduler
        self.lock = threading.RLock()  # of the scheduler and all that a tick changes
        self.closed = False
        self._ticking = False
        self._leaving: list[Sequence] = []  # cancelled in the middle of a tick, which goes on with them
        self._queues: dict[int, deque[Sequence]] = {}  # by id() of the sequence

    def add(self, sequence: Sequence, queue: deque[Sequence]) -> None:
        """Let a sequence run; it comes to this queue when it is done or cancelled.

        Raises:
            DodonaError: closed.
        """
        with self.lock:
            self.check_open()
            self._queues[id(sequence)] = queue
            self.scheduler.add(sequence)

    def tick(self) -> None:
        """Advance everything that runs; once closed, nothing. An error cancels all that ran.

        Raises:
            DodonaError: called by a trigger in the middle of a tick.
        """
        with self.lock:
            if self.closed:
                return
            self._check_idle()
            self._ticking = True
            try:
                done = self.loop.tick()
            except BaseException:
                self._ticking = False
                self._clear()  # a forward that stopped half-way leaves caches that nobody may read
                raise
            self._ticking = False
            for sequence in done:
                self._queues.pop(id(sequence)).append(sequence)
            leaving, self._leaving = self._leaving, []
            self._take_out([sequence for sequence in leaving if id(sequence) in self._queues])

    def drop(self, queue: deque[Sequence]) -> None:
        """Cancel everything that this queue waits for."""
        self.cancel(lambda sequence: self._queues.get(id(sequence)) is queue)

    def cancel(self, chosen: Callable[[Sequence], bool]) -> int:
        """Take sequences out, wherever they are; returns how many."""
        with self.lock:
            found = [s for s in (*self.scheduler.running, *self.scheduler.waiting) if chosen(s)]
            if self._ticking:  # by a trigger, or by an iterator that is collected as garbage
                self._leaving += found
            else:
                self._take_out(found)
            return len(found)

    def close(self) -> bool:
        """Cancel everything and run no more; False where that has been done before.

        Raises:
            DodonaError: called by a trigger in the middle of a tick.
        """
        with self.lock:
            if self.closed:
                return False
            self._check_idle()
            self._clear()
            self.closed = True
            del self.loop
            return True

    def check_open(self) -> None:
        """Raises DodonaError once closed."""
        if self.closed:
            raise DodonaError("this engine is closed")

    def _check_idle(self) -> None:
        if self._ticking:
            raise DodonaError("a trigger may not run or close the engine that asks it")

    def _clear(self) -> None:
        self.loop.abandon()
        self.cancel(lambda sequence: True)

    def _take_out(self, found: list[Sequence]) -> None:
        for sequence in found:
            if not sequence.finished:
                sequence.finish("cancelled")
            self.scheduler.remove(sequence)
            queue = self._queues.pop(id(sequence), None)
            if queue is not None:
                queue.append(sequence)
