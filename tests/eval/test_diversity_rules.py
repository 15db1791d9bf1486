"""Rules that choose among samples: closed forms against enumeration, and the edges where definitions differ."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import diversity_naive as naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dodona.eval.diversity.classes import classes_of, same_answer, same_letter
from dodona.eval.diversity.expectations import best_at_k, majority_at_k, pass_at_k
from dodona.eval.diversity.pool import Pool, given_rewards, logprob_rewards
from dodona.eval.diversity.settings import Options
from dodona.eval.diversity.subsets import masks, subsets
from dodona.eval.diversity.votes import SILENT, best_of, class_values, majority, minimum_bayes_risk, weighted_vote

SAMPLES = st.lists(st.tuples(st.integers(-1, 3), st.booleans(), st.integers(0, 3)), min_size=1, max_size=8)


def columns(samples: list[tuple[int, bool, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes, numbered by first appearance; correct, 0 where there is no answer; rewards with ties."""
    numbers: dict[int, int] = {}
    classes = [SILENT if c < 0 else numbers.setdefault(c, len(numbers)) for c, _, _ in samples]
    correct = [float(right and c >= 0) for c, right, _ in samples]
    return np.array(classes), np.array(correct), np.array([float(r) for _, _, r in samples])


def everything(n: int, k: int) -> np.ndarray:
    return masks(subsets(n, k, 10**6, 1, 0, ""), n)


# --- coverage ---


@pytest.mark.parametrize("n", range(1, 9))
def test_coverage_is_the_share_of_all_subsets_with_a_right_sample(n: int) -> None:
    """Catches 1 - (1 - c/n)^k, which is biased, and an off-by-one in the product."""
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        correct = [1] * c + [0] * (n - c)
        wanted = naive.over_subsets(n, k, lambda subset, correct=correct: naive.coverage(correct, subset))
        assert pass_at_k(n, c, k) == pytest.approx(wanted, abs=1e-14)


def test_coverage_stays_exact_where_binomials_leave_the_range_of_floats() -> None:
    """Catches C(n, k) in floating point: 10000 over 5000 is no float64."""
    assert pass_at_k(10_000, 1, 5_000) == 0.5
    assert pass_at_k(10_000, 3, 5_000) == pytest.approx(0.875, abs=1e-4)
    assert pass_at_k(10_000, 0, 10_000) == 0.0
    assert pass_at_k(2_000, 1, 1) == 1 / 2_000


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 5), (4, 2, 0), (4, 5, 2), (4, -1, 2), (0, 0, 1)])
def test_coverage_refuses_what_has_no_estimate(n: int, c: int, k: int) -> None:
    """Fewer samples than k: the widespread code returns 1.0 there, for no right sample at all."""
    with pytest.raises(ValueError):
        pass_at_k(n, c, k)


# --- majority, best-of-N, weighted vote ---


@settings(max_examples=150, deadline=None)
@given(SAMPLES)
def test_closed_forms_are_the_means_over_all_subsets(samples: list[tuple[int, bool, int]]) -> None:
    """Catches ties that are counted as wrong or won by the first, silent samples that vote, and lost subsets."""
    classes, correct, rewards = columns(samples)
    n = len(classes)
    counts = Counter(classes[classes != SILENT].tolist())
    values = class_values(classes, correct)
    listed = [(counts[name], float(values[name])) for name in sorted(counts)]
    silent = int((classes == SILENT).sum())
    curve = majority_at_k([c for c, _ in listed], [v for _, v in listed], silent, n)
    alone = majority_at_k([c for c, _ in listed], [v for _, v in listed], silent, n, ties=False)
    for k in range(1, n + 1):
        mask = everything(n, k)
        wanted = naive.over_subsets(n, k, lambda subset: naive.vote(classes, correct, subset))
        assert curve[k] == pytest.approx(wanted, abs=1e-12)
        assert majority(mask, classes, correct).mean() == pytest.approx(wanted, abs=1e-12)
        assert majority(mask, classes, correct, "wrong").mean() == pytest.approx(alone[k], abs=1e-12)
        first = naive.over_subsets(n, k, lambda subset: naive.first_vote(classes, correct, subset))
        assert majority(mask, classes, correct, "first").mean() == pytest.approx(first, abs=1e-12)
        wanted = naive.over_subsets(n, k, lambda subset: naive.best(rewards, correct, subset))
        assert best_at_k(rewards, correct, k) == pytest.approx(wanted, abs=1e-12)
        assert best_of(mask, correct, rewards).mean() == pytest.approx(wanted, abs=1e-12)
        wanted = naive.over_subsets(n, k, lambda subset: naive.vote(classes, correct, subset, rewards))
        assert weighted_vote(mask, classes, correct, rewards).mean() == pytest.approx(wanted, abs=1e-12)


