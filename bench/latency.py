"""``dodona bench latency``: what each part of guided decoding takes at batch 1, one row a measure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from dodona.bench import steps
from dodona.bench.ablation import share_rows
from dodona.bench.effort import Effort
from dodona.bench.floor import against_ceiling
from dodona.bench.spread import spread
from dodona.bench.subject import requests
from dodona.engine.engine import Engine
from dodona.engine.sequence import BASE, ORACLE

Row = dict[str, Any]


def rows(engine: Engine, effort: Effort, ceilings: Mapping[str, Any]) -> Iterator[Row]:
    """Every measure, in the order of a text's life; ``part`` names it and ``lengths`` says of what."""
    for prompt in effort.prompts:
        yield first_token_row(engine, prompt, effort, ceilings)
    base = step_row(engine, BASE, effort, ceilings)
    yield base
    if engine.oracle is not None:
        oracle = step_row(engine, ORACLE, effort, ceilings)
        yield oracle
        base_ms, oracle_ms = base["ms"]["p50"], oracle["ms"]["p50"]
        for lag in effort.lags:
            yield sync_row(engine, lag, effort, oracle_ms)
        for every, k in effort.guided:
            yield guided_row(engine, every, k, effort, base_ms, oracle_ms)
    yield from share_rows(engine, effort)


def first_token_row(engine: Engine, prompt: int, effort: Effort, ceilings: Mapping[str, Any]) -> Row:
    """Time to first token of the base."""
    found = steps.first_token(engine, prompt, effort)
    floor = against_ceiling(steps.prefill_bytes(engine, prompt), found.p50, ceilings)
    return {"part": "first token", "lengths": {"prompt": prompt}, "ms": found.as_dict(), **floor}


def step_row(engine: Engine, model: str, effort: Effort, ceilings: Mapping[str, Any]) -> Row:
    """A model's step: forward, statistics, the base's trigger, a drawn token."""
    found = steps.step_time(engine, model, effort)
    return {
        "part": f"{model} step",
        "lengths": {"prompt": effort.prompt, "tokens": effort.tokens, "temperature": effort.temperature},
        "ms": found.period.as_dict(),
        "forward_ms": found.forward.as_dict(),
        "tokens_per_second": 1e3 / found.period.p50,
        **against_ceiling(found.bytes, found.period.p50, ceilings),
    }


def sync_row(engine: Engine, lag: int, effort: Effort, oracle_ms: float) -> Row:
    """The oracle's forward over what it lacks."""
    inside, whole = steps.sync_time(engine, lag, effort)
    return {
        "part": "sync",
        "lengths": {"lag": lag},
        "ms": inside.as_dict(),
        "consult_ms": whole.as_dict(),
        "in_oracle_steps": whole.p50 / oracle_ms,
    }


def guided_row(engine: Engine, every: int, k: int, effort: Effort, base_ms: float, oracle_ms: float) -> Row:
    """A guided run: its consults, its bursts, its catch-ups, and its time against the formula."""
    trigger = f"every({every})"
    options: dict[str, Any] = {"max_new_tokens": effort.tokens, "temperature": effort.temperature}
    (request,) = requests(engine, 1, effort.prompt, c=math.inf, k=k, trigger=trigger, **options)
    runs = steps.guided(engine, request, effort.repeats)
    later = [consult for run in runs for consult in run.consults[1:]] or [c for run in runs for c in run.consults]
    bursts, catch_ups = [ms for run in runs for ms in run.bursts], [ms for run in runs for ms in run.catch_ups]
    consult = spread([consult.milliseconds for consult in later])
    formula = steps.predicted(runs[0], base_ms, oracle_ms)
    measured = statistics.median(run.milliseconds for run in runs)
    return {
        "part": "guided",
        "lengths": {"prompt": effort.prompt, "tokens": effort.tokens, "every": every, "k": k},
        "consults": len(runs[0].consults),
        "lag": statistics.median(consult.lag for consult in later),
        "consult_ms": consult.as_dict(),
        "consult_in_oracle_steps": consult.p50 / oracle_ms,
        "burst_ms": spread(bursts).as_dict() if bursts else None,
        "catch_up_ms": spread(catch_ups).as_dict() if catch_ups else None,
        "empty_programs": sum(run.empty for run in runs) / sum(len(run.consults) for run in runs),
        "tokens": {"base": runs[0].base_tokens, "oracle": runs[0].oracle_tokens},
        "ms": spread([run.milliseconds for run in runs]).as_dict(),
        "formula_ms": formula,
        "formula_share": formula / measured,
        "host_share": statistics.median(run.host_share for run in runs),
    }
