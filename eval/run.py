"""Runs an experiment: every arm on every problem, in one stream of requests, written down as the runs finish.

Requests are problem-major, so that the arms of a problem run beside each other and share its prompt's pages; and all
arms of a problem draw with its id as their key, so that they differ by what they do and not by luck (common random
numbers).

The records' file begins with a header that says what its runs have in common. The same command again reads the file
and goes on; more arms or more problems of the same kind go into the same file.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dodona import __version__
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.records import RecordFile
from dodona.engine.request import Request
from dodona.engine.result import Result, json_number
from dodona.eval.arms import Arm
from dodona.eval.summary import Row, row_of
from dodona.eval.tasks import Problem, Task

SCHEMA_VERSION = 1
_OF_AN_ARM = {"prompt", "id", "key", "sample", *(f.name for f in dataclasses.fields(Arm))}


@dataclass(frozen=True)
class Experiment:
    """Which arms run on which problems, and what is the same for all of them.

    Args:
        options: fields of Request that hold for every run (max_new_tokens, temperature, stop, ...).

    Raises:
        DodonaError: an option out of range.
    """

    task: Task
    problems: Sequence[Problem]
    arms: Sequence[Arm]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for arm in self.arms:
            Request(prompt="", **arm.fields(), **self.options)

    @property
    def size(self) -> int:
        """Runs asked for."""
        return len(self.arms) * len(self.problems)

    def request(self, arm: Arm, problem: Problem) -> Request:
        """The request of one run."""
        run_id = json.dumps([arm.name, problem.problem_id])
        return Request(prompt=problem.prompt, id=run_id, key=problem.problem_id, **arm.fields(), **self.options)

    def config(self, engine: Engine) -> dict[str, Any]:
        """What all records of one file share: task, models and options. Arms and problems may be added later."""
        common = Request(prompt="", **self.options)
        options = {f.name: getattr(common, f.name) for f in dataclasses.fields(Request) if f.name not in _OF_AN_ARM}
        return {
            "dataset": self.task.name,
            "base_model_id": engine.base_model_id,
            "oracle_model_id": engine.oracle_model_id,
            "weights": list(engine.identities),
            "dtype": str(engine.dtype).removeprefix("torch."),
            "device": engine.device.type,
        } | {name: _json_value(value) for name, value in options.items()}


def default_path(experiment: Experiment, engine: Engine) -> Path:
    """``runs/<dataset>-<base>-<oracle>.jsonl``, with what is no part of a file's name replaced."""
    models = [name for name in (engine.base_model_id, engine.oracle_model_id) if name is not None]
    names = [re.sub(r"[^\w.@=,-]+", "-", Path(name).name) for name in models]
    return Path("runs") / f"{'-'.join([experiment.task.name, *names])}.jsonl"


class Finished(NamedTuple):
    """A run that is done and written down."""

    row: Row
    result: Result


class Run:
    """An experiment on its file: what is there already, and what is left to do.

    Raises:
        DodonaError: the file belongs to another experiment, or an arm needs what this engine has not.
    """

    def __init__(self, engine: Engine, experiment: Experiment, file: RecordFile) -> None:
        _check_arms(engine, experiment.arms)
        self.engine, self.experiment, self.file = engine, experiment, file
        self.rows: dict[tuple[str, str], Row] = {}
        wanted = {(arm.name, problem.problem_id) for arm in experiment.arms for problem in experiment.problems}
        records = file.read()
        header = next(records, None)
        config = experiment.config(engine)
        if header is None:
            file.append({"header": {"schema": SCHEMA_VERSION, "dodona": __version__, "config": config}})
        else:
            _check_header(header, config, file.path)
        for record in records:
            row = row_of(record)
            if (row.arm, row.problem_id) in wanted:
                self.rows.setdefault((row.arm, row.problem_id), row)

    @property
    def left(self) -> int:
        """Runs still to do."""
        return self.experiment.size - len(self.rows)

    def finish(self) -> Iterator[Finished]:
        """Do what is left; each run comes once its record is on the disk.

        Raises:
            DodonaError: the records cannot be written. What failed in one run is in its record instead.
        """
        running: dict[str, tuple[Arm, Problem]] = {}

        def requests() -> Iterator[Request]:
            for problem in self.experiment.problems:
                for arm in self.experiment.arms:
                    if (arm.name, problem.problem_id) not in self.rows:
                        request = self.experiment.request(arm, problem)
                        assert request.id is not None
                        running[request.id] = arm, problem
                        yield request

        for result in self.engine.generate(requests()):
            assert result.request.id is not None
            arm, problem = running.pop(result.request.id)
            record = graded_record(self.experiment.task, arm, problem, result)
            self.file.append(record)
            row = self.rows[arm.name, problem.problem_id] = row_of(record)
            yield Finished(row, result)


def graded_record(task: Task, arm: Arm, problem: Problem, result: Result) -> dict[str, Any]:
    """The record of one run. A run that failed or was cut off by the token limit is wrong, whatever it says."""
    answer = task.parse(result.text)
    whole = result.error is None and result.finish_reason != "length"
    return result.record() | {
        "problem_id": problem.problem_id,
        "level": problem.level,
        "arm": arm.name,
        "ground_truth": problem.gold,
        "parsed_answer": answer,
        "correct": whole and task.is_correct(answer, problem.gold),
    }


def _check_arms(engine: Engine, arms: Sequence[Arm]) -> None:
    for arm in arms:
        if not arm.alone and engine.oracle is None:
            raise DodonaError(f"the arm {arm.name!r} needs an oracle: name one with --oracle-model, or ask for --c 0")


def _check_header(header: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> None:
    if "header" not in header:
        raise DodonaError(f"{path} holds records that `dodona eval` did not write: give another --output-file")
    if header["header"].get("schema") != SCHEMA_VERSION:
        raise DodonaError(f"{path} was written by another version of dodona: give another --output-file")
    there = header["header"]["config"]
    differences = [
        f"{name} is {there.get(name)!r} there and {config.get(name)!r} here"
        for name in {**config, **there}
        if there.get(name) != config.get(name)
    ]
    if differences:
        raise DodonaError(f"{path} belongs to another experiment: {'; '.join(differences)}; give another --output-file")


def _json_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return json_number(value) if isinstance(value, float) else value
