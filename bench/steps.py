"""Times of the parts of guided decoding at batch 1: steps, syncs, consults, and whole runs against their formula.

Each measure runs its request once to warm up (kernels compile, graphs are captured) and then as often as asked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from dodona.bench.effort import Effort
from dodona.bench.floor import forward_bytes
from dodona.bench.spread import Spread, spread
from dodona.bench.subject import NEVER, requests
from dodona.bench.watch import BURST, CATCH_UP, EMPTY, STEP, SYNC, Forward, elapsed, periods, watched
from dodona.engine.engine import Engine
from dodona.engine.request import Request
from dodona.engine.result import Result
from dodona.engine.sequence import BASE, ORACLE


class StepTime(NamedTuple):
    """One model's step."""

    period: Spread  # ms from one token to the next
    forward: Spread  # ms of the forward itself, on the clock of what ran it
    bytes: float  # read at least, at the median context


class Consult(NamedTuple):
    """One consult of a run."""

    lag: int  # tokens that the oracle read before its first
    milliseconds: float  # from the base's decision to the oracle's first token


class Guided(NamedTuple):
    """A guided run and what it consists of."""

    base_tokens: int
    oracle_tokens: int
    milliseconds: float  # from the first token to the last
    consults: list[Consult]
    bursts: list[float]  # ms of each token of a burst but the first
    catch_ups: list[float]  # ms of each
    empty: int  # programs that changed nothing
    host_share: float  # of that time, in which no forward ran


def run(engine: Engine, request: Request) -> tuple[Result, list[Forward]]:
    """Generate, watched.

    Raises:
        DodonaError: the request failed.
    """
    with watched(engine) as forwards:
        result: Result = engine.generate(request)
    return result, forwards


def first_token(engine: Engine, prompt: int, effort: Effort) -> Spread:
    """Milliseconds from the call of ``stream`` to its first token, by the base, after a prompt of so many tokens."""
    found = []
    asked = requests(engine, effort.repeats + 1, prompt, c=0, max_new_tokens=2, temperature=effort.temperature)
    for turn, request in enumerate(asked):
        started = time.perf_counter()
        stream = engine.stream(request)
        next(stream)
        if turn:
            found.append(1e3 * (time.perf_counter() - started))
        stream.close()
    return spread(found)


def step_request(engine: Engine, model: str, effort: Effort) -> Request:
    """A text by one model alone, with all that a step does in a guided run."""
    if model == ORACLE:
        chosen: dict[str, Any] = {"c": math.inf, "k": math.inf, "trigger": "always"}
    else:
        chosen = {"c": 1, "k": 1, "trigger": NEVER}
    chosen |= {"max_new_tokens": effort.tokens, "temperature": effort.temperature}
    return requests(engine, 1, effort.prompt, **chosen)[0]


def step_time(engine: Engine, model: str, effort: Effort) -> StepTime:
    """The time of a model's step, and what it reads."""
    kind, found, inside = (STEP if model == BASE else BURST), [], []
    contexts: list[int] = []
    request = step_request(engine, model, effort)
    for turn in range(effort.repeats + 1):
        _, forwards = run(engine, request)
        if turn:
            found += periods(forwards, kind)
            steps = [forward for forward in forwards if forward.kind == kind]
            inside += [forward.milliseconds for forward in steps]
            contexts += [forward.contexts[0] for forward in steps]
    runner = engine.base if model == BASE else engine.oracle
    assert runner is not None
    size = forward_bytes(runner.config, engine.dtype.itemsize, [sorted(contexts)[len(contexts) // 2]])
    return StepTime(spread(found), spread(inside), size)


def sync_time(engine: Engine, lag: int, effort: Effort) -> tuple[Spread, Spread]:
    """Reading ``lag`` tokens for the oracle's first token: ms in its forwards, and ms since the base's decision."""
    inside, whole = [], []
    options: dict[str, Any] = {"c": 1, "k": 1, "trigger": "at(0)", "max_new_tokens": 2}
    asked = requests(engine, effort.repeats + 1, lag, temperature=effort.temperature, **options)
    for turn, request in enumerate(asked):
        _, forwards = run(engine, request)
        if turn:
            inside.append(sum(forward.milliseconds for forward in forwards if forward.kind == SYNC))
            whole += [consult.milliseconds for consult in consults_of(forwards)]
    return spread(inside), spread(whole)


def guided(engine: Engine, request: Request, repeats: int) -> list[Guided]:
    """Run a request several times, and take each run apart."""
    found = []
    for turn in range(repeats + 1):
        result, forwards = run(engine, request)
        if turn:
            found.append(taken_apart(result, forwards))
    return found


def taken_apart(result: Result, forwards: Sequence[Forward]) -> Guided:
    """What a run at batch 1 consists of."""
    writing = [forward for forward in forwards if forward.writes]
    inner = [forward for forward in forwards[forwards.index(writing[0]) + 1 : forwards.index(writing[-1]) + 1]]
    whole = elapsed(writing[0].ended, writing[-1].ended)
    return Guided(
        base_tokens=result.ledger.base_tokens,
        oracle_tokens=result.ledger.burst_tokens,
        milliseconds=whole,
        consults=consults_of(forwards),
        bursts=periods(forwards, BURST, after=SYNC),
        catch_ups=[forward.milliseconds for forward in inner if forward.kind == CATCH_UP],
        empty=sum(forward.kind == EMPTY for forward in inner),
        host_share=max(0.0, 1 - sum(forward.milliseconds for forward in inner) / whole) if whole else 0.0,
    )


def consults_of(forwards: Sequence[Forward]) -> list[Consult]:
    """The consults of a run at batch 1: from the end of the deciding base forward to the oracle's first token."""
    found, decided, lag = [], None, 0
    for forward in forwards:
        if forward.kind == EMPTY:
            continue
        if forward.model == BASE:
            decided, lag = forward, 0
        elif decided is not None:
            lag += forward.tokens[0]
            if forward.writes:
                found.append(Consult(lag, elapsed(decided.ended, forward.ended)))
                decided = None
    return found


def predicted(run: Guided, base_ms: float, oracle_ms: float) -> float:
    """Milliseconds by the formula: every token but the first costs its model's step, and nothing else costs."""
    return (run.base_tokens - 1) * base_ms + run.oracle_tokens * oracle_ms


def prefill_bytes(engine: Engine, prompt: int) -> int:
    """What reading a prompt has to read from memory at least."""
    return forward_bytes(engine.base.config, engine.dtype.itemsize, [prompt])
