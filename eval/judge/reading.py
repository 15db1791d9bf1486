"""Reads pairs from a file of rows: which column is what, and what a cell means."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dodona.engine.errors import DodonaError
from dodona.eval.judge.pair import Pair, Winner
from dodona.eval.tasks.columns import ROW_NUMBERS, column, written
from dodona.eval.tasks.files import read_file, stem_of
from dodona.eval.tasks.table import Row, Table

# The names that are looked for where no option says one, in this order, whatever their case.
QUESTION: Final = ("question", "instruction", "prompt", "problem", "input")
CONTEXT: Final = ("context", "passage")
REFERENCE: Final = ("true_answer", "reference", "ground_truth", "gold", "target", "answer")
ANSWER_A: Final = ("answer_a", "output_1", "response_a", "answer_1", "model_a_answer", "a")
ANSWER_B: Final = ("answer_b", "output_2", "response_b", "answer_2", "model_b_answer", "b")
HUMAN: Final = ("human", "human_label", "human_verdict")
ID: Final = ("pair_id", "id", "problem_id", "question_id")

_HUMAN_A: Final = frozenset({"a", "answer_a", "model_a", "output_1", "first", "1", "left"})
_HUMAN_B: Final = frozenset({"b", "answer_b", "model_b", "output_2", "second", "2", "right"})
_HUMAN_TIE: Final = frozenset({"c", "tie", "draw", "equal", "both", "neither", "1.5", "0", "tie (bothbad)"})


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that the options name; None: looked for by name."""

    question: str | None = None
    context: str | None = None
    reference: str | None = None
    answer_a: str | None = None
    answer_b: str | None = None
    human: str | None = None
    preference: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Input:
    """Pairs as they were asked for, and what is known of all of them."""

    source: str  # for reports
    name: str  # for files
    pairs: Sequence[Pair]
    names: tuple[str, str] = ("a", "b")  # of the two sides
    choices: bool = False  # true answers are letters of choices

    @property
    def has_references(self) -> bool:
        """Whether any pair has a true answer."""
        return any(pair.reference is not None for pair in self.pairs)


def read_pairs(
    path: Path, columns: Columns, *, sides: tuple[bool, bool] = (True, True), start: int = 0, count: int | None = None
) -> Input:
    """The pairs of a file, of which ``count`` from ``start`` on are asked for.

    Args:
        sides: whether each side's answers are in the file; else a model is to write them.

    Raises:
        DodonaError: the file cannot be read, a column is missing, a cell holds what it cannot, or an id is there twice.
    """
    table = Table(stem_of(path), str(path), read_file(path))
    has_preference = columns.preference is not None

    def find(option: str, named: str | None, known: Sequence[str], *, needed: bool = False) -> str | None:
        found = column(table, option, named, known)
        if found is None and needed:
            raise DodonaError(
                f"{path} has no column named {', '.join(known[:3])} or the like: name it with {option}; it has "
                f"{', '.join(table.columns)}"
            )
        return found

    named = {
        "question": find("--question-column", columns.question, QUESTION, needed=not has_preference),
        "context": find("--context-column", columns.context, CONTEXT),
        "answer_a": find("--answer-a-column", columns.answer_a, ANSWER_A, needed=sides[0] and not has_preference),
        "answer_b": find("--answer-b-column", columns.answer_b, ANSWER_B, needed=sides[1] and not has_preference),
        "reference": find("--reference-column", columns.reference, REFERENCE),
    }
    for side, wanted in zip(("answer_a", "answer_b"), sides, strict=True):
        if not wanted:
            named[side] = None
    if columns.reference is None and named["reference"] in (named["answer_a"], named["answer_b"]):
        named["reference"] = None
    taken = [name for name in named.values() if name is not None]
    for name in taken:
        if taken.count(name) > 1:
            raise DodonaError(f"{path}: the column {name!r} is named for two things")
    human = find("--human-column", columns.human, HUMAN)
    preference = find("--preference-column", columns.preference, ()) if has_preference else None
    key = _key(table, columns.id)
    if start >= len(table.rows) or start < 0:
        raise DodonaError(f"--start-index {start} is none of the {len(table.rows)} rows of {path}")
    pairs: list[Pair] = []
    seen: dict[str, str] = {}
    for row in table.rows[start : None if count is None else start + count]:
        pair_id = key(row)
        if pair_id in seen:
            raise DodonaError(f"{path}: {seen[pair_id]} and {row.place} have the same id {pair_id!r}")
        seen[pair_id] = row.place
        texts = {field: None if name is None else _text(table, row, name) for field, name in named.items()}
        value, fault = (None, None) if preference is None else _preference(row.values.get(preference))
        pairs.append(
            Pair(
                pair_id,
                texts["question"],
                texts["answer_a"],
                texts["answer_b"],
                context=texts["context"],
                reference=texts["reference"],
                human=None if human is None else _human(table, row, human),
                preference=value,
                no_preference=fault,
            )
        )
    names = tuple(_side(table, named[side], letter) for side, letter in (("answer_a", "a"), ("answer_b", "b")))
    return Input(str(path), table.name, pairs, (names[0], names[1]))


