"""Runs placebos beside the records of their arm: each text with its own positions, all in one stream of requests.

Their records are those of any other arm of the experiment, in the same place, so that every command that reads records
shows them, and a killed run goes on as that of `dodona eval` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dodona.engine.engine import Engine
from dodona.engine.request import Request
from dodona.eval.causal.origin import Origin
from dodona.eval.models import Models
from dodona.eval.placebo.arms import Placebo, trigger_of
from dodona.eval.placebo.schedule import Positions
from dodona.eval.recorded import RecordedArm
from dodona.eval.rows import Row
from dodona.eval.run import Experiment, Run, graded_record
from dodona.eval.store import Place, Store
from dodona.eval.tasks.problem import Problem

Plan = Callable[[Placebo], Mapping[str, Positions]]


class Placebos:
    """Placebos of one experiment's arms.

    Args:
        origin: the experiment.
        problems: all of them.
        placebos: which.
    """

    def __init__(self, origin: Origin, problems: Sequence[Problem], placebos: Sequence[Placebo]) -> None:
        self.origin, self.problems, self.placebos = origin, problems, placebos

    def open(self) -> Store:
        """The records that they are added to.

        Raises:
            DodonaError: as Store.
        """
        arms = [placebo.arm for placebo in self.placebos]
        return Store(self.origin.place, self.origin.config, arms, self.problems)

    def run(self, store: Store, plan: Plan, engine: Callable[[], Engine]) -> Iterator[Row]:
        """Do what is left; each run comes once its record is on the disk.

        Args:
            plan: the positions of a placebo, asked for only where a run of it is left.
            engine: called once something has to be run.

        Raises:
            DodonaError: a schedule cannot be made, or the records cannot be written.
        """
        for placebo in self.placebos:
            left = store.left(placebo.arm)
            if not left:
                continue
            schedule = plan(placebo)
            by_id = {json.dumps([placebo.arm.name, problem.problem_id]): problem for problem in left}
            requests = (self.request(placebo, p, schedule[p.problem_id], name) for name, p in by_id.items())
            for result in engine().generate(requests):
                assert result.request.id is not None
                problem = by_id[result.request.id]
                record = graded_record(self.origin.task, placebo.arm, problem, result)
                yield store.append(record | {"placebo": _about(placebo, schedule[problem.problem_id])})

    def request(self, placebo: Placebo, problem: Problem, positions: Positions, name: str) -> Request:
        """The request of one text."""
        options = {**self.origin.options, "raw": problem.raw or self.origin.options["raw"]}
        fields = placebo.arm.fields() | {"trigger": trigger_of(positions, problem.problem_id)}
        return Request(prompt=problem.prompt, id=name, key=problem.problem_id, **fields, **options)


def _about(placebo: Placebo, positions: Positions) -> dict[str, Any]:
    return {"of": placebo.of.name, "kind": placebo.kind, "draw": placebo.draw, "asked": list(positions)}


class OwnOracle:
    """An arm with the base as its own oracle. Its models are others, so its records lie in a place of their own."""

    def __init__(self, origin: Origin, arms: Sequence[RecordedArm], problems: Sequence[Problem]) -> None:
        live = [origin.live(arm) for arm in arms]
        self.origin = origin
        self.experiment = Experiment(origin.task, problems, live, origin.options)

    @property
    def place(self) -> Place:
        """Beside the records: ``runs/x-own-oracle`` of ``runs/x``."""
        if self.origin.place.folder:
            return Place(self.origin.beside("-own-oracle"))
        return Place(Path(self.origin.beside("-own-oracle.jsonl")), folder=False)

    def run(self, models: Models, step: Callable[[], None]) -> dict[tuple[str, str], Row]:
        """Do what is left, and give every run by arm and problem; the engine is closed after it.

        Raises:
            DodonaError: the models cannot be used, or the records not written.
        """
        own = Models(models.base, models.base, models.device, models.dtype, models.options)
        recorded = {name: self.origin.config[name] for name in ("dataset", "recipe") if name in self.origin.config}
        config = self.experiment.config(own.open()) | recorded
        with Store(self.place, config, self.experiment.arms, self.experiment.problems) as store:
            run = Run(self.experiment, store)
            if run.left:
                with own.load() as engine:
                    for _ in run.finish(engine):
                        step()
            return dict(run.rows)
