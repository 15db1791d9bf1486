"""A recipe: how a question becomes a prompt, and how long and how the answer is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from dodona.engine.request import Prompt

Kind: TypeAlias = Literal["math", "choice"]  # an answer that is compared, or the letter of a choice


class Question(NamedTuple):
    """What a recipe may look at."""

    text: str
    choices: tuple[str, ...] = ()  # A, B, ... in this order
    given: str | None = None  # the exact prompt that the data set's row has, special tokens included


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a question is asked.

    Args:
        name: short and stable; it stands in the records' header, so another wording needs another name.
        kinds: the kinds of task that it can ask for.
        write: the prompt of a question.
        max_new_tokens, temperature, stop: defaults of a run; what the user gives goes first.
        raw: the prompt is the model's input as it is: it has its turns and special tokens already.
        system_turn: leave the system turn that a chat template adds by itself (Llama 3's has dates in it).
    """

    name: str
    kinds: tuple[Kind, ...]
    write: Callable[[Question], Prompt]
    max_new_tokens: int
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    raw: bool = False
    system_turn: bool = False

    def options(self) -> dict[str, Any]:
        """The recipe's defaults as fields of Request."""
        return {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "stop": self.stop}


# The question and nothing else, in whatever turns the model's template has: for models that know the task.
BARE = Recipe("bare", ("math",), lambda question: question.text, max_new_tokens=256, system_turn=True)
