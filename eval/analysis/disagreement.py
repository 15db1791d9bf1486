"""Entropy x disagreement: what an entropy threshold cannot see.

A confident mistake is a position where the base's entropy is low and the two models' first choices differ.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.engine.recording import Recording
from dodona.eval.analysis.labels import Label
from dodona.eval.analysis.resample import Estimate, problem_weights, share

Array = np.ndarray[Any, Any]

EDGES: Final = (0.0, 0.01, 0.03, 0.1, 0.3, 0.5, 1.0, 2.0, 4.0, math.inf)  # nats
_SURPRISE: Final = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, math.inf)  # nats
_JS: Final = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, math.inf)  # nats; at most ln 2


class Bin(NamedTuple):
    """Rows whose entropy lies in a range, its lower end included."""

    low: float
    high: float
    rows: int
    differ: int
    share: Estimate  # of the rows that differ

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"low": self.low, "high": self.high, "rows": self.rows, "differ": self.differ} | {
            "share": self.share.as_dict()
        }


class Grid(NamedTuple):
    """How many rows there are by entropy and by how far the models are apart."""

    measure: str  # js, or the oracle's surprise at the written token where there is none
    entropy: tuple[float, ...]  # edges
    apart: tuple[float, ...]  # edges
    counts: Array  # [entropy bins, apart bins] int64

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [[int(count) for count in row] for row in self.counts]
        return {"measure": self.measure, "entropy": list(self.entropy), "apart": list(self.apart), "counts": rows}


class DisagreementMap(NamedTuple):
    """Where the models differ, by the base's entropy."""

    threshold: float  # nats: below it the base is confident
    rows: int
    differ: int
    confident: int  # rows below the threshold
    confident_differ: int
    mistakes: Estimate  # of the disagreements, the share where the base is confident
    missed: Estimate  # of the confident rows, the share that differ
    bins: list[Bin]
    grid: Grid | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "confident_below": self.threshold,
            "rows": self.rows,
            "differ": self.differ,
            "confident": self.confident,
            "confident_differ": self.confident_differ,
            "confident_share_of_disagreements": self.mistakes.as_dict(),
            "disagreeing_share_of_confident": self.missed.as_dict(),
            "bins": [one.as_dict() for one in self.bins],
            "grid": None if self.grid is None else self.grid.as_dict(),
        }


def disagreement_map(
    recording: Recording, label: Label, rows: Array, threshold: float, *, resamples: int, seed: int
) -> DisagreementMap | None:
    """The map of one label over the rows that have it; None where no entropy was recorded, or no row is left."""
    entropy = recording.columns.get("entropy")
    if entropy is None:
        return None
    chosen = np.flatnonzero(rows & ~np.isnan(label.values) & ~np.isnan(entropy))
    if not len(chosen):
        return None
    values, differs = entropy[chosen], label.values[chosen] == 1
    _, number = recording.problems
    problems, problem = np.unique(np.repeat(number, recording.lengths)[chosen], return_inverse=True)
    weights = problem_weights(len(problems), resamples, seed)

    def of(part: Array, whole: Array) -> Estimate:
        sums = [np.bincount(problem[which], minlength=len(problems)) for which in (part, whole)]
        return share(sums[0], sums[1], weights)

    confident = values < threshold
    bins = []
    place = _place(values, EDGES)
    for index in range(len(EDGES) - 1):
        inside = place == index
        rows_inside, differ_inside = int(inside.sum()), int((inside & differs).sum())
        bins.append(Bin(EDGES[index], EDGES[index + 1], rows_inside, differ_inside, of(inside & differs, inside)))
    return DisagreementMap(
        threshold=threshold,
        rows=len(chosen),
        differ=int(differs.sum()),
        confident=int(confident.sum()),
        confident_differ=int((confident & differs).sum()),
        mistakes=of(confident & differs, differs),
        missed=of(confident & differs, confident),
        bins=bins,
        grid=_grid(recording, chosen, place),
    )


def _grid(recording: Recording, chosen: Array, place: Array) -> Grid | None:
    if "js" in recording.columns:
        measure, apart = "js", recording.columns["js"][chosen]
    elif "oracle_logprob" in recording.columns:
        measure, apart = "oracle surprise", -recording.columns["oracle_logprob"][chosen]
    else:
        return None
    edges: tuple[float, ...] = _JS if measure == "js" else _SURPRISE
    known = ~np.isnan(apart)
    shape = (len(EDGES) - 1, len(edges) - 1)
    cells = place[known] * shape[1] + _place(apart[known], edges)
    counts = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
    return Grid(measure, EDGES, edges, counts)


def _place(values: Array, edges: tuple[float, ...]) -> Array:
    """The bin of each value; rounding may leave one a little below 0."""
    place: Array = np.searchsorted(np.array(edges, dtype=values.dtype), values, side="right") - 1
    place = np.clip(place, 0, len(edges) - 2)
    return place
