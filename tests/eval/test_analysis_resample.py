"""The bootstrap over problems: its draws against scikit-learn, its intervals against scipy and against the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from dodona.eval.analysis.curves import groups, recall_at
from dodona.eval.analysis.resample import difference, percentile, problem_weights, rank, ratio, share
from dodona.eval.stats.intervals import wilson


def sample(rng: np.random.Generator, problems: int, length: int, strength: float = 1.0):
    """Scores and labels that vary by problem, with a little to do with each other."""
    problem = np.repeat(np.arange(problems), length)
    shift = rng.normal(size=problems)[problem]
    scores = (rng.normal(size=len(problem)) + shift).astype(np.float32)
    positive = rng.random(len(problem)) < 1 / (1 + np.exp(2 - strength * scores - rng.normal(size=problems)[problem]))
    return scores, positive, problem


def test_every_draw_is_the_statistic_of_problems_drawn_with_replacement():
    """Rows drawn one by one, problems weighted twice, or a draw that belongs to another statistic."""
    scores, positive, problem = sample(np.random.default_rng(0), 30, 40)
    weights = problem_weights(30, 25, seed=4)
    assert (weights.sum(1) == 30).all()
    found = rank(scores, positive, problem, weights, [0.05])
    for draw, weight in enumerate(weights):
        rows = weight[problem]
        assert found.auroc.draws[draw] == pytest.approx(roc_auc_score(positive, scores, sample_weight=rows), abs=1e-6)
        expected = average_precision_score(positive, scores, sample_weight=rows)
        assert found.average_precision.draws[draw] == pytest.approx(expected, abs=1e-6)
        again = np.repeat(np.arange(len(scores)), rows.astype(int))
        assert found.recalls[0].draws[draw] == pytest.approx(
            recall_at(*groups(scores[again], positive[again]), [0.05])[0], abs=1e-6
        )


def test_bins_change_next_to_nothing():
    """A shortcut for many rows that costs more than a resample's own spread."""
    scores, positive, problem = sample(np.random.default_rng(1), 60, 400)
    weights = problem_weights(60, 100)
    exact = rank(scores, positive, problem, weights, [0.01, 0.1], bins=10**9)
    binned = rank(scores, positive, problem, weights, [0.01, 0.1], bins=2048)
    pairs = [(exact.auroc, binned.auroc), (exact.average_precision, binned.average_precision)]
    pairs += list(zip(exact.recalls, binned.recalls, strict=True))
    for one, other in pairs:
        assert one.value == other.value
        spread = one.draws.std()
        assert np.abs(one.draws - other.draws).max() < 0.2 * spread
        np.testing.assert_allclose(one.interval, other.interval, atol=0.1 * spread)


def test_the_interval_is_scipys_percentile_interval_over_problems():
    """Quantiles of the wrong tail, or of standardised draws. Two bootstraps differ by chance alone."""
    scores, positive, problem = sample(np.random.default_rng(2), 40, 50)

    def statistic(chosen):
        rows = np.concatenate([np.flatnonzero(problem == one) for one in chosen])
        return roc_auc_score(positive[rows], scores[rows])

    theirs = stats.bootstrap(
        (np.arange(40),), statistic, vectorized=False, n_resamples=600, method="percentile", rng=0
    ).confidence_interval
    ours = rank(scores, positive, problem, problem_weights(40, 4000)).auroc
    assert ours.value == pytest.approx(roc_auc_score(positive, scores))
    assert ours.interval == pytest.approx(tuple(theirs), abs=0.2 * (theirs.high - theirs.low))


