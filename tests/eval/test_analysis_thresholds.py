"""Thresholds: grids, texts with one to fill in, and the one that spends a consult rate."""

from __future__ import annotations

import numpy as np
import pytest
from sample_traces import noise, recording

from dodona.engine.errors import DodonaError
from dodona.engine.replay import Budget, Replayer
from dodona.engine.trigger_parser import parse_trigger
from dodona.eval.analysis.labels import Limits, labels
from dodona.eval.analysis.thresholds import (
    _number,
    _ordinal,
    calibrate,
    filled,
    has_threshold,
    read_grid,
    template_of,
    threshold_text,
)
from dodona.eval.analysis.trials import calibrated, halves


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.5", [0.5]),
        ("0.5,1,2e-3", [0.5, 1, 0.002]),
        ("0.1:0.5:0.1", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("-1:1:1", [-1, 0, 1]),
        ("0:1:0.4", [0, 0.4, 0.8]),
        ("2:2:1", [2]),
    ],
)
def test_a_grid_has_both_ends(text, values):
    """An end that rounding leaves out, or steps that add up errors."""
    assert read_grid(text) == values


@pytest.mark.parametrize(
    "text", ["", "a", "1,", "1:2", "1:2:0", "1:2:-1", "2:1:1", "0:1:1e-9", "nan", "inf", "1e39", "0:inf:1"]
)
def test_what_is_no_grid_is_refused(text):
    """A million values, or none."""
    with pytest.raises(ValueError):
        read_grid(text)


def test_a_template_has_the_word_or_is_a_signal():
    """A preset's own argument taken for the word, or a signal whose direction is forgotten."""
    assert template_of("entropy > threshold and position > 3") == "entropy > threshold and position > 3"
    assert template_of("entropy") == "entropy > threshold"
    assert template_of(" margin ") == "margin < threshold"
    assert has_threshold("entropy(threshold=threshold)") and not has_threshold("entropy(threshold = 2)")
    assert has_threshold("threshold == entropy") and has_threshold("threshold>2")
    assert filled("entropy(threshold=threshold)", 1.5) == "entropy(threshold=1.5)"
    for text in ("entropy > 2", "thresholds > 2", "always", "length"):
        with pytest.raises(DodonaError, match="has no threshold to fill in"):
            template_of(text)


def test_every_threshold_is_a_text_that_a_trigger_reads_back():
    """A number that loses its last bit, or that the trigger refuses."""
    rng = np.random.default_rng(0)
    values = [0.0, -0.0, 1e38, -1e38, 1e-45, 0.1, -3.0, *(rng.normal(size=200) * 10.0 ** rng.integers(-30, 30, 200))]
    for value in values:
        text = filled("entropy > threshold", value)
        program = parse_trigger(text)
        below, above = np.nextafter(np.float32(value), np.float32([-np.inf, np.inf]))
        column = np.array([below, np.float32(value), above], dtype=np.float32)
        assert list(program.decide({"entropy": column, "position": column})) == [False, False, True], text
        assert np.float32(threshold_text(value)) == np.float32(value)


def test_ordinals_are_in_the_order_of_the_numbers():
    """A bisection that jumps where the sign changes."""
    values = np.array([-1e38, -1.0, -1e-40, 0.0, 1e-45, 0.5, 1e38], dtype=np.float32)
    ordinals = [_ordinal(value) for value in values]
    assert ordinals == sorted(ordinals) and _ordinal(-0.0) == _ordinal(0.0) == 0
    assert _number(_ordinal(0.5) + 1) == np.nextafter(np.float32(0.5), np.float32(1))
    assert _number(-1) == -np.nextafter(np.float32(0), np.float32(1))
    for value in values:
        assert _number(_ordinal(value)) == value


@pytest.mark.parametrize("falling", [True, False])
@pytest.mark.parametrize("target", [0.0, 0.013, 0.5, 1.0])
def test_the_threshold_spends_what_was_asked_for(falling, target):
    """The wrong side of a step, or a bisection that ends early."""
    signal = np.random.default_rng(1).normal(size=1000).astype(np.float32)

    def rate(value: float) -> float:
        fires = signal > np.float32(value) if falling else signal < np.float32(value)
        return float(fires.mean())

    found = calibrate(rate, target)
    assert rate(found.threshold) == found.rate
    assert abs(found.rate - target) <= 0.0005 and found.steps < 40


def test_of_two_steps_the_closer_one_is_taken():
    """Ties of the signal: 4 of 10 rows or 9 of 10, and nothing between."""
    signal = np.array([0] + [1] * 5 + [2] * 4, dtype=np.float32)
    for target, expected in ((0.5, 0.4), (0.7, 0.9), (0.25, 0.4)):
        assert calibrate(lambda value: float((signal > np.float32(value)).mean()), target).rate == expected


def test_what_no_threshold_spends_is_refused():
    """A threshold at the end of the range, as if it had been found."""
    with pytest.raises(DodonaError, match=r"--calibrate 0.7 is out of reach: thresholds spend from 0 to 0.5"):
        calibrate(lambda value: 0.5 if value < 1 else 0.0, 0.7)
    with pytest.raises(DodonaError, match=r"makes no difference: 0\.3"):
        calibrate(lambda value: 0.3, 0.3)


@pytest.fixture
def read(tmp_path):
    return recording(tmp_path / "t.parquet", noise(np.random.default_rng(2), 60, 100))


@pytest.mark.parametrize(
    ("budget", "per", "target"), [(Budget(np.inf, 1), "token", 0.03), (Budget(5, 4), "problem", 2)]
)
def test_what_is_found_on_one_half_holds_on_the_other(read, budget, per, target):
    """A rate that is reported on the problems where it was found."""
    split = halves(read, 3)
    assert (split.fit ^ split.test).all() and split.fit.sum() == 30
    known = labels(read, Limits())
    found = calibrated(read, known, budget, "entropy > threshold", target, per, split, resamples=300, seed=0)
    assert found.found.rate == pytest.approx(target, rel=0.02)
    other = read.select(split.test)
    consults = Replayer(other, budget).consults(found.trial.trigger)
    whole = other.tokens if per == "token" else len(other.runs)
    assert found.achieved.value == len(consults.start) / whole
    low, high = found.achieved.interval
    assert low < target < high and high - low < target
    assert found.trial.score.runs == 30


def test_the_halves_depend_on_the_seed_and_the_names_alone(read):
    """A split that changes with the order of the files, or puts a problem on both sides."""
    first, again, other = (halves(read, seed).fit for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    order = np.random.default_rng(4).permutation(60)
    parts = [read.select(np.arange(60) == place) for place in order]
    names = {run.problem_id for run, fit in zip(read.runs, first, strict=True) if fit}
    shuffled = type(read)(
        runs=[part.runs[0] for part in parts],
        edges=np.concatenate(([0], np.cumsum([part.tokens for part in parts]))),
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in read.columns},
        token_id=np.concatenate([part.token_id for part in parts]),
        oracle=np.concatenate([part.oracle for part in parts]),
        starts=np.concatenate([part.starts for part in parts]),
        settings={name: np.concatenate([part.settings[name] for part in parts]) for name in read.settings},
    )
    moved = halves(shuffled, 0).fit
    assert {run.problem_id for run, fit in zip(shuffled.runs, moved, strict=True) if fit} == names
    with pytest.raises(DodonaError, match="two problems or more"):
        halves(read.select(np.arange(60) == 0), 0)
