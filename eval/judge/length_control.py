"""How often side a would win if both answers were equally long: a logistic estimate without a penalty.

The outcome of a pair (1 won, 1/2 tie, 0 lost) is regressed on tanh(d / s), where d is the length of answer a less that
of answer b in characters and s the standard deviation of d. The rate at d = 0 is the length-controlled one.

Source: Y. Dubois, B. Galambosi, P. Liang and T. Hashimoto, "Length-Controlled AlpacaEval", arXiv:2404.04475 (2024),
whose term of length this is; their terms of the model and of the instruction's difficulty are left out: there is one
pair of models. A tie counts as half a win and half a loss; intervals are Wald's, as if each pair had been won or lost,
which is on the safe side: a tie has less variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.eval.stats.intervals import Interval, normal_quantile

Array = np.ndarray[Any, Any]

_STEPS: Final = 100
_CLOSE: Final = 1e-10


class LengthControlled(NamedTuple):
    """The estimate, or why there is none."""

    n: int  # pairs that it is over
    rate: float | None  # of a, at equal lengths
    interval: Interval | None
    slope: float | None  # of ln odds, by tanh(d / s)
    slope_interval: Interval | None
    spread: float | None  # s, characters
    reason: str | None = None  # where there is no estimate


def length_controlled(
    scores: Sequence[float], differences: Sequence[float], confidence: float = 0.95
) -> LengthControlled:
    """Fit the model by iteratively reweighted least squares, after having looked whether it has a finite fit.

    Args:
        scores: of side a, 0, 1/2 or 1.
        differences: length of answer a less that of answer b.

    There is no finite maximum of the likelihood, and so no estimate, where all pairs went one way, or where a length
    difference separates those that were won from those that were lost (a tie is both). Where all differences are equal
    nothing can be said of other lengths.

    Raises:
        ValueError: sides of different lengths, or a score out of range.

    Source of the condition: A. Albert and J. A. Anderson, Biometrika 71 (1984) 1-10.
    """
    if len(scores) != len(differences):
        raise ValueError(f"{len(scores)} scores against {len(differences)} differences")
    y, d = np.asarray(scores, dtype=np.float64), np.asarray(differences, dtype=np.float64)
    if not ((y >= 0) & (y <= 1)).all():
        raise ValueError("a score lies in [0, 1]")
    n = len(y)
    if n < 2:
        return _none(n, None, "fewer than two pairs")
    spread = float(d.std())
    if not (y > 0).any() or not (y < 1).any():
        return _none(n, spread, "all pairs went one way")
    if spread == 0:
        return _none(n, spread, "all pairs have the same difference in length")
    x = np.tanh(d / spread)
    won, lost = d[y > 0], d[y < 1]
    if lost.max() <= won.min() or won.max() <= lost.min():
        longer = "longer" if lost.max() <= won.min() else "shorter"
        return _none(n, spread, f"length separates the outcomes: beyond one difference the {longer} answer always won")
    weights = _fitted(x, y)
    if weights is None:
        return _none(n, spread, f"the fit did not converge in {_STEPS} steps")
    covariance = _covariance(x, weights)
    z = normal_quantile(confidence)
    (intercept, slope), errors = weights, np.sqrt(np.maximum(np.diag(covariance), 0))
    low, high = intercept - z * errors[0], intercept + z * errors[0]
    return LengthControlled(
        n,
        _logistic(float(intercept)),
        Interval(_logistic(float(low)), _logistic(float(high))),
        float(slope),
        Interval(float(slope - z * errors[1]), float(slope + z * errors[1])),
        spread,
    )


def _fitted(x: Array, y: Array) -> Array | None:
    """Intercept and slope that maximise the likelihood; None where Newton's steps do not settle."""
    design = np.column_stack([np.ones_like(x), x])
    share = float(y.mean())
    weights = np.array([math.log(share / (1 - share)), 0.0])
    loss = _loss(design, y, weights)
    for _ in range(_STEPS):
        chance = _chance(design @ weights)
        gradient = design.T @ (y - chance)
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design
        try:
            step = np.linalg.solve(curvature, gradient)
        except np.linalg.LinAlgError:
            return None
        size = 1.0
        while (lower := _loss(design, y, weights + size * step)) > loss and size > 1e-10:
            size /= 2  # too far: Newton's step need not go down
        if lower > loss:
            size, lower = 0.0, loss
        weights, gained, loss = weights + size * step, loss - lower, lower
        if gained <= _CLOSE * (1 + abs(loss)) and np.abs(gradient).max() <= 1e-6 * len(y):
            return weights if np.isfinite(weights).all() else None
    return None


def _covariance(x: Array, weights: Array) -> Array:
    """[2, 2] the inverse of the information."""
    design = np.column_stack([np.ones_like(x), x])
    chance = _chance(design @ weights)
    covariance: Array = np.linalg.inv((design * (chance * (1 - chance))[:, None]).T @ design)
    return covariance


def _chance(logit: Array) -> Array:
    chance: Array = 1 / (1 + np.exp(-np.clip(logit, -500, 500)))
    return chance


def _loss(design: Array, y: Array, weights: Array) -> float:
    logit = design @ weights
    return float((np.logaddexp(0, logit) - y * logit).sum())


def _logistic(logit: float) -> float:
    return float(_chance(np.asarray([logit]))[0])


def _none(n: int, spread: float | None, reason: str) -> LengthControlled:
    return LengthControlled(n, None, None, None, None, spread, reason)
