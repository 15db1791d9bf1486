"""Rows of a data set, each with the place it came from, for errors that name it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dodona.engine.errors import DodonaError


class Row(NamedTuple):
    """One row."""

    place: str  # "row 3", "row 3 (line 4)", "algebra, row 3": from 1, as people count
    values: Mapping[str, Any]
    key: str | None = None  # for the id of a row that has none; None: its number in the whole table, from 0


@dataclass(frozen=True, slots=True)
class Table:
    """All rows of a data set, in the order of the source.

    Args:
        name: of the task, and of ids that are made from row numbers.
        source: the file, folder or hub id, as errors and reports name it.

    Raises:
        DodonaError: there are no rows.
    """

    name: str
    source: str
    rows: Sequence[Row]

    def __post_init__(self) -> None:
        if not self.rows:
            raise DodonaError(f"{self.source} has no rows")

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that a row has, in the order they appear in."""
        return tuple(dict.fromkeys(column for row in self.rows for column in row.values))

    def error(self, row: Row, fault: str) -> DodonaError:
        """The error of one row."""
        return DodonaError(f"{self.source}, {row.place}: {fault}")


def numbered(rows: Sequence[Mapping[str, Any]], prefix: str = "") -> list[Row]:
    """Rows that have no place but their number."""
    return [Row(f"{prefix}row {number}", values) for number, values in enumerate(rows, 1)]
