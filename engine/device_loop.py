"""Guided decoding with the state on the device: the host launches step programs ahead and reads their records later.

Each tick launches one or a few programs by what the host knows and guesses, then reads the records of an earlier tick:
``lookahead`` ticks are on their way at most, so a device need not wait for the host. A guess that was wrong costs a
program that changes nothing; the tokens are those of ``loop.Loop``, whatever the lookahead.

The host's ``Sequence`` objects follow the records: ids, sources and consults are always as of the last record read, and
signals and the ledger's counts come when a sequence leaves.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from dodona.engine.errors import DodonaError
from dodona.engine.graph import Graphs
from dodona.engine.runner import Runner
from dodona.engine.sampling import Sampling
from dodona.engine.seating import Seating
from dodona.engine.seats import LEDGER, Column, Finish, Phase, Seats
from dodona.engine.sequence import BASE, ORACLE, Sequence
from dodona.engine.step import CONSULT, FED, FEW_TRIGGERS, RECORD, TOKEN, Shape, Step, Watch
from dodona.engine.threads import threads_set
from dodona.engine.transfer import Arrival, to_host
from dodona.engine.trigger import ExpressionTrigger, Trigger

LOOKAHEAD = 2  # ticks on their way
CAPTURED_TOKENS = 128  # a seat's tokens in one program, up to which it is worth a graph


@dataclass(slots=True)
class Guess:
    """Where a seat will be once all that was launched has run, if no trigger fires and no end token comes."""

    phase: Phase
    length: int
    base: int  # ids in the base's cache
    oracle: int
    burst_left: int
    finished: bool

    def cached(self, model: str) -> int:
        """Ids in a model's cache."""
        return self.base if model == BASE else self.oracle

    def lag(self, model: str) -> int:
        """Ids that a model has still to read."""
        return self.length - self.finished - self.cached(model)


@dataclass(slots=True, eq=False)
class Member:
    """A sequence that has a seat."""

    sequence: Sequence
    seat: int
    guess: Guess
    since: int = 0  # serial number of the last program whose record counts no more: the host has set the seat anew
    opened: int = 0  # likewise, of the last program that did not know the oracle's cache yet
    shared: int = 0  # ids that it held then


class Launched(NamedTuple):
    """A program on its way."""

    serial: int
    shape: Shape
    members: list[Member]
    arrival: Arrival  # of its record


