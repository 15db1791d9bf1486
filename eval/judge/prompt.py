"""What a judge reads: a text with placeholders, from the package or from a file of the user's own.

Placeholders are ``{question}``, ``{answer_a}`` (the answer that is shown first), ``{answer_b}``, ``{context}`` and
``{reference}``; ``{{`` and ``}}`` stand for braces where a name between them would be taken for a placeholder. A
paragraph (up to the next empty line) with ``{context}`` in it is left out where there is no context.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from dodona.engine.errors import DodonaError
from dodona.eval.judge.pair import Ask

NEEDED: Final = ("question", "answer_a", "answer_b")
OPTIONAL: Final = ("context", "reference")
NAMES: Final = ("similarity", "helpfulness", "helpfulness-reference")  # that come with dodona

_PLACEHOLDER: Final = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PARAGRAPHS: Final = re.compile(r"(\n[ \t]*\n[\s]*)")


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """A prompt with placeholders.

    Args:
        name: of the prompt, or its file, for records and errors.
        text: with the placeholders in it.

    Raises:
        DodonaError: a placeholder is missing, unknown or there twice.
    """

    name: str
    text: str

    def __post_init__(self) -> None:
        found = [match[1] for match in _PLACEHOLDER.finditer(self.text) if match[1]]
        known = (*NEEDED, *OPTIONAL)
        for name in found:
            if name not in known:
                there = ", ".join(f"{{{one}}}" for one in known)
                raise DodonaError(
                    f"--prompt-file {self.name}: there is no placeholder {{{name}}}: there are {there}; "
                    f"{{{{{name}}}}} stands for the text itself"
                )
            if found.count(name) > 1:
                raise DodonaError(f"--prompt-file {self.name} has the placeholder {{{name}}} twice")
        if missing := [name for name in NEEDED if name not in found]:
            listed = " and ".join(f"{{{name}}}" for name in missing)
            raise DodonaError(f"--prompt-file {self.name} has no placeholder {listed}")

    @property
    def needs_reference(self) -> bool:
        """Whether it shows the true answer."""
        return any(match[1] == "reference" for match in _PLACEHOLDER.finditer(self.text))

    @property
    def digest(self) -> str:
        """16 hex digits over the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def render(self, ask: Ask) -> str:
        """The prompt of one pair in one order; nothing in the texts that are put in is a placeholder."""
        texts = {"question": ask.question, "answer_a": ask.first, "answer_b": ask.second}
        texts |= {"context": ask.context or "", "reference": ask.reference or ""}
        return filled(self.text, texts)


def filled(template: str, texts: Mapping[str, str]) -> str:
    """A template with its placeholders replaced, without the paragraphs whose optional ones have no text."""
    parts = _PARAGRAPHS.split(template.strip())
    kept: list[str] = []
    for index in range(0, len(parts), 2):
        names = {match[1] for match in _PLACEHOLDER.finditer(parts[index])}
        if any(name in OPTIONAL and not texts.get(name) for name in names):
            continue
        kept += [parts[index - 1]] if kept else []
        kept.append(_PLACEHOLDER.sub(lambda match: texts[match[1]] if match[1] else match[0][0], parts[index]))
    return "".join(kept)


def load_prompt(name: str | None, file: str | None, *, reference: bool) -> JudgePrompt:
    """The prompt that the options ask for.

    Args:
        name: one of ``NAMES``; None: similarity where there are true answers, else helpfulness.
        file: the user's own, instead.
        reference: whether the pairs have true answers.

    Raises:
        DodonaError: there is no such prompt or file, its placeholders are wrong, or it shows true answers and the pairs
            have none.
    """
    if file is not None:
        if name is not None:
            raise DodonaError("--prompt names a prompt of dodona's and --prompt-file one of your own: give one of them")
        prompt = JudgePrompt(Path(file).name, _read(file))
    else:
        chosen = name or ("similarity" if reference else "helpfulness")
        if chosen not in NAMES:
            raise DodonaError(f"there is no prompt {chosen!r}: --prompt takes {', '.join(NAMES)}")
        folder = resources.files("dodona.eval.judge") / "prompts"
        prompt = JudgePrompt(chosen, (folder / f"{chosen}.txt").read_text(encoding="utf-8"))
    if prompt.needs_reference and not reference:
        raise DodonaError(f"the prompt {prompt.name} shows the true answer, and there is none: name --reference-column")
    return prompt


def _read(file: str, option: str = "--prompt-file") -> str:
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DodonaError(f"{option} {file} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DodonaError(f"{option} {file} is not UTF-8") from error


def load_answer_prompt(file: str) -> str:
    """A user's own way to ask models for answers.

    Raises:
        DodonaError: it cannot be read, or lacks ``{question}``, or has a placeholder beside it and ``{context}``.
    """
    text = _read(file, "--answer-prompt-file")
    found = [match[1] for match in _PLACEHOLDER.finditer(text) if match[1]]
    for name in found:
        if name not in ("question", "context"):
            raise DodonaError(
                f"--answer-prompt-file {file}: there is no placeholder {{{name}}}: there are {{question}} and "
                "{context}"
            )
    if "question" not in found:
        raise DodonaError(f"--answer-prompt-file {file} has no placeholder {{question}}")
    return text
