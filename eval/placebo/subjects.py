"""What a study of placebos is about: arms that were run or are to be run, each with the base alone beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dodona.engine.errors import DodonaError
from dodona.engine.request import When
from dodona.eval.arms import Arm
from dodona.eval.causal.origin import Origin
from dodona.eval.placebo.arms import is_placebo
from dodona.eval.tasks.problem import Problem


class Subject(NamedTuple):
    """An arm whose placebos are wanted, and the base alone that it is compared with."""

    arm: Arm
    base: Arm


class Folder(NamedTuple):
    """Where a study's own files are."""

    path: Path

    @property
    def records(self) -> Path:
        """Of arms and placebos; a folder."""
        return self.path / "records"

    @property
    def own_oracle(self) -> Path:
        """Records of the base as its own oracle; a folder."""
        return self.path / "own-oracle"

    @property
    def log(self) -> Path:
        """Of schedules."""
        return self.path / "schedules.log"

    def check(self, origin: Origin) -> None:
        """Refuse a folder that is none, or whose files would be taken for those of the experiment.

        Raises:
            DodonaError: naming it.
        """
        if self.path.exists() and not self.path.is_dir():
            raise DodonaError(f"{self.path} is a file, and --output-dir needs a folder there")
        here, there = self.path.resolve(), origin.path.resolve()
        if here == there or (there.is_dir() and there in here.parents):
            raise DodonaError(f"--output-dir {self.path} is in {origin.path}, which is read: give another folder")


def recorded_subjects(origin: Origin, names: Sequence[str | None]) -> list[Subject]:
    """Arms that were run.

    Args:
        names: of them; None is the only one with consults.

    Raises:
        DodonaError: there is no such arm, or it can have no placebo.
    """
    found = [origin.arm(name) for name in names]
    for arm in found:
        if is_placebo(arm.trigger):
            raise DodonaError(f"--arm: {arm.name!r} is a placebo itself")
        if arm.base_alone:
            raise DodonaError(f"--arm: {arm.name!r} has no consults, so it has no placebo")
    return _subjects(origin, [origin.live(arm) for arm in found])


def new_subjects(origin: Origin, triggers: Sequence[str], c: float, k: float, when: When) -> list[Subject]:
    """Arms of these triggers, whether they were run or not; with the seed of the base alone, where that was run.

    Raises:
        DodonaError: an arm that can have no placebo.
    """
    seed = next((arm.seed for arm in origin.experiment.base_arms()), 0)
    return _subjects(origin, [Arm(c, k, trigger, when, seed) for trigger in triggers])


def problems_of(origin: Origin) -> list[Problem]:
    """Every problem that was asked for, as the first arm has it that has a record of each.

    Raises:
        DodonaError: there is no such arm.
    """
    asked = [problem.problem_id for problem in origin.experiment.problems]
    for arm in origin.experiment.arms:
        rows = origin.experiment.rows.get(arm.name, {})
        if asked and all(name in rows for name in asked):
            return origin.problems(arm)
    raise DodonaError(f"no arm of {origin.path} has a record of every problem yet: let `dodona eval` do them first")


def _subjects(origin: Origin, arms: Sequence[Arm]) -> list[Subject]:
    if origin.config.get("oracle_model_id") is None:
        raise DodonaError(f"{origin.path} was run without an oracle: run dodona eval with --oracle-model first")
    unique = {arm.name: arm for arm in arms}
    for arm in unique.values():
        if arm.trigger.strip() in ("always", "always()", "True") and arm.c == arm.k == float("inf"):
            raise DodonaError(f"{arm.name!r} is the oracle alone, so it has no placebo")
    return [Subject(arm, _base_of(arm, origin)) for arm in unique.values()]


def _base_of(arm: Arm, origin: Origin) -> Arm:
    """The base alone of an arm's seed, or, where all is greedy, of any seed that was run."""
    own = Arm(0, 0, "never", "before", arm.seed)
    if origin.experiment.rows.get(own.name) or not origin.greedy:
        return own
    return next((origin.live(a) for a in origin.experiment.base_arms() if origin.experiment.rows.get(a.name)), own)
