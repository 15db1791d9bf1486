"""The embedded arithmetic problems as a task: what the pair that comes with dodona was trained for."""

from __future__ import annotations

import re
from typing import Final

from dodona.eval.arith.problems import LEVELS, held_out_problems
from dodona.eval.boxed import last_boxed, same_integer
from dodona.eval.grading import Verdict
from dodona.eval.recipes.recipe import BARE, Question, Recipe
from dodona.eval.tasks.problem import Problem, Selection, Task

MOST: Final = 50_000  # level 1 has some 15,000 questions; drawing different ones gets slow before they run out


def arith_task(recipe: Recipe = BARE) -> Task:
    """The held-out problems, levels taken in turn, judged by the integer in the last box."""

    def read(selection: Selection) -> list[Problem]:
        # A prefix of the list of all levels, so that an id means one problem whichever levels were asked for.
        return [
            Problem(
                problem_id=problem.problem_id,
                question=problem.question,
                prompt=recipe.write(Question(problem.question)),
                raw=recipe.raw,
                gold=problem.answer,
                level=problem.level,
            )
            for problem in held_out_problems(_reach(selection))
        ]

    return Task("arith", "math", recipe, read, judge, source="the arithmetic problems that come with dodona")


def judge(completion: str, problem: Problem) -> Verdict:
    """Whether the last box has the right integer."""
    answer = last_boxed(completion)
    if answer is None:
        return Verdict(False, None, "", "no box was found")
    correct = same_integer(answer, problem.gold)
    return Verdict(correct, answer, "integer", "the same integer" if correct else "not the same integer")


def _reach(selection: Selection) -> int:
    """How many problems from the start hold the selection."""
    if selection.ids:
        named = [
            re.fullmatch(r"\s*arith-0-([0-9]{1,6})\s*", part) for text in selection.ids for part in text.split(",")
        ]
        return min(MOST, max([0, *(int(match[1]) for match in named if match)]) + len(LEVELS))
    if selection.num_samples is None:
        return MOST
    # Each level has every fifth place.
    last = selection.start_index + selection.num_samples
    return min(MOST, last * len(LEVELS) if selection.levels else -(-last // len(LEVELS)) * len(LEVELS))
