"""Answers in classes of equal ones, so that 1/2 and 0.5 are votes for one answer.

Whether two answers are equal is for the answer checker to say, and that is no equivalence relation: a unit may be left
out, so 5 equals 5 cm and 5 kg, which differ. The rule here: answers are taken in their order, and each joins the oldest
class whose first answer it equals, or begins a class. So a class is always equal to the answer that it began with, and
answers that are added later change no class that is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.eval.diversity.votes import SILENT

Array = np.ndarray[Any, Any]
Equal = Callable[[str, str], bool]

_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]*")


def same_answer(one: str, other: str) -> bool:
    """Whether the answer checker takes one for the other, whichever is the gold answer."""
    if _INTEGER.fullmatch(one) and _INTEGER.fullmatch(other):
        return one == other  # most answers are integers, and the checker takes a millisecond to say so
    from dodona.eval.grading import check

    def is_right(answer: str, gold: str) -> bool:
        try:
            return check(_boxed(answer), gold).correct
        except DodonaError:  # an answer that nothing can be compared with
            return False

    return is_right(one, other) or is_right(other, one)


def same_letter(one: str, other: str) -> bool:
    """Whether two choices are the same one."""
    return one.strip().strip("()").upper() == other.strip().strip("()").upper()


def classes_of(answers: Sequence[str | None], equal: Equal = same_answer) -> Array:
    """[n] int64: each answer's class, from 0 in the order of first appearance; ``SILENT`` where there is no answer.

    Args:
        answers: None, or an empty text, is no answer.
        equal: whether two answers that are not the same text are equal.
    """
    firsts: list[str] = []
    known: dict[str, int] = {}
    found = []
    for answer in answers:
        if answer is None or not answer.strip():
            found.append(SILENT)
            continue
        text = answer.strip()
        if text not in known:
            known[text] = next((number for number, first in enumerate(firsts) if equal(first, text)), len(firsts))
            if known[text] == len(firsts):
                firsts.append(text)
        found.append(known[text])
    return np.array(found, dtype=np.int64)


def _boxed(answer: str) -> str:
    """The answer as a completion has it, so that all of it is read."""
    return answer if "\\boxed" in answer else f"\\boxed{{{answer}}}"
