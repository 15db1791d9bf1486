"""Continuous batching over two models, in plain integers: who is admitted, who reads how much, who must step back.

Each tick asks for a base plan and then an oracle plan; a plan is a list of ``Work`` (sequence, tokens to feed) for one
ragged forward. Sequences are served oldest first. Where pages run out the youngest running sequence is preempted: its
pages are given back and it is recomputed later (its ids are kept, so ``catch_up`` from 0 rebuilds them).

Prompts that several live sequences share are read once a model: the first to need one leads, the others wait for it
and then fork its pages.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

from dodona.engine.pages import PagePool
from dodona.engine.sequence import BASE, Sequence, View


class Work(NamedTuple):
    """So many of the sequence's next ids, to be fed in this tick's forward."""

    sequence: Sequence
    tokens: int


class Lane:
    """One model's side of the schedule: its pages and the prompts that wait in them to be shared."""

    def __init__(self, name: str, pool: PagePool, chunk: int) -> None:
        self.name, self.pool, self.chunk = name, pool, chunk
        self.prompts: dict[tuple[int, ...], int] = {}  # prompt -> slot that holds it

    def view(self, sequence: Sequence) -> View:
        """This model's view of a sequence."""
        return sequence.base if self.name == BASE else sequence.oracle

    def length(self, sequence: Sequence) -> int:
        """Ids that this model has read."""
        slot = self.view(sequence).slot
        return 0 if slot is None else self.pool.length(slot)

    def close(self, sequence: Sequence) -> None:
        """Give the sequence's pages back."""
        view = self.view(sequence)
        if view.slot is not None:
            self.pool.close(view.slot)
            view.slot = None

    def open(self, sequence: Sequence) -> None:
        """Give the sequence a slot, with the shared prompt already in it where there is one."""
        view = self.view(sequence)
        shared = self.prompts.get(sequence.prompt)
        if shared is None:
            view.slot = self.pool.open()
        else:
            length = min(len(sequence.prompt), sequence.first_wanted(view))
            view.slot = self.pool.fork(shared, length)
            new = max(0, length - view.high)
            view.shared += new
            sequence.ledger.shared_tokens += new
            view.high = max(view.high, length)

    def share(self, sequence: Sequence) -> None:
        """Keep the prompt that this sequence has read, for others that have the same."""
        slot = self.view(sequence).slot
        if slot is not None and sequence.prompt not in self.prompts and self.pool.length(slot) >= len(sequence.prompt):
            self.prompts[sequence.prompt] = self.pool.fork(slot, len(sequence.prompt))

    def forget(self, prompt: tuple[int, ...]) -> None:
        """Give a shared prompt's pages back."""
        slot = self.prompts.pop(prompt, None)
        if slot is not None:
            self.pool.close(slot)


