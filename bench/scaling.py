"""``dodona bench scaling``: what a token costs over the prompt's length, the batch, c and k, beside its prediction.

Every turn makes the runs that calibrate and those that are predicted, mixed, so that a slow minute hits both; a cell's
figure is the median of its turns. The models have read the prompts before the clock starts. Lines are fitted
through all turns of a sweep, and through the predictions.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

from dodona.bench.fit import Line, fitted
from dodona.bench.predict import Costs, Watched, calibrated, predicted
from dodona.bench.prefixes import Prefixes
from dodona.bench.scaling_sizes import ALONE, PREFIX, ROOM, Run, Sizes, calibration, cells, texts
from dodona.bench.spread import spread
from dodona.bench.subject import SEED, Subject
from dodona.bench.watch import Forward, elapsed, replaced, watched
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.ledger import Ledger
from dodona.engine.loop import Loop
from dodona.engine.request import Request
from dodona.engine.result import Result
from dodona.engine.sequence import ORACLE

Row = dict[str, Any]
WARM_UP = 16  # tokens of a run of each kind, before the first turn
GOAL = 0.15  # that a prediction may be off


class Measured(NamedTuple):
    """A cell's turns."""

    run: Run
    milliseconds: list[float]
    ledger: Ledger  # of one of its sequences, which all did the same
    unasked: int  # base steps of it that could not consult

    @property
    def per_token(self) -> list[float]:
        """Ms of a token of each sequence, by turn."""
        return [value / self.run.tokens for value in self.milliseconds]


class Step(NamedTuple):
    """A base step, in ms."""

    whole: float
    attention: float


def with_room(subject: Subject, sizes: Sizes) -> Subject:
    """The subject with caches that hold the prompts and the runs beside them."""
    most = max(sizes.tokens, sizes.short, sizes.calibrated) + ROOM
    runs = max(sizes.batches) * (sizes.prompt + most) + sizes.longest + most
    tokens = sum(texts(sizes)) + runs + 4 * 256 * max(sizes.batches)  # and partly filled pages
    return replace(subject, options={**subject.options, "kv_tokens": tokens})


def rows(engine: Engine, sizes: Sizes, temperature: float = 0.0) -> Iterator[Row]:
    """A row for each cell, for each line and for the predictions as a whole."""
    guided = engine.oracle is not None
    prefixes = Prefixes(engine, list(texts(sizes)))
    grid, known = cells(sizes, guided=guided), calibration(sizes, guided=guided)
    times: list[list[float]] = [[] for _ in grid]
    done: list[Result] = []
    turns: list[list[Watched]] = []
    steps: dict[int, list[Step]] = {prompt: [] for prompt in sizes.prefixes}
    order = mixed(len(known), len(grid))
    for run in known:
        watch(engine, prefixes, run._replace(tokens=min(run.tokens, WARM_UP)), temperature)
    for turn in range(sizes.turns):
        turns.append([])
        for calibrates, index in order:
            if calibrates:
                turns[turn].append(watch(engine, prefixes, known[index], temperature))
                continue
            milliseconds, result = timed(engine, prefixes, grid[index], temperature)
            times[index].append(milliseconds)
            if not turn:
                done.append(result)
            elif ledger_counts(result.ledger) != ledger_counts(done[index].ledger):
                raise DodonaError(f"{grid[index]} did something else in another turn")
        for prompt, values in steps.items():
            if (step := step_of(engine, prefixes, prompt, sizes.short)) is not None:
                values.append(step)
    prefixes.close()
    costs = calibrated(turns)
    measured = [
        Measured(run, values, result.ledger, unasked_steps(result))
        for run, values, result in zip(grid, times, done, strict=True)
    ]
    clocked = {prompt: values for prompt, values in steps.items() if values}
    yield from reading_rows(prefixes.reading)
    guesses = [predict(engine, cell, costs) for cell in measured]
    for cell, guess in zip(measured, guesses, strict=True):
        alone = (cell.run.sweep, cell.run.what) == (PREFIX, ALONE)
        yield cell_row(cell, guess, clocked.get(cell.run.prompt, ()) if alone else ())
    yield from line_rows(measured, guesses, clocked)
    yield summary_row(measured, guesses)


