"""Triggers: the text, its errors, and that NumPy, torch and the plain meaning of the text give the same decisions."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dodona.engine.errors import TriggerError
from dodona.engine.presets import AFTER_SIGNALS, COUNTERS, OFFLINE_SIGNALS, SIGNALS
from dodona.engine.trigger import (
    BOOLEAN,
    COLUMNS,
    FUNCTIONS,
    PRESETS,
    Array,
    ExpressionTrigger,
    Trigger,
    ema_column,
    ema_step,
    known_columns,
    parse_trigger,
)

F = np.float32
Row = Mapping[str, Any]
Meaning = Callable[[Row], Any]  # what a piece of text means for one row of float32 scalars
Piece = tuple[str, Meaning]
NUMBERS = ("entropy", "margin", "since_consult", "u")
SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, 3e38, 0.1, 16777216.0]


def random_columns(seed: int, rows: int = 32) -> dict[str, np.ndarray[Any, Any]]:
    """Columns with the values that break arithmetic among ordinary ones."""
    rng = np.random.default_rng(seed)
    columns: dict[str, np.ndarray[Any, Any]] = {}
    for name in NUMBERS:
        ordinary = rng.normal(size=rows) * 10.0 ** rng.integers(-3, 4, rows)
        columns[name] = np.where(rng.random(rows) < 0.4, rng.choice(SPECIAL, rows), ordinary).astype(F)
    columns["boundary"] = rng.random(rows) < 0.5
    columns["position"] = np.arange(rows)
    return columns


def decide(text: str, columns: Mapping[str, Any], **options: Any) -> list[bool]:
    """Decisions on NumPy columns, after a check that torch gives the same."""
    trigger = parse_trigger(text, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numpy = trigger.decide({name: np.asarray(values) for name, values in columns.items()})
    tensors = trigger.decide({name: torch.as_tensor(np.asarray(values)) for name, values in columns.items()})
    assert numpy.dtype == np.bool_ and tensors.dtype == torch.bool
    assert numpy.tolist() == tensors.tolist()
    return list(numpy.tolist())


def refused(text: Any, **options: Any) -> str:
    with pytest.raises(TriggerError) as caught:
        parse_trigger(text, **options)
    return str(caught.value)


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


# --- Presets ---

BATCH: dict[str, Any] = {
    "position": np.array([0, 3, 17, 99]),
    "max_new_tokens": np.array([100] * 4),
    "boundary": np.array([True, True, False, True]),
    "u": np.array([0.25, 0.35, 0.0, 0.98], F),
    "base_run": np.array([0, 3, 32, 64]),
    "consults": np.array([0, 0, 1, 2]),
    "c": np.array([2.0] * 4),
    "entropy": np.array([1.0, 2.0, 2.5, 3.0], F),
    "varentropy": np.array([9.0, 9.0, 1.0, 2.0], F),
}


@pytest.mark.parametrize(
    ("text", "expression", "step_size", "decisions"),
    [
        ("random", "boundary and u < 0.3 + (1 - 0.3) * position / max_new_tokens", None, [1, 0, 0, 1]),
        ("random(0.5, step_size=5)", "boundary and u < 0.5 + (1 - 0.5) * position / max_new_tokens", 5, [1, 1, 0, 1]),
        ("random(0, 7)", "boundary and u < 0 + (1 - 0) * position / max_new_tokens", 7, [0, 0, 0, 1]),
        ("constant", "boundary and u < 0.3", None, [1, 0, 0, 0]),
        ("constant(p=1, step_size=3)", "boundary and u < 1", 3, [1, 1, 0, 1]),
        ("every", "base_run >= 32", None, [0, 0, 1, 1]),
        ("every(n=64)", "base_run >= 64", None, [0, 0, 0, 1]),
        ("at(17, 3, 3)", "position in (3, 17)", None, [0, 1, 1, 0]),
        ("at(99)", "position in (99,)", None, [0, 0, 0, 1]),
        ("uniform", "position < 256 and u * (256 - position) < c - consults", None, [0, 0, 1, 0]),
        ("uniform(L=8)", "position < 8 and u * (8 - position) < c - consults", None, [0, 1, 0, 0]),
        ("entropy", "entropy > 2", None, [0, 0, 1, 1]),
        ("entropy(2.5)", "entropy > 2.5", None, [0, 0, 0, 1]),
        ("entropy(threshold=-1)", "entropy > -1", None, [1, 1, 1, 1]),
        ("quadrant", "entropy > 2 and varentropy > 1.5", None, [0, 0, 0, 1]),
        ("quadrant(entropy=0.5, varentropy=3)", "entropy > 0.5 and varentropy > 3", None, [1, 1, 0, 0]),
        ("always", "True", None, [1, 1, 1, 1]),
        ("never", "False", None, [0, 0, 0, 0]),
    ],
)
def test_a_preset_is_its_expression(text: str, expression: str, step_size: int | None, decisions: list[int]) -> None:
    """An argument that is accepted and then ignored, as step_size once was, or a preset that is not its expression."""
    trigger = parse_trigger(text)
    assert (trigger.text, trigger.step_size) == (text, step_size)
    assert trigger.expression == expression
    assert decide(text, BATCH) == [bool(d) for d in decisions]


def test_the_table_of_presets_holds_what_it_shows() -> None:
    """A README made from a table whose examples do not parse."""
    assert set(PRESETS) == {"random", "constant", "every", "at", "uniform", "entropy", "quadrant", "always", "never"}
    for name, preset in PRESETS.items():
        text = "at(3, 17)" if name == "at" else name
        assert parse_trigger(text).expression == parse_trigger(preset.example).expression
        assert preset.signature.startswith(name) and preset.meaning


def consulted(budget: int, length: int, burst: int, trials: int, seed: int, total: int) -> np.ndarray[Any, Any]:
    """[trials, total] bool: where the preset `uniform` consults when each consult covers `burst` positions."""
    trigger, rng = parse_trigger(f"uniform({length})"), np.random.default_rng(seed)
    consults, busy = np.zeros(trials), np.zeros(trials)
    fired = np.zeros((trials, total), bool)
    for position in range(total):
        u = rng.random(trials, dtype=F)
        columns: dict[str, Array] = {"u": u, "consults": consults, "c": np.full(trials, budget)}
        columns["position"] = np.full(trials, position)
        fired[:, position] = trigger.decide(columns) & (busy == 0) & (consults < budget)
        consults += fired[:, position]
        busy = np.where(fired[:, position], burst - 1, np.maximum(busy - 1, 0))
    return fired


def test_uniform_draws_every_set_of_positions_equally_often() -> None:
    """A fixed chance a position spends the budget early or leaves some of it: the placebo would differ in where."""
    trials, sets = 22000, list(combinations(range(12), 3))
    fired = consulted(budget=3, length=12, burst=1, trials=trials, seed=0, total=16)
    assert (fired.sum(1) == 3).all() and not fired[:, 12:].any()
    counts: dict[tuple[int, ...], int] = dict.fromkeys(sets, 0)
    for row in fired:
        counts[tuple(np.flatnonzero(row).tolist())] += 1
    expected = trials / len(sets)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = len(sets) - 1
    assert abs(chi_square - freedom) < 4 * math.sqrt(2 * freedom)


def test_uniform_loses_a_consult_only_to_a_burst_that_covers_the_last_position() -> None:
    """Positions lost inside bursts must make later ones likelier, or c no longer says how many consults there were."""
    fired = consulted(budget=4, length=40, burst=5, trials=2000, seed=1, total=60)
    assert not fired[:, 40:].any()
    assert all(np.diff(np.flatnonzero(row)).min() >= 5 for row in fired)
    last = np.array([np.flatnonzero(row)[-1] for row in fired])
    undone = fired.sum(1) < 4
    assert undone.any() and (last[undone] + 5 >= 40).all()
    roomy = consulted(budget=5, length=256, burst=10, trials=2000, seed=2, total=256)
    assert np.mean(roomy.sum(1) == 5) > 0.95  # 0.967: the fifth falls into the fourth, at the end


def test_uniform_takes_the_last_position_even_for_the_largest_draw() -> None:
    """u * m that rounds up to m loses the last consult once in 2^24 texts."""
    u = np.nextafter(F(1), F(0))
    length = np.arange(1, 5000)
    for m in (1, 3, 7, 256, 4097):
        columns = {"u": np.full(1, u), "position": [length.size - m], "consults": [0], "c": [m]}
        assert decide(f"uniform({length.size})", columns) == [True]


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