class Scheduler:
    """Waiting and running sequences and their pages in both caches."""

    def __init__(self, base: PagePool, oracle: PagePool | None, *, max_batch: int, chunk: int) -> None:
        self.lanes = [Lane("base", base, chunk)] + ([Lane("oracle", oracle, chunk)] if oracle else [])
        self.max_batch = max_batch
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._alive: Counter[tuple[int, ...]] = Counter()

    @property
    def idle(self) -> bool:
        """Whether there is nothing left to do."""
        return not self.waiting and not self.running

    def fits(self, sequence: Sequence) -> str | None:
        """Why the sequence could never run, even alone; None where it can."""
        tokens = len(sequence.prompt) + sequence.limit
        reads_oracle = sequence.c > 0 or sequence.request.oracle_tail
        for lane in self.lanes[: 2 if reads_oracle else 1]:
            if lane.pool.pages_for(tokens) > lane.pool.pages:
                return (
                    f"the request may need {tokens} tokens of the {lane.name}'s KV cache, which holds "
                    f"{lane.pool.capacity}: lower max_new_tokens or raise kv_tokens"
                )
        return None

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence, behind those that wait."""
        self.waiting.append(sequence)
        self._alive[sequence.prompt] += 1

    def admit(self) -> None:
        """Let waiting sequences in while there are seats and pages for what they have to read."""
        while self.waiting and len(self.running) < self.max_batch:
            sequence = self.waiting[0]
            lanes = [lane for lane in self.lanes if lane.name == ("oracle" if sequence.wants_oracle else "base")]
            if self.running and any(self._short(lane, sequence) for lane in lanes):
                return
            self.running.append(self.waiting.popleft())

    def _short(self, lane: Lane, sequence: Sequence) -> bool:
        """Whether the pages would not last: its ids, and one more page for everyone who runs."""
        shared = lane.prompts.get(sequence.prompt)
        held = len(lane.pool.table(shared)) if shared is not None else 0
        needed = lane.pool.pages_for(len(sequence.ids) + 1) - max(0, held - 1)
        return lane.pool.free_pages < needed + len(self.running)

    def plan(self, lane: Lane) -> list[Work]:
        """This tick's work of one model, with pages for all of it."""
        works: list[Work] = []
        reserved, budget = 0, lane.chunk
        leading: set[tuple[int, ...]] = set()
        is_base, pool, preemptions = lane.name == BASE, lane.pool, self.preemptions
        for sequence in list(self.running):
            if not (sequence.wants_base if is_base else sequence.wants_oracle):
                continue
            if self.preemptions > preemptions and sequence not in self.running:
                continue
            view = lane.view(sequence)
            length = 0 if view.slot is None else pool.length(view.slot)
            fresh = length < len(sequence.prompt)
            if fresh and self._alive[sequence.prompt] > 1 and sequence.prompt not in lane.prompts:
                if sequence.prompt in leading:
                    continue
                leading.add(sequence.prompt)
            if view.slot is None:
                lane.open(sequence)
                length = lane.length(sequence)
            lag = sequence.target - length
            tokens = min(lag, max(1, budget) if lag == 1 else budget)
            if tokens == 0:
                continue
            assert view.slot is not None
            while (needed := pool.needed(view.slot, tokens)) > pool.free_pages - reserved:
                if not self._make_room(lane, sequence):
                    break
                if view.slot is None:
                    break
            if view.slot is None or needed > pool.free_pages - reserved:
                continue
            reserved += needed
            budget -= tokens if lag > 1 else 0
            works.append(Work(sequence, tokens))
        return works

    def _make_room(self, lane: Lane, sequence: Sequence) -> bool:
        """Free some pages: a shared prompt's, else the youngest running sequence's. False: there is nothing left."""
        if lane.prompts:
            lane.forget(next(iter(lane.prompts)))
            return True
        for youngest in reversed(self.running):
            if youngest is sequence or lane.view(youngest).slot is not None:
                if youngest is sequence and len(self.running) == 1:
                    return False
                self.preempt(youngest)
                return True
        return False

    def preempt(self, sequence: Sequence) -> None:
        """Send a running sequence back to the head of the queue, without its pages."""
        self.running.remove(sequence)
        for lane in self.lanes:
            lane.close(sequence)
        self.waiting.appendleft(sequence)
        self.preemptions += 1

    def advanced(self, lane: Lane, works: list[Work]) -> None:
        """After the forward: keep prompts that others wait for."""
        for sequence, _ in works:
            if self._alive[sequence.prompt] > 1:
                lane.share(sequence)

    def remove(self, sequence: Sequence, *, poisoned: bool = False) -> None:
        """Take a sequence out, wherever it is; ``poisoned`` marks its pages as holding NaN."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        else:
            return
        for lane in self.lanes:
            slot = lane.view(sequence).slot
            if poisoned:
                if slot is not None:
                    lane.pool.poison(slot)
                lane.forget(sequence.prompt)
            lane.close(sequence)
        self._alive[sequence.prompt] -= 1
        if self._alive[sequence.prompt] <= 0:
            del self._alive[sequence.prompt]
            for lane in self.lanes:
                lane.forget(sequence.prompt)

    def reap(self) -> list[Sequence]:
        """Take out and return the running sequences that are done."""
        done = [sequence for sequence in self.running if sequence.done]
        for sequence in done:
            self.remove(sequence, poisoned=sequence.error is not None)
        return done
