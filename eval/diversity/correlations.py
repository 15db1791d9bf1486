"""Does a measure of a batch go with its accuracy? Correlations over batches, with intervals over problems.

Batches of one problem hang together, so the intervals come from drawing problems with replacement, each with all of its
batches; ranks are made anew in every resample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.eval.analysis.resample import Estimate, percentile

Array = np.ndarray[Any, Any]

_FLAT: Final = 1e-12  # of a correlation matrix: what is left of a variable that the controls explain


class Association(NamedTuple):
    """How a measure goes with an outcome."""

    rows: int  # batches for which both are known
    pearson: Estimate
    spearman: Estimate
    partial: tuple[Estimate, ...]  # Pearson's, one for each set of controls


def associations(
    measures: Mapping[str, Array],
    outcomes: Mapping[str, Array],
    problem: Array,
    weights: Array,
    fixed: Mapping[str, Array],
    controls: Sequence[Sequence[str]] = (),
) -> dict[tuple[str, str], Association]:
    """Correlations of every measure with every outcome over batches, by their names.

    Undefined (NaN) where either has one value only, or where the controls explain one of them.

    Args:
        measures: [batches] each; a batch where one is not finite is left out for that measure.
        outcomes: [batches] each, finite.
        problem: [batches] int64, the number of each one's problem, below P.
        weights: [R, P] how often each problem is drawn (``resample.problem_weights``).
        fixed: what may be held fixed, [batches] each; a batch where one is not finite is left out.
        controls: names of ``fixed`` that one partial correlation holds fixed together.

    Source: partial correlation: R. A. Fisher, "The Distribution of the Partial Correlation Coefficient", Metron 3
    (1924); it is the correlation of the residuals of x and y after linear regression on the controls.
    """
    there = np.ones(len(problem), dtype=bool)
    for column in fixed.values():
        there &= np.isfinite(column)
    alike: dict[bytes, list[str]] = {}  # measures that are known for the same batches
    for name, column in measures.items():
        alike.setdefault((there & np.isfinite(column)).tobytes(), []).append(name)
    drawn = np.concatenate([np.ones((1, weights.shape[1])), weights.astype(np.float64)])
    found: dict[tuple[str, str], Association] = {}
    for key, names in alike.items():
        known = np.frombuffer(key, dtype=bool)
        columns = [measures[name][known] for name in names] + [column[known] for column in outcomes.values()]
        others = [column[known] for column in fixed.values()]
        covariances = _moments([*columns, *others], problem[known], drawn)
        ranks = _rank_moments(columns, problem[known], drawn)
        place = {name: len(columns) + index for index, name in enumerate(fixed)}
        for i, name in enumerate(names):
            for j, outcome in enumerate(outcomes, len(names)):
                sets = [[i, j, *(place[control] for control in chosen)] for chosen in controls]
                pair = [[i, j], *sets]
                pearson, *partial = (_estimate(_partial(covariances[:, each][:, :, each])) for each in pair)
                rho = _estimate(_partial(ranks[:, [i, j]][:, :, [i, j]]))
                found[name, outcome] = Association(int(known.sum()), pearson, rho, tuple(partial))
    return {(name, outcome): found[name, outcome] for name in measures for outcome in outcomes}


def partial_correlation(x: Array, y: Array, controls: Sequence[Array]) -> float:
    """The correlation of x and y with the controls held fixed; NaN where it is undefined."""
    one = np.zeros(len(x), dtype=np.int64)
    return float(_partial(_moments([x, y, *controls], one, np.ones((1, 1))))[0])


def _moments(columns: Sequence[Array], problem: Array, weights: Array) -> Array:
    """[R, v, v] covariances of the rows, each as often as its problem was drawn."""
    table = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
    spread = table.std(axis=0) if len(table) else np.ones(table.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        table = np.nan_to_num((table - table.mean(axis=0, keepdims=True)) / np.where(spread > 0, spread, 1.0))
    problems, v = weights.shape[1], table.shape[1]
    counts = np.bincount(problem, minlength=problems).astype(np.float64)
    sums = np.zeros((problems, v))
    np.add.at(sums, problem, table)
    squares = np.zeros((problems, v * v))
    np.add.at(squares, problem, (table[:, :, None] * table[:, None, :]).reshape(-1, v * v))
    rows = weights @ counts
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (weights @ sums) / rows[:, None]
        found: Array = (weights @ squares).reshape(-1, v, v) / rows[:, None, None]
        found -= means[:, :, None] * means[:, None, :]
    return found


def _partial(covariances: Array) -> Array:
    """[R] the correlation of the first two variables given the others, from what regression on these leaves of them."""
    covariances = np.nan_to_num(covariances)
    variances = np.einsum("rii->ri", covariances)
    there = variances > _FLAT
    scale = np.where(there, 1 / np.sqrt(np.where(there, variances, 1.0)), 0.0)
    matrix = covariances * scale[:, :, None] * scale[:, None, :]
    left = matrix[:, :2, :2]
    if matrix.shape[1] > 2:
        between = matrix[:, :2, 2:]
        inverse = np.linalg.pinv(matrix[:, 2:, 2:], rcond=1e-9, hermitian=True)
        left = left - between @ inverse @ between.transpose(0, 2, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = left[:, 0, 1] / np.sqrt(left[:, 0, 0] * left[:, 1, 1])
    defined = there[:, 0] & there[:, 1] & (left[:, 0, 0] > 1e-9) & (left[:, 1, 1] > 1e-9)
    result: Array = np.where(defined, np.clip(found, -1, 1), np.nan)
    return result


def _rank_moments(columns: Sequence[Array], problem: Array, weights: Array) -> Array:
    """[R, v, v] covariances of the ranks of the rows, each as often as its problem was drawn; ties have their mean."""
    v = len(columns)
    found = np.zeros((len(weights), v, v))
    if not len(problem):
        return found
    groups = [np.unique(column, return_inverse=True)[1].reshape(-1) for column in columns]
    ranks = np.empty((v, len(problem)))
    for place, drawn in enumerate(weights):
        times = drawn[problem]
        rows = times.sum()
        if rows == 0:
            continue
        for row, group in zip(ranks, groups, strict=True):
            sizes = np.bincount(group, weights=times)
            # Less their mean, and in units of the rows.
            row[:] = ((np.cumsum(sizes) - sizes / 2) / rows - 0.5)[group]
        found[place] = (ranks * times) @ ranks.T / rows
    return found


def _estimate(values: Array) -> Estimate:
    value, draws = float(values[0]), values[1:]
    interval = None if math.isnan(value) or not len(draws) else percentile(draws, 0.95)
    return Estimate(value, interval, draws)
