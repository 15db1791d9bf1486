"""A logistic trigger over signals: fitted by Newton's method, and written as an ordinary trigger expression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.eval.analysis.resample import Estimate, percentile, problem_weights, rank

Array = np.ndarray[Any, Any]

RIDGE: Final = 1.0  # of the standardised coefficients
FOLDS: Final = 5
_STEPS: Final = 100
_CLOSE: Final = 1e-10


class Logistic(NamedTuple):
    """ln(p / (1 - p)) = intercept + sum of coefficients x signals, on the signals' own scales."""

    names: tuple[str, ...]
    coefficients: Array  # [F] float64
    intercept: float

    def scores(self, features: Array) -> Array:
        """[n] float64 the logit of each row, from features [n, F]."""
        scores: Array = features @ self.coefficients + self.intercept
        return scores

    @property
    def expression(self) -> str:
        """The logit as a trigger says it, with every coefficient as the float32 that the trigger computes with."""
        terms = [f"{_number(weight)}*{name}" for name, weight in zip(self.names, self.coefficients, strict=True)]
        text = " + ".join([*terms, _number(self.intercept)])
        return text.replace("+ -", "- ")


def fit_logistic(names: Sequence[str], features: Array, positive: Array, ridge: float = RIDGE) -> Logistic:
    """The coefficients that maximise the likelihood less ridge / 2 x the sum of their squares.

    Signals are standardised inside, so that the ridge treats them alike; the intercept has none. A signal that is the
    same everywhere gets the coefficient 0.

    Args:
        features: [n, F], all finite.
        positive: [n] bool, with both values.

    Raises:
        DodonaError: it does not converge.

    Source: iteratively reweighted least squares, T. Hastie, R. Tibshirani and J. Friedman, The Elements of Statistical
    Learning (2009), section 4.4.1, with the ridge's gradient and curvature added.
    """
    mean, spread = features.mean(0), features.std(0)
    scale = np.where(spread > 0, spread, np.inf)
    design = np.column_stack([(features - mean) / scale, np.ones(len(features))])
    penalty = np.append(np.full(features.shape[1], ridge), 0.0)
    target = positive.astype(np.float64)
    share = target.mean()
    weights = np.append(np.zeros(features.shape[1]), np.log(share / (1 - share)))
    loss = _loss(design, target, weights, penalty)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ weights, -500, 500)))
        gradient = design.T @ (target - chance) - penalty * weights
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design
        curvature[np.diag_indices_from(curvature)] += penalty + _CLOSE
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while (lower := _loss(design, target, weights + size * step, penalty)) > loss and size > 1e-8:
            size /= 2  # too far: Newton's step need not go down
        weights, gained, loss = weights + size * step, loss - lower, min(loss, lower)
        if gained <= _CLOSE * (1 + abs(loss)):
            own = weights[:-1] / scale
            return Logistic(tuple(names), own, float(weights[-1] - (own * mean).sum()))
    raise DodonaError(f"the fit over {', '.join(names)} did not converge in {_STEPS} steps")


def cross_validated(
    names: Sequence[str],
    features: Array,
    positive: Array,
    problem: Array,
    *,
    resamples: int,
    seed: int,
    folds: int = FOLDS,
) -> Estimate:
    """AUROC of rows ranked by a fit that has not seen their problem: problems are divided into folds by ``seed``.

    Rows are compared within their fold alone, as the scores of two fits have no common zero; folds count by their pairs
    of a positive and a negative.

    Args:
        problem: [n] int64 numbers of the problems.

    Raises:
        DodonaError: fewer problems than two, or no fold with both classes in it and outside of it.
    """
    found, number = np.unique(problem, return_inverse=True)
    folds = min(folds, len(found))
    if folds < 2:
        raise DodonaError("--fit needs two problems or more, to try on some what was fitted on others")
    fold = (np.random.default_rng(seed).permutation(len(found)) % folds)[number]
    weights = problem_weights(len(found), resamples, seed)
    area, pairs = 0.0, 0.0
    drawn_area, drawn_pairs = np.zeros(resamples), np.zeros(resamples)
    for index in range(folds):
        train, held_out = fold != index, fold == index
        if not all(positive[part].any() and not positive[part].all() for part in (train, held_out)):
            continue
        scores = fit_logistic(names, features[train], positive[train]).scores(features[held_out])
        own = rank(scores, positive[held_out], number[held_out], weights).auroc
        classes = (number[held_out & (positive == value)] for value in (True, False))
        counts = [np.bincount(which, minlength=len(found)).astype(np.float64) for which in classes]
        here = float(counts[0].sum() * counts[1].sum())
        drawn = (weights @ counts[0]) * (weights @ counts[1])
        area, pairs = area + own.value * here, pairs + here
        drawn_area += np.where(drawn > 0, own.draws, 0) * drawn
        drawn_pairs += drawn
    if not pairs:
        raise DodonaError("--fit: no fold of the problems has both values of the label in it and outside of it")
    with np.errstate(invalid="ignore"):
        draws = drawn_area / drawn_pairs
    return Estimate(area / pairs, percentile(draws, 0.95), draws)


def _loss(design: Array, target: Array, weights: Array, penalty: Array) -> float:
    logit = design @ weights
    return float((np.logaddexp(0, logit) - target * logit).sum() + (penalty * weights**2).sum() / 2)


def _number(value: float) -> str:
    """The shortest text that reads back as the same float32."""
    small = np.float32(value)
    plain = value == 0 or 1e-4 <= abs(value) < 1e9
    return np.format_float_positional(small, trim="-") if plain else str(small)
