"""The options that choose problems, for every command that has some, and the same settings from a mapping."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

from dodona.eval.tasks.names import make_task
from dodona.eval.tasks.problem import Problem, Task
from dodona.eval.tasks.readers import TASKS
from dodona.eval.tasks.sources import NAMES
from dodona.eval.tasks.spec import DEFAULT_SAMPLES, TaskSpec, spec_from

OWN_NAMES = frozenset(field.name for field in dataclasses.fields(TaskSpec)) - {"all_samples"}


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that ``task_from`` reads."""
    tasks = parser.add_argument_group("problems", "lists have commas between their values; those here may be repeated")
    option = tasks.add_argument
    option("--dataset", metavar="DATA", help=f"{', '.join(NAMES)}; a hub id; or a file or folder")
    option("--task", metavar="NAME", help=f"read the data as {', '.join(TASKS)} (default: told by its columns)")
    option("--num-samples", metavar="N", help=f"problems, or all (default: {DEFAULT_SAMPLES}, or all of --ids)")
    option("--start-index", metavar="N", help="the first of them, counted from 0 (default: 0)")
    option("--ids", metavar="LIST", action="append", help="these problems only")
    option("--level", metavar="LIST", action="append", help="of these levels only, as in 1,3")
    option("--subject", metavar="LIST", action="append", help="of these subjects only")
    recipes = parser.add_argument_group("recipe")
    option = recipes.add_argument
    option("--recipe", metavar="NAME", help="how the questions are asked (default: by the task)")
    option("--no-cot", action="store_true", help="multiple choice without a chain of thought")
    option("--prompt-file", metavar="FILE", help="a prompt of your own with {problem} in it, and {choices}")
    option("--shuffle-seed", metavar="N", help="of the order of GPQA's choices (default: 0)")
    columns = parser.add_argument_group("columns", "of a data set whose columns have names of their own")
    option = columns.add_argument
    option("--problem-column", metavar="NAME", help="the question")
    gold = r"the gold answer alone, or a solution that has it in \boxed{} or after ####"
    option("--answer-column", metavar="NAME", help=gold)
    option("--choice-columns", metavar="LIST", action="append", help="the choices in order, or one column of lists")
    option("--id-column", metavar="NAME", help="the problem's id; row numbers the rows")
    option("--level-column", metavar="NAME", help="the level")
    option("--subject-column", metavar="NAME", help="the subject")
    option("--dataset-config", metavar="NAME", help="of a hub data set that has several; of a folder, a folder in it")
    option("--split", metavar="NAME", help="of a hub data set or a folder that has several (default: test)")


def task_from(args: argparse.Namespace, *, note: Callable[[str], None] | None = None) -> tuple[Task, list[Problem]]:
    """The task and the problems that the options ask for.

    Args:
        note: told what the user should know, such as fewer problems than asked for; None prints it on standard error.

    Raises:
        DodonaError: no data set, one that cannot be read, or a selection that it does not have.
    """
    given = {name: value for name, value in vars(args).items() if name in OWN_NAMES}
    return load_task(given, note=note)


def load_task(
    spec: Mapping[str, Any] | TaskSpec, *, note: Callable[[str], None] | None = None
) -> tuple[Task, list[Problem]]:
    """As ``task_from``, from a mapping with the options' names (``num_samples`` or ``num-samples``) as its keys."""
    if not isinstance(spec, TaskSpec):
        spec = spec_from(spec)
    selection = spec.selection  # a count out of range is known before anything is downloaded
    task = make_task(spec)
    return task, task.load(selection, note=note or _say)


def _say(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
