"""How much each switch of the first experiments moves an arm's score: added one after another, and each alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dodona.eval.compat.kept import moved
from dodona.eval.compat.switches import (
    DROP_UNPARSED,
    NOT_VALID,
    STRING_MATCH,
    SWITCHES,
    WRITTEN,
    effective,
    rungs,
    variant_name,
)
from dodona.eval.report.contrast import contrast
from dodona.eval.rows import Row
from dodona.eval.stats.intervals import Interval
from dodona.eval.summary import ArmLike, ProblemLike, Rate

Rows = Mapping[str, Row]  # by problem


@dataclass(frozen=True, slots=True)
class Rung:
    """An arm's score with some of the switches."""

    switches: tuple[str, ...]  # none: the honest score
    added: bool  # the last one is added to those before it; else it is alone
    rate: Rate
    dropped: int  # runs that left the denominator
    missing: int  # runs without a record, which count as wrong
    difference: float  # from the honest accuracy; NaN where nothing is left to count
    interval: Interval
    p: float | None  # McNemar's exact test; None where runs were dropped, or nothing is compared

    @property
    def name(self) -> str:
        """``honest``, ``+ no-end``, ``no-end alone``."""
        if not self.switches:
            return "honest"
        return f"+ {self.switches[-1]}" if self.added else f"{self.switches[0]} alone"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "counted": self.name,
            "valid": not self.switches,
            "switches": list(self.switches),
            "added": self.added,
            **self.rate.as_dict(),
            "dropped": self.dropped,
            "missing": self.missing,
            "difference": None if math.isnan(self.difference) else self.difference,
            "difference_low": self.interval.low,
            "difference_high": self.interval.high,
            "p": self.p,
        }


@dataclass(frozen=True, slots=True)
class Ladder:
    """One arm with every rung for which there are runs; the first is the honest one."""

    arm: str
    rungs: list[Rung]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"arm": self.arm, "rungs": [rung.as_dict() for rung in self.rungs]}


def ladders(
    arms: Iterable[ArmLike], problems: Sequence[ProblemLike], rows: Mapping[str, Rows], switches: Sequence[str]
) -> list[Ladder]:
    """The ladder of each honest arm that has a record.

    Args:
        arms: honest ones.
        problems: those asked for, which are the honest denominator.
        rows: of honest arms and of their variants, by name.
        switches: those asked for, in their order. One for which an arm was not run is left out there.
    """
    found = []
    for arm in arms:
        honest = rows.get(arm.name)
        if honest and switches:
            found.append(Ladder(arm.name, _rungs(arm, problems, rows, switches)))
    return found


def ladders_as_dict(found: Iterable[Ladder]) -> dict[str, Any]:
    """For JSON, with the label."""
    return {"label": NOT_VALID, "switches": dict(SWITCHES), "ladders": [ladder.as_dict() for ladder in found]}


def _rungs(
    arm: ArmLike, problems: Sequence[ProblemLike], rows: Mapping[str, Rows], switches: Sequence[str]
) -> list[Rung]:
    alone = arm.c == 0 or arm.k == 0

    def written(some: Sequence[str]) -> Rows:
        return rows.get(variant_name(arm.name, effective(some, alone=alone)), {})

    usable = [switch for switch in switches if switch not in WRITTEN or written((switch,))]
    honest = _counted(problems, written(()), ())
    return [
        _rung(some, added, honest, _counted(problems, written(some), some), problems, written(some))
        for some, added in rungs(usable)
        if written(some)
    ]


@dataclass(frozen=True, slots=True)
class _Counted:
    right: list[bool]  # by problem
    kept: list[bool]


def _counted(problems: Sequence[ProblemLike], rows: Rows, switches: Sequence[str]) -> _Counted:
    found = [rows.get(problem.problem_id) for problem in problems]
    return _Counted(
        [row is not None and _right(row, switches) for row in found],
        [row is None or row.answer is not None or DROP_UNPARSED not in switches for row in found],
    )


def _right(row: Row, switches: Sequence[str]) -> bool:
    if STRING_MATCH in switches:
        return row.outcome in ("correct", "wrong") and row.same_text
    return row.outcome == "correct"


def _rung(
    switches: tuple[str, ...],
    added: bool,
    honest: _Counted,
    counted: _Counted,
    problems: Sequence[ProblemLike],
    rows: Rows,
) -> Rung:
    kept = sum(counted.kept)
    right = [int(r and k) for r, k in zip(counted.right, counted.kept, strict=True)]
    if kept == len(problems):
        paired = contrast(list(map(int, honest.right)), right)
        difference, interval, p = paired.difference, paired.interval, paired.p if switches else None
    else:
        (difference, interval), p = moved(honest.right, counted.right, counted.kept), None
    return Rung(
        switches=switches,
        added=added,
        rate=Rate(sum(right), kept),
        dropped=len(problems) - kept,
        missing=sum(problem.problem_id not in rows for problem in problems),
        difference=difference,
        interval=interval,
        p=p,
    )
