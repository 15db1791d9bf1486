"""What is shown to a judge, and what is read in its answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dodona.engine.errors import DodonaError
from dodona.eval.judge.pair import Ask, Pair, asks_of
from dodona.eval.judge.prompt import NAMES, JudgePrompt, load_answer_prompt, load_prompt
from dodona.eval.judge.verdict import Verdict, chosen, parse_verdict, read_verdict

ASK = Ask("1", "ab", "Why {answer_b}?", "Because {context}.", "It {reference} is {{so}}.", None, None)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("Verdict: A", "first"),
        ("verdict: B", "second"),
        ("**Verdict:** **B**", "second"),
        ("Verdict: Answer A", "first"),
        ("The verdict is C.", "tie"),
        ("Verdict: tie", "tie"),
        ("A\n\nOn second thoughts.\nVerdict: B\n", "second"),
        ("Verdict: A\n...\nVerdict: B", "second"),
        ("I find [[A]] better", "first"),
        ("[[C]]", "tie"),
        ("A", "first"),
        (" (B). ", "second"),
        ("Answer A is better.", "first"),
        ("Response B", "second"),
        ("Tie", "tie"),
        ("Some words first.\n**B**", "second"),
        ("Verdict:\xa0A", "first"),
        ("", None),
        ("   \n ", None),
        ("Both have merits.", None),
        ("Verdict: a good answer is short", None),
        ("Verdict: Although A is long, B is right", None),
        ("Verdict: D", None),
        ("Verdict: ABBA", None),
        ('Your last line is "Verdict: A" or "Verdict: B", or "Verdict: C"', None),
        ("[[A]] or [[B]]", None),
        ("A and B are equal", None),
        ("Because of this, A", None),
        ("\x00\ud800", None),
        ("Verdict" * 5000, None),
        ("Verdict: " + "*" * 20000, None),
        ("A" * 100000, None),
    ],
)
def test_a_verdict_is_read_where_there_is_one_and_never_guessed(text: str, choice: str | None) -> None:
    """An article taken for a letter, an echo of the prompt taken for a verdict, and slow patterns on long texts."""
    assert parse_verdict(text) == choice


def test_the_preference_counts_a_tie_as_half_and_does_not_depend_on_what_else_could_be_written() -> None:
    """A preference that falls where a judge would rather have written something else."""
    assert Verdict("first", {"first": 0.3, "second": 0.1, "tie": 0.0}).preference == pytest.approx(0.75)
    assert Verdict("tie", {"first": 0.1, "second": 0.1, "tie": 0.2}).preference == pytest.approx(0.5)
    assert Verdict("first", {"first": 0.3, "second": 0.1, "tie": 0.0}).mass == pytest.approx(0.4)
    assert Verdict("first").preference is None
    assert Verdict("first", {"first": 0.0, "second": 0.0, "tie": 0.0}).preference is None


def test_equal_probabilities_are_a_tie_and_no_numbers_are_no_verdict() -> None:
    """The first of two equal letters winning, and NaN comparing as smaller than everything."""
    assert chosen({"first": 0.4, "second": 0.4, "tie": 0.2}) == "tie"
    assert chosen({"first": 0.2, "second": 0.4, "tie": 0.1}) == "second"
    assert chosen({"first": float("nan"), "second": 0.4, "tie": 0.1}) is None
    assert chosen({"first": 0.0, "second": 0.0, "tie": 0.0}) is None


def test_a_verdict_is_the_same_after_it_was_written_down() -> None:
    """A resumed run that counts with other digits than the run that asked."""
    verdict = Verdict("second", {"first": 1 / 3, "second": 0.5, "tie": 1e-9}, "x" * 5000, None, 2)
    once = read_verdict(json.loads(json.dumps(verdict.as_dict())))
    assert read_verdict(json.loads(json.dumps(once.as_dict()))) == once
    assert once.text is not None and len(once.text) == 2000
    with pytest.raises(ValueError):
        read_verdict({**verdict.as_dict(), "choice": None})
    with pytest.raises(ValueError):
        read_verdict({**verdict.as_dict(), "choice": "third"})


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_that_comes_with_dodona_shows_what_it_says(name: str) -> None:
    """A prompt without the answers, or one that shows the true answer where the user thinks it does not."""
    prompt = load_prompt(name, None, reference=True)
    ask = ASK._replace(reference="The true one.", context="Some context.")
    shown = prompt.render(ask)
    for text in (ask.question, ask.first, ask.second, "Some context.", "Verdict: A"):
        assert text in shown
    assert ("The true one." in shown) == (name != "helpfulness") == prompt.needs_reference
    assert shown.index(ask.first) < shown.index(ask.second)


def test_what_an_answer_says_is_never_taken_for_a_placeholder() -> None:
    """Answers that are replaced by the true answer because they have {reference} in them."""
    shown = JudgePrompt("t", "{question}|{answer_a}|{answer_b}|{{context}}").render(ASK)
    assert shown == "Why {answer_b}?|Because {context}.|It {reference} is {{so}}.|{context}"


def test_a_paragraph_about_the_context_is_left_out_where_there_is_none() -> None:
    """An empty heading, which a judge takes for an empty context."""
    prompt = JudgePrompt("t", "Head\n\n[Context]\n{context}\n\n{question}\n\n{answer_a}\n\n{answer_b}")
    assert "[Context]" not in prompt.render(ASK)
    assert "[Context]\nHere" in prompt.render(ASK._replace(context="Here"))
    assert prompt.render(ASK).startswith("Head\n\nWhy")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{question} {answer_a}", r"no placeholder \{answer_b\}"),
        ("nothing", r"no placeholder \{question\} and \{answer_a\} and \{answer_b\}"),
        ("{question} {answer_a} {answer_b} {answer_c}", r"there is no placeholder \{answer_c\}"),
        ("{question} {answer_a} {answer_b} {answer_a}", r"\{answer_a\} twice"),
    ],
)
def test_a_prompt_file_with_wrong_placeholders_is_refused_in_one_line(tmp_path: Path, text: str, fault: str) -> None:
    """A judge that is never shown the second answer."""
    file = tmp_path / "mine.txt"
    file.write_text(text)
    with pytest.raises(DodonaError, match=fault):
        load_prompt(None, str(file), reference=True)


def test_prompts_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    """A missing file, a wrong name, both options at once, and true answers that are not there."""
    with pytest.raises(DodonaError, match="cannot be read"):
        load_prompt(None, str(tmp_path / "none.txt"), reference=True)
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DodonaError, match="not UTF-8"):
        load_prompt(None, str(tmp_path / "latin.txt"), reference=True)
    with pytest.raises(DodonaError, match="there is no prompt 'best'"):
        load_prompt("best", None, reference=True)
    with pytest.raises(DodonaError, match="give one of them"):
        load_prompt("similarity", "mine.txt", reference=True)
    with pytest.raises(DodonaError, match="--reference-column"):
        load_prompt("similarity", None, reference=False)
    assert load_prompt(None, None, reference=False).name == "helpfulness"
    assert load_prompt(None, None, reference=True).name == "similarity"
    (tmp_path / "answer.txt").write_text("{context} {answer_a}")
    with pytest.raises(DodonaError, match="--answer-prompt-file"):
        load_answer_prompt(str(tmp_path / "answer.txt"))


def test_the_key_of_a_verdict_changes_with_everything_that_is_shown_and_with_nothing_else() -> None:
    """A cached verdict on another answer, and a second question about the same pair under another id."""
    pair = Pair("1", "q", "x", "y", "c", "r")
    ab, ba = asks_of(pair)
    assert (ab.first, ba.first) == ("x", "y")
    keys = {ab.key("j"), ba.key("j"), ab.key("k")}
    for change in ({"question": "Q"}, {"answer_a": "X"}, {"answer_b": "Y"}, {"context": None}, {"reference": None}):
        keys.add(asks_of(pair._replace(**change))[0].key("j"))
    assert len(keys) == 8
    assert asks_of(pair._replace(pair_id="2"))[0].key("j") == ab.key("j")
