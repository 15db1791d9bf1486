"""Runs an experiment: every arm on every problem, in one stream of requests, written down as the runs finish.

Requests are problem-major, so that the arms of a problem run beside each other and share its prompt's pages; and all
arms of a problem draw with its id as their key, so that they differ by what they do and not by luck (common random
numbers).

What is written down already is not run again: the same command goes on where an earlier one stopped, and more arms or
more problems of the same kind go to the same place.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, NamedTuple, Protocol

import torch

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.request import Request
from dodona.engine.result import Result, json_number
from dodona.eval.arms import Arm
from dodona.eval.compat.by_text import generate_by_text
from dodona.eval.compat.switches import NOT_VALID
from dodona.eval.grading import Verdict
from dodona.eval.rows import Row, cut_off
from dodona.eval.store import Store
from dodona.eval.tasks.problem import Problem, Task
from dodona.eval.traces import Traces

# Fields of Request that an experiment sets for each run; all others are the same for all of its runs.
PER_RUN: Final = frozenset({"prompt", "id", "key", "sample", *Arm(0, 0, "never", "before", 0).fields()})


class Pair(Protocol):
    """What a configuration says of the models; Engine has it, and so have models that are not loaded."""

    @property
    def base_model_id(self) -> str: ...
    @property
    def oracle_model_id(self) -> str | None: ...
    @property
    def identities(self) -> list[str]: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def ops(self) -> str: ...


@dataclass(frozen=True)
class Experiment:
    """Which arms run on which problems, and what is the same for all of them.

    Args:
        options: fields of Request that hold for every run (max_new_tokens, temperature, stop, ...).
        compat: the switches of the first experiments over which a ladder is asked for; their arms are among ``arms``.

    Raises:
        DodonaError: an option out of range, or two problems of one id.
    """

    task: Task
    problems: Sequence[Problem]
    arms: Sequence[Arm]
    options: Mapping[str, Any] = field(default_factory=dict)
    compat: Sequence[str] = ()

    def __post_init__(self) -> None:
        for arm in self.arms:
            Request(prompt="", **arm.fields(), **self.options)
        seen: set[str] = set()
        for problem in self.problems:
            if problem.problem_id in seen:
                raise DodonaError(f"{self.task.name} has two problems with the id {problem.problem_id!r}")
            seen.add(problem.problem_id)

    @property
    def size(self) -> int:
        """Runs asked for."""
        return len(self.arms) * len(self.problems)

    @property
    def shape(self) -> str:
        """``5 arms x 100 problems = 500 runs``."""
        counts = ((len(self.arms), "arm"), (len(self.problems), "problem"), (self.size, "run"))
        arms, problems, runs = (f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts)
        return f"{arms} x {problems} = {runs}"

    def request(self, arm: Arm, problem: Problem) -> Request:
        """The request of one run."""
        run_id = json.dumps([arm.name, problem.problem_id])
        options = {**self.options, "raw": problem.raw or self.options.get("raw", False)}
        return Request(prompt=problem.prompt, id=run_id, key=problem.problem_id, **arm.fields(), **options)

    def config(self, models: Pair) -> dict[str, Any]:
        """What all records share: task, recipe, models and options. Arms and problems may be added later."""
        common = Request(prompt="", **self.options)
        options = {f.name: getattr(common, f.name) for f in dataclasses.fields(Request) if f.name not in PER_RUN}
        return {
            "dataset": self.task.name,
            "recipe": self.task.recipe.name,
            "base_model_id": models.base_model_id,
            "oracle_model_id": models.oracle_model_id,
            "weights": list(models.identities),
            "dtype": str(models.dtype).removeprefix("torch."),
            "device": models.device.type,
            "ops": models.ops,
        } | {name: json_value(value) for name, value in options.items()}


class Finished(NamedTuple):
    """A run that is done and written down."""

    row: Row
    result: Result


class Run:
    """An experiment and its records: what there is already, and what this process has still to do."""

    def __init__(self, experiment: Experiment, store: Store, traces: Traces | None = None) -> None:
        self.experiment, self.store, self.traces = experiment, store, traces

    @property
    def rows(self) -> dict[tuple[str, str], Row]:
        """What is written down of the experiment, by arm and problem id."""
        return self.store.rows

    @property
    def size(self) -> int:
        """Runs of this process, those that are done included."""
        return len(self.experiment.arms) * len(self.store.shard.of(self.experiment.problems))

    @property
    def left(self) -> int:
        """Runs that this process has still to do."""
        return sum(1 for _ in self._left())

    def finish(self, engine: Engine) -> Iterator[Finished]:
        """Do what is left; each run comes once its record is on the disk.

        Raises:
            DodonaError: an arm needs what this engine has not, or the records cannot be written. What failed in one run
                is in its record instead.
        """
        check_arms(self.experiment.arms, guided=engine.oracle is not None)
        running: dict[str, tuple[Arm, Problem]] = {}

        def requests(*, by_text: bool) -> Iterator[Request]:
            for arm, problem in self._left():
                if arm.by_text == by_text:
                    request = self.experiment.request(arm, problem)
                    assert request.id is not None
                    running[request.id] = arm, problem
                    yield request

        for result in chain(engine.generate(requests(by_text=False)), generate_by_text(engine, requests(by_text=True))):
            assert result.request.id is not None
            arm, problem = running.pop(result.request.id)
            record = graded_record(self.experiment.task, arm, problem, result)
            if self.traces is not None:
                self.traces.append(arm, problem.problem_id, result)
            yield Finished(self.store.append(record), result)

    def _left(self) -> Iterator[tuple[Arm, Problem]]:
        for problem in self.store.shard.of(self.experiment.problems):
            for arm in self.experiment.arms:
                if (arm.name, problem.problem_id) not in self.rows:
                    yield arm, problem


def graded_record(task: Task, arm: Arm, problem: Problem, result: Result) -> dict[str, Any]:
    """The record of one run. A run that failed or was cut off by the token limit is wrong, whatever it says."""
    try:
        verdict = task.judge(result.text, problem)
    except DodonaError as error:  # a gold answer that nothing can be compared with: one problem's fault, not the run's
        verdict = Verdict(False, None, "", str(error))
    compat = {"compat": list(arm.compat), "note": NOT_VALID} if arm.compat else {}
    record = result.record() | compat
    whole = result.error is None and not cut_off(record)
    return record | {
        "problem_id": problem.problem_id,
        "level": problem.level,
        "subject": problem.subject,
        "arm": arm.name,
        "prompt_tokens": len(result.prompt_ids),
        "ground_truth": problem.gold,
        **({"also": list(problem.also)} if problem.also else {}),
        "parsed_answer": verdict.extracted,
        "correct": whole and verdict.correct,
        "grade_method": verdict.method,
        "grade_reason": verdict.reason,
    }


def check_arms(arms: Sequence[Arm], *, guided: bool) -> None:
    """Refuse arms that consult where there is no oracle.

    Raises:
        DodonaError: naming the first of them.
    """
    for arm in arms:
        if not arm.alone and not guided:
            raise DodonaError(f"the arm {arm.name!r} needs an oracle: name one with --oracle-model, or ask for --c 0")


def json_value(value: Any) -> Any:
    """An option of a request as JSON can hold it."""
    if isinstance(value, tuple):
        return list(value)
    return json_number(value) if isinstance(value, float) else value