def test_a_majority_of_one_is_the_accuracy_of_one_sample() -> None:
    """Catches a silent sample that is left out of the denominator."""
    classes, correct = np.array([0, 1, SILENT, 0]), np.array([1.0, 0.0, 0.0, 1.0])
    assert majority(np.eye(4, dtype=bool), classes, correct).tolist() == [1.0, 0.0, 0.0, 1.0]
    assert majority_at_k([2, 1], [1.0, 0.0], 1, 1)[1] == 0.5


def test_two_answers_that_tie_are_worth_the_mean_of_both() -> None:
    """The three tie rules on one subset: they differ by a whole point, so each must be the one that was asked for."""
    mask = np.ones((1, 4), dtype=bool)
    classes, correct = np.array([0, 1, 1, 0]), np.array([0.0, 1.0, 1.0, 0.0])
    assert majority(mask, classes, correct).tolist() == [0.5]
    assert majority(mask, classes, correct, "first").tolist() == [0.0]
    assert majority(mask, classes, correct, "wrong").tolist() == [0.0]
    assert majority(mask, np.array([1, 0, 0, 1]), correct, "first").tolist() == [0.0]


def test_samples_without_answers_have_no_vote_and_a_batch_of_them_is_wrong() -> None:
    """Catches a group of unparsed answers that wins the vote."""
    mask = np.array([[True, True, True, False], [False, True, True, False]])
    classes, correct = np.array([0, SILENT, SILENT, 1]), np.array([1.0, 0.0, 0.0, 0.0])
    for ties in ("expectation", "first", "wrong"):
        assert majority(mask, classes, correct, ties).tolist() == [1.0, 0.0]  # type: ignore[arg-type]
    nobody = np.full(4, SILENT)
    assert majority(mask, nobody, np.zeros(4)).tolist() == [0.0, 0.0]
    assert weighted_vote(mask, nobody, np.zeros(4), np.ones(4)).tolist() == [0.0, 0.0]
    assert majority_at_k([], [], 4, 4)[1:].tolist() == [0.0] * 4


def test_a_large_count_of_majorities_agrees_with_sampled_subsets() -> None:
    """Catches polynomials that overflow or lose the small terms, which no case of eight samples can show."""
    random = np.random.default_rng(3)
    classes = random.integers(-1, 12, size=200)
    numbers = {name: place for place, name in enumerate(dict.fromkeys(classes[classes >= 0].tolist()))}
    classes = np.array([numbers.get(name, SILENT) for name in classes.tolist()])
    correct = (classes == 3).astype(float)
    counts = np.bincount(classes[classes >= 0])
    curve = majority_at_k(counts.tolist(), [float(i == 3) for i in range(len(counts))], int((classes < 0).sum()), 200)
    for k in (1, 7, 50, 150):
        drawn = masks(subsets(200, k, 1, 4000, 0, "x"), 200)
        assert curve[k] == pytest.approx(majority(drawn, classes, correct).mean(), abs=0.03)
    assert curve[1] == pytest.approx(correct.mean(), abs=1e-12)
    assert curve[200] == majority(np.ones((1, 200), dtype=bool), classes, correct)[0]
    assert ((curve[1:] >= 0) & (curve[1:] <= 1)).all()


def test_the_best_of_equal_rewards_is_drawn_among_them() -> None:
    """Catches argmax, which always takes the first of equals: duplicates have equal log-probabilities."""
    assert best_at_k([0.5, 0.5, 0.1], [1, 0, 0], 3) == 0.5
    assert best_at_k([math.nan, 0.1, 0.2], [1, 0, 1], 2) == pytest.approx(2 / 3)
    assert best_at_k([math.nan, math.nan], [1, 0], 2) == 0.5
    with pytest.raises(ValueError):
        best_at_k([0.5], [1, 0], 1)
    with pytest.raises(ValueError):
        best_at_k([0.5], [1], 2)


def test_weights_below_zero_are_refused() -> None:
    """With them two votes for an answer count for less than one."""
    with pytest.raises(ValueError):
        weighted_vote(np.ones((1, 2), dtype=bool), np.array([0, 1]), np.array([1.0, 0.0]), np.array([-1.0, 1.0]))
    assert given_rewards(np.array([-1.0, 1.0])).weights is None
    assert given_rewards(np.array([0.0, math.nan])).weights is not None


# --- minimum Bayes risk ---


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(0, 10**6))
def test_minimum_bayes_risk_agrees_with_a_plain_loop(n: int, seed: int) -> None:
    """Catches a score that counts the sample itself, and one divided by the wrong number."""
    random = np.random.default_rng(seed)
    utility = np.round(random.random((n, n)), 1)
    utility = (utility + utility.T) / 2
    correct = random.integers(0, 2, n).astype(float)
    for k in range(1, n + 1):
        wanted = naive.over_subsets(n, k, lambda subset: naive.medoid(utility, correct, subset))
        found = minimum_bayes_risk(everything(n, k), correct, utility)
        assert found.mean() == pytest.approx(wanted, abs=1e-12)


