r"""Reads tables of questions with answers that are compared: MATH, MATH-500, GSM8K, and any like them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

from dodona.engine.errors import DodonaError
from dodona.eval.boxed import boxes
from dodona.eval.checker.extract import gold_answers
from dodona.eval.tasks.columns import ANSWER, PROBLEM, Item, cell_text, column
from dodona.eval.tasks.spec import TaskSpec
from dodona.eval.tasks.table import Table

Ends: TypeAlias = Callable[[str], "str | None"]

_BOX: Final = re.compile(r"\\(?:boxed|fbox)\b")
_GSM8K_MARK: Final = "####"


def read_answers(table: Table, spec: TaskSpec) -> list[Item]:
    r"""The question and the gold answer of every row.

    Where any answer of the column ends as a worked solution does (in a ``\boxed{}``, or after ``####``), each must.

    Raises:
        DodonaError: no column of problems or answers, with the columns that there are; or the first row at fault.
    """
    problems = column(table, "--problem-column", spec.problem_column, PROBLEM)
    answers = column(table, "--answer-column", spec.answer_column, ANSWER)
    if problems is None or answers is None or problems == answers:
        missing, option = ("problem", "--problem-column") if problems is None else ("answer", "--answer-column")
        raise DodonaError(
            f"{table.source}: no column is known to be the {missing}; name it with {option}: the columns are "
            f"{', '.join(table.columns)}"
        )
    pairs = [(row, cell_text(table, row, problems), cell_text(table, row, answers)) for row in table.rows]
    ends = _ends_of([answer for _, _, answer in pairs], solutions=answers.lower() == "solution")
    items = []
    for row, problem, answer in pairs:
        gold = ends(answer)
        if not gold:
            raise table.error(row, f"the column {answers!r} ends without an answer{_expected(ends)}")
        items.append(Item(problem, gold))
    return items


def is_gsm8k(table: Table) -> bool:
    """Whether the columns and the first row are GSM8K's."""
    first = table.rows[0].values
    return {"question", "answer"} <= set(table.columns) and _GSM8K_MARK in str(first.get("answer"))


def is_math(table: Table) -> bool:
    """Whether the columns are MATH's or MATH-500's."""
    return {"problem", "solution", "level"} <= set(table.columns)


def _ends_of(answers: list[str], *, solutions: bool) -> Ends:
    if any(_GSM8K_MARK in answer for answer in answers):
        return _after_mark
    if solutions and any(_BOX.search(answer) for answer in answers):
        return _boxed
    return _whole


def _after_mark(answer: str) -> str | None:
    _, mark, gold = answer.rpartition(_GSM8K_MARK)
    return gold.strip() if mark else None


def _boxed(solution: str) -> str | None:
    return _whole(solution) if _BOX.search(solution) else None


def _whole(answer: str) -> str | None:
    there = boxes(answer)
    if there and not any(box.content.strip() for box in there):
        return None
    found = gold_answers(answer)
    return found[0].strip() if found else None


def _expected(ends: Ends) -> str:
    if ends is _after_mark:
        return " after #### as others have"
    return r": it has no \boxed{} as others have" if ends is _boxed else ""
