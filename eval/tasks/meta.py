"""Reads the evaluation details that Meta publishes for its Llama models: the exact prompts and the right answers.

A row's ``input_final_prompts`` holds the prompt that the model was given, with its special tokens. It is used as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Final

from dodona.engine.errors import DodonaError
from dodona.eval.recipes.recipe import Kind
from dodona.eval.tasks.columns import Item, check_unicode, unpacked
from dodona.eval.tasks.spec import TaskSpec
from dodona.eval.tasks.table import Row, Table

PROMPTS: Final = "input_final_prompts"
RESPONSES: Final = "input_correct_responses"
_CHOICE_TASKS: Final = ("gpqa", "mmlu", "arc_", "choice")
_LETTER: Final = re.compile(
    r"(?:.*\b(?:answer|choice|option)\s*(?:is|:)\s*)?[(\[]?([A-Z])[)\]]?\.?", re.IGNORECASE | re.DOTALL
)


def is_meta(table: Table) -> bool:
    """Whether the columns are those of Meta's files."""
    return {PROMPTS, RESPONSES} <= set(table.columns)


def meta_kind(table: Table) -> Kind:
    """Whether the rows are multiple choice: by the lists of choices, the prompts, or the name of the task."""
    if any(_choices(row) for row in table.rows) or "best answer is" in str(table.rows[0].values.get(PROMPTS)):
        return "choice"
    names = " ".join(str(table.rows[0].values.get(name) or "") for name in ("task_name", "subtask_name", "task_type"))
    return "choice" if any(name in names.lower() for name in _CHOICE_TASKS) else "math"


def meta_benchmark(table: Table) -> str | None:
    """The benchmark that the rows belong to, where it is one whose official scores are known."""
    name = str(table.rows[0].values.get("task_name") or "").lower()
    if name.startswith("math") and "hard" not in name:
        return "math"
    return "gpqa" if name.startswith("gpqa") else None


def meta_length(table: Table) -> int | None:
    """The limit of new tokens that the rows agree on."""
    limits = set()
    for row in table.rows:
        config = unpacked(row.values.get("eval_config"))
        limit = config.get("max_gen_len") if isinstance(config, Mapping) else None
        limits.add(str(limit))
    (only,) = limits if len(limits) == 1 else ("",)
    return int(only) if only.isdecimal() and int(only) > 0 else None


def read_meta(table: Table, spec: TaskSpec) -> list[Item]:
    """The exact prompt, the question and the right answers of every row.

    Raises:
        DodonaError: columns that Meta's files have are missing, or a row has no prompt, several, or no answer.
    """
    missing = [name for name in (PROMPTS, RESPONSES) if name not in table.columns]
    if missing:
        raise DodonaError(
            f"{table.source} is no evals file of Meta's: it has no column {missing[0]!r}; it has "
            f"{', '.join(table.columns)}"
        )
    kind = meta_kind(table)
    return [_item(table, row, kind) for row in table.rows]


def _item(table: Table, row: Row, kind: Kind) -> Item:
    prompts = set(_texts(table, row, PROMPTS))
    if len(prompts) > 1:
        raise table.error(row, f"the column {PROMPTS!r} has {len(prompts)} prompts, and one is needed")
    answers = _texts(table, row, RESPONSES)
    if kind == "choice":
        answers = [_letter(table, row, answer) for answer in answers]
    gold, *also = dict.fromkeys(answers)
    question = row.values.get("input_question")
    (prompt,) = prompts
    text = question.strip() if isinstance(question, str) else ""
    check_unicode(table, row, "input_question", text)
    return Item(text, gold, _choices(row), given=prompt, also=tuple(also))


def _letter(table: Table, row: Row, answer: str) -> str:
    match = _LETTER.fullmatch(answer.strip())
    if match is None:
        raise table.error(row, f"the answer {answer!r} in {RESPONSES!r} is no letter of a choice")
    return match[1].upper()


def _texts(table: Table, row: Row, name: str) -> list[str]:
    value = row.values.get(name)
    listed = unpacked(value)
    if isinstance(listed, list) and all(isinstance(text, str) for text in listed):
        value = listed  # else it is an answer that looks like a list: [0, 1]
    values = value if isinstance(value, list | tuple) else [value]
    texts = [str(text) for text in values if isinstance(text, str | int | float) and str(text).strip()]
    if not texts:
        raise table.error(row, f"the column {name!r} is empty")
    check_unicode(table, row, name, "".join(texts))
    return texts


def _choices(row: Row) -> tuple[str, ...]:
    """Lists as they are; of ``{"A": ..., "B": ...}`` the values by letter."""
    value = unpacked(row.values.get("input_choice_list"))
    if isinstance(value, Mapping):
        listed: Sequence[object] = [value[letter] for letter in ascii_uppercase if value.get(letter) is not None]
    else:
        listed = value if isinstance(value, list | tuple) else ()
    return tuple(str(choice).strip() for choice in listed if choice is not None)