def mixed(calibrating: int, measured: int) -> list[tuple[bool, int]]:
    """An order of both kinds of runs in which each is spread over all of it: whether it calibrates, and its index."""
    places = [((index + 0.5) / calibrating, True, index) for index in range(calibrating)]
    places += [((index + 0.5) / measured, False, index) for index in range(measured)]
    return [(calibrates, index) for _, calibrates, index in sorted(places)]


# --- runs ---


def requests(prompts: Sequence[tuple[int, ...]], run: Run, temperature: float) -> list[Request]:
    """A run's requests."""
    options: dict[str, Any] = {"seed": SEED, "ignore_eos": True, "temperature": temperature, **run.options()}
    return [Request(prompt=prompt, **options) for prompt in prompts]


def timed(engine: Engine, prefixes: Prefixes, run: Run, temperature: float = 0.0) -> tuple[float, Result]:
    """Ms of a run from the call to the results, and the first sequence's result.

    Raises:
        DodonaError: a request failed, or its sequences did different things.
    """
    with prefixes.offered(run.prompt, run.batch) as prompts:
        asked = requests(prompts, run, temperature)
        started = time.perf_counter()
        results = [result.raise_for_error() for result in engine.generate(asked)]
        milliseconds = 1e3 * (time.perf_counter() - started)
    counts = {ledger_counts(result.ledger) for result in results}
    if len(counts) > 1 or any(len(result.ids) != run.tokens for result in results):
        raise DodonaError(f"the sequences of {run} did not keep in step")
    return milliseconds, results[0]


def watch(engine: Engine, prefixes: Prefixes, run: Run, temperature: float = 0.0) -> Watched:
    """A run with its forwards."""
    with watched(engine) as forwards:
        milliseconds, _ = timed(engine, prefixes, run, temperature)
    return Watched(run.batch, run.c > 0, milliseconds - 1e3 * forwards.noting, forwards)


def unasked_steps(result: Result) -> int:
    """Base steps of a text that could not consult: all of them, or those after the budget's last burst."""
    steps = result.ledger.base_steps + result.ledger.prefill_tokens
    if not result.c:
        return steps
    if result.consults < result.c:
        return 0
    after = len(result.ids) - max(index + 1 for index, token in enumerate(result.tokens) if token.source == ORACLE)
    return max(0, after - 1)  # the first of them comes out of the catch-up


def ledger_counts(ledger: Ledger) -> tuple[float, ...]:
    """What does not depend on the clock."""
    return tuple(value for name, value in ledger.as_dict().items() if not name.endswith("_ms"))


def step_of(engine: Engine, prefixes: Prefixes, prompt: int, tokens: int) -> Step | None:
    """A base step after a prompt, with the part that is attention; None where it cannot be told from the rest."""
    if not isinstance(engine.loop, Loop):
        return None
    run = Run(PREFIX, ALONE, prompt, 1, 0, 0, 0, tokens)
    with attention_timed(engine) as spent, watched(engine) as forwards:
        timed(engine, prefixes, run)
    periods = [elapsed(before.ended, after.ended) for before, after in pairwise(forwards)]
    return Step(statistics.mean(periods), 1e3 * sum(spent) / len(forwards))


@contextmanager
def attention_timed(engine: Engine) -> Iterator[list[float]]:
    """The seconds that each call of the attention takes in here, on the host's loop."""
    spent: list[float] = []
    ops = engine.base.ops
    make = ops.batch

    def made(*args: Any) -> Any:
        batch = make(*args)
        attend = batch.attend

        def clocked(*inputs: Any) -> Any:
            started = time.perf_counter()
            found = attend(*inputs)
            spent.append(time.perf_counter() - started)
            return found

        vars(batch)["attend"] = clocked
        return batch

    with replaced(ops, "batch", made):
        yield spent


def predict(engine: Engine, cell: Measured, costs: Mapping[int, Costs]) -> float:
    """Ms that the ledger says a cell takes."""
    oracle = engine.oracle.config if engine.oracle is not None else None
    return predicted(cell.ledger, cell.unasked, costs[cell.run.batch], engine.base.config, oracle)


