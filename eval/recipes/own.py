"""Recipes that come from files: a prompt that the user wrote, and the exact prompts of Meta's evals files."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

from dodona.engine.errors import DodonaError
from dodona.engine.request import Prompt
from dodona.eval.recipes.choice import lettered
from dodona.eval.recipes.recipe import Kind, Question, Recipe

LONGEST_ANSWER: Final[dict[Kind, int]] = {"math": 5120, "choice": 2048}
_PLACE: Final = re.compile(r"\{(problem|choices)\}")


def recipe_from(path: str, kind: Kind) -> Recipe:
    """The recipe of a prompt file: its text, with ``{problem}`` and, for multiple choice, ``{choices}`` filled in.

    Any other brace is text, so LaTeX needs no escapes. White space around the whole text is left out. The recipe's name
    is ``own-`` and a hash of the text: another text is another recipe.

    Raises:
        DodonaError: the file cannot be read, or a placeholder is missing or has nothing to stand for.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig").replace("\r\n", "\n").strip()
    except OSError as error:
        raise DodonaError(f"--prompt-file: {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DodonaError(f"--prompt-file: {path} is not UTF-8") from error
    places = set(_PLACE.findall(text))
    if "problem" not in places:
        raise DodonaError(f"--prompt-file: {path} has no {{problem}} where the question would stand")
    if kind == "choice" and "choices" not in places:
        raise DodonaError(f"--prompt-file: {path} has no {{choices}}, and these problems have choices")
    if kind != "choice" and "choices" in places:
        raise DodonaError(f"--prompt-file: {path} has {{choices}}, and these problems have none")

    def write(question: Question) -> Prompt:
        parts = {"problem": question.text, "choices": lettered(question.choices)}
        return _PLACE.sub(lambda place: parts[place[1]], text)

    name = f"own-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return Recipe(name, (kind,), write, max_new_tokens=LONGEST_ANSWER[kind])


def meta_recipe(kind: Kind, max_new_tokens: int | None) -> Recipe:
    """The exact prompts of a file of Meta's, with the length limit that the file states."""
    return Recipe("meta", (kind,), _given, max_new_tokens=max_new_tokens or LONGEST_ANSWER[kind], raw=True)


def _given(question: Question) -> Prompt:
    assert question.given is not None
    return question.given
