"""One line of the table: runs of every problem beside the base alone and beside the arm whose placebos they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.eval.placebo.arms import BOUNDS
from dodona.eval.report.contrast import Contrast, contrast
from dodona.eval.rows import Row
from dodona.eval.summary import Rate

BASE, ARM, ORACLE = "base", "arm", "oracle"  # kinds of lines beside the placebos'
_QUARTILES: Final = (0.25, 0.5, 0.75)


class Draw(NamedTuple):
    """One run of each problem."""

    name: str  # the arm's in the records
    rows: Mapping[str, Row]  # by problem
    positions: Sequence[int]  # of all consults that happened
    asked: int | None = None  # consults asked for in all; None: nothing says before how many there will be


@dataclass(frozen=True, slots=True)
class Side:
    """What a line is about: one draw, or several where a placebo is drawn by chance.

    Args:
        kind: a key of ``KINDS``, or base, arm or oracle.
    """

    kind: str
    name: str
    draws: Sequence[Draw]

    @property
    def positions(self) -> list[int]:
        """Of all consults that happened."""
        return [p for draw in self.draws for p in draw.positions]

    @property
    def bound(self) -> bool:
        """Whether it knows what no trigger can know."""
        return self.kind in BOUNDS

    def right(self, problems: Sequence[str]) -> list[int]:
        """How many of the runs of each problem are right; a run without record is not."""
        return [
            sum((row := draw.rows.get(name)) is not None and row.outcome == "correct" for draw in self.draws)
            for name in problems
        ]

    def mean(self, problems: Sequence[str], field: str) -> float:
        """Of a number of each run, over the runs that did not fail; NaN where there is none."""
        values = [getattr(row, field) for row in self._ran(problems)]
        return float(np.mean(values)) if values else math.nan

    def failed(self, problems: Sequence[str]) -> int:
        """Runs that failed or have no record."""
        return len(self.draws) * len(problems) - sum(1 for _ in self._ran(problems))

    def _ran(self, problems: Sequence[str]) -> Iterator[Row]:
        for draw in self.draws:
            for name in problems:
                if (row := draw.rows.get(name)) is not None and row.outcome != "failed":
                    yield row


@dataclass(frozen=True, slots=True)
class Line:
    """A side with its differences, all over the same problems."""

    side: Side
    rate: Rate
    consults: float  # that happened, a run
    asked: float | None  # for, a run
    oracle_share: float  # of all tokens
    quartiles: tuple[float, float, float] | None  # of the consults' positions
    gain: Contrast | None  # it less the base alone; None: it is the base alone
    arm_less_it: Contrast | None  # None: it is the arm
    failed: int  # runs that failed or are missing; they count as wrong
    draws: tuple[Line, ...] = ()  # each by itself, where there are several

    @property
    def regret(self) -> Contrast | None:
        """Of a bound: it less the arm."""
        return None if self.arm_less_it is None or not self.side.bound else reversed_contrast(self.arm_less_it)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.side.kind,
            "name": self.side.name,
            **self.rate.as_dict(),
            "consults": _known(self.consults),
            "consults_asked": self.asked,
            "oracle_share": _known(self.oracle_share),
            "position_quartiles": None if self.quartiles is None else list(self.quartiles),
            "failed_or_missing": self.failed,
            "gain": None if self.gain is None else self.gain.as_dict(),
            "arm_less_it": None if self.arm_less_it is None else self.arm_less_it.as_dict(),
            **({"regret": self.regret.as_dict()} if self.regret is not None else {}),
            **({"draws": [one.as_dict() for one in self.draws]} if self.draws else {}),
        }


def line(side: Side, problems: Sequence[str], base: Side, arm: Side) -> Line:
    """A side's line. The denominator is every problem: what failed or is missing counts as wrong.

    Args:
        problems: those that were asked for.
        base: the base alone, one draw.
        arm: whose placebos are looked at, one draw.
    """
    right, count = side.right(problems), len(side.draws)
    tokens, oracle = side.mean(problems, "tokens"), side.mean(problems, "oracle_tokens")
    positions = side.positions
    quartiles = tuple(map(float, np.quantile(positions, _QUARTILES))) if positions else None
    asked = [draw.asked for draw in side.draws if draw.asked is not None]
    return Line(
        side=side,
        rate=Rate.of(right, count),
        consults=side.mean(problems, "consults"),
        asked=sum(asked) / (count * len(problems)) if len(asked) == count else None,
        oracle_share=oracle / tokens if tokens else math.nan,
        quartiles=None if quartiles is None else (quartiles[0], quartiles[1], quartiles[2]),
        gain=None if side.kind == BASE else contrast(base.right(problems), right, 1, count),
        arm_less_it=None if side.kind == ARM else contrast(right, arm.right(problems), count, 1),
        failed=side.failed(problems),
        draws=tuple(line(Side(side.kind, draw.name, [draw]), problems, base, arm) for draw in side.draws)
        if count > 1
        else (),
    )


def reversed_contrast(of: Contrast) -> Contrast:
    """The same two arms the other way round."""
    low, high = of.interval
    pairs = of.pairs._replace(only_a=of.pairs.only_b, only_b=of.pairs.only_a)
    return Contrast(of.n, pairs, -of.difference, type(of.interval)(-high, -low), of.p, of.mid_p)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
