"""A comparison as lines of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dodona.eval.report.comparison import Comparison, Flip
from dodona.eval.report.contrast import Contrast
from dodona.eval.report.table import NONE, Cell, Head, Table, count, p_value, plain, points, rate, text_lines, words
from dodona.eval.rows import shortened
from dodona.eval.summary import aligned, group_name

_LONGEST = 40  # characters of an answer


def overview_lines(comparisons: Sequence[Comparison]) -> list[str]:
    """One line a comparison."""
    heads = [Head(text, "") for text in ("arm", "A", "B", "difference [95 %]", "A alone", "B alone", "p")]
    rows = [[words(_arms(one)), rate(one.rate_a), rate(one.rate_b), *_cells(one.contrast)[1:]] for one in comparisons]
    return text_lines(Table("B less A, in percentage points", heads, rows))


def comparison_lines(one: Comparison, flips: int | None) -> list[str]:
    """Everything of one comparison; ``flips`` of the flips, or all."""
    paired = one.contrast
    difference, p = points(paired.difference, paired.interval).text, p_value(paired.p).text
    mid_p = "" if math.isnan(paired.mid_p) else f" (mid-p {p_value(paired.mid_p).text})"
    test = "McNemar's exact test" if one.rate_a.samples == one.rate_b.samples == 1 else "exact sign-flip test"
    lines = [
        *aligned(
            [
                ["", "accuracy [95 %]", "arm"],
                ["A", rate(one.rate_a).text, plain(one.arm_a)],
                ["B", rate(one.rate_b).text, plain(one.arm_b)],
            ]
        ),
        "",
        f"B less A: {difference} percentage points; {test}: p={p}{mid_p}",
        "",
        *_square(paired),
    ]
    if len(one.levels) > 1:
        heads = [Head(text, "") for text in ("level", "n", "difference [95 %]", "A alone", "B alone", "p")]
        rows = [[words(group_name(level)), *_cells(part)] for level, part in one.levels.items()]
        lines += ["", *text_lines(Table("By level", heads, rows))]
    if one.flips and flips != 0:
        lines += ["", *_flip_lines(one.flips, flips)]
    return lines


def _arms(one: Comparison) -> str:
    return one.arm_a if one.arm_a == one.arm_b else f"{one.arm_a} -> {one.arm_b}"


def _cells(paired: Contrast) -> list[Cell]:
    pairs = paired.pairs
    difference = points(paired.difference, paired.interval)
    return [count(paired.n), difference, count(pairs.only_a), count(pairs.only_b), p_value(paired.p)]


def _square(paired: Contrast) -> list[str]:
    """McNemar's table."""
    both, only_a, only_b, neither = map(str, paired.pairs)
    return aligned([["problems", "B right", "B wrong"], ["A right", both, only_a], ["A wrong", only_b, neither]])


def _flip_lines(flips: Sequence[Flip], most: int | None) -> list[str]:
    shown = flips if most is None else flips[:most]
    heads = [Head(text, "") for text in ("problem", "level", "solved by", "A's answer", "B's answer", "gold")]
    rows = [
        [
            words(flip.problem_id),
            words(NONE if flip.level is None else str(flip.level)),
            words(flip.solved_by),
            words(_answer(flip.answer_a, flip.outcome_a)),
            words(_answer(flip.answer_b, flip.outcome_b)),
            words(shortened(flip.gold, _LONGEST)),
        ]
        for flip in shown
    ]
    title = f"Flips: {len(flips)} problems that one side alone solved"
    lines = text_lines(Table(title, heads, rows))
    if len(shown) < len(flips):
        lines.append(f"and {len(flips) - len(shown)} more; --flips all shows them")
    return lines


def _answer(answer: str | None, outcome: str) -> str:
    """The answer; what became of the run where that is not told by it."""
    if outcome in ("correct", "wrong"):
        return shortened(answer or NONE, _LONGEST)
    return f"({outcome})" if answer is None else f"{shortened(answer, _LONGEST)} ({outcome})"
