"""AUROC, average precision and recall against scikit-learn, with ties, weights and one class only."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from dodona.eval.analysis.curves import (
    auroc,
    average_precision,
    group_numbers,
    groups,
    recall_at,
    recall_points,
    roc_points,
)

ROWS = st.integers(1, 60)


@st.composite
def rankings(draw, values: int = 8):
    n = draw(ROWS)
    scores = draw(arrays(np.float32, n, elements=st.integers(0, values).map(float)))
    positive = draw(arrays(np.bool_, n))
    return scores, positive


@given(rankings())
@settings(max_examples=300, deadline=None)
def test_they_equal_scikit_learns_on_scores_with_many_ties(ranking):
    """Ties that count whole or not at all, a step too early or too late, or the wrong class on top."""
    scores, positive = ranking
    pos, neg = groups(scores, positive)
    if positive.all() or not positive.any():
        assert np.isnan([auroc(pos, neg), average_precision(pos, neg), recall_at(pos, neg, [0.1])[0]]).all()
        return
    assert auroc(pos, neg) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert average_precision(pos, neg) == pytest.approx(average_precision_score(positive, scores), abs=1e-12)


def test_they_equal_scikit_learns_on_many_rows_without_ties():
    """Sums that lose digits."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=200_000)
    positive = rng.random(200_000) < 1 / (1 + np.exp(4 - scores))
    pos, neg = groups(scores, positive)
    assert auroc(pos, neg) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert average_precision(pos, neg) == pytest.approx(average_precision_score(positive, scores), abs=1e-12)


@given(rankings(), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_weighted_counts_are_weighted_rows(ranking, seed):
    """A bootstrap whose draws are not those of the statistic."""
    scores, positive = ranking
    weight = np.random.default_rng(seed).integers(0, 4, len(scores)).astype(float)
    if not weight[positive].any() or not weight[~positive].any():
        return
    number, count = group_numbers(scores)
    pos, neg = (np.bincount(number[w], weights=weight[w], minlength=count) for w in (positive, ~positive))
    expected = roc_auc_score(positive, scores, sample_weight=weight)
    assert auroc(pos, neg) == pytest.approx(expected, abs=1e-12)
    expected = average_precision_score(positive, scores, sample_weight=weight)
    assert average_precision(pos, neg) == pytest.approx(expected, abs=1e-12)


@given(rankings())
@settings(max_examples=100, deadline=None)
def test_recall_at_a_rate_that_a_threshold_spends_is_the_recall_of_that_threshold(ranking):
    """Rates of the negatives in place of all rows, or positives counted up to the wrong row."""
    scores, positive = ranking
    if positive.all() or not positive.any():
        return
    pos, neg = groups(scores, positive)
    precision, recall, thresholds = precision_recall_curve(positive, scores)
    for index, threshold in enumerate(thresholds):
        rate = float((scores >= threshold).mean())
        assert recall_at(pos, neg, [rate])[0] == pytest.approx(recall[index], abs=1e-9)
        if rate:
            assert recall[index] * positive.sum() / (rate * len(scores)) == pytest.approx(precision[index])


def test_a_rate_that_cuts_a_group_counts_it_in_proportion():
    """All of a tie or nothing of it, which the order of the rows would decide."""
    scores = np.array([3.0, 2, 2, 2, 2, 1, 1, 1, 1, 1])
    positive = np.array([True, True, True, False, False, True, False, False, False, False])
    found = recall_at(*groups(scores, positive), [0.1, 0.3, 0.5, 1.0])
    assert found == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1])


def test_all_rankings_of_a_bootstrap_are_done_at_once():
    """A last axis that is mixed up with the first."""
    rng = np.random.default_rng(1)
    pos, neg = rng.integers(0, 5, (7, 11)).astype(float), rng.integers(0, 5, (7, 11)).astype(float)
    pos[3] = 0
    for function in (auroc, average_precision, lambda a, b: recall_at(a, b, [0.2, 0.5])):
        together = function(pos, neg)
        for row in range(7):
            np.testing.assert_array_equal(together[row], function(pos[row], neg[row]))
        assert np.isnan(together[3]).all() and not np.isnan(np.delete(together, 3, axis=0)).any()


def test_infinities_rank_and_nan_is_refused():
    """A NaN that ranks above everything, silently."""
    scores = np.array([-np.inf, 0.0, np.inf, 1.0])
    pos, neg = groups(scores, np.array([False, False, True, True]))
    assert auroc(pos, neg) == 1
    with pytest.raises(ValueError, match="NaN"):
        groups(np.array([1.0, np.nan]), np.array([True, False]))
    with pytest.raises(ValueError, match="2 scores against 3"):
        groups(np.array([1.0, 2.0]), np.array([True, False, True]))


def test_curves_go_from_corner_to_corner():
    """Curves for the page that miss a point that scikit-learn's have."""
    rng = np.random.default_rng(2)
    scores, positive = rng.integers(0, 20, 300).astype(float), rng.random(300) < 0.3
    pos, neg = groups(scores, positive)
    x, y = roc_points(pos, neg)
    false, true, _ = roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(x, false)
    np.testing.assert_allclose(y, true)
    rows, found = recall_points(pos, neg)
    assert (rows[0], found[0], rows[-1], found[-1]) == (0, 0, 1, 1)
    assert (np.diff(rows) > 0).all() and (np.diff(found) >= 0).all()


def test_nothing_at_all_is_undefined():
    """A division by zero, or a number."""
    empty = groups(np.zeros(0), np.zeros(0, dtype=bool))
    assert math.isnan(auroc(*empty)) and math.isnan(average_precision(*empty))
    assert np.isnan(recall_at(*empty, [0.5])).all()
