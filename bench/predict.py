"""What a guided text should take: unit costs that were measured in the same run, times the ledger's counts.

    request + prefill + base steps x step + catch-ups x extend(tokens a catch-up)
            + first sync + further syncs x extend(tokens a sync) + oracle steps x step

A step costs what attention adds for its context, too. ``extend(n)`` is a table of forwards over n tokens, read between
its entries by straight lines. A unit cost is the time from the end of one forward to the end of the next, so that what
the host does between them is a part of it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from dodona.bench.watch import BURST, CATCH_UP, EMPTY, PREFILL, STEP, SYNC, Forward, elapsed
from dodona.engine.config import LlamaConfig
from dodona.engine.ledger import Ledger

Table = tuple[tuple[float, float], ...]  # tokens and ms, ascending


class ModelCosts(NamedTuple):
    """Of one model, in ms."""

    step: float  # a forward over one token
    context: float  # ids in the cache, in the mean of those steps
    slope: float  # that one more id in the cache adds to a step
    extend: Table  # a forward over several generated tokens
    first: Table  # the forward that reads the prompt, by the generated tokens behind it

    def step_at(self, context: float) -> float:
        """A step at another context."""
        return self.step + self.slope * (context - self.context)


class Costs(NamedTuple):
    """Of both models and of a request, in ms."""

    request: float  # before the first forward and after the last
    base: ModelCosts
    oracle: ModelCosts


class Calibration(NamedTuple):
    """A run that was watched."""

    prompt: int  # tokens
    milliseconds: float
    forwards: Sequence[Forward]


class Shape(NamedTuple):
    """What the prediction must know of a run beside its ledger."""

    prompt: int
    base: LlamaConfig
    oracle: LlamaConfig


def calibrated(runs: Iterable[Calibration], *, base_slope: float = 0.0, oracle_slope: float = 0.0) -> Costs:
    """Unit costs from watched runs at batch 1.

    Means, not medians: what they are compared with is a sum, to which a slow forward adds all of its time.

    Raises:
        ValueError: the runs have no step of one of the models, or no consult.
    """
    requests: list[float] = []
    steps: dict[str, list[tuple[float, float]]] = {STEP: [], BURST: []}  # context, ms
    tables: dict[str, dict[float, list[float]]] = {CATCH_UP: {}, SYNC: {}, PREFILL: {}, "first sync": {}}
    for run in runs:
        forwards = [forward for forward in run.forwards if forward.kind != EMPTY]
        begun = forwards[0].milliseconds
        requests.append(run.milliseconds - begun - elapsed(forwards[0].ended, forwards[-1].ended))
        tables[PREFILL].setdefault(0.0, []).append(begun)
        for before, forward in pairwise(forwards):
            period = elapsed(before.ended, forward.ended)
            (tokens,), (context,) = forward.tokens, forward.contexts
            if forward.kind in steps:
                steps[forward.kind].append((context, period))
            elif forward.kind == SYNC and context == tokens:
                tables["first sync"].setdefault(float(tokens - run.prompt), []).append(period)
            elif forward.kind in tables:
                tables[forward.kind].setdefault(float(tokens), []).append(period)
    if not all(steps.values()) or not all(tables.values()):
        missing = [name for name, found in (*steps.items(), *tables.items()) if not found]
        raise ValueError(f"the calibration's runs have no {', '.join(missing)}")
    models = [
        ModelCosts(
            step=statistics.mean(ms for _, ms in steps[step]),
            context=statistics.mean(context for context, _ in steps[step]),
            slope=slope,
            extend=_table({1.0: [ms for _, ms in steps[step]]} | tables[extend]),
            first=_table(tables[first]),
        )
        for step, extend, first, slope in (
            (STEP, CATCH_UP, PREFILL, base_slope),
            (BURST, SYNC, "first sync", oracle_slope),
        )
    ]
    return Costs(max(0.0, statistics.mean(requests)), models[0], models[1])


def predicted(ledger: Ledger, costs: Costs, shape: Shape) -> float:
    """Milliseconds of a run at batch 1, from its ledger alone.

    Args:
        ledger: of a run without shared prompts and without preemptions.
        costs: unit costs.
        shape: prompt length and models.
    """
    prompt = shape.prompt
    context = _context(ledger.base_flops, ledger.base_fed, prompt, shape.base)
    total = costs.request + at(costs.base.first, 0) + ledger.base_steps * costs.base.step_at(context)
    catch_ups = ledger.base_forwards - ledger.base_steps - 1  # one is the prompt's
    if catch_ups > 0:
        total += catch_ups * at(costs.base.extend, ledger.catch_up_tokens / catch_ups)
    syncs = ledger.oracle_forwards - ledger.oracle_steps
    if syncs:
        context = _context(ledger.oracle_flops, ledger.oracle_fed, prompt, shape.oracle)
        lag = (ledger.sync_tokens - prompt) / syncs
        total += at(costs.oracle.first, lag) + (syncs - 1) * at(costs.oracle.extend, lag)
        total += ledger.oracle_steps * costs.oracle.step_at(context)
    return total


def at(table: Table, tokens: float) -> float:
    """A table's value, on straight lines between its entries and beyond its ends; a lone entry is everywhere."""
    if len(table) == 1:
        return table[0][1]
    right = next((i for i in range(1, len(table) - 1) if table[i][0] >= tokens), len(table) - 1)
    (x0, y0), (x1, y1) = table[right - 1], table[right]
    return y0 + (y1 - y0) * (tokens - x0) / (x1 - x0)


def _table(samples: dict[float, list[float]]) -> Table:
    return tuple((tokens, statistics.mean(samples[tokens])) for tokens in sorted(samples))


def _context(flops: float, fed: int, prompt: int, config: LlamaConfig) -> float:
    """The mean context of the generated tokens that a model read: the ledger's operations say how much was attended."""
    generated = fed - prompt
    if generated <= 0:
        return float(prompt)
    fixed = config.flops_per_token(0)
    attended = (flops - fed * fixed) / (config.flops_per_token(1) - fixed)
    found = (attended - prompt * (prompt + 1) / 2) / generated
    return found if math.isfinite(found) else float(prompt)
