"""``dodona bench throughput``: tokens a second over batch, budget, burst length and consult rate."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from dodona.bench.effort import Effort
from dodona.bench.spread import spread
from dodona.bench.subject import requests
from dodona.bench.watch import EMPTY, watched
from dodona.engine.engine import Engine

Row = dict[str, Any]
MIDDLE = 8  # tokens of a burst where its length is not what changes


class Arm(NamedTuple):
    """A cell of the grid."""

    part: str  # base alone, oracle alone, guided
    batch: int
    c: float
    k: float
    rate: float  # chance of a consult at a base token

    def options(self) -> dict[str, Any]:
        """Fields of Request. Consults come at drawn positions, so that sequences of a batch do not keep in step."""
        trigger = {"base alone": "never", "oracle alone": "always"}.get(self.part, f"u < {self.rate}")
        return {"c": self.c, "k": self.k, "trigger": trigger}


def arms(effort: Effort, *, guided: bool) -> list[Arm]:
    """The grid: every batch alone and guided, then one of c, k and rate changed at a time."""
    inf, middle = math.inf, effort.rates[len(effort.rates) // 2]
    found = [Arm("base alone", batch, 0, 0, 0.0) for batch in effort.batches]
    if guided:
        found += [Arm("oracle alone", batch, inf, inf, 1.0) for batch in effort.batches]
        found += [Arm("guided", batch, inf, MIDDLE, middle) for batch in effort.batches]
        batch = effort.batches[-1]
        found += [Arm("guided", batch, c, MIDDLE, middle) for c in effort.budgets]
        found += [Arm("guided", batch, inf, k, middle) for k in effort.bursts]
        found += [Arm("guided", batch, inf, MIDDLE, rate) for rate in effort.rates]
    return list(dict.fromkeys(found))


def rows(engine: Engine, effort: Effort, chosen: Sequence[Arm]) -> Iterator[Row]:
    """A row for each arm; the arms' runs are taken in turn, so that a slow minute hits all of them."""
    found: list[list[Row]] = [[] for _ in chosen]
    for turn in range(effort.repeats + 1):
        for index, arm in enumerate(chosen):
            row = measured(engine, arm, effort)
            if turn:
                found[index].append(row)
    for arm, runs in zip(chosen, found, strict=True):
        yield row_of(arm, effort, runs)


def measured(engine: Engine, arm: Arm, effort: Effort) -> Row:
    """One run of an arm, prompts included."""
    options = {"max_new_tokens": effort.tokens, "temperature": effort.temperature, **arm.options()}
    asked = requests(engine, arm.batch, effort.prompt, **options)
    started = time.perf_counter()
    with watched(engine) as forwards:
        results = [result.raise_for_error() for result in engine.generate(asked)]
    milliseconds = 1e3 * (time.perf_counter() - started)
    tokens = sum(len(result.ids) for result in results)
    return {
        "milliseconds": milliseconds,
        "tokens": tokens,
        "oracle_tokens": sum(result.ledger.burst_tokens for result in results),
        "consults": sum(result.ledger.consults for result in results),
        "forwards": {name: sum(f.model == name and f.kind != EMPTY for f in forwards) for name in ("base", "oracle")},
        "host_share": max(0.0, 1 - sum(forward.milliseconds for forward in forwards) / milliseconds),
        "memory": memory(engine),
    }


def row_of(arm: Arm, effort: Effort, runs: Sequence[Mapping[str, Any]]) -> Row:
    """An arm's row from its runs, which wrote the same tokens."""
    rates = spread([1e3 * run["tokens"] / run["milliseconds"] for run in runs])
    last = runs[-1]
    return {
        "part": arm.part,
        "lengths": {"prompt": effort.prompt, "tokens": effort.tokens, "temperature": effort.temperature},
        "batch": arm.batch,
        "c": arm.c,
        "k": arm.k,
        "rate": arm.rate,
        "tokens_per_second": rates.as_dict(),
        "tokens": last["tokens"],
        "consults": last["consults"],
        "oracle_share": last["oracle_tokens"] / last["tokens"],
        "forwards": last["forwards"],
        "host_share": sorted(run["host_share"] for run in runs)[len(runs) // 2],
        "memory": last["memory"],
    }


def memory(engine: Engine) -> dict[str, int]:
    """Bytes of weights and caches, and what the process holds: allocated on a GPU at most, resident on the CPU."""
    found = {
        "weights": sum(model.weight_bytes for model in engine.plan.models),
        "caches": sum(runner.cache.nbytes for runner in (engine.base, engine.oracle) if runner is not None),
    }
    if engine.device.type == "cuda":
        return found | {"peak": torch.cuda.max_memory_allocated(engine.device)}
    try:
        with open("/proc/self/statm") as file:
            return found | {"resident": int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")}
    except OSError:  # not Linux
        return found
