"""What the rows of a table mean: one reader for each kind of data set, and which of them fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from dodona.engine.errors import DodonaError
from dodona.eval.recipes.names import META
from dodona.eval.recipes.recipe import Kind
from dodona.eval.tasks.answers import is_gsm8k, is_math, read_answers
from dodona.eval.tasks.choices import has_choices, is_gpqa, read_choices, read_gpqa
from dodona.eval.tasks.columns import Item
from dodona.eval.tasks.hub import PUBLISHED
from dodona.eval.tasks.meta import is_meta, meta_benchmark, meta_kind, read_meta
from dodona.eval.tasks.spec import TaskSpec
from dodona.eval.tasks.table import Table


class Reader(NamedTuple):
    """How rows are read, what kind of answers they have, and the recipe that asks them unless the user says another."""

    name: str
    read: Callable[[Table, TaskSpec], list[Item]]
    kind: Callable[[Table], Kind]
    recipe: str


class Scores(NamedTuple):
    """Published scores of models alone, in percent by alias, and whose they are."""

    percent: Mapping[str, float]
    source: str


def _math(table: Table) -> Kind:
    return "math"


def _choice(table: Table) -> Kind:
    return "choice"


READERS: Final = MappingProxyType(
    {
        reader.name: reader
        for reader in (
            Reader("math", read_answers, _math, "math"),
            Reader("gsm8k", read_answers, _math, "gsm8k"),
            Reader("gpqa", read_gpqa, _choice, "gpqa-cot"),
            Reader("choice", read_choices, _choice, "gpqa-cot"),
            Reader("meta", read_meta, meta_kind, META),
        )
    }
)
TASKS: Final = (*READERS, *(name for name in PUBLISHED if name not in READERS))  # what --task takes

_CARDS: Final = "Meta's model cards of the Llama 3.1 and 3.2 Instruct models"
OFFICIAL: Final = MappingProxyType(
    {
        "math": Scores(
            MappingProxyType({"1B": 30.6, "3B": 48.0, "8B": 51.9, "70B": 68.0, "405B": 73.8}),
            f"{_CARDS}: MATH, the whole test set, zero-shot with chain of thought",
        ),
        "gpqa": Scores(
            MappingProxyType({"1B": 27.2, "3B": 32.8, "8B": 32.8, "70B": 46.7, "405B": 51.1}),
            f"{_CARDS}: GPQA, zero-shot",
        ),
    }
)
NO_SCORES: Final = Scores(MappingProxyType({}), "")


def reader_of(table: Table, spec: TaskSpec) -> Reader:
    """The reader that --task names, else the data set's own, else the one that the columns ask for.

    Raises:
        DodonaError: there is no such task.
    """
    named = spec.task or (spec.dataset if spec.dataset in PUBLISHED else None)
    if named is not None:
        if named not in TASKS:
            raise DodonaError(f"there is no task {named!r}: --task is one of {', '.join(TASKS)}")
        return READERS[PUBLISHED[named].task if named in PUBLISHED else named]
    return READERS[_by_columns(table, spec)]


def official_scores(table: Table, reader: Reader, spec: TaskSpec) -> Scores:
    """What is published about the benchmark that this is, if it is one; of a part of it, the whole's."""
    if reader.name == "meta":
        return OFFICIAL.get(meta_benchmark(table) or "", NO_SCORES)
    if reader.name == "math" and is_math(table):
        return OFFICIAL["math"]
    other_set = any(part in f"{table.name} {spec.task}".lower() for part in ("diamond", "extended"))
    return OFFICIAL["gpqa"] if reader.name == "gpqa" and not other_set else NO_SCORES


def _by_columns(table: Table, spec: TaskSpec) -> str:
    if spec.choice_columns:
        return "choice"
    if spec.problem_column is None and spec.answer_column is None:
        if is_meta(table):
            return "meta"
        if is_gpqa(table):
            return "gpqa"
        if is_gsm8k(table):
            return "gsm8k"
    return "choice" if has_choices(table) else "math"
