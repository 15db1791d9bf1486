"""Lines through points: planted slopes come back, and the interval says how sure they are."""

from __future__ import annotations

import math
import random

import pytest

from dodona.bench.fit import fitted


def test_a_planted_line_comes_back():
    """A slope divided by the wrong spread would be off by a factor, and no table would show it."""
    line = fitted([(x, 3.0 + 0.25 * x) for x in (1, 2, 4, 8, 16)])
    assert line.slope == pytest.approx(0.25) and line.intercept == pytest.approx(3.0)
    assert line.low == pytest.approx(0.25) and line.high == pytest.approx(0.25)
    assert line.at(100) == pytest.approx(28.0) and line.points == 5


def test_the_interval_is_that_of_a_regression_text():
    """Anscombe's first data set: slope 0.500, its standard error 0.118, and Student's t with 9 degrees of freedom."""
    xs = (10, 8, 13, 9, 11, 14, 6, 4, 12, 7, 5)
    ys = (8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68)
    line = fitted(list(zip(xs, ys, strict=True)))
    assert line.slope == pytest.approx(0.50009, abs=1e-5) and line.intercept == pytest.approx(3.00009, abs=1e-5)
    assert line.high - line.slope == pytest.approx(2.262 * 0.11791, rel=1e-3)


def test_the_interval_holds_the_planted_slope_as_often_as_it_says():
    """An interval with the wrong t is too narrow for few points."""
    draws = random.Random(1)
    held = 0
    for _ in range(400):
        line = fitted([(x, 2.0 * x + draws.gauss(0, 1)) for x in (0, 1, 2, 3)])
        held += line.low <= 2.0 <= line.high
    assert 0.91 <= held / 400 <= 0.98


def test_two_points_have_a_slope_and_no_certainty():
    """Nothing is left to judge the line by: an interval of width 0 would claim that it is exact."""
    line = fitted([(0, 1.0), (2, 5.0)])
    assert line.slope == 2.0 and line.low == -math.inf and line.high == math.inf


def test_points_at_one_place_have_no_line():
    """A division by zero in the middle of a run."""
    with pytest.raises(ValueError, match="two places"):
        fitted([(1, 1.0), (1, 2.0)])
