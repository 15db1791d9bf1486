"""Triggers: NumPy, torch and the plain meaning of the text give the same decisions."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from trigger_columns import BATCH, NUMBERS, F, decide, random_columns, refused

from dodona.engine.errors import TriggerError
from dodona.engine.trigger import Array, ExpressionTrigger, Trigger, ema_column, ema_step, known_columns
from dodona.engine.trigger_parser import parse_trigger

Row = Mapping[str, Any]
Meaning = Callable[[Row], Any]  # what a piece of text means for one row of float32 scalars
Piece = tuple[str, Meaning]


# --- Expressions with their meaning, put together without the parser ---


def smallest(a: Any, b: Any) -> Any:
    return a + b if np.isnan(a) or np.isnan(b) else (b if b < a else a)


def largest(a: Any, b: Any) -> Any:
    return a + b if np.isnan(a) or np.isnan(b) else (b if b > a else a)


ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "min": smallest,
    "max": largest,
}
COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b and not np.isnan(a) and not np.isnan(b),
}
SINGLE: dict[str, Callable[[Any], Any]] = {
    "-": lambda a: -a,
    "abs": abs,
    "sqrt": lambda a: F(np.sqrt(np.float64(a))),
    "log": lambda a: F(np.log(np.float64(a))),
    "exp": lambda a: F(np.exp(np.float64(a))),
}


def column(name: str) -> Piece:
    return name, lambda row: row[name]


def number(value: float) -> Piece:
    return repr(value), lambda _: F(value)


def binary(name: str, a: Piece, b: Piece) -> Piece:
    operation = (ARITHMETIC | COMPARISONS)[name]
    text = f"{name}({a[0]}, {b[0]})" if name in ("min", "max") else f"({a[0]} {name} {b[0]})"
    return text, lambda row: operation(a[1](row), b[1](row))


def single(name: str, a: Piece) -> Piece:
    operation = SINGLE[name]
    return f"({name}({a[0]}))", lambda row: operation(a[1](row))


def chain(a: Piece, x: str, b: Piece, y: str, c: Piece) -> Piece:
    first, second = COMPARISONS[x], COMPARISONS[y]
    text = f"({a[0]} {x} {b[0]} {y} {c[0]})"
    return text, lambda row: first(a[1](row), b[1](row)) and second(b[1](row), c[1](row))


def member(a: Piece, values: list[float], negated: bool) -> Piece:
    def meaning(row: Row) -> Any:
        x = a[1](row)
        return not np.isnan(x) and (not any(x == F(v) for v in values)) is negated

    return f"({a[0]} {'not in' if negated else 'in'} {[*values]})", meaning


def joined(word: str, a: Piece, b: Piece) -> Piece:
    if word == "and":
        return f"({a[0]} and {b[0]})", lambda row: a[1](row) and b[1](row)
    return f"({a[0]} or {b[0]})", lambda row: a[1](row) or b[1](row)


def negated(a: Piece) -> Piece:
    return f"(not {a[0]})", lambda row: not a[1](row)


literals = st.one_of(st.sampled_from([0.0, 0.1, 1.0, 3.0, math.inf]), st.floats(0, 2.0**100, width=32))
numeric = st.recursive(
    st.one_of(st.sampled_from(NUMBERS).map(column), literals.map(number)),
    lambda inner: st.one_of(
        st.builds(binary, st.sampled_from(sorted(ARITHMETIC)), inner, inner),
        st.builds(single, st.sampled_from(sorted(SINGLE)), inner),
    ),
    max_leaves=5,
)
comparison = st.sampled_from(sorted(COMPARISONS))
boolean = st.recursive(
    st.one_of(
        st.builds(binary, comparison, numeric, numeric),
        st.builds(chain, numeric, comparison, numeric, comparison, numeric),
        st.builds(member, numeric, st.lists(literals, min_size=1, max_size=3), st.booleans()),
        st.sampled_from([column("boundary"), ("True", lambda _: True), ("False", lambda _: False)]),
    ),
    lambda inner: st.one_of(st.builds(joined, st.sampled_from(["and", "or"]), inner, inner), inner.map(negated)),
    max_leaves=4,
)
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=150, deadline=None)
@given(boolean, SEEDS)
def test_numpy_torch_and_the_meaning_of_the_text_agree(expression: Piece, seed: int) -> None:
    """A constant kept in float64, a reciprocal for a division or swapped operands make a replay differ."""
    text, meaning = expression
    columns = random_columns(seed)
    with np.errstate(all="ignore"):
        expected = [bool(meaning({name: c[i] for name, c in columns.items()})) for i in range(len(columns["u"]))]
    assert decide(text, columns) == expected


@settings(max_examples=100, deadline=None)
@given(boolean, SEEDS)
def test_the_canonical_text_parses_to_itself_and_decides_alike(expression: Piece, seed: int) -> None:
    """A lost pair of parentheses in the canonical text would change the experiment that a record describes."""
    trigger = parse_trigger(expression[0])
    again = parse_trigger(trigger.expression)
    assert again.expression == trigger.expression
    assert again == trigger and hash(again) == hash(trigger)
    columns = random_columns(seed)
    assert again.decide(columns).tolist() == trigger.decide(columns).tolist()


@pytest.mark.gpu
@settings(max_examples=50, deadline=None)
@given(boolean, SEEDS)
def test_cuda_decides_as_numpy_does(expression: Piece, seed: int) -> None:
    """CUDA divides by a scalar through its reciprocal, which rounds twice."""
    trigger, columns = parse_trigger(expression[0]), random_columns(seed)
    on_device = trigger.decide({name: torch.as_tensor(values).cuda() for name, values in columns.items()})
    assert on_device.cpu().tolist() == trigger.decide(columns).tolist()


@pytest.mark.gpu
def test_a_trigger_can_be_captured_in_a_cuda_graph() -> None:
    """A constant copied from the host at each decision cannot be captured, and the base step would not be one graph."""
    trigger = parse_trigger("3/entropy > 0.1 and (position in (1, 2, 5) or max(margin, 0.5) < exp(u)) or not True")
    columns = random_columns(0)
    tensors = {name: torch.as_tensor(values).cuda() for name, values in columns.items()}
    trigger.decide(tensors)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        decisions = trigger.decide(tensors)
    columns = random_columns(1)
    for name, values in columns.items():
        tensors[name].copy_(torch.as_tensor(values))
    graph.replay()
    assert decisions.cpu().tolist() == trigger.decide(columns).tolist()


# --- What texts mean ---


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("entropy>2.0", "entropy > 2"),
        ("  entropy\n > 2.50 ", "entropy > 2.5"),
        ("((entropy) > (2))", "entropy > 2"),
        ("position in [3, 17.0]", "position in (3, 17)"),
        ("position in (3,)", "position in (3,)"),
        ("position in (-inf, -1.0)", "position in (-inf, -1)"),
        ("u>1 or u<2 and not u<3", "u > 1 or (u < 2 and (not u < 3))"),
        ("(u - (margin - 1)) > 0", "u - (margin - 1) > 0"),
        ("-u*2 < 1_000", "-u * 2 < 1000"),
        ("ema(entropy, .90) > 1e-07", "ema(entropy, 0.9) > 1e-07"),
    ],
)
def test_spellings_of_one_expression_have_one_canonical_text(text: str, canonical: str) -> None:
    """Two spellings that differ in white space would be two arms of an experiment."""
    assert parse_trigger(text).expression == canonical
    assert parse_trigger(text).text == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("u > 1 or u < 1 and margin > 9", [False, False, True]),  # not (u > 1 or u < 1) and ...
        ("not u > 1 and margin > 0", [True, True, False]),
        ("0.5 < u < 1.5", [False, True, False]),
        ("u - 1 - 1 >= 0", [False, False, True]),
        ("-u + 2 > 0.5", [True, True, False]),
        ("8 / 2 / 2 == 2 * u", [False, True, False]),
        ("u not in (0, 2)", [False, True, False]),
        ("min(u, margin, 1) == 1", [False, True, True]),
        ("abs(u - 1) == 1", [True, False, True]),
        ("position <= 1", [True, True, False]),
        ("False or boundary", [True, False, False]),
    ],
)
def test_operators_bind_as_in_python(text: str, expected: list[bool]) -> None:
    """A hand-written precedence table that is wrong decides at other positions than the text says."""
    columns = {"u": [0.0, 1.0, 2.0], "margin": [5.0, 5.0, 5.0], "position": [0, 1, 2], "boundary": [True, False, False]}
    assert decide(text, columns) == expected


def test_a_comparison_with_nan_is_false_and_not_turns_it() -> None:
    """`!=` is True for NaN in IEEE 754: a missing signal would fire the trigger."""
    columns = {"entropy": [math.nan], "position": [0]}
    for operator in ("<", "<=", ">", ">=", "==", "!="):
        assert decide(f"entropy {operator} 1", columns) == [False]
    assert decide("entropy in (1, 2) or entropy not in (1, 2)", columns) == [False]
    assert decide("min(entropy, 1) < 2 or max(1, entropy) > 0", columns) == [False]
    assert decide("not entropy > 1", columns) == [True]
    assert decide("agree", {"agree": [math.nan, 1.0, 0.0], "position": [0, 1, 2]}, offline=True) == [False, True, False]


def test_division_by_zero_gives_inf_or_nan_in_silence() -> None:
    """A warning a token, or a ZeroDivisionError from folding 1/0, in the middle of a run."""
    columns = {"u": [0.0, -0.0, 1.0], "position": [0, 1, 2]}
    assert decide("1/u == inf", columns) == [True, False, False]
    assert decide("1/0 == inf and 0/0 != 0/0", columns) == [False] * 3
    assert decide("1/0 == inf", columns) == [True] * 3
    assert decide("log(u) == -inf", columns) == [True, True, False]
    assert decide("exp(u*1000) == inf", columns) == [False, False, True]


def test_constants_are_float32_as_the_signals_are() -> None:
    """0.1 in float64 is less than 0.1 in float32, so `>=` on a float64 constant fails where `==` should hold."""
    columns = {"top_prob": np.array([0.1], F), "margin": np.array([0.3], F), "position": [0]}
    assert decide("top_prob == 0.1 and margin in (0.3, 0.4)", columns) == [True]
    wide = {"top_prob": np.array([0.1], np.float64), "position": [0]}
    assert decide("top_prob == 0.1", wide) == [True]


def test_division_by_and_of_a_constant_rounds_once() -> None:
    """torch computes 3/x as 3 * (1/x), which differs from NumPy in the last bit for a quarter of all x."""
    x = np.random.default_rng(0).random(5000, dtype=F) + F(0.01)
    columns = {"entropy": x, "varentropy": F(3) / x, "margin": x / F(3), "position": np.arange(5000)}
    assert all(decide("3/entropy == varentropy and entropy/3 == margin", columns))


@pytest.mark.parametrize("function", ["sqrt", "log", "exp"])
def test_functions_are_rounded_once_from_float64(function: str) -> None:
    """In float32 NumPy and torch differ in the last bit for a fifth of all values, so a replay would differ."""
    x = np.random.default_rng(0).random(5000, dtype=F) * F(20)
    columns = {"entropy": x, "margin": F(getattr(np, function)(x.astype(np.float64))), "position": np.arange(5000)}
    assert all(decide(f"{function}(entropy) == margin", columns))


def test_a_constant_trigger_has_the_shape_of_the_batch() -> None:
    """A single bool for a batch of 3 would freeze or free only one sequence, or break the mask."""
    columns = {"position": [0, 1, 2]}
    assert decide("True", columns) == [True] * 3
    assert decide("1 < 2 and not False", columns) == [True] * 3
    assert decide("never", columns) == [False] * 3
    assert decide("c == inf", {"position": [0, 1], "c": math.inf}) == [True, True]
    assert decide("True", {"position": []}) == []


def test_the_decisions_are_not_the_column_itself() -> None:
    """An engine that clears decisions in place would clear the column `boundary` too."""
    boundary = torch.tensor([True, False])
    parse_trigger("boundary").decide({"boundary": boundary, "position": torch.arange(2)}).zero_()
    assert boundary.tolist() == [True, False]
    column = np.array([True, False])
    parse_trigger("boundary").decide({"boundary": column, "position": np.arange(2)})[:] = False
    assert column.tolist() == [True, False]


def test_a_missing_column_is_named() -> None:
    """A trace recorded without attention signals gives a KeyError, which tells a user nothing."""
    with pytest.raises(TriggerError, match=r"`attn_entropy`.*position"):
        parse_trigger("attn_entropy > 1").decide({"position": np.arange(3)})


def test_a_trigger_knows_what_it_needs() -> None:
    """Signals that nobody computes, or attention computed for nothing."""
    trigger = parse_trigger("ema(attn_entropy, 0.5) > 1 and ema(entropy, 0.9) > ema(attn_entropy, 0.5) and boundary")
    assert trigger.names == {"attn_entropy", "entropy", "boundary"}
    assert trigger.emas == (("attn_entropy", 0.5), ("entropy", 0.9))
    assert trigger.attention
    assert not parse_trigger("entropy > 2").attention
    assert parse_trigger("always").names == set()


def test_triggers_can_be_keys_and_travel_to_workers() -> None:
    """Arms are grouped by trigger; step_size is part of the rule although the expression does not show it."""
    plain, same, other = parse_trigger("random"), parse_trigger("random()"), parse_trigger("random(step_size=5)")
    assert plain == same and hash(plain) == hash(same)
    assert plain != other and plain.expression == other.expression
    again = pickle.loads(pickle.dumps(other))
    assert again == other and again.text == other.text and again.decide(BATCH).tolist() == other.decide(BATCH).tolist()


# --- Averages ---


def test_an_average_starts_at_its_first_value_and_then_decays() -> None:
    """An average that starts at 0 is low for the first 1/(1 - decay) tokens and hides the start of every text."""
    values = np.array([4.0, 2.0, math.nan, 1.0, 3.0], F)
    seen, previous = [], F(math.nan)
    for value in values:
        previous = ema_step(previous, value, 0.9)
        seen.append(previous)
    decayed = F(0.9) * F(4) + F(1 - 0.9) * F(2)
    expected = [F(4), decayed, F(math.nan), F(1), F(0.9) * F(1) + F(1 - 0.9) * F(3)]
    np.testing.assert_array_equal(np.array(seen), np.array(expected))
    assert all(type(x) is np.float32 for x in seen)
    assert ema_step(F(0), F(1), 0.9) == F(1 - 0.9) != F(1) - F(0.9)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.999]))
def test_the_average_is_the_same_for_scalars_arrays_and_tensors(seed: int, decay: float) -> None:
    """Online it runs on one float a sequence, offline on columns: another rounding gives other consults."""
    columns = random_columns(seed)
    previous, value = columns["entropy"], columns["margin"]
    whole = ema_step(previous, value, decay)
    with np.errstate(all="ignore"):
        one_by_one = np.array([ema_step(p, v, decay) for p, v in zip(previous, value, strict=True)])
    tensor = ema_step(torch.as_tensor(previous), torch.as_tensor(value), decay)
    assert whole.dtype == one_by_one.dtype == np.float32 and tensor.dtype == torch.float32
    np.testing.assert_array_equal(whole, one_by_one)
    np.testing.assert_array_equal(whole, tensor.numpy())


def test_an_average_comes_from_its_own_column() -> None:
    """`ema(entropy, 0.9)` read from `entropy` would be no average."""
    assert ema_column("entropy", 0.9) == "ema(entropy,0.9)"
    columns = {"ema(entropy,0.9)": [1.0, 3.0], "entropy": [3.0, 1.0], "position": [0, 1]}
    assert decide("ema(entropy, 0.90) > 2", columns) == [False, True]


# --- Classes ---


class Alternating(Trigger):
    def decide(self, columns: Mapping[str, Array]) -> Array:
        return columns["position"] % 2 == 0


class Attentive(Trigger):
    names = frozenset({"attn_entropy", "logprob"})
    text = "attentive"

    def decide(self, columns: Mapping[str, Array]) -> Array:
        return columns["attn_entropy"] > 1


def test_a_class_with_one_method_is_a_trigger() -> None:
    """A rule that no expression says must not need a change of the engine."""
    trigger = Alternating()
    assert parse_trigger(trigger) is trigger
    assert (trigger.text, trigger.emas, trigger.step_size, trigger.attention) == ("Alternating", (), None, True)
    assert trigger.names == set(known_columns())
    assert Attentive().text == "attentive" and Attentive().attention
    assert "logprob" in refused(Attentive())
    assert parse_trigger(Attentive(), when="after").text == "attentive"
    assert isinstance(parse_trigger("always"), ExpressionTrigger)


@pytest.mark.parametrize("wrong", [Alternating, None, 3, lambda columns: columns["u"] > 1, b"entropy > 2"])
def test_what_is_neither_text_nor_an_instance_is_refused(wrong: Any) -> None:
    """A class in place of an instance fails at the first token, deep in the loop."""
    message = refused(wrong)
    assert "text or an instance" in message
    if wrong is Alternating:
        assert "Alternating()" in message
