"""Finds the columns of a table that mean something, and reads their cells."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple

from dodona.engine.errors import DodonaError
from dodona.eval.tasks.problem import Level
from dodona.eval.tasks.select import read_level
from dodona.eval.tasks.spec import TaskSpec
from dodona.eval.tasks.table import Row, Table

# The names that are looked for, in this order, whatever their case.
PROBLEM: Final = ("problem", "question", "prompt", "input")
ANSWER: Final = ("answer", "final_answer", "gold", "target", "ground_truth", "solution")
CHOICES: Final = ("choices", "options")
LEVEL: Final = ("level",)
SUBJECT: Final = ("subject", "type", "category", "subtask_name", "high-level domain", "subdomain")
ID: Final = ("id", "problem_id", "unique_id", "record id")
ROW_NUMBERS: Final = "row"  # as --id-column: number the rows


class Item(NamedTuple):
    """What a row means."""

    text: str  # the question; empty where a row has an exact prompt and no question
    gold: str
    choices: tuple[str, ...] = ()
    given: str | None = None  # the exact prompt that the row has
    also: tuple[str, ...] = ()  # other right answers


@dataclass(frozen=True, slots=True)
class About:
    """The columns that say which problem a row is; None where there is none."""

    id: str | None
    level: str | None
    subject: str | None

    def level_of(self, row: Row) -> Level | None:
        """The row's level."""
        return read_level(row.values.get(self.level)) if self.level else None

    def subject_of(self, row: Row) -> str | None:
        """The row's subject."""
        value = row.values.get(self.subject) if self.subject else None
        if _nothing(value):
            return None
        return " ".join(str(value).encode(errors="replace").decode().split()) or None


def about_columns(table: Table, spec: TaskSpec) -> About:
    """The columns of id, level and subject: those that the options name, else those whose names say so.

    Raises:
        DodonaError: an option names a column that is not there.
    """
    numbered = spec.id_column == ROW_NUMBERS and ROW_NUMBERS not in table.columns
    return About(
        id=None if numbered else column(table, "--id-column", spec.id_column, ID),
        level=column(table, "--level-column", spec.level_column, LEVEL),
        subject=column(table, "--subject-column", spec.subject_column, SUBJECT),
    )


def column(table: Table, option: str, named: str | None, known: Sequence[str] = ()) -> str | None:
    """The column that an option names, else the first whose name is known, else None.

    Raises:
        DodonaError: the option's column is not there; with those that are.
    """
    if named is None:
        there = {name.lower(): name for name in reversed(table.columns)}
        return next((there[name] for name in known if name in there), None)
    if named in table.columns:
        return named
    alike = [name for name in table.columns if name.lower() == named.strip().lower()]
    if len(alike) == 1:
        return alike[0]
    raise DodonaError(f"{option}: {table.source} has no column {named!r}; it has {', '.join(table.columns)}")


def cell_text(table: Table, row: Row, name: str) -> str:
    """A cell as text, without white space around it; a number as it is written.

    Raises:
        DodonaError: naming the row: there is nothing in the cell, or neither text nor number.
    """
    text = (written(table, row, name) or "").strip()
    if not text:
        raise table.error(row, f"the column {name!r} is empty")
    check_unicode(table, row, name, text)
    return text


def written(table: Table, row: Row, name: str) -> str | None:
    """A cell as it is written; None where there is nothing in it.

    Raises:
        DodonaError: naming the row: there is neither text nor number in the cell.
    """
    value = row.values.get(name)
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if _nothing(value):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise table.error(
            row, f"the column {name!r} has a {type(value).__name__} in it, and a text or a number is needed"
        )
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def check_unicode(table: Table, row: Row, name: str, text: str) -> None:
    """Refuse half of a surrogate pair, which JSON can hold: it can be neither tokenised nor written down.

    Raises:
        DodonaError: naming the row.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        fault = f"has the broken character {text[error.start]!a} in it"
        raise table.error(row, f"the column {name!r} {fault}") from error


def unpacked(value: object) -> object:
    """A list or an object that a table without lists has as JSON text; anything else as it is."""
    if isinstance(value, str) and value[:1] in "[{" and value[-1:] in "]}":
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _nothing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
