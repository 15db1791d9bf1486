"""Presets of triggers: each is its expression, and does what the README's table says."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from trigger_columns import BATCH, F, decide

from dodona.engine.trigger import PRESETS, Array
from dodona.engine.trigger_parser import parse_trigger


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
