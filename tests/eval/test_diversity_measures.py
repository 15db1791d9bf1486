"""Measures of a batch of texts: each against its definition, and where definitions have edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dodona.engine.errors import DodonaError
from dodona.eval.diversity.bleu import Bleu
from dodona.eval.diversity.measures import distinct_n, dpp_score, mean_cosine, mean_logprob, quality_dpp
from dodona.eval.diversity.ngrams import NgramTable, words
from dodona.eval.diversity.pool import Pool, Texts

TEXTS = [
    "The cat sat on the mat, and the dog slept.",
    "The cat sat on the mat, and the dog slept.",
    "A dog slept on the mat.",
    "58 * 8: 8*8=64, 5*8+6=46, so 58 * 8 = 464.",
    "cat",
    "The mat",
    "entirely other words stand here, none of them shared",
    "",
]


def kernel(n: int, seed: int = 0, dimensions: int = 12) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, dimensions))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, 1.0)
    return cosines


def rows(*subsets: tuple[int, ...]) -> np.ndarray:
    return np.array(subsets)


# --- n-grams ---


def test_distinct_n_counts_different_n_grams_over_all_of_them() -> None:
    """Catches the ratio of means in place of the ratio over the pooled texts, and n-grams across two texts."""
    texts = ["a b a b", "a b c"]
    assert distinct_n(texts, 1) == 3 / 7
    assert distinct_n(texts, 2) == 3 / 5  # ab, ba, bc of ab ba ab ab bc
    assert distinct_n(texts, 3) == 3 / 3
    assert distinct_n(["a b", "a b"], 2) == 1 / 2
    assert distinct_n(["A a"], 1) == 1.0


def test_distinct_n_of_texts_without_n_grams_is_undefined() -> None:
    """Catches a division by zero, and a 0 that says that nothing is different."""
    assert math.isnan(distinct_n(["", " "], 1))
    assert math.isnan(distinct_n(["one two", "three"], 3))
    assert distinct_n(["", "one two three"], 3) == 1.0


def test_jaccard_distances_are_those_of_the_sets() -> None:
    """Catches counts in place of sets, and empty texts that are no distance from everything."""
    table = NgramTable([words(text) for text in ("a b c", "b c d", "a b c", "", "x")], (2,))
    distance = table.jaccard(2)
    assert distance[0, 1] == pytest.approx(1 - 1 / 3)
    assert distance[0, 2] == 0 and distance[3, 3] == 0
    assert distance[0, 3] == 1 and distance[3, 4] == 1
    assert (distance == distance.T).all()


# --- BLEU ---


def test_sentence_bleu_is_sacrebleus() -> None:
    """Catches another smoothing, another tokeniser, and orders that short texts do not have."""
    sacrebleu = pytest.importorskip("sacrebleu", reason="BLEU is compared with sacrebleu's")
    found = Bleu(TEXTS).pairs()
    for i, text in enumerate(TEXTS):
        for j, reference in enumerate(TEXTS):
            wanted = 100.0 if text == reference else sacrebleu.sentence_bleu(text, [reference]).score
            assert found[i, j] == pytest.approx(wanted, abs=1e-9), (text, reference)
    symmetric = Bleu(TEXTS).symmetric()
    assert symmetric == pytest.approx((found + found.T) / 2)


def test_self_bleu_takes_all_other_texts_as_references() -> None:
    """Catches the mean over pairs, a text among its own references, and clipping at the sum of the references."""
    sacrebleu = pytest.importorskip("sacrebleu", reason="BLEU is compared with sacrebleu's")
    bleu = Bleu(TEXTS)
    random = np.random.default_rng(1)
    for size in (2, 3, 5, 8):
        for _ in range(6):
            chosen = random.choice(len(TEXTS), size=size, replace=False)
            wanted = []
            for i in chosen:
                others = [TEXTS[j] for j in chosen if j != i]
                same = TEXTS[i] in others
                wanted.append(100.0 if same else sacrebleu.sentence_bleu(TEXTS[i], others).score)
            assert bleu.self_bleu(chosen) == pytest.approx(np.mean(wanted), abs=1e-9)


def test_self_bleu_at_its_edges() -> None:
    """One text has no references; equal texts are as alike as can be, empty ones too."""
    pytest.importorskip("sacrebleu", reason="BLEU is tokenised by sacrebleu")
    bleu = Bleu(["a b c d e", "a b c d e", "", ""])
    assert math.isnan(bleu.self_bleu(np.array([0])))
    assert bleu.self_bleu(np.array([0, 1])) == 100.0
    assert bleu.self_bleu(np.array([2, 3])) == 100.0
    assert bleu.self_bleu(np.array([0, 2])) == 0.0


def test_a_missing_sacrebleu_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an ImportError in the middle of a report."""
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu", None)
    with pytest.raises(DodonaError, match="--without bleu"):
        Bleu(["a"])


