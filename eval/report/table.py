"""A table for people: heads that are defined once, cells with the text to show and the value to sort by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dodona.eval.stats.intervals import Interval
from dodona.eval.summary import Rate, aligned, percent

NONE = "-"  # where there is no value


class Cell(NamedTuple):
    """One cell."""

    text: str
    value: float | str | None = None  # to sort by


class Head(NamedTuple):
    """One column's head."""

    text: str
    definition: str


class Table(NamedTuple):
    """One table; its first column names the line."""

    title: str
    heads: Sequence[Head]
    rows: Sequence[Sequence[Cell]]


def text_lines(table: Table) -> list[str]:
    """The table as lines of text, with its title above."""
    return [
        table.title,
        *aligned([[h.text for h in table.heads], *([plain(c.text) for c in row] for row in table.rows)]),
    ]


def words(text: str) -> Cell:
    """A cell that sorts as its text."""
    return Cell(text, text)


def count(value: int) -> Cell:
    """A whole number."""
    return Cell(str(value), value)


def number(value: float, digits: int) -> Cell:
    """A number with so many digits after the point."""
    return Cell(NONE if math.isnan(value) else f"{value:.{digits}f}", _sortable(value))


def share(value: float) -> Cell:
    """A share in percent."""
    return Cell(NONE if math.isnan(value) else f"{100 * value:.1f} %", _sortable(value))


def scaled(value: float) -> Cell:
    """A number of any size with three digits and its thousands: 1.23 G."""
    return Cell(NONE if math.isnan(value) else engineering(value), _sortable(value))


def rate(value: Rate) -> Cell:
    """An accuracy with its interval."""
    return Cell(percent(value), _sortable(value.accuracy))


def points(difference: float, interval: Interval) -> Cell:
    """A difference of accuracies in percentage points, with its interval."""
    if math.isnan(difference):
        return Cell(NONE)
    low, high = interval
    return Cell(f"{_signed(100 * difference)} [{_signed(100 * low)}, {_signed(100 * high)}]", difference)


def p_value(p: float | None) -> Cell:
    """A p-value with two digits."""
    return Cell(NONE) if p is None or math.isnan(p) else Cell(f"{p:.2g}", p)


def engineering(value: float) -> str:
    """Three digits with k, M, G, T, P: 1234567 is 1.23 M."""
    for power, letter in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 0.9995 * 10**power:
            return f"{_three(value / 10**power)} {letter}"
    return _three(value)


def plain(text: str) -> str:
    """The text on one line, without the control characters with which a text could move a terminal's cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def definitions(tables: Iterable[Table]) -> dict[str, str]:
    """What each head means, in the order of their first appearance."""
    return {head.text: head.definition for table in tables for head in table.heads if head.definition}


def _three(value: float) -> str:
    return f"{value:#.3g}".removesuffix(".")


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # no -0.0


def _sortable(value: float) -> float | None:
    return None if math.isnan(value) else value
