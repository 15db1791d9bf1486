"""Runs placebos: each text with its own positions, all texts of a placebo in one stream of requests.

Their records are those of any other arm of the experiment, under the same configuration, so that every command that
reads records takes them together with the run's own, and a killed study goes on as `dodona eval` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dodona.engine.engine import Engine
from dodona.engine.request import Request
from dodona.eval.arms import Arm
from dodona.eval.causal.origin import Origin
from dodona.eval.models import Models
from dodona.eval.placebo.arms import Placebo, trigger_of
from dodona.eval.placebo.schedule import Positions, Schedule
from dodona.eval.run import Experiment, Run, graded_record
from dodona.eval.store import Place, Store
from dodona.eval.tasks.problem import Problem


class Placebos:
    """Placebos of one experiment's arms.

    Args:
        origin: the experiment.
        problems: all of them.
        placebos: which.
        folder: of their records.
    """

    def __init__(self, origin: Origin, problems: Sequence[Problem], placebos: Sequence[Placebo], folder: Path) -> None:
        self.origin, self.problems, self.placebos, self.folder = origin, problems, placebos, folder

    def open(self) -> Store:
        """The records that they are added to.

        Raises:
            DodonaError: as Store.
        """
        arms = [placebo.arm for placebo in self.placebos]
        return Store(Place(self.folder), self.origin.config, arms, self.problems)

    def run(self, store: Store, plan: Callable[[Placebo], Schedule], engine: Callable[[], Engine]) -> Iterator[Placebo]:
        """Do what is left; a placebo comes for each of its runs whose record is on the disk.

        Args:
            plan: the schedule of a placebo.
            engine: called once something has to be run.

        Raises:
            DodonaError: a schedule cannot be made, or the records cannot be written.
        """
        for placebo in self.placebos:
            schedule = plan(placebo)  # also where nothing is left: it tells whether the records are of these texts
            by_id = {json.dumps([placebo.arm.name, p.problem_id]): p for p in store.left(placebo.arm)}
            if not by_id:
                continue
            requests = (self.request(placebo, p, schedule[p.problem_id], name) for name, p in by_id.items())
            for result in engine().generate(requests):
                assert result.request.id is not None
                problem = by_id[result.request.id]
                record = graded_record(self.origin.task, placebo.arm, problem, result)
                store.append(record | {"placebo": _about(placebo, schedule[problem.problem_id])})
                yield placebo

    def request(self, placebo: Placebo, problem: Problem, positions: Positions, name: str) -> Request:
        """The request of one text."""
        options = {**self.origin.options, "raw": problem.raw or self.origin.options["raw"]}
        fields = placebo.arm.fields() | {"trigger": trigger_of(positions, problem.problem_id)}
        return Request(prompt=problem.prompt, id=name, key=problem.problem_id, **{**options, **fields})


def _about(placebo: Placebo, positions: Positions) -> dict[str, Any]:
    return {"of": placebo.of.name, "kind": placebo.kind, "draw": placebo.draw, "asked": list(positions)}


def run_arms(
    origin: Origin,
    problems: Sequence[Problem],
    arms: Sequence[Arm],
    folder: Path,
    engine: Callable[[], Engine],
    step: Callable[[], None],
) -> None:
    """Run arms that the experiment has no records of, under its configuration.

    Args:
        folder: of their records.
        engine: called if something is left.
        step: called for each run that is done.

    Raises:
        DodonaError: an arm that cannot be run, or the records cannot be written.
    """
    experiment = Experiment(origin.task, problems, arms, origin.options)
    with Store(Place(folder), origin.config, experiment.arms, experiment.problems) as store:
        run = Run(experiment, store)
        if run.left:
            for _ in run.finish(engine()):
                step()


def run_own_oracle(
    origin: Origin,
    problems: Sequence[Problem],
    arms: Sequence[Arm],
    folder: Path,
    models: Models,
    step: Callable[[], None],
) -> None:
    """Run arms with the base as its own oracle. The models are others, so the records need a folder of their own.

    Args:
        folder: of their records.
        models: base and oracle of the experiment.
        step: called for each run that is done.

    Raises:
        DodonaError: the models cannot be used, or the records not written.
    """
    own = Models(models.base, models.base, models.device, models.dtype, models.options)
    experiment = Experiment(origin.task, problems, arms, origin.options)
    recorded = {name: origin.config[name] for name in ("dataset", "recipe") if name in origin.config}
    config = experiment.config(own.open()) | recorded
    with Store(Place(folder), config, experiment.arms, experiment.problems) as store:
        run = Run(experiment, store)
        if run.left:
            with own.load() as engine:
                for _ in run.finish(engine):
                    step()
