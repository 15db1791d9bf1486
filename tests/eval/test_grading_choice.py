"""The letter that a completion chooses."""

from __future__ import annotations

import string

import pytest
from grading_completions import CHOICES
from hypothesis import given
from hypothesis import strategies as st

from dodona.engine.errors import DodonaError
from dodona.eval.grading import check_choice


@pytest.mark.parametrize(("completion", "letter"), CHOICES)
def test_the_chosen_letter_is_found_and_prose_is_not_taken_for_one(completion: str, letter: str | None) -> None:
    """The first capital, or any A, would be a choice that nobody made."""
    verdict = check_choice(completion, letter or "A")
    assert verdict.extracted == letter
    assert verdict.correct is (letter is not None)
    other = "B" if letter != "B" else "C"
    assert not check_choice(completion, other).correct


@pytest.mark.parametrize("letter", string.ascii_uppercase)
@pytest.mark.parametrize(
    "form",
    ["The best answer is {}.", "the best answer is {}", "Answer: {}", r"\boxed{{{}}}", "({})", "**{}**", "{})", "{}"],
)
def test_every_letter_from_a_to_z_can_be_chosen(form: str, letter: str) -> None:
    """Ten choices go to J; a pattern for A to D calls the others unparsed."""
    assert check_choice(form.format(letter), letter).correct
    assert check_choice(form.format(letter), f"({letter.lower()})").correct
    assert not check_choice(form.format(letter), "A" if letter != "A" else "B").correct


@pytest.mark.parametrize("letter", ["", "AB", "1", "Ä", " ", "()"])
def test_a_letter_that_is_none_is_an_error(letter: str) -> None:
    """A gold answer such as 12 in a file of letters is a mistake of the file's."""
    with pytest.raises(DodonaError, match="is one of A to Z"):
        check_choice("A", letter)


def test_the_last_statement_counts() -> None:
    """Models change their minds, and go through the wrong choices first."""
    text = "The best answer is A? No. B is wrong, too.\n\nThe best answer is C. (D would need more.)"
    assert check_choice(text, "C").correct
    assert check_choice("The best answer is A.\n\nTherefore, the best answer is D", "D").correct


def test_two_letters_are_no_choice() -> None:
    """A hedge would otherwise be right half of the time."""
    for text in ("The answer is A or B.", "the best answer is either A or B", r"\boxed{A, B}", "Answer: A and C"):
        assert check_choice(text, "A").extracted is None


@given(st.text(max_size=80), st.sampled_from("ABCD"))
def test_a_statement_at_the_end_wins_over_any_text(before: str, letter: str) -> None:
    """Whatever comes before it, braces and boxes that do not close included."""
    assert check_choice(f"{before}\n\nThe best answer is {letter}.", letter).correct


@given(st.text(max_size=200))
def test_any_text_gives_a_verdict(text: str) -> None:
    """An exception ends an evaluation of hours."""
    assert check_choice(text, "A").correct in (True, False)


@given(st.lists(st.sampled_from(["the", "an", "is", "of", "I", "A", "A man", "a", "better", "way", "\n"]), max_size=30))
def test_prose_without_a_statement_gives_no_long_choice(words: list[str]) -> None:
    """A letter A in a sentence is an article."""
    text = " ".join(words) + " and so on."
    assert check_choice(text, "A").extracted is None
