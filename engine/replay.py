"""Replaying a trigger over recorded sequences: the same text, the same decisions, without a model.

The recorded text is taken as it is, and the trigger walks over it with its own consults, bursts and counters: where it
would have been asked, whether it fires, and which positions its burst then covers. Up to the first consult that differs
from the recorded ones that is what a run would have done, exactly; beyond it a run would have read another text, and
the replay says what the trigger does on this one. ``first_change`` tells the two apart.

Signals are computed per position whatever wrote it, moving averages too, so a trigger over these alone (and `position`,
`u`, `c`, `max_new_tokens`) fires at fixed positions, and many thresholds are cheap. The counters `since_consult`,
`consults`, `base_run` and `boundary` depend on the consults before: a trigger that reads one is walked token by token,
all sequences at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.engine.presets import COUNTERS
from dodona.engine.recording import Recording, recording_of
from dodona.engine.trigger import ExpressionTrigger, Trigger, ema_column, ema_step
from dodona.engine.trigger_parser import parse_trigger

Array = np.ndarray[Any, Any]

STATEFUL: Final = frozenset({"since_consult", "consults", "base_run", "boundary"})


class Consults(NamedTuple):
    """Consults, in the order of the tokens."""

    start: Array  # [M] int64: the first token of each burst, counted over all sequences
    length: Array  # [M] int64: tokens of the burst
    sequence: Array  # [M] int64


@dataclass(frozen=True, slots=True)
class Budget:
    """What differs from how the sequences were run; None: nothing."""

    c: float | None = None
    k: float | None = None
    max_oracle_tokens: float | None = None
    when: str | None = None


def recorded_consults(recording: Recording) -> Consults:
    """The consults that happened."""
    start = np.flatnonzero(recording.starts)
    # A burst ends where the base goes on, another one begins, or the sequence ends.
    ends = np.flatnonzero(np.concatenate((~recording.oracle | recording.starts, [True])))
    sequence = np.searchsorted(recording.edges, start, side="right") - 1
    stop = np.minimum(ends[np.searchsorted(ends, start, side="right")], recording.edges[sequence + 1])
    return Consults(start, stop - start, sequence)


class Replayer:
    """Replays triggers over a recording, under one budget.

    Args:
        recording: what was run.
        budget: what is to differ.
    """

    def __init__(self, recording: Recording, budget: Budget = Budget()) -> None:
        self.recording, self.budget = recording, budget
        settings = recording.settings
        given = {"c": budget.c, "k": budget.k, "max_oracle_tokens": budget.max_oracle_tokens}
        self.c, self.k, self.cap = (
            settings[name].astype(np.float64) if value is None else np.full(len(recording.runs), float(value))
            for name, value in given.items()
        )
        self.after = recording.after if budget.when is None else np.full(len(recording.runs), budget.when == "after")
        self._columns: dict[str, Array] = {}

    def consults(self, trigger: str | Trigger) -> Consults:
        """The consults that the trigger makes on the recorded text.

        Raises:
            DodonaError: the trigger cannot be read, or needs a column that was not recorded.
        """
        program = parse_trigger(trigger, offline=True)
        if STATEFUL.isdisjoint(program.names):
            starts, lengths = self._from_fires(self.fired(program))
        else:
            starts, lengths = self._walked(program)
        order = np.argsort(starts)
        starts, lengths = starts[order], lengths[order]
        return Consults(starts, lengths, np.searchsorted(self.recording.edges, starts, side="right") - 1)

    def own_consults(self) -> Consults:
        """The consults that each sequence's own trigger makes.

        Raises:
            DodonaError: as ``consults``; a trigger that was no text cannot be read again.
        """
        texts = [run.trigger for run in self.recording.runs]
        parts = []
        for text in dict.fromkeys(texts):
            chosen = np.array([own == text for own in texts], dtype=bool)
            found = Replayer(self.recording.select(chosen), self.budget).consults(text)
            sequence = np.flatnonzero(chosen)[found.sequence]
            shift = self.recording.edges[sequence] - _edges(self.recording.lengths[chosen])[found.sequence]
            parts.append(Consults(found.start + shift, found.length, sequence))
        start, length, sequence = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        order = np.argsort(start)
        return Consults(start[order], length[order], sequence[order])

    def fired(self, trigger: str | Trigger) -> Array:
        """[N] bool: whether a trigger that reads none of ``STATEFUL`` fires, were it asked.

        Raises:
            DodonaError: as ``consults``.
        """
        program = parse_trigger(trigger, offline=True)
        assert STATEFUL.isdisjoint(program.names)
        fires: Array = program.ask({name: self.column(name) for name in self._given(program)})
        return fires

    def column(self, name: str) -> Array:
        """[N] float32: a signal, a moving average by its ``ema_column``, or a counter that no consult changes.

        Raises:
            DodonaError: it was not recorded.
        """
        if name not in self._columns:
            self._columns[name] = self._made(name)
        return self._columns[name]

    def _made(self, name: str) -> Array:
        recording = self.recording
        if name == "position":
            return recording.position.astype(np.float32)
        if name in ("c", "max_new_tokens"):
            values = self.c if name == "c" else recording.settings[name]
            return np.repeat(values.astype(np.float32), recording.lengths)
        if name.startswith("ema("):
            signal, decay = name[4:-1].rsplit(",", 1)
            return self._averaged(recording.column(signal), float(decay))
        return recording.column(name)

    def _given(self, program: Trigger) -> list[str]:
        """The columns that a trigger is given: all that a text reads, and of what a class may read what there is."""
        names = program.names | {"position"}
        if not isinstance(program, ExpressionTrigger):
            names &= COUNTERS.keys() | self.recording.columns.keys()
        return [*sorted(names), *(ema_column(signal, decay) for signal, decay in program.emas)]

    def _averaged(self, values: Array, decay: float) -> Array:
        """The moving average over each sequence, all of them at once."""
        by_time, result = values[self._by_time], np.empty_like(values)
        previous = np.full(len(self.recording.runs), np.nan, dtype=np.float32)
        for time in range(len(self._times) - 1):
            step = slice(self._times[time], self._times[time + 1])
            count = step.stop - step.start
            previous[:count] = ema_step(previous[:count], by_time[step], decay)
            result[self._by_time[step]] = previous[:count]
        return result

    @cached_property
    def _longest_first(self) -> Array:
        return np.argsort(-self.recording.lengths, kind="stable")

    @cached_property
    def _times(self) -> Array:
        """Where the tokens of each position begin in ``_by_time``."""
        lengths = self.recording.lengths
        counts = np.bincount(lengths, minlength=1)[::-1].cumsum()[::-1][1:]  # sequences that reach a position
        return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)

    @cached_property
    def _by_time(self) -> Array:
        """[N] the tokens ordered by position, those of one position by the length of their sequence."""
        lengths, order = self.recording.lengths, self._longest_first
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return np.lexsort((np.repeat(rank, lengths), self.recording.position))

    def _from_fires(self, fires: Array) -> tuple[Array, Array]:
        """Starts and lengths of the consults where a trigger fires at fixed positions."""
        edges, tokens = self.recording.edges, self.recording.tokens
        if not tokens:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        if not self.after.any() and (self.k == 1).all() and np.isinf(self.cap).all():
            made = np.cumsum(fires)
            last = np.concatenate(([0], made))[edges[:-1]] + self.c  # of each sequence, counted over all of them
            starts = np.flatnonzero(fires & (made <= np.repeat(last, self.recording.lengths)))
            return starts, np.ones_like(starts)
        places = np.where(fires, np.arange(tokens), tokens)
        following = np.append(np.minimum.accumulate(places[::-1])[::-1], tokens)  # the next token that fires
        active = np.arange(len(self.recording.runs))
        position, stop, shift = edges[:-1].copy(), edges[1:], self.after.astype(np.int64)
        made, written = np.zeros(len(active)), np.zeros(len(active))
        starts_found, lengths_found = [], []
        while len(active):
            room = np.minimum(self.k[active], self.cap[active] - written[active])
            start = following[position[active]] + shift[active]
            valid = (made[active] < self.c[active]) & (room > 0) & (start < stop[active])
            active, start, room = active[valid], start[valid], room[valid]
            length = np.minimum(room, stop[active] - start).astype(np.int64)
            starts_found.append(start)
            lengths_found.append(length)
            made[active] += 1
            written[active] += length
            position[active] = start + length
        return np.concatenate(starts_found), np.concatenate(lengths_found)

    def _walked(self, program: Trigger) -> tuple[Array, Array]:
        """Starts and lengths of the consults of any trigger: token by token, all sequences at once."""
        recording, order = self.recording, self._longest_first
        lengths, edges = recording.lengths[order], recording.edges[:-1][order]
        c, k, cap, after = (values[order] for values in (self.c, self.k, self.cap, self.after))
        own = program.step_size
        steps = recording.settings["step_size"][order] if own is None else np.full(len(order), own, dtype=np.float32)
        fixed = {name: self.column(name)[self._by_time] for name in self._given(program) if name not in STATEFUL}
        made, written = np.zeros(len(order)), np.zeros(len(order))
        last_start = np.full(len(order), -np.inf)
        free = np.zeros(len(order), dtype=np.int64)  # the first position after the last burst
        found: list[tuple[Array, Array]] = []
        for time in range(len(self._times) - 1):
            step = slice(self._times[time], self._times[time + 1])
            here = slice(0, step.stop - step.start)
            start = time + after[here].astype(np.int64)
            room = np.minimum(np.minimum(k[here], cap[here] - written[here]), lengths[here] - start)
            asked = (free[here] <= time) & (made[here] < c[here]) & (room > 0)
            if not asked.any():
                continue
            base_run = (time - free[here]).astype(np.float32)
            counters = {
                "since_consult": (time - last_start[here]).astype(np.float32),
                "consults": made[here].astype(np.float32),
                "base_run": base_run,
                "boundary": (base_run % steps[here] == 0).astype(np.float32),
            }
            columns = {name: values[step] for name, values in fixed.items()}
            fires = np.flatnonzero(asked & program.ask(columns | counters))
            if len(fires):
                burst = room[fires].astype(np.int64)
                found.append((edges[fires] + start[fires], burst))
                made[fires] += 1
                written[fires] += burst
                last_start[fires] = start[fires]
                free[fires] = start[fires] + burst
        starts = [start for start, _ in found] or [np.zeros(0, dtype=np.int64)]
        bursts = [burst for _, burst in found] or [np.zeros(0, dtype=np.int64)]
        return np.concatenate(starts), np.concatenate(bursts)


def first_change(recording: Recording, consults: Consults) -> Array:
    """[S] the first position at which a run with these consults would have differed; the length where none would."""
    recorded = recorded_consults(recording)
    sequences = len(recording.runs)
    there, here = (np.bincount(which.sequence, minlength=sequences) for which in (recorded, consults))
    offset_there, offset_here = (np.concatenate(([0], np.cumsum(counts))) for counts in (there, here))
    ordinal = np.arange(len(consults.start)) - offset_here[consults.sequence]
    paired = ordinal < there[consults.sequence]
    partner = (offset_there[consults.sequence] + ordinal)[paired]
    start, length = consults.start[paired], consults.length[paired]
    same_start = recorded.start[partner] == start
    differs = ~(same_start & (recorded.length[partner] == length))
    change = np.where(
        same_start,
        start + np.minimum(recorded.length[partner], length),
        np.minimum(recorded.start[partner], start),
    )
    first = recording.edges[1:].copy()
    np.minimum.at(first, consults.sequence[paired][differs], change[differs])
    # A consult beyond those of the other side is a change of its own.
    np.minimum.at(first, consults.sequence[~paired], consults.start[~paired])
    extra = np.arange(len(recorded.start)) - offset_there[recorded.sequence] >= here[recorded.sequence]
    np.minimum.at(first, recorded.sequence[extra], recorded.start[extra])
    first -= recording.edges[:-1]
    return first


def replay(trace: Mapping[str, Array], trigger: str | Trigger | None = None, budget: Budget = Budget()) -> list[int]:
    """Generated-token index of the first oracle token of each consult that the trigger would have made.

    Args:
        trace: one sequence's columns (``trace.read_traces``).
        trigger: default the run's own.
        budget: default the run's own.
    """
    recording = recording_of(trace)
    own = recording.runs[0].trigger
    found = Replayer(recording, budget).consults(own if trigger is None else trigger)
    return [int(start) for start in found.start]


def _edges(lengths: Array) -> Array:
    return np.concatenate(([0], np.cumsum(lengths)))