# --- embeddings ---


def test_mean_cosine_is_over_the_pairs_i_below_j() -> None:
    """Catches a division by n^2 with the diagonal in the sum, which makes small batches look alike."""
    cosines = np.array([[1.0, 0.2, 0.4], [0.2, 1.0, 0.9], [0.4, 0.9, 1.0]])
    assert mean_cosine(cosines, rows((0, 1, 2))).tolist() == pytest.approx([0.5])
    assert mean_cosine(cosines, rows((0, 1), (1, 2))).tolist() == [0.2, 0.9]
    assert np.isnan(mean_cosine(cosines, rows((0,), (2,)))).all()


@pytest.mark.parametrize("m", [1, 2, 3, 6])
def test_the_dpp_score_is_the_logarithm_of_the_determinant(m: int) -> None:
    """Catches log10, a determinant of the wrong rows, and a ridge that is not the stated one."""
    cosines = kernel(8)
    subsets = np.array([np.random.default_rng(i).choice(8, m, replace=False) for i in range(20)])
    exact = [math.log(np.linalg.det(cosines[np.ix_(s, s)])) for s in subsets]
    assert dpp_score(cosines, subsets, ridge=0) == pytest.approx(exact, abs=1e-9)
    ridged = [math.log(np.linalg.det((1 - 1e-6) * cosines[np.ix_(s, s)] + 1e-6 * np.eye(m))) for s in subsets]
    assert dpp_score(cosines, subsets) == pytest.approx(ridged, abs=1e-9)
    assert dpp_score(cosines, subsets) == pytest.approx(exact, abs=1e-3)


def test_batches_without_full_rank_follow_the_stated_rule() -> None:
    """Equal texts: a plain log-determinant is -inf or whatever rounding leaves, which no correlation survives."""
    cosines = kernel(4)
    twice = cosines[np.ix_([0, 0, 1], [0, 0, 1])]
    assert dpp_score(twice, rows((0, 1, 2)), ridge=0).tolist() == [-math.inf]
    found = dpp_score(twice, rows((0, 1, 2), (0, 2, 2)))
    assert np.isfinite(found).all()
    assert dpp_score(np.ones((2, 2)), rows((0, 1))) == pytest.approx([math.log(2e-6)], abs=1e-5)
    assert dpp_score(np.ones((3, 3)), rows((0, 1, 2))) == pytest.approx([math.log(3e-12)], abs=1e-4)
    flat = kernel(5, dimensions=3)  # more texts than dimensions
    assert dpp_score(flat, rows((0, 1, 2, 3, 4)), ridge=0).tolist() == [-math.inf]
    assert np.isfinite(dpp_score(flat, rows((0, 1, 2, 3, 4))))
    assert dpp_score(np.eye(3), rows((0, 1, 2))).tolist() == [0.0]
    assert dpp_score(cosines, rows((2,))) == pytest.approx([0.0], abs=1e-12)


def test_noise_of_float32_does_not_decide_the_rank() -> None:
    """Embeddings of equal texts from two batches differ in the last digits: they are equal texts all the same."""
    vectors = np.random.default_rng(0).normal(size=(3, 384)).astype(np.float32)
    vectors[1] = vectors[0] * (1 + np.float32(1e-7)) + np.float32(1e-8)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float64)
    cosines = vectors @ vectors.T
    assert dpp_score(cosines, rows((0, 1, 2)), ridge=0).tolist() == [-math.inf]
    clean = vectors[[0, 0, 2]] @ vectors[[0, 0, 2]].T
    assert dpp_score(cosines, rows((0, 1, 2))) == pytest.approx(dpp_score(clean, rows((0, 1, 2))), abs=1e-3)