def test_a_share_and_its_interval_equal_scipys():
    """A mean of shares in place of a share of sums."""
    rng = np.random.default_rng(3)
    whole = rng.integers(1, 50, 60)
    part = rng.binomial(whole, rng.beta(2, 5, 60))
    ours = ratio(part, whole, problem_weights(60, 4000))
    theirs = stats.bootstrap(
        (part, whole),
        lambda a, b, axis=-1: a.sum(axis) / b.sum(axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=0,
    ).confidence_interval
    assert ours.value == part.sum() / whole.sum()
    assert ours.interval == pytest.approx(tuple(theirs), abs=0.1 * (theirs.high - theirs.low))


def test_a_difference_is_taken_draw_by_draw():
    """Two intervals subtracted, which ignores that both signals see the same problems."""
    scores, positive, problem = sample(np.random.default_rng(4), 50, 60)
    weights = problem_weights(50, 500)
    one = rank(scores, positive, problem, weights).auroc
    blurred = scores + 0.05 * np.random.default_rng(0).normal(size=len(scores)).astype(np.float32)
    other = rank(blurred, positive, problem, weights).auroc
    both = difference(one, other)
    assert both.value == one.value - other.value
    low, high = both.interval
    assert high - low < 0.2 * (one.interval.high - one.interval.low)
    assert difference(one, one)[:2] == (0, None)


def test_the_interval_holds_the_statistic_where_everything_is_perfect():
    """A bin's ties that pull a perfect ranking away from 1."""
    problem = np.repeat(np.arange(20), 500)
    scores = np.random.default_rng(5).random(10_000).astype(np.float32)
    found = rank(scores, scores > 0.97, problem, problem_weights(20, 200))
    assert found.auroc.value == 1 and (found.auroc.draws == 1).all()
    assert found.average_precision.value == pytest.approx(1)


def test_a_statistic_that_few_resamples_define_has_no_interval():
    """An interval from the resamples that happen to have both classes."""
    problem = np.repeat(np.arange(12), 5)
    positive = problem == 3
    found = rank(np.arange(60, dtype=np.float32), positive, problem, problem_weights(12, 500))
    assert 0 < found.auroc.value < 1 and found.auroc.interval is None
    assert percentile(np.full(10, np.nan), 0.95) is None
    assert percentile(np.array([]), 0.95) is None


def test_resamples_that_are_alike_are_no_certainty():
    """One problem, or many that agree, give an interval without width: 100.0 [100.0, 100.0]."""
    scores, positive, _ = sample(np.random.default_rng(7), 1, 60)
    assert rank(scores, positive, np.zeros(60, dtype=int), problem_weights(1, 100)).auroc.interval is None
    whole, weights = np.arange(1.0, 21.0), problem_weights(20, 100)
    assert ratio(0.3 * whole, whole, weights).interval is None
    assert share(0 * whole, whole, weights).interval == wilson(0, 20)
    assert share(whole, whole, weights).interval == wilson(20, 20)
    assert share(whole / 2 * (whole > 5), whole, weights)[:2] == ratio(whole / 2 * (whole > 5), whole, weights)[:2]


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    """Intervals that change from one reading of a file to the next."""
    scores, positive, problem = sample(np.random.default_rng(6), 20, 30)
    first, again, other = (
        rank(scores, positive, problem, problem_weights(20, 200, seed)).auroc.interval for seed in (0, 0, 1)
    )
    assert first == again != other


def test_problems_beyond_those_counted_at_once_are_counted():
    """Blocks of problems that are left out or counted twice."""
    rng = np.random.default_rng(7)
    problem = rng.permutation(np.repeat(np.arange(1300), 3))
    scores, positive = rng.random(3900).astype(np.float32), rng.random(3900) < 0.3
    weights = problem_weights(1300, 3)
    found = rank(scores, positive, problem, weights, bins=10**9)
    for draw in range(3):
        expected = roc_auc_score(positive, scores, sample_weight=weights[draw][problem])
        assert found.auroc.draws[draw] == pytest.approx(expected, abs=1e-6)


def test_no_problems_give_no_weights():
    """A multinomial of nothing, which NumPy refuses."""
    assert problem_weights(0, 5).shape == (5, 0)