def _key(table: Table, named: str | None) -> Callable[[Row], str]:
    """What gives a row its id: the column that is named, a known one whose values are all different, or numbers."""
    numbers = {id(row): f"row-{number}" for number, row in enumerate(table.rows, 1)}
    if named == ROW_NUMBERS and ROW_NUMBERS not in table.columns:
        return lambda row: numbers[id(row)]
    found = column(table, "--id-column", named, ID)
    if found is None:
        return lambda row: numbers[id(row)]
    if named is None:
        values = [_text(table, row, found) for row in table.rows]
        if None in values or len(set(values)) < len(values):
            return lambda row: numbers[id(row)]

    def key(row: Row) -> str:
        text = _text(table, row, found)
        if text is None:
            raise table.error(row, f"the column {found!r} is empty, and it is the pair's id")
        return text.strip()

    return key


def _text(table: Table, row: Row, name: str) -> str | None:
    """A cell as it is written; None where there is nothing in it but white space."""
    text = written(table, row, name) or ""
    text = text.encode(errors="replace").decode()  # half of a surrogate pair can be written nowhere
    return text if text.strip() else None


def _human(table: Table, row: Row, name: str) -> Winner | None:
    text = _text(table, row, name)
    if text is None:
        return None
    word = text.strip().lower().removesuffix(".0")
    labels: tuple[tuple[Winner, frozenset[str]], ...] = (("a", _HUMAN_A), ("b", _HUMAN_B), ("tie", _HUMAN_TIE))
    for winner, words in labels:
        if word in words:
            return winner
    raise table.error(row, f"the column {name!r} says {text.strip()[:40]!r}, and a person's verdict is a, b or tie")


def _preference(value: Any) -> tuple[float | None, str | None]:
    """A preference of 1 to 2, or why there is none."""
    if isinstance(value, str) and value.strip():
        try:
            value = float(value)
        except ValueError:
            return None, f"the preference {value.strip()[:40]!r} is no number"
    if value is None or isinstance(value, str) or (isinstance(value, float) and math.isnan(value)):
        return None, "no preference"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None, f"the preference is a {type(value).__name__}"
    if not 1 <= value <= 2:
        return None, f"the preference {value:g} is not between 1 and 2"
    return float(value), None


_GENERATOR: Final[Mapping[str, str]] = {"a": "generator_1", "b": "generator_2"}


def _side(table: Table, name: str | None, letter: str) -> str:
    """What a side is called: the one value of the column of model names that such files have, else its column."""
    generator = _GENERATOR[letter]
    if generator in table.columns:
        values = {row.values.get(generator) for row in table.rows}
        if len(values) == 1 and isinstance(value := values.pop(), str) and value.strip():
            return value.strip()
    return letter if name is None else name