# --- rows ---


def cell_row(cell: Measured, guess: float, steps: Sequence[Step]) -> Row:
    """A cell, measured and predicted."""
    run, ledger = cell.run, cell.ledger
    whole = spread(cell.milliseconds)
    row: Row = {
        "part": "cell",
        "name": f"{run.sweep}, {run.what}",
        "lengths": {"prompt": run.prompt, "tokens": run.tokens},
        "batch": run.batch,
        "c": run.c,
        "k": run.k,
        "trigger": run.trigger,
        "turns": len(cell.milliseconds),
        "ms": whole.as_dict(),
        "ms_per_token": whole.p50 / run.tokens,
        "predicted_ms": guess,
        "predicted_share": guess / whole.p50,
        "oracle_share": ledger.burst_tokens / run.tokens,
        "consults": ledger.consults,
        "forwards": {"base": ledger.base_forwards, "oracle": ledger.oracle_forwards},
    }
    if steps:
        row["step_ms"] = statistics.median(step.whole for step in steps)
        row["attention_ms"] = statistics.median(step.attention for step in steps)
    return row


def line_rows(
    measured: Sequence[Measured], guesses: Sequence[float], steps: Mapping[int, Sequence[Step]]
) -> Iterator[Row]:
    """A line through each sweep of two places or more: ms of a token over what changes."""
    names = dict.fromkeys((cell.run.sweep, cell.run.what) for cell in measured)
    for sweep, what in names:
        both = zip(measured, guesses, strict=True)
        pairs = [(cell, guess) for cell, guess in both if (cell.run.sweep, cell.run.what) == (sweep, what)]
        places = [cell.run.x for cell, _ in pairs]
        if len(set(places)) < 2:
            continue
        line = fitted([(cell.run.x, value) for cell, _ in pairs for value in cell.per_token])
        row: Row = {
            "part": "line",
            "name": f"{sweep}, {what}",
            "range": [min(places), max(places)],
            "measured": line.as_dict(),
            "predicted": fitted([(cell.run.x, guess / cell.run.tokens) for cell, guess in pairs]).as_dict(),
            "change": change(line, places),
        }
        if (sweep, what) == (PREFIX, ALONE) and len(steps) == len(pairs):
            found = [(cell.run.x, step) for cell, _ in pairs for step in steps[cell.run.prompt]]
            row["attention"] = fitted([(x, step.attention) for x, step in found]).as_dict()
            row["rest"] = fitted([(x, step.whole - step.attention) for x, step in found]).as_dict()
        yield row


def change(line: Line, places: Sequence[float]) -> float:
    """How much more a token costs at the far end than at the near one, as a share."""
    near = line.at(min(places))
    return line.at(max(places)) / near - 1 if near > 0 else 0.0


def summary_row(measured: Sequence[Measured], guesses: Sequence[float]) -> Row:
    """How far the predictions are off."""
    errors = [
        abs(guess / statistics.median(cell.milliseconds) - 1) for cell, guess in zip(measured, guesses, strict=True)
    ]
    return {
        "part": "prediction",
        "name": "all cells",
        "cells": len(errors),
        "goal": GOAL,
        "within_goal": sum(error <= GOAL for error in errors),
        "worst": max(errors),
        "median": statistics.median(errors),
    }


def reading_rows(forwards: Sequence[Forward]) -> Iterator[Row]:
    """What reading a prompt costs, by how much of it is in the cache: the chunks of the longest one."""
    for model in dict.fromkeys(forward.model for forward in forwards):
        first = [forward for forward in forwards if forward.model == model and len(forward.tokens) == 1]
        for index, forward in enumerate(first):
            if index and forward.contexts[0] <= first[index - 1].contexts[0]:
                break  # the next prompt
            yield {
                "part": "reading",
                "name": model,
                "lengths": {"tokens": forward.tokens[0], "prompt": forward.contexts[0]},
                "ms": forward.milliseconds,
                "ms_per_token": forward.milliseconds / forward.tokens[0],
            }
