"""An arm with its placebos, read back from the records: the lines of the table, and what was checked of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dodona.eval.arms import Arm
from dodona.eval.causal.origin import Origin
from dodona.eval.placebo.arms import KINDS, OWN_ORACLE, Placebo
from dodona.eval.placebo.book import Book, Recorded
from dodona.eval.placebo.comparison import ARM, BASE, ORACLE, Draw, Line, Side, line
from dodona.eval.placebo.schedule import Schedule, total


@dataclass(frozen=True, slots=True)
class Study:
    """One arm's comparison."""

    config_hash: str
    arm: str
    problems: int
    lines: tuple[Line, ...]
    own_oracle_differs: tuple[str, ...] | None  # problems whose text it changed; None: it was not run

    @property
    def consults(self) -> int:
        """Of the arm, in all."""
        return len(self._line(ARM).side.positions)

    @property
    def asked(self) -> Iterator[tuple[Line, int, float]]:
        """Of each placebo with a schedule: consults asked for in a draw, and the share of them that happened."""
        for one in self.lines:
            if one.asked is not None:
                asked = sum(draw.asked or 0 for draw in one.side.draws)
                yield one, asked // len(one.side.draws), len(one.side.positions) / asked if asked else 0.0

    def _line(self, kind: str) -> Line:
        return next(one for one in self.lines if one.side.kind == kind)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        differs = self.own_oracle_differs
        return {
            "arm": self.arm,
            "config_hash": self.config_hash,
            "problems": self.problems,
            "consults": {
                "arm": self.consults,
                "placebos": {
                    one.side.kind: {"asked": asked, "equal": asked == self.consults, "happened": share}
                    for one, asked, share in self.asked
                },
            },
            "lines": [one.as_dict() for one in self.lines],
            "regret": {one.side.kind: one.regret.as_dict() for one in self.lines if one.regret is not None},
            "own_oracle": None if differs is None else {"texts_that_differ": len(differs), "problems": list(differs)},
        }


def study(
    book: Book,
    arm: Arm,
    base: Arm,
    made: Sequence[Placebo],
    schedules: Mapping[str, Schedule],
    own_oracle: Path | None,
) -> Study:
    """Compare an arm with its placebos.

    Args:
        book: made after the placebos were run.
        base: the arm of the base alone.
        made: the arm's placebos.
        schedules: of these, by their names.
        own_oracle: the records of the base as its own oracle, where it was run.

    Raises:
        DodonaError: records are missing or cannot be read.
    """
    problems, origin = book.problems, book.origin
    alone, own = book.runs(base), book.runs(arm)
    first = Side(BASE, "base alone", [_draw(alone)])
    of_arm = Side(ARM, arm.name, [_draw(own)])
    sides = [first, of_arm]
    differs = None
    for kind in KINDS:
        if kind == OWN_ORACLE and own_oracle is not None:
            same = Book(Origin(own_oracle), own_oracle).runs(arm)
            sides.append(Side(kind, "the base as its own oracle", [_draw(same)]))
            differs = tuple(_other_texts(problems, alone, same))
            continue
        of_kind = [placebo for placebo in made if placebo.kind == kind]
        draws = [_draw(book.runs(one.arm), total(schedules[one.arm.name])) for one in of_kind]
        if draws:
            sides.append(Side(kind, f"{kind} [{len(draws)} draws]" if len(draws) > 1 else kind, draws))
    if (oracle := origin.oracle_alone) is not None:
        sides.append(Side(ORACLE, "oracle alone", [_draw(Recorded(origin, oracle))]))
    lines = tuple(line(side, problems, first, of_arm) for side in sides)
    return Study(origin.config_hash, arm.name, len(problems), lines, differs)


def _draw(runs: Recorded, asked: int | None = None) -> Draw:
    return Draw(runs.arm.name, runs.rows, [p for text in runs.texts.values() for p in text.starts], asked)


def _other_texts(problems: Sequence[str], a: Recorded, b: Recorded) -> Iterator[str]:
    """The problems whose texts are not the same, token for token."""
    for name in problems:
        texts = [texts[name].ids if name in texts else None for texts in (a.texts, b.texts)]
        if texts[0] != texts[1]:
            yield name
