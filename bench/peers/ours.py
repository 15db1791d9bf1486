"""The engine itself as a subject, used as any program would use it."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping
from typing import Any

from dodona.bench.peers.load import Setup
from dodona.bench.peers.work import Outcome, Work, timed
from dodona.engine.engine import Engine
from dodona.engine.request import Request
from dodona.engine.trigger import ExpressionTrigger, Trigger
from dodona.engine.trigger_parser import parse_trigger


class Ours:
    """An engine of one model or of two."""

    def __init__(self, setup: Setup) -> None:
        self.engine = Engine(
            setup.base or setup.oracle,
            oracle=setup.oracle if setup.base else None,
            device=setup.device,
            dtype=setup.dtype,
            threads=setup.threads,
            max_batch=1,
            max_length=setup.length,
            **setup.options,
        )
        self.options: dict[str, Any] = {"ignore_eos": not (setup.base_ends if setup.base else setup.oracle_ends)}

    def run(self, work: Work, watch: bool) -> Outcome:
        """Do the work; with ``watch`` token by token, to time each consult."""
        if watch:
            return timed(work, lambda prompt, outcome: self._watched(work, prompt, outcome))
        return timed(work, lambda prompt, _: self.engine.generate(self._request(work, prompt, work.trigger)).ids)

    def _request(self, work: Work, prompt: tuple[int, ...], trigger: str | Trigger) -> Request:
        return Request(prompt=prompt, c=work.c, k=work.k, trigger=trigger, max_new_tokens=work.tokens, **self.options)

    def _watched(self, work: Work, prompt: tuple[int, ...], outcome: Outcome) -> list[int]:
        trigger = TimedTrigger(parse_trigger(work.trigger))
        on_host = self.engine.backend.loop == "host"
        stream = self.engine.stream(self._request(work, prompt, trigger if on_host else work.trigger))
        arrivals, started, begun = [], time.perf_counter(), 0.0
        while True:
            try:
                arrivals.append((next(stream), time.perf_counter()))
            except StopIteration as end:
                result = end.value
                break
        starts = set(result.cheat_positions)
        steps = [
            later - earlier
            for (token, earlier), (after, later) in itertools.pairwise(arrivals)
            if token.source == after.source == "base"
        ]
        fired = iter(trigger.fired)
        for index, (token, arrived) in enumerate(arrivals):
            if token.position in starts:
                if on_host:
                    begun = next(fired)
                elif index and steps:  # the decision is no Python: where a base token would have come
                    begun = arrivals[index - 1][1] + statistics.median(steps)
                else:
                    begun = started
                outcome.first_ms.append(1e3 * (arrived - begun))
                outcome.burst_ms.append(outcome.first_ms[-1])
            elif token.source == "oracle":
                outcome.burst_ms[-1] = 1e3 * (arrived - begun)
        ids: list[int] = result.ids
        return ids


class TimedTrigger(Trigger):
    """A trigger that notes when it fires; for one sequence at a time."""

    def __init__(self, inner: ExpressionTrigger) -> None:
        self.inner = inner
        self.fired: list[float] = []

    def decide(self, columns: Mapping[str, Any]) -> Any:
        """As the trigger inside."""
        decision = self.inner.decide(columns)
        if bool(decision.any()):
            self.fired.append(time.perf_counter())
        return decision

    @property
    def names(self) -> frozenset[str]:
        """As the trigger inside."""
        return self.inner.names

    @property
    def text(self) -> str:
        """As the trigger inside."""
        return self.inner.text
