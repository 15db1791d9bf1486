"""The ladders as a table, labelled for what they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from dodona.eval.compat.ladder import Ladder, Rung
from dodona.eval.compat.switches import NOT_VALID, SWITCHES
from dodona.eval.report.table import NONE, Cell, Head, Table, count, p_value, points, words

TITLE: Final = f"{NOT_VALID}. The first experiments' way of counting, one switch at a time"

_COUNTED: Final = Head(
    "counted",
    "compat, which is not a valid measure but for the lines called honest. '+' adds a switch to those above it. "
    + "; ".join(f"{switch}: {meaning}" for switch, meaning in SWITCHES.items())
    + ".",
)
_HEADS: Final = (
    Head("arm of the ladder", "the arm whose score is counted in several ways"),
    _COUNTED,
    Head("score [95 %]", "right of those that are in the denominator; the interval is Wilson's"),
    Head("counted n", "the denominator: problems asked for, less those dropped"),
    Head("dropped", "runs that left the denominator because they have no answer that could be read"),
    Head("counted right", "runs that are right, by this way of counting"),
    Head("no record", "runs asked for that have no record; they count as wrong"),
    Head(
        "from honest [95 %]",
        "this score less the honest one, in percentage points. Over the same problems the interval is Tango's, as for "
        "differences from the base; where runs were dropped it is the linearised one of a rate whose denominator is "
        "itself counted (Cochran), with Agresti and Min's added problems.",
    ),
    Head("p of that", "McNemar's exact test of it; '-' where the denominators differ"),
)


def ladder_table(ladders: Sequence[Ladder]) -> Table:
    """One line a rung."""
    rows = [[words(ladder.arm), *_cells(rung)] for ladder in ladders for rung in ladder.rungs]
    return Table(TITLE, _HEADS, rows)


def _cells(rung: Rung) -> list[Cell]:
    difference = points(rung.difference, rung.interval) if rung.switches else Cell(NONE)
    return [
        words(rung.name),
        _score(rung),
        count(rung.rate.n),
        count(rung.dropped),
        count(rung.rate.correct),
        count(rung.missing),
        difference,
        p_value(rung.p),
    ]


def _score(rung: Rung) -> Cell:
    """With two digits after the point, as such tables were printed."""
    accuracy, (low, high) = rung.rate.accuracy, rung.rate.interval
    if math.isnan(accuracy):
        return Cell(NONE)
    return Cell(f"{100 * accuracy:.2f} % [{100 * low:.1f}, {100 * high:.1f}]", accuracy)
