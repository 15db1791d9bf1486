"""How far two raters of the same pairs agree: the share of equal verdicts, and Cohen's kappa."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.eval.stats.intervals import Interval, wilson

Array = np.ndarray[Any, Any]

RESAMPLES: Final = 2000
SEED: Final = 0


class Agreement(NamedTuple):
    """Over ``n`` pairs; NaN or None where there are none or kappa is undefined."""

    n: int
    equal: int
    interval: Interval  # of the share of equal verdicts
    kappa: float | None
    kappa_interval: Interval | None

    @property
    def accuracy(self) -> float:
        """The share of equal verdicts; NaN of nothing."""
        return self.equal / self.n if self.n else float("nan")


def agreement(first: Sequence[Hashable], second: Sequence[Hashable], *, seed: int = SEED) -> Agreement:
    """Compare two raters, pair by pair. Any value is a verdict, None (an error) too.

    Kappa is undefined where both give one and the same verdict throughout. Its interval is a percentile bootstrap over
    pairs; there is none where more than one resample in twenty leaves it undefined, or where all give the same.

    Raises:
        ValueError: raters of different numbers of pairs.

    Source: J. Cohen, Educational and Psychological Measurement 20 (1960) 37-46; B. Efron and R. J. Tibshirani, An
    Introduction to the Bootstrap (1993), chapter 13.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} verdicts against {len(second)}")
    n = len(first)
    equal = sum(one == other for one, other in zip(first, second, strict=True))
    values = sorted({*first, *second}, key=repr)
    place = {value: index for index, value in enumerate(values)}
    table = np.zeros((len(values), len(values)), dtype=np.int64)
    for one, other in zip(first, second, strict=True):
        table[place[one], place[other]] += 1
    if n == 0:
        return Agreement(0, 0, wilson(0, 0), None, None)
    (kappa,) = _kappa(table[None])
    interval = None
    drawn = np.random.default_rng(seed).multinomial(n, table.ravel() / n, size=RESAMPLES)
    kappas = _kappa(drawn.reshape(RESAMPLES, *table.shape))
    defined = kappas[~np.isnan(kappas)]
    if len(defined) >= 0.95 * RESAMPLES:
        low, high = np.quantile(defined, [0.025, 0.975])
        interval = Interval(float(low), float(high)) if low < high else None
    return Agreement(n, equal, wilson(equal, n), None if np.isnan(kappa) else float(kappa), interval)


def _kappa(tables: Array) -> Array:
    """[R] Cohen's kappa of each table [R, K, K] of counts; NaN where it is undefined."""
    n = tables.sum((1, 2))
    observed = np.einsum("rii->r", tables) / n
    expected = (tables.sum(1) * tables.sum(2)).sum(1) / n.astype(np.float64) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        kappas: Array = np.where(expected < 1, (observed - expected) / (1 - expected), np.nan)
    return kappas
