"""Everything that says which problems are asked and how: the fields that command-line options and sweep files share."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dodona.engine.errors import DodonaError
from dodona.eval.tasks.problem import Level, Selection

DEFAULT_SAMPLES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """A data set, the way to read it, the recipe, and which of its problems."""

    dataset: str  # a name (arith, math, gpqa, ...), a hub id, or a path
    task: str | None = None  # how to read it; None: told by its columns
    recipe: str | None = None  # None: the task's own
    no_cot: bool = False  # multiple choice without a chain of thought
    prompt_file: str | None = None  # a recipe of the user's own
    num_samples: int | None = None  # None: 100, or all that --ids names
    all_samples: bool = False  # num_samples = "all"
    start_index: int = 0
    ids: tuple[str, ...] = ()
    level: tuple[Level, ...] = ()
    subject: tuple[str, ...] = ()
    problem_column: str | None = None
    answer_column: str | None = None
    id_column: str | None = None
    level_column: str | None = None
    subject_column: str | None = None
    choice_columns: tuple[str, ...] = ()
    dataset_config: str | None = None  # of a hub data set that has several; of a folder, a folder in it
    split: str | None = None  # None: test
    shuffle_seed: int = 0  # of the order of GPQA's choices

    @property
    def selection(self) -> Selection:
        """Which of the problems.

        Raises:
            DodonaError: a count or an index out of range.
        """
        count = self.num_samples
        if count is None and not self.all_samples and not self.ids:
            count = DEFAULT_SAMPLES
        return Selection(count, self.start_index, self.ids, self.level, self.subject)


def spec_from(values: Mapping[str, Any]) -> TaskSpec:
    """A spec from names and values as a sweep file or the parser's namespace has them; ``-`` in a name is ``_``.

    ``num_samples`` may be ``"all"``; ``ids``, ``level``, ``subject`` and ``choice_columns`` one value or a list.

    Raises:
        DodonaError: an unknown name, a value of the wrong type, or no data set.
    """
    fields = {field.name for field in dataclasses.fields(TaskSpec)} - {"all_samples"}
    given: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(fields))}"
            raise DodonaError(f"a task has no setting {key!r}: {hint}")
        if value is not None:
            given[name] = _READERS.get(name, _text)(name, value)
    if not given.get("dataset"):
        raise DodonaError(
            "--dataset says which problems to solve: arith, math, gsm8k, gpqa, a hub id, a file or folder"
        )
    if given.get("num_samples") == "all":
        given["num_samples"], given["all_samples"] = None, True
    return TaskSpec(**given)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DodonaError(f"{_option(name)} must be a text, not {value!r}")
    return value


def _whole(name: str, value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DodonaError(f"{_option(name)} must be a whole number, not {value!r}")
    return value


def _count(name: str, value: object) -> int | str:
    if isinstance(value, str) and value.strip().lower() == "all":
        return "all"
    try:
        return _whole(name, value)
    except DodonaError:
        raise DodonaError(f"{_option(name)} must be a whole number or all, not {value!r}") from None


def _truth(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise DodonaError(f"{_option(name)} must be true or false, not {value!r}")
    return value


def _texts(name: str, value: object) -> tuple[str | int, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    for one in values:
        if isinstance(one, bool) or not isinstance(one, str | int) or one == "":
            raise DodonaError(f"{_option(name)} must be a text or a list of texts, not {value!r}")
    return tuple(values)


def _names(name: str, value: object) -> tuple[str, ...]:
    return tuple(map(str, _texts(name, value)))  # a file of settings may have an id of digits as a number


def _words(name: str, value: object) -> tuple[str, ...]:
    return tuple(part.strip() for text in _texts(name, value) for part in str(text).split(",") if part.strip())


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


_READERS = {
    "num_samples": _count,
    "start_index": _whole,
    "shuffle_seed": _whole,
    "no_cot": _truth,
    "ids": _names,
    "level": _texts,
    "subject": _names,
    "choice_columns": _words,
}
