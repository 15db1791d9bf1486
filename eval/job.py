"""One experiment as it was asked for, with nothing opened yet; and what it takes to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dodona.eval.arms import Arm
from dodona.eval.models import Models, Opened
from dodona.eval.run import Experiment, check_arms
from dodona.eval.shard import Shard
from dodona.eval.store import Place
from dodona.eval.tasks.problem import Problem, Task


@dataclass(frozen=True, slots=True)
class Job:
    """Which arms run on which problems, by which models, and where the records go.

    Args:
        problems: as the task has them, before they are fitted to a model's chat template.
        options: fields of Request that hold for every run.
        compat: the switches of the first experiments over which a ladder is asked for; their arms are among ``arms``.
        trace: whether every token is written down, too.

    Raises:
        DodonaError: an option out of range, or arms that consult where there is no oracle.
    """

    task: Task
    problems: Sequence[Problem]
    arms: Sequence[Arm]
    models: Models
    place: Place
    options: Mapping[str, Any] = field(default_factory=dict)
    compat: Sequence[str] = ()
    trace: bool = False

    def __post_init__(self) -> None:
        Experiment(self.task, self.problems, self.arms, self.options)
        check_arms(self.arms, guided=self.models.guided)

    def models_on(self, shard: Shard) -> Models:
        """The models on the device of this process."""
        return self.models.on(shard.device(self.models.device))

    def experiment(self, opened: Opened) -> Experiment:
        """The experiment, with the prompts that these models read."""
        raw = self.options.get("raw", False)  # the user's --raw: no template, so no turns
        problems = self.problems if raw else self.task.for_model(self.problems, opened.tokenizer)
        return Experiment(self.task, problems, self.arms, self.options, self.compat)
