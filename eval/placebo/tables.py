"""A study as a table, as lines of text and as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dodona.eval.placebo.arms import HINDSIGHT, KINDS
from dodona.eval.placebo.comparison import Line
from dodona.eval.placebo.study import Study
from dodona.eval.report.csv_files import write_tables
from dodona.eval.report.table import NONE, Cell, Head, Table, number, p_value, points, rate, share, text_lines, words

_SOME = 3  # problem ids shown in a note
_P = (
    "McNemar's exact test; with several draws the sign-flip test by problem, its like for clusters, which is "
    "approximate where one side has more draws"
)


def table(study: Study) -> Table:
    """The lines as a table."""
    heads = [
        Head("line", "; ".join(f"{name}: {what}" for name, what in KINDS.items())),
        Head("accuracy [95 %]", "right runs of all that were asked for; clustered by problem with several draws"),
        Head("consults", "that happened, mean of a run"),
        Head("asked for", "consults that the schedule asks for, mean of a run; a text may end before one of them"),
        Head("oracle tokens", "share of all generated tokens"),
        Head("position", "of the consults that happened: median [first and third quartile], generated tokens"),
        Head("gain [95 %]", "accuracy less the base alone's on the same problems, percentage points, paired"),
        Head("p of gain", _P),
        Head("arm less it [95 %]", "the arm's accuracy less this one's on the same problems, points, paired"),
        Head("p", f"of that difference: {_P}"),
    ]
    return Table(f"{study.arm}: {study.problems} problems", heads, [_row(one) for one in study.lines])


def _row(one: Line) -> list[Cell]:
    quartiles = NONE if one.quartiles is None else "{1:.0f} [{0:.0f}, {2:.0f}]".format(*one.quartiles)
    cells = [
        words(one.side.name),
        rate(one.rate),
        number(one.consults, 2),
        Cell(NONE) if one.asked is None else number(one.asked, 2),
        share(one.oracle_share),
        Cell(quartiles, None if one.quartiles is None else one.quartiles[1]),
    ]
    for contrast in (one.gain, one.arm_less_it):
        if contrast is None:
            cells += [Cell(NONE), Cell(NONE)]
        else:
            cells += [points(contrast.difference, contrast.interval), p_value(contrast.p)]
    return cells


def notes(study: Study) -> Iterator[str]:
    """What was checked, and the regret."""
    parts = []
    for one, asked, happened in study.asked:
        equal = str(asked)
        if asked < study.consults:
            equal += ", fewer than that, as it finds no more places,"
        parts.append(f"{one.side.name} asks for {equal} and makes {100 * happened:.1f} % of them")
    if parts:
        yield f"consults in all: the arm makes {study.consults}; {'; '.join(parts)}"
    for one in study.lines:
        if (regret := one.regret) is not None:
            what = "hindsight by divergence" if one.side.kind == HINDSIGHT else "stepwise hindsight"
            yield f"regret against {what}, percentage points: {points(regret.difference, regret.interval).text}"
    if (differs := study.own_oracle_differs) is not None:
        some = ", ".join(differs[:_SOME]) + (", ..." if len(differs) > _SOME else "")
        if not differs:
            yield f"the base as its own oracle writes the base's own text on all {study.problems} problems"
        else:
            yield (
                f"the base as its own oracle writes another text than the base alone on {len(differs)} of "
                f"{study.problems} problems ({some}), and should on none: differences of the arm are not the oracle's "
                "alone (rounding on a GPU, or an oracle that is sampled in another way, may do this)"
            )
    for one in study.lines:
        if one.failed:
            yield f"{one.side.name}: {one.failed} runs failed or are missing, and count as wrong"


def study_lines(study: Study) -> list[str]:
    """A study as lines of text."""
    return [*text_lines(table(study)), "", *notes(study)]


def write_csv(path: Path, studies: Sequence[Study]) -> list[Path]:
    """The lines to a file whose name ends in ``.csv``; anything else is a folder for lines and draws.

    Raises:
        DodonaError: it cannot be written.
    """
    lines = [(study, one) for study in studies for one in study.lines]
    tables = {
        "lines": [_csv(study, one) for study, one in lines],
        "draws": [_csv(study, draw) for study, one in lines for draw in one.draws or (one,)],
    }
    return write_tables(path, tables, alone="lines")


def _csv(study: Study, one: Line) -> dict[str, Any]:
    fields = one.as_dict()
    fields.pop("draws", None)
    regret = fields.pop("regret", None)
    quartiles = fields.pop("position_quartiles") or (None, None, None)
    gain, less = fields.pop("gain"), fields.pop("arm_less_it")
    named = dict(zip(("position_25", "position_50", "position_75"), quartiles, strict=True))
    row = {"arm": study.arm, "config_hash": study.config_hash, "problems": study.problems, **fields, **named}
    for name, contrast in (("gain", gain), ("arm_less_it", less), ("regret", regret)):
        keys = ("difference", "low", "high", "only_a", "only_b", "p", "mid_p")
        row |= {f"{name}_{key}": None if contrast is None else contrast[key] for key in keys}
    return row
