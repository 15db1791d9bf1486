"""Lines through points: planted slopes come back, and the interval says how sure they are."""

from __future__ import annotations

import math
import random

import pytest
from scipy import stats

from dodona.bench.fit import fitted


def test_a_planted_line_comes_back():
    """A slope divided by the wrong spread would be off by a factor, and no table would show it."""
    line = fitted([(x, 3.0 + 0.25 * x) for x in (1, 2, 4, 8, 16)])
    assert line.slope == pytest.approx(0.25) and line.intercept == pytest.approx(3.0)
    assert line.low == pytest.approx(0.25) and line.high == pytest.approx(0.25)
    assert line.at(100) == pytest.approx(28.0) and line.points == 5


@pytest.mark.parametrize("points", [3, 4, 17, 18, 35, 200])
def test_the_interval_is_scipys(points: int):
    """The normal's 1.96 in place of Student's t, which makes the interval of 20 points too narrow."""
    draws = random.Random(points)
    xs = [draws.uniform(0, 9) for _ in range(points)]
    ys = [draws.gauss(x, 1) for x in xs]
    line, theirs = fitted(list(zip(xs, ys, strict=True))), stats.linregress(xs, ys)
    half = stats.t.ppf(0.975, points - 2) * theirs.stderr
    assert (line.slope, line.intercept) == pytest.approx((theirs.slope, theirs.intercept))
    assert (line.slope - line.low, line.high - line.slope) == pytest.approx((half, half), rel=1e-3)


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
