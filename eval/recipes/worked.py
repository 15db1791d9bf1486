r"""Recipes for problems with an answer in a box. The words are ours; the structure is that of Meta's Llama 3 recipes.

Zero-shot chain of thought in one user turn: a short solution for a simple problem, numbered headings for others, and in
both the answer in a box on the last line. Source of the structure: the prompts in Meta's published Llama 3.1 evals.
"""

from __future__ import annotations

from typing import Final

from dodona.engine.request import Prompt
from dodona.eval.recipes.examples import EXAMPLES
from dodona.eval.recipes.recipe import Question, Recipe

_MATH: Final = r"""Find the answer to the math problem below.

When one or two steps are enough, write a short solution and no headings.

When it takes more, number the steps and give each a heading:

## Step 1: What this step does
Its reasoning and calculation, kept brief.

## Step 2: What this step does
Its reasoning and calculation, kept brief.

Either way, your last line must be this one, with the final number or expression and nothing else in the box:

The final answer is $\boxed{...}$

Problem: """

_GSM8K_BEFORE: Final = "Read the problem, reason about it and work out its answer.\n\nProblem: "
_GSM8K_AFTER: Final = '\n\nFinish with the line "The final answer is \\boxed{N}", where N is the number asked for.'


def _math(question: Question) -> Prompt:
    return _MATH + question.text


def _gsm8k(question: Question) -> Prompt:
    return _GSM8K_BEFORE + question.text + _GSM8K_AFTER


def _gsm8k_8_shot(question: Question) -> Prompt:
    turns: list[dict[str, str]] = []
    for example in EXAMPLES:
        solution = f"{example.solution} The final answer is \\boxed{{{example.answer}}}"
        turns.append({"role": "user", "content": str(_gsm8k(Question(example.problem)))})
        turns.append({"role": "assistant", "content": solution})
    turns.append({"role": "user", "content": str(_gsm8k(question))})
    return tuple(turns)


MATH: Final = Recipe("math", ("math",), _math, max_new_tokens=5120)
GSM8K: Final = Recipe("gsm8k", ("math",), _gsm8k, max_new_tokens=1024)
GSM8K_8_SHOT: Final = Recipe("gsm8k-8-shot", ("math",), _gsm8k_8_shot, max_new_tokens=1024)
