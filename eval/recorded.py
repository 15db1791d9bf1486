"""What record files hold: the runs of one configuration, with the arms and problems that were asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from dodona.eval.rows import Level, Row


@dataclass(frozen=True, slots=True)
class RecordedArm:
    """An arm as records name it."""

    name: str
    c: float
    k: float
    trigger: str
    when: str
    seed: int
    compat: tuple[str, ...] = ()  # how its texts were written as the first experiments wrote them; see eval/compat

    @property
    def base_alone(self) -> bool:
        """Whether no consult could happen."""
        return self.c == 0 or self.k == 0

    @property
    def oracle_alone(self) -> bool:
        """Whether the oracle wrote all of it, as far as its configuration has no cap on the oracle's tokens."""
        always = self.trigger.strip() in ("always", "always()", "True")
        return always and self.c == math.inf and self.k == math.inf

    @property
    def family(self) -> str:
        """Equal for arms that differ in their seed alone: the name without it."""
        return self.name.removesuffix(f" seed={self.seed}")

    @property
    def rule(self) -> str:
        """Equal for arms that consult by the same rule: trigger and when, however they are spaced."""
        return f"{''.join(self.trigger.split())} {self.when}"

    @property
    def order(self) -> tuple[Any, ...]:
        """The order of tables: the base alone, the guided arms by trigger, the oracle alone."""
        kind = 0 if self.base_alone else 2 if self.oracle_alone else 1
        return (kind, self.rule, self.c, self.k, self.family, self.seed)


class Asked(NamedTuple):
    """A problem that was asked for."""

    problem_id: str
    level: Level
    subject: str | None


@dataclass(slots=True)
class Experiment:
    """Everything that was recorded under one configuration.

    Arms that were written as the first experiments wrote theirs are no valid measure, and stand apart from all others.
    """

    config_hash: str
    config: Mapping[str, Any]
    arms: list[RecordedArm] = field(default_factory=list)  # in the order of tables
    problems: list[Asked] = field(default_factory=list)  # in the order in which they were asked for
    rows: dict[str, dict[str, Row]] = field(default_factory=dict)  # by arm and problem
    compat_arms: list[RecordedArm] = field(default_factory=list)
    compat_rows: dict[str, dict[str, Row]] = field(default_factory=dict)  # of these
    compat: tuple[str, ...] = ()  # the switches over which a ladder was asked for
    gold: dict[str, str] = field(default_factory=dict)  # by problem; cut after 200 characters
    files: list[str] = field(default_factory=list)
    dodona: list[str] = field(default_factory=list)  # versions that wrote it; likewise below
    versions: dict[str, list[str]] = field(default_factory=dict)  # by package
    commits: list[str] = field(default_factory=list)
    duplicates: int = 0  # records of a run that was there already; the first one counts
    listed: bool = False  # whether headers say which problems were asked for

    @property
    def dataset(self) -> str:
        """The task's name."""
        return str(self.config.get("dataset"))

    @property
    def records(self) -> int:
        """Runs that have a record."""
        return sum(map(len, self.rows.values()))

    @property
    def title(self) -> str:
        """Task and models."""
        oracle = self.config.get("oracle_model_id")
        return f"{self.dataset}: {self.config.get('base_model_id')}" + (f" with {oracle}" if oracle else "")

    def base_arms(self) -> list[RecordedArm]:
        """The base alone, once a seed."""
        return [arm for arm in self.arms if arm.base_alone]

    def is_oracle_alone(self, arm: RecordedArm) -> bool:
        """Whether nothing of this arm is the base's."""
        return arm.oracle_alone and self.config.get("max_oracle_tokens") is None

    def common(self) -> Experiment:
        """The same, on the problems that every valid arm with a record has a record of."""
        begun = [rows for rows in self.rows.values() if rows]
        kept = [problem for problem in self.problems if all(problem.problem_id in rows for rows in begun)]
        return replace(self, problems=kept, arms=[arm for arm in self.arms if self.rows.get(arm.name)])


def titles(experiments: Sequence[Experiment]) -> list[str]:
    """A title for each; where several are alike, with what their configurations differ in."""
    shown = []
    for experiment in experiments:
        alike = [other for other in experiments if other.title == experiment.title]
        names = sorted({name for other in alike for name in other.config if name != "weights"})
        differing = [
            f"{name}={experiment.config.get(name)}"
            for name in names
            if any(other.config.get(name) != experiment.config.get(name) for other in alike)
        ]
        if len(alike) > 1 and not differing:
            differing = [f"config {experiment.config_hash}"]
        shown.append(", ".join([experiment.title, *differing]))
    return shown
