"""What is refused as a trigger, with what words; and which columns exist when."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trigger_columns import decide, refused

from dodona.engine.errors import TriggerError
from dodona.engine.presets import AFTER_SIGNALS, COUNTERS, OFFLINE_SIGNALS, SIGNALS
from dodona.engine.trigger import BOOLEAN, COLUMNS, FUNCTIONS, known_columns
from dodona.engine.trigger_parser import parse_trigger

# --- Errors ---


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("entrpy > 2.0", 1, ["`entrpy`", "did you mean `entropy`?", "varentropy", "since_consult", "ema", "quadrant"]),
        ("entropy > 2 and\nmargn < 1", 17, ["`margn`", "`margin`"]),
        ("Entropy > 2", 1, ["did you mean `entropy`?"]),
        ("entropy > 2 and zzz", 17, ["`zzz`", "known:"]),
        ("rndom", 1, ["did you mean `random`?"]),
        ("sqr(u) > 1", 1, ["`sqr`", "`sqrt`"]),
        ("margin(0.1)", 1, ["column, not a function"]),
        ("u > log", 5, ["function"]),
        ("log(u, 2) > 1", 1, ["one argument"]),
        ("max(u) > 1", 1, ["two or more"]),
        ("log(x=u) > 1", 5, ["named argument"]),
        ("entropy and 3", 1, ["`entropy` is a number"]),
        ("boundary and 3", 14, ["`3` is a number"]),
        ("not u", 5, ["`u` is a number"]),
        ("boundary + 1 > 1", 1, ["`boundary` is true or false"]),
        ("boundary == True", 1, ["true or false"]),
        ("u > (margin < 2)", 6, ["`margin < 2` is true or false"]),
        ("u > 1 < (True)", 10, ["true or false"]),
        ("entropy + 1", 1, ["must be true or false"]),
        ("3", 1, ["must be true or false"]),
        ("position in 3", 13, ["list of numbers"]),
        ("position in ()", 13, ["list of numbers"]),
        ("position in (1, u)", 17, ["only numbers"]),
        ("position in (1, True)", 17, ["only numbers"]),
        ("(1, 2) == position", 1, ["not part"]),
        ("ema(position, 0.9) > 1", 5, ["averages a signal"]),
        ("ema(u + 1, 0.9) > 1", 1, ["ema(entropy, 0.9)"]),
        ("ema(entrpy, 0.9) > 1", 5, ["did you mean `entropy`?"]),
        ("ema(entropy, 1) > 1", 14, ["decay"]),
        ("ema(entropy, -0.1) > 1", 14, ["decay"]),
        ("ema(entropy, 0.9999999999) > 1", 14, ["decay"]),
        ("ema(entropy, u) > 1", 14, ["decay"]),
        ("ema(entropy, decay=0.9) > 1", 14, ["named argument"]),
        ("logprob < -3", 1, ["not known before the commit"]),
        ("boundary and kl > 1", 14, ["after the fact", "replay"]),
        ("u > 1e39", 5, ["too large", "inf"]),
        ("u > 1" + "0" * 400, 5, ["too large"]),
        ("entropy = 2", 9, ["`==`"]),
        ("entropy > 2 && u < 1", 14, ["`and`"]),
        ("entropy > 2 & u < 1", 13, ["`and`"]),
        ("entropy > 2 || u < 1", 14, ["`or`"]),
        ("!boundary", 1, ["`not`"]),
        ("u is 3", 3, ["`is`", "`==`"]),
        ("(u) ** 2 > 1", 5, ["`**`"]),
        ("u **-2 > 1", 3, ["`**` is"]),
        ("entropy ≥ 2", 9, ["`>=`"]),
        ("ｅntropy > 2", 1, ["cannot stand here"]),
        ("u > 1 # and margin < 2", 7, ["cannot stand here"]),
        ("u >", 4, ["ends too early"]),
        ("(u > 1", 1, ["never closed"]),
        ("", 1, ["empty"]),
        (" \n ", 1, ["empty"]),
        ("random and u < 1", 1, ["preset", "alone", "boundary and u < 0.3"]),
        ("u < 1 or entropy(2)", 10, ["preset", "alone"]),
        ("random(p0=1.5)", 8, ["`p0`", "from 0 to 1"]),
        ("random(p=0.5)", 8, ["`p`", "did you mean `p0`?"]),
        ("random(0.5, 5, 5)", 16, ["too many"]),
        ("random(0.5, p0=0.5)", 13, ["twice"]),
        ("random(step_size=0)", 8, ["`step_size`", "whole number"]),
        ("constant(step_size=2.5)", 10, ["whole number"]),
        ("constant(p=u)", 10, ["number"]),
        ("constant(True)", 10, ["number"]),
        ("constant(**u)", 10, ["unknown argument"]),
        ("constant(*u)", 10, ["number"]),
        ("every(n=0)", 7, ["from 1"]),
        ("every(inf)", 7, ["whole number"]),
        ("uniform(L=-1)", 9, ["whole number"]),
        ("uniform(l=3)", 9, ["unknown argument"]),
        ("entropy('2')", 9, ["number"]),
        ("always(1)", 8, ["too many"]),
        ("at", 1, ["at least one"]),
        ("at()", 1, ["at least one"]),
        ("at(3, 1.5)", 7, ["whole number"]),
        ("at(-1)", 4, ["whole number"]),
        ("at(positions=3)", 4, ["positions only"]),
    ],
)
def test_a_mistake_is_refused_with_a_caret_under_it(text: str, column: int, words: list[str]) -> None:
    """A caret at the wrong column, or `invalid syntax` alone, sends the user to read our source."""
    message = refused(text)
    first, shown, caret, *_ = [*message.split("\n"), ""]
    assert f"column {column}:" in first
    if text.strip():
        assert shown == "    " + text.strip().replace("\n", " ")[:100] + "..." * (len(text) > 100)
    assert caret == " " * (4 + column - 1) + "^"
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "__import__('os')",
        "().__class__.__base__.__subclasses__()",
        "entropy.real > 1",
        "(lambda: True)()",
        "lambda: True",
        "f'{entropy}' > 1",
        "(x := 3) > 2",
        "[x for x in (1, 2)] == 1",
        "any(x for x in (1, 2))",
        "{1: 2}[1] > 1",
        "u[0] > 1",
        "u if boundary else margin",
        "2**10**10 > 1",
        "10**10**10 > u",
        "9" * 4000 + " > u",
        "u > 'a'",
        "u > None",
        "u > 1j",
        "u > ...",
        "u % 2 > 1",
        "u // 2 > 1",
        "+u > 1",
        "~boundary",
        "import os",
        "u > 1; import os",
        "print(u)",
        "eval('1')",
        "u > 1\\\n",
        "u > 1\0",
        "await u",
        "*u",
        "u > 1,",
        "(" * 100000 + "u > 1" + ")" * 100000,
        "(" * 1000 + "u > 1" + ")" * 1000,
        "[" * 150 + "]" * 150,
        "-" * 4000 + "1 > u",
        "not " * 1000 + "True",
        "1+" * 2000 + "1 > u",
        "u.a" * 1300,
        "u" + "(u)" * 1300,
        "abs(" * 150 + "u" + ")" * 150 + " > 1",
        "lambda:" * 500 + "1",
        "u if u else " * 300 + "u",
    ],
)
def test_hostile_text_is_refused_with_a_message(text: str) -> None:
    """Code that runs, a RecursionError, or a minute spent on 10**10**10: triggers come from files of other people."""
    message = refused(text)
    assert message.startswith("trigger, column ") and "^" in message
    assert len(message) < 1000


@settings(max_examples=200, deadline=None)
@given(st.text("()[]<>=!&|+-*/.,'\"#:u019e \n\\andotri", max_size=40))
def test_any_text_gives_a_trigger_or_a_trigger_error(text: str) -> None:
    """A SyntaxError, TypeError or IndexError from odd text reaches the user as a traceback."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trigger = parse_trigger(text)
        except TriggerError:
            return
        assert parse_trigger(trigger.expression).expression == trigger.expression


