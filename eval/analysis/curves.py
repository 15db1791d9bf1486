"""Ranking statistics: AUROC, average precision, recall at a consult rate; of one ranking, or of many weighted ones.

A ranking is given by counts of positives and negatives in groups of equal score, the highest score first. All functions
take arrays [..., G] and work on the last axis, so that one call does a whole bootstrap. Ties count as if broken at
random. Statistics that need both classes are NaN where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def groups(scores: Array, positive: Array) -> tuple[Array, Array]:
    """Positives and negatives [G] float64 in each group of equal score, the highest score first.

    Args:
        scores: [n], no NaN; infinities are allowed.
        positive: [n] bool.

    Raises:
        ValueError: a NaN among the scores, or other shapes.
    """
    number, count = group_numbers(scores)
    if positive.shape != scores.shape:
        raise ValueError(f"{len(scores)} scores against {len(positive)} labels")
    pos = np.bincount(number[positive], minlength=count).astype(np.float64)
    neg = np.bincount(number[~positive], minlength=count).astype(np.float64)
    return pos, neg


def group_numbers(scores: Array) -> tuple[Array, int]:
    """[n] the group of each score, 0 for the highest, and how many groups there are.

    Raises:
        ValueError: a NaN among the scores.
    """
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    values, number = np.unique(scores, return_inverse=True)
    return len(values) - 1 - number, len(values)


def auroc(pos: Array, neg: Array) -> Array:
    """Area under the ROC curve: the chance that a positive ranks above a negative, ties counting half.

    Source: J. A. Hanley and B. J. McNeil, Radiology 143 (1982) 29-36.
    """
    above = np.cumsum(pos, axis=-1) - pos / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        area: Array = (above * neg).sum(-1) / (pos.sum(-1) * neg.sum(-1))
    return area


def average_precision(pos: Array, neg: Array) -> Array:
    """Mean over the positives of the precision at the threshold of each: a sum of (recall gained) x precision.

    The steps are not interpolated, as in scikit-learn's ``average_precision_score``.
    """
    found, flagged = np.cumsum(pos, axis=-1), np.cumsum(pos + neg, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(flagged > 0, found / flagged, 0.0)
        mean: Array = (pos * precision).sum(-1) / pos.sum(-1)
    return _both_classes(mean, pos, neg)


def recall_at(pos: Array, neg: Array, rates: Sequence[float]) -> Array:
    """[..., len(rates)] the share of the positives among the top ``rate`` of all rows.

    A group that the rate cuts through counts in proportion.
    """
    if not pos.shape[-1]:
        return np.full((*pos.shape[:-1], len(rates)), np.nan)
    found, flagged = np.cumsum(pos, axis=-1), np.cumsum(pos + neg, axis=-1)
    flat_found, flat_flagged = (values.reshape(-1, values.shape[-1]) for values in (found, flagged))
    result = np.full((len(flat_found), len(rates)), np.nan)
    for row, (hits, rows) in enumerate(zip(flat_found, flat_flagged, strict=True)):
        if hits[-1] > 0:
            at = np.asarray(rates) * rows[-1]
            result[row] = np.interp(at, np.append(0.0, rows), np.append(0.0, hits)) / hits[-1]
    return _both_classes(result.reshape(*pos.shape[:-1], len(rates)), pos[..., None, :], neg[..., None, :])


def roc_points(pos: Array, neg: Array) -> tuple[Array, Array]:
    """False and true positive rate at each threshold, from (0, 0) to (1, 1), for a plot: [G + 1] each."""
    true, false = (np.append(0.0, np.cumsum(counts)) for counts in (pos, neg))
    return false / max(false[-1], 1), true / max(true[-1], 1)


def recall_points(pos: Array, neg: Array) -> tuple[Array, Array]:
    """Share of the rows that is flagged, and share of the positives found, at each threshold: [G + 1] each."""
    true, rows = np.append(0.0, np.cumsum(pos)), np.append(0.0, np.cumsum(pos + neg))
    return rows / max(rows[-1], 1), true / max(true[-1], 1)


def _both_classes(values: Array, pos: Array, neg: Array) -> Array:
    result: Array = np.where((pos.sum(-1) > 0) & (neg.sum(-1) > 0), values, np.nan)
    return result