@pytest.mark.parametrize("ridge", [0.0, 1e-6, 0.1])
def test_quality_is_diversity_and_the_sum_of_mean_log_probabilities(ridge: float) -> None:
    """With q = exp(mean log-probability / 2): log det(Q S Q) = log det S + the sum of mean log-probabilities."""
    cosines = kernel(8)
    logprobs = -np.random.default_rng(5).gamma(2.0, 0.4, size=8)
    for m in (1, 2, 4, 7):
        chosen = np.array([np.random.default_rng(i).choice(8, m, replace=False) for i in range(10)])
        quality = quality_dpp(cosines, chosen, logprobs, ridge)
        assert quality == pytest.approx(dpp_score(cosines, chosen, ridge) + logprobs[chosen].sum(axis=1), abs=1e-9)
    one = chosen[0]
    weighted = np.exp(logprobs / 2)[:, None] * cosines * np.exp(logprobs / 2)[None, :]
    assert quality_dpp(cosines, chosen, logprobs, 0.0)[0] == pytest.approx(
        math.log(np.linalg.det(weighted[np.ix_(one, one)])), abs=1e-9
    )


def test_quality_of_equal_texts_follows_the_rule_too() -> None:
    """Catches a score that is finite where diversity alone is not, and a missing likelihood that counts as certain."""
    same, logprobs = np.ones((2, 2)), np.array([-0.5, -1.5])
    assert quality_dpp(same, rows((0, 1)), logprobs, 0.0).tolist() == [-math.inf]
    assert quality_dpp(same, rows((0, 1)), logprobs) == pytest.approx(dpp_score(same, rows((0, 1))) - 2.0)
    assert np.isnan(quality_dpp(same, rows((0, 1)), np.array([-0.5, math.nan]))).all()


def test_a_subset_is_never_empty_and_a_ridge_lies_between_0_and_1() -> None:
    """An empty determinant is 1, so an empty batch would be the most diverse one."""
    with pytest.raises(ValueError):
        dpp_score(np.eye(2), np.zeros((1, 0), dtype=np.int64))
    with pytest.raises(ValueError):
        dpp_score(np.eye(2), rows((0, 1)), ridge=-1.0)


# --- likelihood ---


def test_mean_log_probability_leaves_out_samples_without_tokens() -> None:
    """Catches a failed sample that makes its whole batch unknown, or counts as certain."""
    logprobs = np.array([-1.0, -3.0, math.nan])
    assert mean_logprob(logprobs, rows((0, 1), (0, 2))).tolist() == [-2.0, -1.0]
    assert np.isnan(mean_logprob(logprobs, rows((2,)))).all()


# --- together ---


def test_a_pool_has_every_measure_by_its_name() -> None:
    """Catches a measure of other subsets than those that were asked for, and digits by which equal batches differ."""
    pytest.importorskip("sacrebleu", reason="self-BLEU needs sacrebleu")
    cosines = kernel(len(TEXTS))
    logprobs = np.linspace(-2, -0.1, len(TEXTS))
    pool = Pool("p", 0.7, np.zeros(8), np.zeros(8, int), logprobs, texts=Texts.of(TEXTS, cosines, with_bleu=True))
    chosen = rows((0, 1, 2), (3, 5, 7), (1, 2, 0))
    found = pool.measures(chosen)
    assert list(found) == ["logprob", "distinct-1", "distinct-2", "distinct-3", "cosine", "dpp", "quality", "self-bleu"]
    for place, subset in enumerate(chosen):
        texts = [TEXTS[i] for i in subset]
        assert found["distinct-2"][place] == round(distinct_n(texts, 2), 6)
        assert found["cosine"][place] == pytest.approx(mean_cosine(cosines, subset[None])[0], abs=1e-6)
        assert found["self-bleu"][place] == pytest.approx(Bleu(texts).self_bleu(np.arange(3)), abs=1e-6)
    for values in found.values():
        assert values[0] == values[2] or abs(values[0] - values[2]) < 1e-6
    assert set(pool.distances()) == {"n-grams", "cosine", "BLEU"}
    for distance in pool.distances().values():
        assert (np.diag(distance) == 0).all() and (distance >= 0).all() and (distance == distance.T).all()
    assert pool.distances()["n-grams"][0, 1] == 0 and pool.distances()["BLEU"][0, 1] == 0
