"""Zero-shot recipes for lettered choices. The words are ours, the structure is that of Meta's Llama 3 recipes."""

from __future__ import annotations

from string import ascii_uppercase
from typing import Final

from dodona.engine.request import Prompt
from dodona.eval.recipes.recipe import Question, Recipe

_STEPS: Final = """When the question is simple, answer it with a short explanation and no headings.

When it is not, number the steps and give each a heading:

## Step 1: What this step does
Its reasoning, kept brief.

## Step 2: What this step does
Its reasoning, kept brief.

Either way, your last line must be: The best answer is X
where X is one of the letters {letters}.

Think it through step by step."""
_DIRECT: Final = 'Reply with "The best answer is X" and nothing else, where X is one of the letters {letters}.'


def lettered(choices: tuple[str, ...]) -> str:
    """One choice a line, as ``A. the first``."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False))


def letters_of(choices: tuple[str, ...]) -> str:
    """``A, B, C or D``."""
    letters = ascii_uppercase[: len(choices)]
    return f"{', '.join(letters[:-1])} or {letters[-1]}"


def _asked(question: Question, ending: str) -> Prompt:
    letters = letters_of(question.choices)
    return (
        f"Choose the best of the answers {letters} to the question below.\n\n"
        f"Question: {question.text}\n{lettered(question.choices)}\n\n{ending.format(letters=letters)}"
    )


def _cot(question: Question) -> Prompt:
    return _asked(question, _STEPS)


def _direct(question: Question) -> Prompt:
    return _asked(question, _DIRECT)


GPQA_COT: Final = Recipe("gpqa-cot", ("choice",), _cot, max_new_tokens=2048)
GPQA_DIRECT: Final = Recipe("gpqa-direct", ("choice",), _direct, max_new_tokens=96)
