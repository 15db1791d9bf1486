"""Part (e): steps, syncs, consults, and guided runs against the cost formula, at batch 1."""

from __future__ import annotations

from typing import Any

from dodona.bench import latency
from dodona.bench.ablation import share_rows
from dodona.bench.apart import Work
from dodona.bench.effort import FULL, QUICK, Effort
from dodona.bench.gpu.options import DRAWN, Options
from dodona.bench.gpu.piece import Outcome, outcome
from dodona.engine.engine import Engine
from dodona.engine.sequence import BASE, ORACLE


def effort_of(options: Options) -> Effort:
    """Of the lengths of ``dodona bench latency`` those that are worth a GPU's minutes."""
    if options.quick:
        return QUICK._replace(temperature=DRAWN).within(options.subject().context)
    return FULL._replace(repeats=2, prompts=(128,), temperature=DRAWN).within(options.subject().context)


def pieces(options: Options) -> tuple[str, ...]:
    """The most wanted first."""
    effort = effort_of(options)
    found = ["base step", "oracle step"]
    found += [f"guided, every {every}, k {k}" for every, k in effort.guided]
    found += [f"sync {lag}" for lag in effort.lags]
    found += ["shares", *(f"first token {prompt}" for prompt in effort.prompts)]
    return (*found, "eager base step", "eager oracle step")


def worker(options: Options) -> Work:
    """Gives a piece's row by its name."""
    bench = Times(options)

    def work(name: str) -> Outcome:
        return outcome(bench.row(name))

    return work


class Times:
    """Rows by name; there is one engine at a time, and each model's step is timed once."""

    def __init__(self, options: Options) -> None:
        self.options, self.effort = options, effort_of(options)
        self._engines: dict[bool, Engine] = {}
        self._steps: dict[tuple[str, bool], dict[str, Any]] = {}

    def row(self, name: str) -> Any:
        """The figures of a piece."""
        words, effort = name.replace(",", "").split(), self.effort
        if words[-1] == "step":
            return self._step(ORACLE if "oracle" in words else BASE, eager=words[0] == "eager")
        if words[0] == "shares":
            return list(share_rows(self._engine(), effort))
        if words[0] == "first":
            return latency.first_token_row(self._engine(), int(words[-1]), effort, self.options.ceilings)
        oracle_ms = self._step(ORACLE)["ms"]["p50"]
        if words[0] == "sync":
            return latency.sync_row(self._engine(), int(words[-1]), effort, oracle_ms)
        base_ms = self._step(BASE)["ms"]["p50"]
        return latency.guided_row(self._engine(), int(words[2]), int(words[-1]), effort, base_ms, oracle_ms)

    def _engine(self, *, eager: bool = False) -> Engine:
        if eager not in self._engines:
            for other in self._engines.values():
                other.close()
            subject = self.options.eager() if eager else self.options.subject()
            self._engines = {eager: subject.engine(max_batch=1, max_length=self.effort.longest)}
        return self._engines[eager]

    def _step(self, model: str, *, eager: bool = False) -> dict[str, Any]:
        if (model, eager) not in self._steps:
            engine = self._engine(eager=eager)
            self._steps[model, eager] = latency.step_row(engine, model, self.effort, self.options.ceilings)
        return self._steps[model, eager]
