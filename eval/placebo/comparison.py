"""An arm beside its placebos on the same problems: what each gained, and what of it was knowledge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dodona.eval.placebo.arms import BOUNDS, KINDS
from dodona.eval.report.contrast import Contrast, contrast
from dodona.eval.report.table import Cell, Head, Table, number, p_value, points, rate, share, words
from dodona.eval.rows import Row
from dodona.eval.summary import Rate

_QUARTILES: Final = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class Side:
    """One line: runs of every problem, several of each where placebos are drawn.

    Args:
        kind: a key of ``KINDS``, or base, oracle or arm.
        rows: by problem, of each draw.
        positions: of all consults that happened, of all draws.
        asked: consults asked for, of all draws; None: it is not fixed before.
    """

    kind: str
    name: str
    rows: Sequence[Mapping[str, Row]]
    positions: Sequence[int] = ()
    asked: int | None = None

    def right(self, problems: Sequence[str]) -> list[int]:
        """How many of the runs of each problem are right."""
        return [
            sum((row := rows.get(name)) is not None and row.outcome == "correct" for rows in self.rows)
            for name in problems
        ]

    def mean(self, problems: Sequence[str], field: str) -> float:
        """Of the runs that did not fail; NaN where there is none."""
        values = [
            getattr(row, field)
            for rows in self.rows
            for name in problems
            if (row := rows.get(name)) is not None and row.outcome != "failed"
        ]
        return float(np.mean(values)) if values else math.nan


@dataclass(frozen=True, slots=True)
class Line:
    """A side with its differences."""

    side: Side
    rate: Rate
    consults: float  # that happened, a run
    asked: float | None  # for, a run
    oracle_share: float  # of all tokens
    quartiles: tuple[float, float, float] | None  # of the consults' positions
    gain: Contrast | None  # it less the base alone
    behind: Contrast | None  # the arm less it; of a bound it less the arm, which is the arm's regret

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.side.kind,
            "name": self.side.name,
            **self.rate.as_dict(),
            "draws": len(self.side.rows),
            "consults": None if math.isnan(self.consults) else self.consults,
            "consults_asked": self.asked,
            "oracle_share": None if math.isnan(self.oracle_share) else self.oracle_share,
            "position_quartiles": self.quartiles,
            "gain": None if self.gain is None else self.gain.as_dict(),
            ("regret" if self.side.kind in BOUNDS else "arm_less_it"): (
                None if self.behind is None else self.behind.as_dict()
            ),
        }


def line(side: Side, problems: Sequence[str], base: Side, arm: Side) -> Line:
    """A side's line."""
    right, draws = side.right(problems), len(side.rows)
    tokens, oracle = side.mean(problems, "tokens"), side.mean(problems, "oracle_tokens")
    behind = None
    if side is not arm:
        other = arm.right(problems)
        behind = contrast(other, right, 1, draws) if side.kind in BOUNDS else contrast(right, other, draws, 1)
    low, middle, high = np.quantile(side.positions, _QUARTILES) if len(side.positions) else (math.nan,) * 3
    return Line(
        side,
        Rate.of(right, draws),
        side.mean(problems, "consults"),
        None if side.asked is None else side.asked / (draws * len(problems)),
        oracle / tokens if tokens else math.nan,
        None if math.isnan(low) else (float(low), float(middle), float(high)),
        None if side is base else contrast(base.right(problems), right, 1, draws),
        behind,
    )


def table(lines: Sequence[Line], arm: str, problems: int) -> Table:
    """The lines as a table."""
    heads = [
        Head("arm", "; ".join(f"{name}: {what}" for name, what in KINDS.items())),
        Head("accuracy [95 %]", "right runs of all; clustered by problem where there are several draws"),
        Head("consults", "that happened, mean of a run"),
        Head("asked", "positions that were asked for, mean of a run; a text may end before one of them"),
        Head("oracle tokens", "share of all generated tokens"),
        Head("position", "of the consults that happened: median, and first and third quartile"),
        Head("gain", "accuracy less the base alone's, percentage points with a paired 95 % interval"),
        Head("arm less it", "the arm's accuracy less this one's, likewise; below 0 for what knows more: the regret"),
        Head("p", "of that difference: McNemar's exact test, with several draws the exact sign-flip test by problem"),
    ]
    rows: list[list[Cell]] = []
    for one in lines:
        quartiles = "-" if one.quartiles is None else "{1:.0f} [{0:.0f}, {2:.0f}]".format(*one.quartiles)
        behind = one.behind
        difference = Cell("-")
        if behind is not None:
            sign = -1 if one.side.kind in BOUNDS else 1
            low, high = sorted(sign * end for end in behind.interval)
            difference = points(sign * behind.difference, type(behind.interval)(low, high))
        rows.append(
            [
                words(one.side.name),
                rate(one.rate),
                number(one.consults, 2),
                Cell("-") if one.asked is None else number(one.asked, 2),
                share(one.oracle_share),
                Cell(quartiles),
                Cell("-") if one.gain is None else points(one.gain.difference, one.gain.interval),
                difference,
                p_value(None if behind is None else behind.p),
            ]
        )
    return Table(f"{arm}: {problems} problems", heads, rows)
