"""Intervals of rates where every problem was run several times, and Student's t behind them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from dodona.eval.stats.intervals import cluster_error, clustered, wilson
from dodona.eval.stats.student import student_quantile

RNG = np.random.default_rng


def runs(problems: int, samples: int, seed: int, spread: float = 1.0) -> list[int]:
    """Right runs by problem, where problems are of very different difficulty for a small ``spread``."""
    rng = RNG(seed)
    return [int(n) for n in rng.binomial(samples, rng.beta(spread, spread, problems))]


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_students_quantiles_equal_scipys(confidence: float) -> None:
    """1.96 in place of 12.7 makes an interval over two problems six times too narrow."""
    for degrees in [*range(1, 130), 1000, 10**6]:
        expected = scipy.stats.t.ppf(0.5 + confidence / 2, degrees)
        assert student_quantile(confidence, degrees) == pytest.approx(expected, rel=1e-8)
    with pytest.raises(ValueError, match="degrees of freedom"):
        student_quantile(confidence, 0)


@pytest.mark.parametrize(("problems", "samples"), [(2, 3), (7, 1), (40, 5), (300, 8)])
def test_the_standard_error_equals_that_of_statsmodels(problems: int, samples: int) -> None:
    """sqrt(p(1-p)/n) over all runs is too small by the square root of the seeds where they agree."""
    for seed in range(20):
        counts = runs(problems, samples, seed, 0.5)
        outcomes = np.concatenate([[1.0] * count + [0.0] * (samples - count) for count in counts])
        model = sm.OLS(outcomes, np.ones(len(outcomes)))
        fit = model.fit(cov_type="cluster", cov_kwds={"groups": np.repeat(np.arange(problems), samples)})
        assert cluster_error(counts, samples) == pytest.approx(fit.bse[0], rel=1e-9, abs=1e-12)


def test_with_one_run_a_problem_it_is_wilsons_interval() -> None:
    """Two names for one thing must not give two numbers in one table."""
    for n in (1, 2, 3, 10, 137):
        for right in range(n + 1):
            assert clustered([1] * right + [0] * (n - right), 1) == pytest.approx(wilson(right, n), abs=1e-12)


@pytest.mark.parametrize(("problems", "samples"), [(2, 3), (5, 2), (12, 4)])
def test_it_is_wilsons_interval_of_the_effective_runs(problems: int, samples: int) -> None:
    """A degree of freedom too many, or a design effect's square root, shows where there are few problems alone."""
    for seed in range(20):
        rates = np.array(counts := runs(problems, samples, seed)) / samples
        rate, n = rates.mean(), problems * samples
        if 0 < rate < 1:
            effect = scipy.stats.sem(rates) ** 2 / (rate * (1 - rate) / (n - 1))
            wide, narrow = scipy.stats.t.ppf(0.975, [problems - 1, n - 1])
            effective = n / max(1, effect) * (narrow / wide) ** 2
            expected = proportion_confint(rate * effective, effective, method="wilson")
            assert clustered(counts, samples) == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_it_is_the_normal_interval_where_that_is_good() -> None:
    """In the middle and for many problems, mean +- 1.96 standard errors is right, and this must not differ."""
    counts = runs(4000, 5, 0)
    rate, error = sum(counts) / 20000, cluster_error(counts, 5)
    low, high = clustered(counts, 5)
    assert (low, high) == pytest.approx((rate - 1.96 * error, rate + 1.96 * error), abs=2e-4)


def test_seeds_that_agree_are_no_new_evidence() -> None:
    """Five greedy seeds of 100 problems are not 500 problems."""
    counts = [5] * 40 + [0] * 60
    low, high = clustered(counts, 5)
    single = wilson(40, 100)
    assert high - low == pytest.approx(single.high - single.low, rel=0.03)
    independent = wilson(200, 500)
    assert high - low > 2 * (independent.high - independent.low)


@pytest.mark.parametrize("samples", [1, 2, 5])
@pytest.mark.parametrize("problems", [1, 2, 20, 500])
def test_where_all_runs_agree_the_interval_has_the_width_of_the_problems(problems: int, samples: int) -> None:
    """A standard error of 0 at 0 of n gives [0, 0]: certainty from a handful of problems."""
    assert clustered([0] * problems, samples) == wilson(0, problems)
    assert clustered([samples] * problems, samples) == wilson(problems, problems)


def test_equal_rates_of_all_problems_do_not_give_a_point() -> None:
    """One of two runs right on every problem: the standard error is exactly 0 away from the ends, too."""
    assert cluster_error([1] * 30, 2) == 0
    low, high = clustered([1] * 30, 2)
    assert low < 0.4 and high > 0.6


def test_nothing_says_nothing() -> None:
    """No problem, and one problem, whose spread is not known."""
    assert clustered([], 3) == (0.0, 1.0)
    assert math.isnan(cluster_error([2], 3))
    assert clustered([1], 2) == pytest.approx(clustered([1] * 1, 2))
    low, high = clustered([2], 3)
    assert low < 0.25 and high > 0.9


@given(
    st.integers(1, 6).flatmap(
        lambda samples: st.tuples(st.lists(st.integers(0, samples), min_size=1, max_size=40), st.just(samples))
    )
)
def test_the_interval_holds_the_rate_has_a_width_and_mirrors(case: tuple[list[int], int]) -> None:
    """Whatever the counts are."""
    counts, samples = case
    rate = sum(counts) / (samples * len(counts))
    low, high = clustered(counts, samples)
    assert 0 <= low <= rate + 1e-12 and rate - 1e-12 <= high <= 1 and high - low > 1e-3
    mirrored = clustered([samples - count for count in counts], samples)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_it_holds_the_truth_about_as_often_as_it_says() -> None:
    """Wilson's interval over all runs would hold it in about 70 of 100 such experiments."""
    rng, problems, samples, held, naive = RNG(3), 80, 5, 0, 0
    for _ in range(600):
        counts = [int(n) for n in rng.binomial(samples, rng.beta(0.4, 1.2, problems))]
        low, high = clustered(counts, samples)
        held += low <= 0.25 <= high
        low, high = wilson(sum(counts), problems * samples)
        naive += low <= 0.25 <= high
    assert 0.93 <= held / 600 <= 0.98
    assert naive / 600 < 0.85


@pytest.mark.parametrize(("counts", "samples"), [([3], 2), ([-1], 2), ([0], 0)])
def test_impossible_counts_are_refused(counts: list[int], samples: int) -> None:
    """More right runs than runs come from rows counted twice."""
    for function in (clustered, cluster_error):
        with pytest.raises(ValueError, match="runs"):
            function(counts, samples)