def test_a_long_expression_is_shown_around_the_mistake() -> None:
    """A message of 4000 characters hides its caret."""
    _, shown, caret, _ = refused("u > 1 and " * 100 + "zzz or" + " u > 1 or" * 30 + " u < 1").split("\n")
    assert len(shown) < 120
    assert shown[caret.index("^") :].startswith("zzz or")


def test_nesting_up_to_the_limit_works() -> None:
    """A limit so low that a long disjunction fails, or so high that writing the canonical text recurses too deep."""
    trigger = parse_trigger("-" * 40 + "u > 1")
    assert parse_trigger(trigger.expression) == trigger
    assert decide("(" * 60 + "u > 1" + ")" * 60, {"u": [2.0], "position": [0]}) == [True]
    assert decide(" or ".join(f"u > {n}" for n in range(300)), {"u": [2.0], "position": [0]}) == [True]


# --- Which columns exist when ---


def test_logprob_exists_only_after_the_commit() -> None:
    """Before the commit there is no token whose probability could be read: the value would be the previous one's."""
    refused("logprob < -3")
    trigger = parse_trigger("logprob < -3 and ema(logprob, 0.5) < -1", when="after")
    assert trigger.names == {"logprob"}
    assert parse_trigger(trigger, when="after") is trigger
    assert "not known before" in refused(trigger, when="before")
    assert "when is" in refused("u > 1", when="later")


@pytest.mark.parametrize("name", sorted(OFFLINE_SIGNALS))
def test_the_oracles_view_exists_only_offline(name: str) -> None:
    """A live trigger on kl would consult the oracle to decide whether to consult the oracle."""
    text = name if name in BOOLEAN else f"{name} > 1"
    for when in ("before", "after"):
        assert "only after the fact" in refused(text, when=when)
    trigger = parse_trigger(text, offline=True)
    assert trigger.names == {name}
    assert "only after the fact" in refused(trigger)
    parse_trigger("logprob < -1", offline=True)


def test_the_tables_of_columns_and_functions_are_the_language() -> None:
    """A column in the README that the parser does not know, or the other way round."""
    assert set(COLUMNS) == {*SIGNALS, *AFTER_SIGNALS, *COUNTERS, *OFFLINE_SIGNALS}
    assert all(COLUMNS.values()) and all(FUNCTIONS.values())
    for name in COLUMNS:
        assert parse_trigger(name if name in BOOLEAN else f"{name} > 1", offline=True).names == {name}
    for name in known_columns("after"):
        parse_trigger(name if name in BOOLEAN else f"{name} > 1", when="after")
    for name in FUNCTIONS:
        arguments = {"ema": "entropy, 0.5", "min": "u, 1", "max": "u, 1"}.get(name, "u")
        parse_trigger(f"{name}({arguments}) > 1")
