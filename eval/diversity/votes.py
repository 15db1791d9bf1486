"""Rules that choose one answer of several samples, on subsets that are given: majority, best-of-N, weighted vote, MBR.

Many subsets of the same samples are done at once: a mask [subsets, n] says which samples are in each. Where several
candidates are equally good the value is their mean, which is what drawing one of them gives on average.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import numpy as np

Array = np.ndarray[Any, Any]
Ties: TypeAlias = Literal["expectation", "first", "wrong"]

TIES: Final[tuple[Ties, ...]] = ("expectation", "first", "wrong")
SILENT: Final = -1  # the class of a sample that has no vote
_NEAR: Final = 1e-9  # relative; sums of the same numbers in another order differ in their last digits


def one_hot(classes: Array) -> Array:
    """[n, classes] float64: a one where a sample votes."""
    number = int(classes.max(initial=SILENT)) + 1
    votes: Array = (classes[:, None] == np.arange(number)[None, :]).astype(np.float64)
    return votes


def class_values(classes: Array, correct: Array) -> Array:
    """[classes] the share of each class's samples that are right; 0 or 1, unless the checker contradicts itself."""
    votes = one_hot(classes)
    shares: Array = (correct.astype(np.float64) @ votes) / np.maximum(votes.sum(axis=0), 1)
    return shares


def majority(mask: Array, classes: Array, correct: Array, ties: Ties = "expectation") -> Array:
    """The answer with most votes, [subsets] how right it is.

    Ties: ``expectation`` takes the mean over the answers with most votes; ``first`` the one of them that a sample gave
    first, as Python's ``Counter.most_common`` does; ``wrong`` counts them as wrong. A subset without a vote is wrong.

    Args:
        mask: [subsets, n] bool.
        classes: [n] the answer's number from 0, ``SILENT`` for none.
        correct: [n] 0 or 1.

    Source: X. Wang et al., "Self-Consistency Improves Chain of Thought Reasoning in Language Models", arXiv:2203.11171.
    """
    votes, values = one_hot(classes), class_values(classes, correct)
    counts = mask.astype(np.float64) @ votes
    if ties == "expectation" or not counts.shape[1]:
        return mean_of_best(counts, counts > 0, values)
    best = (counts == counts.max(axis=1, keepdims=True)) & (counts > 0)
    if ties == "wrong":
        alone: Array = np.where(best.sum(axis=1) == 1, best @ values, 0.0)
        return alone
    # Where a class has its first vote in each subset; n where it has none.
    n = len(classes)
    places = np.where(votes.T > 0, np.arange(n), n)  # [classes, n]
    firsts = np.where(mask[:, None, :], places[None], n).min(axis=2)
    chosen = np.where(best, firsts, n).argmin(axis=1)
    first: Array = np.where(best.any(axis=1), values[chosen], 0.0)
    return first


def weighted_vote(mask: Array, classes: Array, correct: Array, weights: Array) -> Array:
    """The answer whose votes weigh most, [subsets] how right it is; a sample without a weight (NaN) weighs nothing.

    Args:
        mask, classes, correct: as in ``majority``.
        weights: [n] 0 or more.

    Raises:
        ValueError: a weight below 0, by which more votes would count for less.

    Source: Y. Li et al., "Making Language Models Better Reasoners with Step-Aware Verifier", arXiv:2206.02336.
    """
    weights = np.nan_to_num(np.asarray(weights, dtype=np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
    if (weights < 0).any() or np.isinf(weights).any():
        raise ValueError("weights of votes are finite and 0 or more")
    votes = one_hot(classes)
    scores = mask.astype(np.float64) @ (votes * weights[:, None])
    return mean_of_best(scores, mask.astype(np.float64) @ votes > 0, class_values(classes, correct))


def best_of(mask: Array, correct: Array, rewards: Array) -> Array:
    """The sample of the highest reward, [subsets] how right it is; one without a reward (NaN) only where all are.

    Args:
        mask: [subsets, n] bool.
        correct, rewards: [n].

    Source: K. Cobbe et al., "Training Verifiers to Solve Math Word Problems", arXiv:2110.14168.
    """
    known = np.where(np.isnan(rewards), -np.inf, rewards.astype(np.float64))
    scores = np.where(mask, known, -np.inf)
    best = mask & (scores == scores.max(axis=1, keepdims=True))
    return _mean(best, correct.astype(np.float64))


def minimum_bayes_risk(mask: Array, correct: Array, utility: Array) -> Array:
    """The sample most like the others of its subset, [subsets] how right it is: the medoid under a utility.

    A sample's score is its mean utility against every other sample of the subset, duplicates of it included; the only
    sample of a subset is chosen. With symmetric sentence BLEU it is lexical MBR, with cosines semantic MBR.

    Args:
        mask: [subsets, n] bool.
        correct: [n].
        utility: [n, n] symmetric; the diagonal is not looked at.

    Source: S. Kumar and W. Byrne, "Minimum Bayes-Risk Decoding for Statistical Machine Translation", HLT-NAACL 2004;
    over samples B. Eikema and W. Aziz, "Is MAP Decoding All You Need?", arXiv:2005.10283.
    """
    others = np.array(utility, dtype=np.float64)
    np.fill_diagonal(others, 0.0)
    return mean_of_best(mask.astype(np.float64) @ others, mask, correct.astype(np.float64))


def mean_of_best(scores: Array, allowed: Array, values: Array) -> Array:
    """[subsets] the mean value of the candidates whose score is the highest allowed one; 0 where none is allowed.

    Args:
        scores: [subsets, candidates]; those that differ by rounding only are equal.
        allowed: [subsets, candidates] bool.
        values: [candidates].
    """
    if not scores.shape[1]:
        return np.zeros(len(scores))
    open_ = np.where(allowed, scores, -np.inf)
    top = open_.max(axis=1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    return _mean(allowed & (open_ >= top - _NEAR * np.maximum(1.0, np.abs(top))), values)


def _mean(chosen: Array, values: Array) -> Array:
    found: Array = (chosen @ values) / np.maximum(chosen.sum(axis=1), 1)
    return found
