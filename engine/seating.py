"""Who sits where: sequences get a seat on the device and pages for all that they may ever need, in integers.

The device runs ahead of the host, so a sequence that runs must never lack a page: it is admitted when the pages of its
prompt and its longest text are free in the base's cache, and as many promised in the oracle's, which it takes at its
first consult. Nobody is preempted.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from dodona.engine.cache import PagedCache
from dodona.engine.scheduler import Lane, Scheduler
from dodona.engine.sequence import Sequence


class Seating(Scheduler):
    """A scheduler whose sequences have seats.

    Args:
        leave: called with a sequence that loses its seat, before its pages are given back.
    """

    def __init__(
        self, base: PagedCache, oracle: PagedCache | None, *, max_batch: int, leave: Callable[[Sequence], None]
    ) -> None:
        super().__init__(base.pool, oracle.pool if oracle else None, max_batch=max_batch, chunk=0)
        self.caches = {"base": base} | ({"oracle": oracle} if oracle else {})
        self.seats: dict[int, int] = {}  # seat of each running sequence, by its id()
        self._leave = leave
        self._free = list(range(max_batch))
        self._promised: dict[int, int] = {}  # pages of the oracle's cache, by id() of the sequence

    def seated(self) -> list[Sequence]:
        """Let waiting sequences in while there are seats and pages; returns those that came in."""
        new = []
        while self.waiting and self._free and self._may_enter(self.waiting[0]):
            sequence = self.waiting.popleft()
            self.running.append(sequence)
            self.seats[id(sequence)] = heapq.heappop(self._free)
            if self._may_consult(sequence):
                self._promised[id(sequence)] = self._pages(self.lanes[1], sequence)
            self._open(self.lanes[0], sequence)
            new.append(sequence)
        return new

    def open_oracle(self, sequence: Sequence) -> bool:
        """Give a sequence its pages of the oracle's cache; False: another is reading its prompt, to be shared soon."""
        lane = self.lanes[1]
        if self._is_read(lane, sequence):
            return False
        del self._promised[id(sequence)]
        self._open(lane, sequence)
        return True

    def known(self, lane: Lane, sequence: Sequence) -> None:
        """A model has read the sequence's prompt: share it with those that have the same."""
        if self._alive[sequence.prompt] > 1:
            lane.share(sequence)

    def remove(self, sequence: Sequence, *, poisoned: bool = False) -> None:
        """Take a sequence out, wherever it is."""
        if id(sequence) in self.seats:
            try:
                self._leave(sequence)
            finally:
                heapq.heappush(self._free, self.seats.pop(id(sequence)))
                self._promised.pop(id(sequence), None)
        super().remove(sequence, poisoned=poisoned)

    def vacate(self) -> None:
        """Empty every seat without asking the device for anything, after an error there."""
        self._free = sorted([*self._free, *self.seats.values()])
        self.seats.clear()
        self._promised.clear()

    def _may_enter(self, sequence: Sequence) -> bool:
        base, *oracle = self.lanes
        if self._is_read(base, sequence):
            return False
        if not self.running:
            for lane in self.lanes:  # prompts of sequences that wait: to run one of them comes before sharing
                for prompt in list(lane.prompts):
                    if prompt != sequence.prompt:
                        lane.forget(prompt)
                if lane.pool.free_pages < self._pages(lane, sequence):  # its own last page, partly filled, is copied
                    lane.forget(sequence.prompt)
            return True
        if base.pool.free_pages < self._pages(base, sequence):
            return False
        if not self._may_consult(sequence):
            return True
        return oracle[0].pool.free_pages - sum(self._promised.values()) >= self._pages(oracle[0], sequence)

    def _is_read(self, lane: Lane, sequence: Sequence) -> bool:
        """Whether another sequence is just reading the same prompt."""
        if sequence.prompt in lane.prompts or self._alive[sequence.prompt] < 2:
            return False
        return any(
            other is not sequence and other.prompt == sequence.prompt and self._reading(lane, other)
            for other in self.running
        )

    @staticmethod
    def _reading(lane: Lane, sequence: Sequence) -> bool:
        view = lane.view(sequence)
        return view.slot is not None and view.recorded == 0 and not sequence.finished

    def _may_consult(self, sequence: Sequence) -> bool:
        return len(self.lanes) > 1 and (sequence.c > 0 or sequence.request.oracle_tail)

    @staticmethod
    def _pages(lane: Lane, sequence: Sequence) -> int:
        return lane.pool.pages_for(len(sequence.prompt) + sequence.limit)

    def _open(self, lane: Lane, sequence: Sequence) -> None:
        lane.open(sequence)
        slot = lane.view(sequence).slot
        assert slot is not None
        self.caches[lane.name].reserve(slot, len(sequence.prompt) + sequence.limit)
