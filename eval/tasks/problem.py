"""What can be measured: problems with gold answers, which of them are asked for, and how an answer is judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from dodona.engine.errors import DodonaError
from dodona.engine.request import Prompt
from dodona.eval.recipes.recipe import Kind, Recipe

if TYPE_CHECKING:
    from dodona.engine.tokenizer import Tokenizer
    from dodona.eval.grading import Verdict

Level: TypeAlias = int | str


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its gold answer. The same id always means the same question."""

    problem_id: str
    question: str  # for reports; the prompt is what the models read
    prompt: Prompt
    raw: bool  # the prompt is taken as it is, without the chat template
    gold: str  # an answer, or the letter of a choice
    level: Level | None = None
    subject: str | None = None
    choices: tuple[str, ...] = ()  # A, B, ... in this order
    also: tuple[str, ...] = ()  # other spellings of the gold answer that count as right

    @property
    def digest(self) -> str:
        """16 hex digits over prompt and gold answer: whether two problems of one id are one question."""
        prompt = self.prompt if isinstance(self.prompt, str) else list(self.prompt)
        text = json.dumps([prompt, self.raw, self.gold, *self.also], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def encoded(self, tokenizer: Tokenizer, *, raw: bool = False) -> list[int]:
        """The ids of its prompt as the engine makes them, in the chat template unless it is raw.

        Raises:
            DodonaError: the tokenizer or its template refuses it.
        """
        prompt: Any = self.prompt
        if isinstance(prompt, str):
            return tokenizer.encode(prompt, raw=raw or self.raw)
        if prompt and isinstance(prompt[0], Mapping):
            return tokenizer.encode_chat(prompt)
        return list(prompt)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which problems of a task are asked for: first those that pass every filter, then a stretch of them.

    Args:
        num_samples: so many of them; None is all.
        start_index: from this one on, counted from 0 among those that passed the filters.
        ids, levels, subjects: of these only; none named is all.

    Raises:
        DodonaError: a count or an index out of range.
    """

    num_samples: int | None = None
    start_index: int = 0
    ids: tuple[str, ...] = ()
    levels: tuple[Level, ...] = ()
    subjects: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.num_samples is not None and self.num_samples < 1:
            raise DodonaError(f"--num-samples must be 1 or more, or all, not {self.num_samples}")
        if self.start_index < 0:
            raise DodonaError(f"--start-index must be 0 or more, not {self.start_index}")


@dataclass(frozen=True, slots=True)
class Task:
    """A set of problems, the recipe that asks them, and their judge.

    Args:
        name: as records name it.
        kind: whether answers are compared, or letters of choices.
        recipe: how the prompts were made.
        read: the problems in their order: all of them, or at least those that the selection can reach.
        judge: whether a completion solves a problem.
        source: where the problems come from, for reports.
        official: published scores in percent by model alias (1B, 3B, 8B, ...).
        official_source: whose scores these are, and how they were measured.
    """

    name: str
    kind: Kind
    recipe: Recipe
    read: Callable[[Selection], Sequence[Problem]] = field(repr=False)
    judge: Callable[[str, Problem], Verdict] = field(repr=False)
    source: str = ""
    official: Mapping[str, float] = field(default_factory=dict)
    official_source: str = ""

    def load(self, selection: Selection | None = None, *, note: Callable[[str], None] | None = None) -> list[Problem]:
        """The problems that are asked for (default: all); ``note`` is told where there are fewer than that.

        Raises:
            DodonaError: an id, a level, a subject or a start that the task does not have.
        """
        from dodona.eval.tasks.select import select

        selection = selection or Selection()
        return select(self.name, self.read(selection), selection, note)

    def for_model(self, problems: Sequence[Problem], tokenizer: Tokenizer) -> list[Problem]:
        """The problems with the prompts that a model reads: without the system turn that its template adds by itself.

        A recipe that keeps that turn, a raw prompt, and a template that adds none leave them as they are.
        """
        from dodona.eval.recipes.turns import user_turns

        fitted = []
        for problem in problems:
            prompt = None if self.recipe.system_turn or problem.raw else user_turns(problem.prompt, tokenizer)
            fitted.append(problem if prompt is None else replace(problem, prompt=prompt, raw=True))
        return fitted
