"""What statistics, trigger and drawing take of a base step: its time with and without each, taken in turn.

Timers inside a step would have to wait for the device, and inside a captured program there are none; leaving a part out
works everywhere. What replaces the statistics is what a plain greedy decoder does: the argmax of the logits.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from dodona.bench import steps
from dodona.bench.effort import Effort
from dodona.bench.subject import NEVER, requests
from dodona.bench.watch import STEP, periods, replaced
from dodona.engine.engine import Engine
from dodona.engine.request import Request
from dodona.engine.scores import Choice, Scores, last_rows
from dodona.engine.signals import Statistics

METHOD = "ablation: the median step without it from the median step with it, runs in turn"
COMPARED = {  # part of a step: the variant with it, and the one without it
    "signals": ("greedy", "argmax alone"),
    "sampling": ("drawn", "greedy"),
    "trigger": ("drawn", "no trigger"),
}


def share_rows(engine: Engine, effort: Effort) -> Iterator[dict[str, Any]]:
    """A row for each part that this engine's base step has; shares are of the whole step."""
    found = variants(engine, effort)
    for part, (with_it, without) in COMPARED.items():
        if with_it in found and without in found:
            yield {
                "part": f"share of {part}",
                "method": METHOD,
                "lengths": {"prompt": effort.prompt, "tokens": effort.tokens},
                "with_ms": found[with_it],
                "without_ms": found[without],
                "share": (found[with_it] - found[without]) / found["drawn"],
            }


def variants(engine: Engine, effort: Effort) -> dict[str, float]:
    """Median milliseconds of each variant of a base step; ``drawn`` is the whole of it."""

    def request(**changes: Any) -> Request:
        options: dict[str, Any] = {"max_new_tokens": effort.tokens, "c": 1, "k": 1, "trigger": NEVER}
        return requests(engine, 1, effort.prompt, **(options | {"temperature": 1.0} | changes))[0]

    chosen: dict[str, tuple[Request, Callable[[], AbstractContextManager[None]]]] = {
        "drawn": (request(), nullcontext),
        "greedy": (request(temperature=0.0), nullcontext),
        "argmax alone": (request(temperature=0.0), lambda: argmax_alone(engine)),
    }
    if engine.oracle is not None:
        chosen["no trigger"] = (request(c=0), nullcontext)
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for turn in range(effort.repeats):
        for name, (asked, context) in chosen.items():
            with context():
                if turn == 0 or engine.device.type == "cuda":  # leaving the statistics out loses what was captured
                    steps.run(engine, asked)
                _, forwards = steps.run(engine, asked)
            times[name] += periods(forwards, STEP)
    return {name: statistics.median(values) for name, values in times.items()}


@contextmanager
def argmax_alone(engine: Engine) -> Iterator[None]:
    """The base's steps take the most likely token in here, and compute no statistics."""
    head = engine.base.model.head

    def bare(logits_NV: Tensor) -> Statistics:
        top1_N = logits_NV.argmax(-1)
        zeros_N = torch.zeros(len(logits_NV), device=logits_NV.device)
        return Statistics._make(top1_N if name == "top1" else zeros_N for name in Statistics._fields)

    def bare_scores(hidden_NE: Tensor, ids_Mw: Tensor, choice: Choice | None, *, want_logits: bool) -> Scores:
        logits_NV = head.logits(hidden_NE)
        stats = bare(logits_NV)
        last = last_rows(stats.lse, ids_Mw)
        given_Mw = stats.lse.view_as(ids_Mw)
        return Scores(stats, given_Mw, last_rows(stats.top1, ids_Mw), last, logits_NV if want_logits else None)

    graphs = getattr(engine.loop, "graphs", None)
    with ExitStack() as stack:
        stack.enter_context(replaced(engine.base.ops, "statistics", bare))
        stack.enter_context(replaced(head, "score", bare_scores))
        if graphs is not None:
            graphs.forget()
            stack.callback(graphs.forget)
        yield