class DeviceLoop:
    """Runs sequences through two models until they are done; one program at a time, many ahead of the host.

    Args:
        max_batch: seats.
        chunk: the most tokens that one program reads of a sequence; a power of two.
        lookahead: ticks that are on their way before the host reads a record; 1 reads each before the next.
        kernels: whether steps of one token a seat are decided by a kernel, as the models run on kernels too.
        poll_seconds: how long to sleep between two looks at a record that has not arrived; 0 looks all the time.
    """

    def __init__(
        self,
        base: Runner,
        oracle: Runner | None,
        *,
        max_batch: int,
        chunk: int,
        eos: list[frozenset[int]],
        lookahead: int = LOOKAHEAD,
        poll_seconds: float = 0.0,
        threads: int | None = None,
        kernels: bool = False,
    ) -> None:
        self.runners = {BASE: base} | ({ORACLE: oracle} if oracle is not None else {})
        device, config = base.model.device, base.config
        self.scheduler = Seating(base.cache, oracle.cache if oracle else None, max_batch=max_batch, leave=self._collect)
        self.lookahead, self.poll_seconds, self.threads = lookahead, poll_seconds, threads
        self.chunk = 1 << (max(1, chunk).bit_length() - 1)
        self.seats = Seats(max_batch, config.vocab_size, base.model.dtype, device)
        self.graphs = Graphs(device, self.seats.spare)
        self.ticks, self.programs = 0, 0
        self.model_seconds = 0.0
        self._members: dict[int, Member] = {}  # by id() of the sequence
        self._flights: deque[list[Launched]] = deque()
        self._done: list[Sequence] = []
        self._watched: dict[Trigger, int] = {}
        self._ema_places: dict[tuple[str, float], int] = {}
        self._failures: dict[int, str] = {}
        table = torch.zeros(3, config.vocab_size, dtype=torch.bool, device="cpu")
        table[0, list(eos[0])] = True
        table[1, list(frozenset().union(*eos))] = True
        ends = table.to(device)
        make_step = _step_class(kernels)
        self._steps = {
            name: make_step(runner, self.seats, ends, self._ema_places, self._failures)
            for name, runner in self.runners.items()
        }
        for runner in self.runners.values():
            # Every sequence's slot, a shared prompt's for each, and slot 0: as the table grows, captures are lost.
            runner.cache.grow(2 * max_batch + 2, 1)

    def tick(self) -> list[Sequence]:
        """Launch what can be launched and read what is due; returns the sequences that are done."""
        with torch.inference_mode(), threads_set(self.threads):
            self.ticks += 1
            self._seat()
            started = time.perf_counter()
            launched = [self._launch(*plan) for plan in self._plans()]
            if launched:
                self._flights.append(launched)
            while self._flights and (not launched or len(self._flights) >= self.lookahead):
                self._read(self._flights.popleft())
                if not launched:
                    break
            self.model_seconds += time.perf_counter() - started
            for member in [m for m in self._members.values() if m.sequence.done]:
                self.scheduler.remove(member.sequence, poisoned=member.sequence.error is not None)
                self._done.append(member.sequence)
            done, self._done = self._done, []
            return done

    def abandon(self) -> None:
        """Forget all that is on its way, and every seat, after an error on the device."""
        self._flights.clear()
        self._members.clear()
        self.scheduler.vacate()

    # --- coming and going ---

    def _seat(self) -> None:
        for sequence in self.scheduler.seated():
            seat, lane = self.scheduler.seats[id(sequence)], self.scheduler.lanes[0]
            slot, cached = sequence.base.slot, self._shared(lane, sequence)
            assert slot is not None
            number = self._watch(sequence.trigger)
            longest = len(sequence.prompt) + sequence.limit
            self.seats.reserve(longest + 1, len(self._ema_places))
            for runner in self.runners.values():  # padding, too, looks for its page in the table
                runner.cache.grow(1, runner.cache.pool.pages_for(longest + self.chunk))
            self.seats.take(seat, sequence, trigger=number, base_slot=slot, base_length=cached)
            guess = Guess(Phase.BASE, len(sequence.prompt), cached, 0, 0, False)
            self._members[id(sequence)] = Member(sequence, seat, guess, since=self.programs)

    def _shared(self, lane: Any, sequence: Sequence) -> int:
        """How much of the prompt came with the slot."""
        return min(int(lane.view(sequence).high), len(sequence.prompt) - 1)

    def _watch(self, trigger: Trigger) -> int:
        """The number of a trigger, with places for its moving averages."""
        if trigger not in self._watched:
            in_use = {m.sequence.trigger for m in self._members.values()}
            for idle in [t for t in self._watched if t not in in_use]:
                self._failures.pop(self._watched.pop(idle), None)
            taken = set(self._watched.values())
            self._watched[trigger] = next(n for n in range(len(taken) + 1) if n not in taken)
        for pair in trigger.emas:
            self._ema_places.setdefault(pair, len(self._ema_places))
        return self._watched[trigger]

    @torch.inference_mode()  # as in a tick: it is called between ticks, too, where a sequence is cancelled
    def _collect(self, sequence: Sequence) -> None:
        """Fetch a leaving sequence's signals and counts, and empty its seat."""
        member = self._members.pop(id(sequence))
        seats, seat, length = self.seats, member.seat, sequence.generated
        sequence.base_rows = [tuple(row) for row in to_host(seats.base[seat, :length, :5])]
        sequence.base_logprobs = to_host(seats.base[seat, :length, 5])
        sequence.oracle_rows = [tuple(row) for row in to_host(seats.oracle[seat, :length])]
        numbers = to_host(seats.numbers[seat])
        ledger = sequence.ledger
        for name, column in LEDGER.items():
            setattr(ledger, name, numbers[column])
        for name, fed in ((BASE, ledger.base_fed), (ORACLE, ledger.oracle_fed)):
            if fed:
                first = max(0, numbers[Column.BASE_LENGTH if name == BASE else Column.ORACLE_LENGTH] - fed)
                flops = fed * self.runners[name].config.flops_per_token(first + (fed + 1) / 2)
                setattr(ledger, f"{name}_flops", flops)
        seats.set(seat, {Column.PHASE: Phase.NOBODY, Column.BASE_SLOT: 0, Column.ORACLE_SLOT: 0})

    # --- launching ---

    def _plans(self) -> list[tuple[str, int, list[Member]]]:
        """This tick's programs: (model, tokens of each seat, members)."""
        groups: dict[tuple[str, int], list[Member]] = {}
        for member in self._members.values():
            guess = member.guess
            if guess.phase == Phase.NOBODY:
                continue
            model = BASE if guess.phase == Phase.BASE else ORACLE
            if model == ORACLE and member.sequence.oracle.slot is None and not self._open_oracle(member):
                continue
            lag = guess.lag(model)
            if lag > 0:
                groups.setdefault((model, min(self.chunk, _power(lag))), []).append(member)
        return [(model, tokens, members) for (model, tokens), members in sorted(groups.items(), key=lambda g: g[0])]

    def _open_oracle(self, member: Member) -> bool:
        sequence = member.sequence
        if not self.scheduler.open_oracle(sequence):
            return False
        lane, slot = self.scheduler.lanes[1], sequence.oracle.slot
        assert slot is not None
        member.guess.oracle = member.shared = self._shared(lane, sequence)
        member.opened = self.programs
        self.seats.set(member.seat, {Column.ORACLE_SLOT: slot, Column.ORACLE_LENGTH: member.shared})
        return True

    def _launch(self, model: str, tokens: int, members: list[Member]) -> Launched:
        shape = self._shape(model, tokens, members)
        rows = [member.seat for member in members]
        rows += [self.seats.spare] * (shape.seats - len(rows))
        triggers = {member.sequence.trigger for member in members if member.sequence.c > 0}
        watched = [Watch(self._watched[trigger], trigger) for trigger in triggers] if model == BASE else []
        watched.sort(key=lambda watch: watch.number)
        cache = self.runners[model].cache
        key = None
        few = len(watched) <= FEW_TRIGGERS and all(isinstance(watch.trigger, ExpressionTrigger) for watch in watched)
        if tokens <= CAPTURED_TOKENS and few:
            epochs = self.seats.epoch, tuple(cache.page_table.shape), len(self._ema_places)
            key = (shape, tuple(watched), epochs)
        arrival = Arrival(self.graphs.device)
        try:
            record = self.graphs.run(key, lambda rows_M: self._steps[model].run(shape, rows_M, watched), rows)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise _failed(shape, error) from error
        arrival.fetch(record)
        self.programs += 1
        for member in members:
            _advance(member.guess, model, tokens, member.sequence)
        return Launched(self.programs, shape, members, arrival)

    def _shape(self, model: str, tokens: int, members: list[Member]) -> Shape:
        size = self.runners[model].cache.pool.page_size
        ends = [member.guess.cached(model) + min(tokens, member.guess.lag(model)) for member in members]
        news = [
            end - max(member.guess.cached(model), len(member.sequence.prompt) - 1)
            for member, end in zip(members, ends, strict=True)
        ]
        pages = min(_power(-(-max(ends) // size)), self.runners[model].cache.page_table.shape[1])
        samplings = [_sampling(model, member.sequence) for member in members]
        drawn = [sampling for sampling in samplings if not sampling.greedy]
        return Shape(
            model,
            _power(len(members)),
            tokens,
            min(tokens, _power(max(1, *news))),
            pages,
            bool(drawn),
            any(sampling.top_k > 0 or sampling.top_p < 1 for sampling in drawn),
            any(sampling.min_p > 0 for sampling in drawn),
        )

    # --- reading ---

    def _read(self, flights: list[Launched]) -> None:
        """Take in the records of one tick."""
        for launched in flights:
            model = launched.shape.model
            try:
                records: list[list[int]] = launched.arrival.wait(self.poll_seconds)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # a device reports what went wrong when it is asked for results
                raise _failed(launched.shape, error) from error
            share = launched.arrival.milliseconds / max(1, sum(record[FED] for record in records))
            for member, record in zip(launched.members, records, strict=False):
                if id(member.sequence) not in self._members:
                    continue
                ledger = member.sequence.ledger
                if model == BASE:
                    ledger.base_ms += share * record[FED]
                else:
                    ledger.oracle_ms += share * record[FED]
                if launched.serial > member.since:
                    self._follow(member, model, record, launched.serial)

    def _follow(self, member: Member, model: str, record: list[int], serial: int) -> None:
        """Do to the host's sequence what the program did to the seat."""
        sequence, prompt = member.sequence, len(member.sequence.prompt)
        phase, finish, length, base, oracle, broken = record[: len(RECORD)]
        if serial <= member.opened:
            oracle = member.shared
        for lane, cached in zip(self.scheduler.lanes, (base, oracle), strict=False):
            view = lane.view(sequence)
            unread = view.recorded == 0
            view.recorded = max(0, cached - prompt + 1) if view.slot is not None else 0
            view.high = max(view.high, cached)
            if unread and view.recorded:
                self.scheduler.known(lane, sequence)
        if record[TOKEN] >= 0 and not sequence.finished:
            sequence.commit(record[TOKEN], model)
        if record[CONSULT] and not sequence.finished:
            sequence.begin_consult()
        if finish in (Finish.NAN_BASE, Finish.NAN_ORACLE):
            name = BASE if finish == Finish.NAN_BASE else ORACLE
            sequence.finish("error", f"NaN logits from the {name} model at generated position {broken}")
        elif finish == Finish.TRIGGER:
            sequence.finish("error", self._failures[self._watched[sequence.trigger]])
        if sequence.finished and finish == Finish.NOT:
            self._cut(member)
            return
        guess = Guess(Phase(phase), length, base, oracle, sequence.burst_left, sequence.finished)
        for flights in self._flights:
            for later in flights:
                if later.serial > serial and member in later.members:
                    _advance(guess, later.shape.model, later.shape.tokens, sequence)
        member.guess = guess

    def _cut(self, member: Member) -> None:
        """The host ended the text (a stop string): put the seat, which may have gone on, where the text ends."""
        sequence = member.sequence
        length, prompt = len(sequence.ids), len(sequence.prompt)
        read = [max(0, min(view.high, length - 1)) for view in (sequence.base, sequence.oracle)]
        for view, cached in zip((sequence.base, sequence.oracle), read, strict=True):
            view.recorded = min(view.recorded, max(0, cached - prompt + 1))
        phase = Phase.BASE if sequence.wants_base else Phase.ORACLE if sequence.wants_oracle else Phase.NOBODY
        self.seats.set(
            member.seat,
            {
                Column.PHASE: phase,
                Column.FINISH: Finish.HOST,
                Column.LENGTH: length,
                Column.BURST_LEFT: 0,
                Column.BASE_LENGTH: read[0],
                Column.ORACLE_LENGTH: read[1],
            },
        )
        member.since = self.programs
        member.guess = Guess(phase, length, read[0], read[1], 0, True)


def _failed(shape: Shape, error: RuntimeError) -> DodonaError:
    """The error of a step that ended in another one."""
    step = f"the {shape.model}'s step of {shape.seats} seats and {shape.tokens} tokens each"
    return DodonaError(f"{step} failed: {error}")


def _step_class(kernels: bool) -> type[Step]:
    if not kernels:
        return Step
    from dodona.engine.kernel_step import KernelStep  # needs triton

    return KernelStep


def _advance(guess: Guess, model: str, tokens: int, sequence: Sequence) -> None:
    """Move a guess on by a program: no trigger fires, no end token comes."""
    if guess.phase != (Phase.BASE if model == BASE else Phase.ORACLE):
        return
    fed = min(tokens, guess.lag(model))
    if model == BASE:
        guess.base += fed
    else:
        guess.oracle += fed
    if guess.lag(model) == 0 and not guess.finished:
        guess.length += 1
        guess.burst_left -= model == ORACLE
        guess.finished = guess.length - len(sequence.prompt) >= sequence.limit
    if guess.finished:
        guess.burst_left = 0
    prompt, request = len(sequence.prompt), sequence.request
    generated = guess.length - prompt
    if not guess.finished:
        guess.phase = Phase.ORACLE if guess.burst_left > 0 else Phase.BASE
    elif request.base_tail and guess.base - prompt + 1 < generated:
        guess.phase = Phase.BASE
    elif request.oracle_tail and max(0, guess.oracle - prompt + 1) < generated:
        guess.phase = Phase.ORACLE
    else:
        guess.phase = Phase.NOBODY


def _sampling(model: str, sequence: Sequence) -> Sampling:
    return sequence.request.base_sampling if model == BASE else sequence.request.oracle_sampling


def _power(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()
