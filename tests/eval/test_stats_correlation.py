"""Rank correlations against SciPy, and the bootstrap over problems against the slow way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from dodona.eval.stats.bootstrap import score_correlation
from dodona.eval.stats.correlation import ranks, spearman, spearman_interval

RNG = np.random.default_rng


def outcomes(values: list[float], problems: int, seed: int) -> np.ndarray:
    """[P, A] runs that are right more often for larger values, and together for each problem."""
    rng = RNG(seed)
    difficulty = rng.normal(0, 1.5, (problems, 1))
    strength = np.minimum(np.array(values), 20)[None, :] / 8 - 0.8
    return (rng.logistic(strength - difficulty) > 0).astype(int)


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_ranks_and_rho_equal_scipys_with_ties(levels: int) -> None:
    """Outcomes are 0 or 1 and c has a few values: without mean ranks of ties rho depends on the order of the rows."""
    for seed in range(30):
        rng = RNG(seed)
        x, y = rng.integers(0, levels, 60).astype(float), rng.integers(0, levels, 60).astype(float)
        assert ranks(x) == pytest.approx(scipy.stats.rankdata(x))
        assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)
        assert spearman(x, x) == pytest.approx(1) and spearman(x, -x) == pytest.approx(-1)


def test_an_infinite_budget_has_the_last_rank() -> None:
    """c=inf is an ordinary arm."""
    assert list(ranks([math.inf, 0, 5, math.inf])) == [3.5, 1, 2, 3.5]
    assert spearman([0, 1, math.inf], [0, 0, 1]) == pytest.approx(scipy.stats.spearmanr([0, 1, 9], [0, 0, 1])[0])


@pytest.mark.parametrize(("x", "y"), [([], []), ([1], [1]), ([1, 1, 1], [0, 1, 0]), ([1, 2, 3], [1, 1, 1])])
def test_an_undefined_correlation_is_none_and_not_zero(x: list[float], y: list[float]) -> None:
    """0 would read as "c makes no difference" where nothing was measured."""
    assert spearman(x, y) is None


def test_what_has_no_rank_is_refused() -> None:
    """NaN sorts to one end, and would count as the largest c."""
    with pytest.raises(ValueError, match="NaN"):
        spearman([1, math.nan], [1, 2])
    with pytest.raises(ValueError, match="3 values against 2"):
        spearman([1, 2, 3], [1, 2])


def test_the_interval_of_independent_pairs_is_bonett_and_wrights() -> None:
    """Fisher's own 1 / (n - 3) is for Pearson's correlation, and too narrow for ranks."""
    for rho, n in ((0.3, 40), (-0.8, 12), (0.0, 4)):
        half = 1.959963984540054 * math.sqrt((1 + rho**2 / 2) / (n - 3))
        expected = np.tanh([np.arctanh(rho) - half, np.arctanh(rho) + half])
        assert spearman_interval(rho, n) == pytest.approx(tuple(expected), abs=1e-12)
    assert spearman_interval(0.5, 3) is None and spearman_interval(1.0, 50) is None
    with pytest.raises(ValueError, match="lies in"):
        spearman_interval(1.1, 50)


def test_the_interval_of_independent_pairs_holds_rho_about_as_often_as_it_says() -> None:
    """With normal data of correlation 0.5 Spearman's rho is 6 / pi asin(0.25)."""
    rng, held, truth = RNG(1), 0, 6 / math.pi * math.asin(0.25)
    for _ in range(500):
        x = rng.normal(size=60)
        y = 0.5 * x + math.sqrt(0.75) * rng.normal(size=60)
        rho = spearman(x, y)
        assert rho is not None
        interval = spearman_interval(rho, 60)
        assert interval is not None
        held += interval.low <= truth <= interval.high
    assert 0.92 <= held / 500 <= 0.98


@pytest.mark.parametrize("values", [[0, 1, 2, 5], [0, 5, 5, 5, math.inf], [3, 1, 2, 2, 2, 40, 40]])
def test_rho_over_runs_equals_scipys_over_the_flat_table(values: list[float]) -> None:
    """The short way (ranks of arms, sums by problem) must be the same number as all runs one by one."""
    finite = [1e9 if math.isinf(value) else value for value in values]
    for seed in range(5):
        right = outcomes(values, 83, seed)
        expected = scipy.stats.spearmanr(np.tile(finite, 83), right.ravel()).statistic
        assert score_correlation(values, right).rho == pytest.approx(expected, abs=1e-12)


def test_the_interval_is_that_of_resampled_problems() -> None:
    """Resampling runs instead of problems ignores that a problem's runs hang together."""
    values, problems = [0.0, 1.0, 5.0, 20.0], 60
    right = outcomes(values, problems, 4)
    rng, rhos = RNG(9), []
    for _ in range(800):
        drawn = right[rng.integers(0, problems, problems)]
        rhos.append(scipy.stats.spearmanr(np.tile(values, problems), drawn.ravel()).statistic)
    found = score_correlation(values, right)
    assert found.interval == pytest.approx(tuple(np.quantile(rhos, [0.025, 0.975])), abs=0.025)
    assert (found.problems, found.arms) == (60, 4)


def test_the_same_runs_give_the_same_interval_in_any_order() -> None:
    """A report that changes from run to run, or with the order of the files, cannot be compared with another."""
    values = [0.0, 2.0, 5.0]
    right = outcomes(values, 50, 0)
    found = score_correlation(values, right)
    assert score_correlation(values, right) == found
    assert score_correlation(values, right[::-1]) == found
    assert score_correlation([5.0, 0.0, 2.0], right[:, [2, 0, 1]]) == found
    assert score_correlation(values, right, seed=1).interval != found.interval


def test_correlations_over_runs_are_undefined_where_nothing_varies() -> None:
    """One value of c, no problem, all right or all wrong: there is nothing to correlate."""
    right = outcomes([0.0, 5.0], 20, 0)
    for values, runs in (([3, 3], right), ([0, 5], right * 0), ([0, 5], right * 0 + 1), ([0, 5], right[:0])):
        found = score_correlation([float(value) for value in values], runs)
        assert found.rho is None and found.interval is None
    assert score_correlation([], np.zeros((4, 0))).rho is None


def test_there_is_no_interval_where_resampling_says_nothing() -> None:
    """One right run of forty problems is in only two of three resamples; equal arms give 0 in all of them."""
    rare = np.zeros((40, 2), dtype=int)
    rare[0, 1] = 1
    assert score_correlation([0, 5], rare).rho is not None
    assert score_correlation([0, 5], rare).interval is None
    same = np.repeat(outcomes([5.0], 40, 0), 3, axis=1)
    assert score_correlation([0, 1, 5], same) == (0.0, None, 40, 3)


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    """A table the other way round would correlate problems."""
    with pytest.raises(ValueError, match="2 values against"):
        score_correlation([0, 5], np.zeros((2, 7)))
