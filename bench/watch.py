"""The forwards of an engine while it generates: what each read, and when it ended on the clock of what ran it.

With the host's loop a forward ends when its numbers are on the host; with the device's, when the device has run the
program, by CUDA events where there are some. The loops are watched from outside, by replacing their methods for as long
as it takes, so that nothing is paid for it otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

from dodona.engine.device_loop import DeviceLoop
from dodona.engine.engine import Engine
from dodona.engine.loop import Loop
from dodona.engine.seats import Column
from dodona.engine.sequence import BASE, ORACLE
from dodona.engine.step import CONSULT, FED, RECORD, TOKEN

PREFILL = "prefill"  # the base reads a prompt
STEP = "base step"  # the base reads one generated token
CATCH_UP = "catch-up"  # the base reads several: a burst
SYNC = "sync"  # the oracle reads what it lacks, and writes the first token of a burst
BURST = "burst"  # the oracle reads its own last token
EMPTY = "empty"  # a program launched ahead that changed nothing
MIXED = "mixed"  # sequences of one forward did different things
KINDS = (PREFILL, STEP, CATCH_UP, SYNC, BURST, MIXED, EMPTY)

_CACHED = {BASE: RECORD.index(Column.BASE_LENGTH), ORACLE: RECORD.index(Column.ORACLE_LENGTH)}


class Forward(NamedTuple):
    """One forward of one model."""

    model: str  # base or oracle
    kind: str
    tokens: tuple[int, ...]  # read, of each sequence
    contexts: tuple[int, ...]  # ids in the model's cache afterwards, of each sequence
    writes: int  # sequences that it gave a token or a consult
    milliseconds: float
    ended: Any  # seconds, or a CUDA event; for ``elapsed``


class Forwards(list[Forward]):
    """Forwards in their order. On the host's loop the clock stands still while they are noted."""

    noting = 0.0  # seconds that noting them took, which are in no forward and between no two


def elapsed(start: Any, stop: Any) -> float:
    """Milliseconds between the ends of two forwards of one engine."""
    return float(start.elapsed_time(stop) if hasattr(start, "elapsed_time") else 1e3 * (stop - start))


@contextmanager
def watched(engine: Engine) -> Iterator[Forwards]:
    """The forwards that run in here, in their order; complete once the requests are."""
    forwards = Forwards()
    loop = engine.loop
    watcher = _on_device(loop, forwards) if isinstance(loop, DeviceLoop) else _on_host(loop, forwards)
    with replaced(loop, "_read", watcher):
        yield forwards


@contextmanager
def replaced(owner: Any, method: str, function: Any) -> Iterator[None]:
    """An object has another function in place of its method here."""
    before = vars(owner).get(method)
    vars(owner)[method] = function
    try:
        yield
    finally:
        if before is None:
            del vars(owner)[method]
        else:
            vars(owner)[method] = before


def kind_of(model: str, works: Iterable[tuple[Any, int, int]]) -> str:
    """What a forward does: ``works`` has each sequence with its first new position and its number of tokens."""
    kinds = {_kind(model, sequence, start, tokens) for sequence, start, tokens in works if tokens}
    return EMPTY if not kinds else MIXED if len(kinds) > 1 else kinds.pop()


def periods(forwards: Sequence[Forward], kind: str, *, after: str | None = None) -> list[float]:
    """Milliseconds from the end of a forward to the end of the next, where both are of this kind.

    Args:
        after: a kind that the first of the two may have as well.
    """
    return [
        elapsed(first.ended, second.ended)
        for first, second in pairwise(forwards)
        if second.kind == kind and first.kind in (kind, after)
    ]


def _kind(model: str, sequence: Any, start: int, tokens: int) -> str:
    if model == BASE:
        return PREFILL if start < len(sequence.prompt) else STEP if tokens == 1 else CATCH_UP
    starts = sequence.consult_starts
    bursting = not sequence.finished and bool(starts) and sequence.generated > starts[-1]
    return BURST if tokens == 1 and bursting else SYNC


def _on_host(loop: Loop, forwards: Forwards) -> Any:
    read = loop._read

    def timed(lane: Any, runner: Any, works: list[Any]) -> list[Any]:
        entered = time.perf_counter()
        starts = [lane.length(sequence) for sequence, _ in works]
        tokens = tuple(count for _, count in works)
        kind = kind_of(lane.name, [(work[0], start, work[1]) for work, start in zip(works, starts, strict=True)])
        began = time.perf_counter()
        forwards.noting += began - entered
        rows = read(lane, runner, works)
        ended = time.perf_counter()
        clock = ended - forwards.noting
        contexts = tuple(start + count for start, count in zip(starts, tokens, strict=True))
        writes = sum(row.next for row in rows)
        forwards.append(Forward(lane.name, kind, tokens, contexts, writes, 1e3 * (ended - began), clock))
        forwards.noting += time.perf_counter() - ended
        return rows

    return timed


def _on_device(loop: DeviceLoop, forwards: Forwards) -> Any:
    read = loop._read

    def noted(flights: list[Any]) -> None:
        for launched in flights:
            model = launched.shape.model
            records = launched.arrival.wait(loop.poll_seconds)[: len(launched.members)]
            tokens = tuple(record[FED] for record in records)
            contexts = tuple(record[_CACHED[model]] for record in records)
            sequences = [member.sequence for member in launched.members]
            works = zip(sequences, (a - b for a, b in zip(contexts, tokens, strict=True)), tokens, strict=True)
            writes = sum(record[TOKEN] >= 0 or record[CONSULT] > 0 for record in records)
            arrival = launched.arrival
            forwards.append(
                Forward(model, kind_of(model, works), tokens, contexts, writes, arrival.milliseconds, arrival._ended)
            )
        read(flights)

    return noted
