"""What can be measured: problems with gold answers, and how an answer is read and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from dodona.engine.errors import DodonaError
from dodona.eval.arith.problems import LEVELS, held_out_problems
from dodona.eval.boxed import last_boxed, same_integer


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its gold answer. The same id always means the same question."""

    problem_id: str
    level: int
    prompt: str
    gold: str


@dataclass(frozen=True, slots=True)
class Task:
    """A set of problems and its judge."""

    name: str
    levels: tuple[int, ...]
    load: Callable[[int, int, Sequence[int]], list[Problem]]  # (start, count, levels)
    parse: Callable[[str], str | None]  # the answer in a completion, or None
    is_correct: Callable[[str | None, str], bool]  # (answer, gold)

    def problems(self, count: int, *, start: int = 0, levels: Sequence[int] = ()) -> list[Problem]:
        """``count`` problems from index ``start`` on, of these levels only (none named: all).

        Raises:
            DodonaError: a count, an index or a level that the task does not have.
        """
        if count < 1:
            raise DodonaError(f"the number of problems must be 1 or more, not {count}")
        if start < 0:
            raise DodonaError(f"the start index must be 0 or more, not {start}")
        for level in levels:
            if level not in self.levels:
                raise DodonaError(f"{self.name} has the levels {', '.join(map(str, self.levels))}, not {level}")
        return self.load(start, count, sorted(set(levels)) or self.levels)


def _load_arith(start: int, count: int, levels: Sequence[int]) -> list[Problem]:
    # From the list of all levels, so that an id means one problem whichever levels were asked for. Levels take turns.
    rounds = -(-(start + count) // len(levels))
    drawn = [problem for problem in held_out_problems(rounds * len(LEVELS)) if problem.level in levels]
    return [Problem(p.problem_id, p.level, p.question, p.answer) for p in drawn[start : start + count]]


TASKS: Final[Mapping[str, Task]] = MappingProxyType(
    {"arith": Task("arith", LEVELS, _load_arith, last_boxed, same_integer)}
)
