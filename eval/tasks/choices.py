"""Reads tables of questions with lettered choices: GPQA's files, and any with columns of choices."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Final, NamedTuple

from dodona.engine.errors import DodonaError
from dodona.eval.tasks.columns import ANSWER, CHOICES, PROBLEM, Item, cell_text, check_unicode, column, unpacked
from dodona.eval.tasks.spec import TaskSpec
from dodona.eval.tasks.table import Row, Table

GPQA_QUESTION: Final = "Question"
GPQA_CORRECT: Final = "Correct Answer"
GPQA_WRONG: Final = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
GPQA_ID: Final = "Record ID"


def is_gpqa(table: Table) -> bool:
    """Whether the columns are GPQA's."""
    return {GPQA_QUESTION, GPQA_CORRECT, *GPQA_WRONG} <= set(table.columns)


def read_gpqa(table: Table, spec: TaskSpec) -> list[Item]:
    """GPQA's rows, with their choices in an order that hides the right one.

    A row's order is given by its record id and the seed alone: not by other rows, nor by Python's version.

    Raises:
        DodonaError: columns that GPQA's files have are missing, or a cell is empty; with the row.
    """
    missing = [name for name in (GPQA_QUESTION, GPQA_CORRECT, *GPQA_WRONG) if name not in table.columns]
    if missing:
        raise DodonaError(
            f"{table.source} is no GPQA file: it has no column {missing[0]!r}; it has {', '.join(table.columns)}"
        )
    items = []
    for row in table.rows:
        question = cell_text(table, row, GPQA_QUESTION)
        answers = [cell_text(table, row, name) for name in (GPQA_CORRECT, *GPQA_WRONG)]
        record = str(row.values.get(GPQA_ID) or question)
        order = shuffled(len(answers), f"{spec.shuffle_seed}|{record}")
        items.append(Item(question, ascii_uppercase[order.index(0)], choices=tuple(answers[index] for index in order)))
    return items


def shuffled(count: int, key: str) -> list[int]:
    """The numbers below ``count`` in an order that is a pure function of the key."""
    return sorted(range(count), key=lambda i: hashlib.sha256(f"{key}|{i}".encode()).digest())


def has_choices(table: Table) -> bool:
    """Whether a column is known to hold lists of choices."""
    name = column(table, "--choice-columns", None, CHOICES)
    return name is not None and _listed(table.rows[0].values.get(name)) is not None


def read_choices(table: Table, spec: TaskSpec) -> list[Item]:
    """Questions with choices in columns of their own, or in one column of lists, in the order they have there.

    The gold answer is a label of ARC's, a letter, the text of one of the choices, or a choice's number from 0. A column
    of numbers that are not all texts of choices is one of such numbers, also in the rows whose choices are numbers.

    Raises:
        DodonaError: no column of problems, answers or choices; or the first row whose answer is no choice.
    """
    problems = column(table, "--problem-column", spec.problem_column, PROBLEM)
    answers = column(table, "--answer-column", spec.answer_column, (*ANSWER, "answerkey"))
    if spec.choice_columns:
        named = [column(table, "--choice-columns", name) for name in spec.choice_columns]
    else:
        named = [column(table, "--choice-columns", None, CHOICES)]
    columns = [name for name in named if name is not None]
    for name, option in ((problems, "--problem-column"), (answers, "--answer-column"), (columns, "--choice-columns")):
        if not name:
            raise DodonaError(f"{table.source}: say with {option} which of the columns: {', '.join(table.columns)}")
    assert problems is not None and answers is not None
    read = [
        (row, cell_text(table, row, problems), _choices_of(table, row, columns), cell_text(table, row, answers))
        for row in table.rows
    ]
    counted = all(answer.isdecimal() for *_, answer in read) and any(
        answer not in choices.texts for _, _, choices, answer in read
    )
    return [
        Item(question, _letter(table, row, answer, choices, counted), choices=choices.texts)
        for row, question, choices, answer in read
    ]


class _Choices(NamedTuple):
    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()  # as ARC has them: A to D, or 1 to 4


def _choices_of(table: Table, row: Row, columns: Sequence[str]) -> _Choices:
    if len(columns) > 1:
        choices = _Choices(tuple(cell_text(table, row, name) for name in columns))
    else:
        listed = _listed(row.values.get(columns[0]))
        if listed is None:
            raise table.error(row, f"the column {columns[0]!r} has no list of choices in it")
        choices = listed
        check_unicode(table, row, columns[0], "".join(choices.texts))
    if not 2 <= len(choices.texts) <= len(ascii_uppercase) or not all(choices.texts):
        raise table.error(row, f"it needs 2 to {len(ascii_uppercase)} choices that are not empty")
    return choices


def _listed(value: object) -> _Choices | None:
    """Choices as a list, or as ARC's ``{"text": [...], "label": [...]}``."""
    given = unpacked(value)
    texts, labels = (given.get("text"), given.get("label")) if isinstance(given, Mapping) else (given, ())
    if not isinstance(texts, list | tuple):
        return None
    return _Choices(
        tuple(str(text).strip() for text in texts), tuple(map(str, labels)) if isinstance(labels, list | tuple) else ()
    )


def _letter(table: Table, row: Row, text: str, choices: _Choices, counted: bool) -> str:
    """The gold answer's letter; ``counted``: the column holds numbers of choices."""
    letters = ascii_uppercase[: len(choices.texts)]
    bare = text.strip("().").upper()
    if len(choices.labels) == len(letters) and text in choices.labels:
        return letters[choices.labels.index(text)]
    if len(bare) == 1 and bare in letters:
        return bare
    if text in choices.texts and not counted:
        return letters[choices.texts.index(text)]
    if text.isdecimal() and int(text) < len(letters):
        return letters[int(text)]
    raise table.error(
        row,
        f"the answer {text!r} is none of its choices: it must be a letter up to {letters[-1]}, a choice's text, or "
        f"its number from 0 to {len(choices) - 1}",
    )
