"""Reading the answer out of a completion."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dodona.eval.boxed import last_boxed, same_integer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so 2 + 2 = 4. The answer is \boxed{4}.", "4"),
        (r"\boxed{1} or rather \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{a} then {b} and }", "a"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{x \{ y}", r"x \{ y"),
        (r"\boxed {7}", "7"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"{\boxed{3}", "3"),
        (r"\boxed{}", ""),
        (r"\boxed{ 4 }", " 4 "),
        ("\\boxed{4\n}", "4\n"),
        (r"\\boxed{4}", None),
        ("boxed{4}", None),
        (r"\boxed4", None),
        (r"\boxed{4", None),
        ("", None),
    ],
)
def test_the_last_box_whose_braces_balance_is_the_answer(text: str, answer: str | None) -> None:
    r"""A search for the next brace cuts ``\frac{1}{2}`` short; the first box is often a step and not the answer."""
    assert last_boxed(text) == answer


@given(st.text(alphabet="\\{}b 1", max_size=30), st.text(alphabet="0123456789-", max_size=5))
def test_a_box_at_the_end_is_found_after_anything(before: str, answer: str) -> None:
    """An unbalanced brace earlier in the text must not hide the answer."""
    assert last_boxed(f"{before} \\boxed{{{answer}}}") == answer


def test_a_hostile_text_takes_linear_time() -> None:
    """A model that repeats itself writes a thousand open boxes; a search from each would take an hour."""
    assert last_boxed(r"\boxed{" * 200_000) is None


@pytest.mark.parametrize("answer", ["42", " 42 ", "042", "+42", "+ 42", "0042\n"])
def test_the_same_integer_in_other_spellings_is_correct(answer: str) -> None:
    """A string comparison calls 042 wrong."""
    assert same_integer(answer, "42")


@pytest.mark.parametrize("answer", [None, "", "4 2", "42.", "43", "-42", "4e1", "0x2a", "४२", "forty-two", "1_0"])
def test_anything_else_is_wrong(answer: str | None) -> None:
    """`int()` takes 1_0 and Devanagari digits, and raises for the empty text."""
    assert not same_integer(answer, "42")


def test_signs_and_zero() -> None:
    """Minus zero is zero, and a sign apart from its digits still counts."""
    assert same_integer("-0", "0") and same_integer("- 7", "-7") and not same_integer("7", "-7")


def test_a_number_of_any_length_is_compared() -> None:
    """`int()` refuses more than 4300 digits with a ValueError, and a looping model writes that many."""
    assert same_integer("0" + "1" * 10_000, "1" * 10_000)
    assert not same_integer("1" * 10_001, "1" * 10_000)


def test_two_texts_that_are_no_integers_are_not_the_same() -> None:
    """None equals None: a broken gold answer would make every broken answer right."""
    assert not same_integer("x", "x")