def test_a_text_that_was_drawn_often_wins_minimum_bayes_risk() -> None:
    """Catches duplicates that are dropped before the vote: then a rare text near the middle wins."""
    utility = np.array([[1.0, 1.0, 0.2, 0.55], [1.0, 1.0, 0.2, 0.55], [0.2, 0.2, 1.0, 0.55], [0.55, 0.55, 0.55, 1.0]])
    mask = np.array([[True, True, True, True], [False, True, True, True]])
    found = minimum_bayes_risk(mask, np.array([1.0, 1.0, 0.0, 0.0]), utility)
    assert found.tolist() == [1.0, 0.0]
    assert utility[0, 0] == 1.0  # the caller's matrix is left alone


# --- answers in classes ---


def test_equal_answers_are_one_class_however_they_are_written() -> None:
    r"""Catches votes by exact string, which split 1/2 and \frac{1}{2}."""
    answers = ["0.5", r"\frac{1}{2}", "1/2", "2", None, "", "  ", "2.0"]
    assert classes_of(answers).tolist() == [0, 0, 0, 1, SILENT, SILENT, SILENT, 1]


def test_an_answer_joins_the_oldest_class_whose_first_answer_it_equals() -> None:
    """Equality is not transitive: 5 equals both 5 cm and 5 kg. The rule must not depend on luck."""
    near = {frozenset("ab"), frozenset("bc")}

    def equal(one: str, other: str) -> bool:
        return frozenset((one, other)) in near

    assert classes_of(["a", "b", "c"], equal).tolist() == [0, 0, 1]
    assert classes_of(["b", "a", "c"], equal).tolist() == [0, 0, 0]
    assert classes_of(["a", "c", "b", "c"], equal).tolist() == [0, 1, 0, 1]


def test_each_two_answers_are_compared_once() -> None:
    """A symbolic comparison may take seconds; thirty-two equal texts must not cost thirty-two of them."""
    asked: list[tuple[str, str]] = []

    def equal(one: str, other: str) -> bool:
        asked.append((one, other))
        return False

    classes_of(["x", "y"] * 20, equal)
    assert asked == [("x", "y")]


def test_answers_that_cannot_be_read_are_classes_of_their_own() -> None:
    """Catches a checker's error that ends the report."""
    found = classes_of(["####", "\\boxed{}", "\\frac{", "\\frac{"])
    assert found[2] == found[3] >= 0
    assert not same_answer("cat", "dog")
    assert same_letter("(b)", "B") and not same_letter("A", "B")


# --- pools ---


def pool(classes: list[int], correct: list[int], logprobs: list[float]) -> Pool:
    known = np.array(logprobs)
    return Pool("p", 0.7, np.array(correct, float), np.array(classes), known, {"logprob": logprob_rewards(known)})


def test_a_pool_gives_every_rule_its_mean_over_subsets() -> None:
    """Catches a rule that is filed under another's name, and exact counts beside other subsets."""
    one = pool([0, 0, 1, SILENT, 1, 2], [1, 1, 0, 0, 0, 0], [-0.1, -0.4, -0.2, -3.0, -0.2, math.nan])
    sizes = [1, 2, 3, 6]
    found = one.expected(sizes, Options())
    weights = np.exp(np.nan_to_num(one.logprobs, nan=-np.inf))
    for place, k in enumerate(sizes):
        assert found["majority"][place] == pytest.approx(
            naive.over_subsets(6, k, lambda s: naive.vote(one.classes, one.correct, s))
        )
        assert found["vote by logprob"][place] == pytest.approx(
            naive.over_subsets(6, k, lambda s: naive.vote(one.classes, one.correct, s, weights))
        )
        assert found["best by logprob"][place] == pytest.approx(
            naive.over_subsets(6, k, lambda s: naive.best(one.logprobs, one.correct, s))
        )
        assert found["coverage"][place] == pytest.approx(
            naive.over_subsets(6, k, lambda s: naive.coverage(one.correct, s))
        )
        assert found["right"][place] == pytest.approx(1 / 3)
    assert list(found) == one.rules()


def test_drawn_subsets_are_different_seeded_and_depend_on_nothing_else() -> None:
    """Catches draws with repetition, and a generator whose state goes from problem to problem."""
    drawn = subsets(16, 8, 100, 60, 5, "p@0.7")
    assert drawn.shape == (60, 8)
    assert len({tuple(row) for row in drawn.tolist()}) == 60
    assert (np.diff(drawn, axis=1) > 0).all() and drawn.min() >= 0 and drawn.max() <= 15
    assert (subsets(16, 8, 100, 60, 5, "p@0.7") == drawn).all()
    assert (subsets(16, 8, 100, 60, 6, "p@0.7") != drawn).any()
    assert (subsets(16, 8, 100, 60, 5, "q@0.7") != drawn).any()
    assert len(subsets(6, 3, 20, 5, 0, "")) == 20
    assert len(subsets(6, 3, 19, 5, 0, "")) == 5
    counts = np.bincount(subsets(10, 5, 1, 240, 0, "even").ravel(), minlength=10)
    assert counts.min() > 90 and counts.max() < 150
    for size in (0, 7):
        with pytest.raises(ValueError):
            subsets(6, size, 10, 10, 0, "")
