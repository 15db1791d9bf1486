"""The answer checker: which answers are the gold answer, and where a completion has its answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from grading_completions import COMPLETIONS
from grading_golds import GOLDS
from grading_pairs import PAIRS

from dodona.engine.errors import DodonaError
from dodona.eval.grading import check


@pytest.mark.parametrize("trap", PAIRS)
def test_right_answers_are_accepted_and_wrong_ones_are_not(trap: str) -> None:
    """Each trap both ways: what string matching rejects, and what approximate or careless comparison accepts."""
    rejected = [(case.gold, answer) for case in PAIRS[trap] for answer in case.right if not check(answer, case.gold)[0]]
    accepted = [(case.gold, answer) for case in PAIRS[trap] for answer in case.wrong if check(answer, case.gold)[0]]
    assert (rejected, accepted) == ([], [])


def test_the_table_covers_every_trap_both_ways() -> None:
    """A trap without wrong answers is passed by a checker that says yes to all."""
    assert sum(len(case.right) for cases in PAIRS.values() for case in cases) > 1000
    for trap, cases in PAIRS.items():
        assert sum(len(case.right) for case in cases) >= 8, trap
        assert sum(len(case.wrong) for case in cases) >= 5 or trap == "other dress", trap


@pytest.mark.parametrize(("completion", "gold", "right"), COMPLETIONS)
def test_the_answer_is_found_in_a_completion(completion: str, gold: str, right: bool) -> None:
    """The last box, else what follows "the answer is" or ####, else a bare answer; not some number before it."""
    assert check(completion, gold).correct is right, check(completion, gold)


@pytest.mark.parametrize(
    "write",
    [
        lambda gold: gold,
        lambda gold: f"  {gold}\n",
        lambda gold: rf"Thus the answer is $\boxed{{{gold}}}$.",
        lambda gold: f"Some words.\n#### {gold}",
        lambda gold: f"Final Answer: The final answer is ${gold}$. I hope it is correct.",
        lambda gold: gold.replace(r"\frac", r"\dfrac").replace(" ", "  "),
    ],
    ids=["bare", "spaced", "boxed", "marked", "stated", "dressed"],
)
def test_every_gold_answer_equals_itself(write: Callable[[str], str]) -> None:
    """One popular harness gave 94 %: odd LaTeX that a parser cannot read must still equal itself."""
    assert len(GOLDS) > 200
    assert [gold for gold in GOLDS if not check(write(gold), gold).correct] == []
    solutions = [rf"We find that it is \boxed{{{gold}}}." for gold in GOLDS]
    assert [gold for gold, text in zip(GOLDS, solutions, strict=True) if not check(write(gold), text).correct] == []


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("42", "42"),
        (r"We add: $40 + 2 = \boxed{42}$.", "42"),
        ("Tom has 40 + 2 = <<40+2=42>>42 apples.\n#### 42", "42"),
        ("#### 1,234", "1234"),
        (r"so \boxed{1} and \boxed{2}.", "1, 2"),
        (r"the numbers are \boxed 7.", "7"),
    ],
)
def test_a_gold_answer_may_be_a_worked_solution(gold: str, answer: str) -> None:
    """MATH's solutions have their answer in a box, and GSM8K's after ####."""
    assert check(answer, gold).correct
    assert not check("43", gold).correct


def test_a_solution_with_two_boxes_wants_both() -> None:
    """The last box alone would accept half of an answer."""
    assert not check("2", r"so \boxed{1} and \boxed{2}.").correct


def test_the_verdict_says_what_was_read_and_how() -> None:
    """Records keep these; an answer that was not found is None, and not an empty text."""
    assert check(r"so \boxed{\frac{2}{4}}", "0.5") == (True, r"\frac{2}{4}", "exact", "equal numbers")
    assert check("5", "5").method == "text"
    assert check(r"\sqrt{8}", r"2\sqrt2").method == "numeric"
    assert check("(1,2)", "[1,2]").method == "structure"
    assert check(r"\int_0^1 x\,dx", r"\frac12") == (
        True,
        r"\int_0^1 x\,dx",
        "math-verify",
        "Math-Verify calls them equal",
    )
    assert check("", "5") == (False, None, "", "no answer was found")
    assert check(r"\boxed{}", "5").extracted is None
    assert check("It is 5.\nThe answer is:\n\\[\n\\boxed", "5").extracted is None


@pytest.mark.parametrize("gold", ["", "  ", "\n", "#### ", r"\boxed{}"])
def test_an_empty_gold_answer_is_an_error(gold: str) -> None:
    """Everything, or nothing, would be right; it is a fault of the data set."""
    with pytest.raises(DodonaError, match="the gold answer is empty"):
        check("5", gold)


def test_a_decimal_for_an_irrational_number_needs_six_places() -> None:
    """The rule stands in the docstring: rounded or cut off, six places or more, irrational gold answers only."""
    assert check("1.414214", r"\sqrt{2}").correct
    assert check("1.4142135", r"\sqrt{2}").correct  # cut off
    assert check("1.4142136", r"\sqrt{2}").correct  # rounded
    assert not check("1.4142137", r"\sqrt{2}").correct
    assert not check("1.41421", r"\sqrt{2}").correct
    assert not check(r"\sqrt{2}", "1.414214").correct
    assert not check("0.333333333", r"\frac13").correct
    assert not check("0.000000", r"\pi\cdot10^{-9}").correct


def test_reasoning_between_marks_is_no_answer() -> None:
    """Reasoning models try answers before they give one."""
    assert check(r"<think>maybe \boxed{3}</think> So it is \boxed{4}.", "4").correct
    assert not check(r"<think>maybe \boxed{3}</think> So it is \boxed{4}.", "3").correct
    assert check(r"<think>it is \boxed{3}</think>", "3").correct
