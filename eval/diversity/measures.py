"""What a batch of texts is like: how likely a model finds them, and how different they are from each other.

Every measure is a function of a subset of m samples of one prompt. Several subsets of one size are done at once; where
a measure is undefined it is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from dodona.eval.diversity.ngrams import NgramTable, words

Array = np.ndarray[Any, Any]

RIDGE: Final = 1e-6  # of a DPP's kernel; float32 embeddings of equal texts differ by less


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams over all n-grams of the texts together, 0 to 1; NaN where no text has n words. Low is alike.

    Tokens are the words between white space, as they are written; n-grams do not go over the end of a text.

    Source: J. Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", arXiv:1510.03055.
    """
    return NgramTable([words(text) for text in texts], (n,)).distinct(np.arange(len(texts)), n)


def mean_logprob(logprobs: Array, chosen: Array) -> Array:
    """[subsets] mean log-probability, nats a token: the mean over samples of the mean over a sample's tokens.

    A token's log-probability is the base's, of its distribution at temperature 1 over the full vocabulary, whatever the
    sampling was and whoever wrote the token; an end token counts. Samples without tokens are left out.

    Args:
        logprobs: [n] each sample's mean over its tokens; NaN where it has none.
        chosen: [subsets, m].
    """
    values = logprobs[chosen]
    known = ~np.isnan(values)
    sums = np.where(known, values, 0.0).sum(axis=1)
    with np.errstate(invalid="ignore"):
        found: Array = np.where(known.any(axis=1), sums / np.maximum(known.sum(axis=1), 1), np.nan)
    return found


def mean_cosine(kernel: Array, chosen: Array) -> Array:
    """[subsets] mean cosine of sentence embeddings over the pairs i < j; NaN for one sample. High is alike.

    Args:
        kernel: [n, n] cosines.
        chosen: [subsets, m].

    Source: 1 minus it is the sentence-BERT diversity of G. Tevet and J. Berant, "Evaluating the Evaluation of Diversity
    in Natural Language Generation", arXiv:2004.02990; embeddings N. Reimers and I. Gurevych, "Sentence-BERT",
    arXiv:1908.10084.
    """
    m = chosen.shape[1]
    if m < 2:
        return np.full(len(chosen), np.nan)
    upper = np.triu_indices(m, 1)
    found: Array = kernel[chosen[:, upper[0]], chosen[:, upper[1]]].mean(axis=1)
    return found


def dpp_score(kernel: Array, chosen: Array, ridge: float = RIDGE) -> Array:
    """[subsets] log-determinant of the kernel of normalised embeddings, nats: 0 at most, and low where texts are alike.

    Rank deficiency, as of equal texts or of more texts than dimensions: the kernel is (1 - r) S + r I with a small
    ridge r, so that one more text that says nothing new costs about ln(2 r), -13 nats, and the score is finite. The
    diagonal stays 1. With ``ridge=0`` it is the determinant of S itself, -inf where that has no full numerical rank:
    its smallest eigenvalue is below m times the largest one times float32's epsilon.

    Args:
        kernel: [n, n] S, cosines, 1 on the diagonal.
        chosen: [subsets, m].
        ridge: 0 to 1.

    Source: A. Kulesza and B. Taskar, "Determinantal Point Processes for Machine Learning", arXiv:1207.6083.
    """
    return _log_det(_ridged(kernel, chosen, ridge), singular=ridge == 0)


def quality_dpp(kernel: Array, chosen: Array, logprobs: Array, ridge: float = RIDGE) -> Array:
    """[subsets] log-determinant of q_i S_ij q_j with the quality q = exp(mean log-probability / 2), nats.

    S is the kernel of ``dpp_score``, with its rule for rank deficiency. So it equals that score plus the sum of the
    samples' mean log-probabilities. NaN where a sample has none.

    Args:
        kernel, chosen, ridge: as in ``dpp_score``.
        logprobs: [n] each sample's mean over its tokens.

    Source: as ``dpp_score``, section 3.1: quality and diversity.
    """
    quality = np.exp(logprobs[chosen] / 2)
    within = _ridged(kernel, chosen, ridge)
    found = _log_det(quality[:, :, None] * within * quality[:, None, :], singular=False)
    if ridge == 0:
        found = np.where(np.isinf(_log_det(within, singular=True)), -np.inf, found)
    return np.where(np.isnan(quality).any(axis=1), np.nan, found)


def _ridged(kernel: Array, chosen: Array, ridge: float) -> Array:
    if not 0 <= ridge <= 1:
        raise ValueError(f"a ridge lies in [0, 1], not {ridge}")
    if chosen.ndim != 2 or chosen.shape[1] < 1:
        raise ValueError("a subset has 1 or more samples")
    within: Array = kernel[chosen[:, :, None], chosen[:, None, :]].astype(np.float64)
    return (1 - ridge) * within + ridge * np.eye(chosen.shape[1])


def _log_det(kernels: Array, *, singular: bool) -> Array:
    """[subsets] by slogdet; ``singular`` looks for those without full rank first. No determinant here is below 0."""
    kernels = np.where(np.isnan(kernels), 0.0, kernels)
    sign, found = np.linalg.slogdet(kernels)
    found = np.where(sign > 0, found, -np.inf)
    if singular:
        values = np.linalg.eigvalsh(kernels)
        least = values[:, -1] * kernels.shape[1] * np.finfo(np.float32).eps
        found = np.where(values[:, 0] > least, found, -np.inf)
    result: Array = found
    return result


def each(measure: Callable[[Array], float], chosen: Array) -> Array:
    """[subsets] a measure of one subset, for all of them."""
    return np.array([measure(one) for one in chosen], dtype=np.float64)


LABELS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "logprob": ("log-probability", "mean over samples of the mean log-probability of a token, nats, temperature 1"),
        "distinct-1": ("distinct-1", "different words over all words of the batch; words stand between white space"),
        "distinct-2": ("distinct-2", "different runs of two words over all of them"),
        "distinct-3": ("distinct-3", "different runs of three words over all of them"),
        "cosine": ("cosine", "mean cosine of sentence embeddings over all pairs of the batch; high is alike"),
        "dpp": ("DPP", "log-determinant of the kernel of cosines, ridge 1e-6, nats; low is alike"),
        "quality": ("quality DPP", "the same weighted by likelihood: DPP + the sum of mean log-probabilities, nats"),
        "self-bleu": ("self-BLEU", "mean BLEU of each text against the others of the batch, 0 to 100; high is alike"),
    }
)
DISTINCT: Final = (1, 2, 3)
