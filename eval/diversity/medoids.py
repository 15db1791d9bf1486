"""k-medoids by PAM: k of n points that stand for the others, found from their distances alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

_GAIN = 1e-12  # a swap that saves less is rounding


class Medoids(NamedTuple):
    """A clustering around points of its own."""

    chosen: Array  # [k] int64, in rising order
    labels: Array  # [n] int64, which of them each point belongs to; a medoid belongs to itself
    cost: float  # sum of the distances of all points to their medoids

    @property
    def sizes(self) -> Array:
        """[k] points of each medoid, itself among them."""
        return np.bincount(self.labels, minlength=len(self.chosen))


def k_medoids(distances: Array, k: int) -> Medoids:
    """Partitioning around medoids: BUILD takes the point that saves most, k times; SWAP exchanges while that saves.

    Every swap taken is the best one. Ties go to the lowest number, so equal distances always give the same medoids.

    Args:
        distances: [n, n] 0 or more, symmetric, 0 on the diagonal.
        k: 1 to n.

    Raises:
        ValueError: a ``k`` out of range, or distances that are no square or not finite.

    Source: L. Kaufman and P. J. Rousseeuw, Finding Groups in Data (1990), chapter 2; the losses of all swaps at once as
    in E. Schubert and P. J. Rousseeuw, "Faster k-Medoids Clustering", arXiv:1810.05691, algorithm FastPAM1.
    """
    distances = np.asarray(distances, dtype=np.float64)
    n = len(distances)
    if distances.shape != (n, n) or not np.isfinite(distances).all():
        raise ValueError(f"distances of shape {distances.shape} are no square of finite numbers")
    if not 1 <= k <= n:
        raise ValueError(f"{k} medoids of {n} points")
    chosen = _build(distances, k)
    while (better := _swapped(distances, chosen)) is not None:
        chosen = better
    chosen = np.sort(chosen)
    labels = distances[:, chosen].argmin(axis=1)
    labels[chosen] = np.arange(k)
    return Medoids(chosen, labels, float(distances[np.arange(n), chosen[labels]].sum()))


def _build(distances: Array, k: int) -> Array:
    chosen = [int(distances.sum(axis=0).argmin())]
    nearest = distances[:, chosen[0]].copy()
    while len(chosen) < k:
        saved = np.maximum(nearest[:, None] - distances, 0.0).sum(axis=0)
        saved[chosen] = -1.0
        chosen.append(int(saved.argmax()))
        nearest = np.minimum(nearest, distances[:, chosen[-1]])
    return np.array(chosen, dtype=np.int64)


def _swapped(distances: Array, chosen: Array) -> Array | None:
    """The medoids after the best swap; None where no swap saves anything."""
    n, k = len(distances), len(chosen)
    if k == n:
        return None
    to = distances[:, chosen]
    order = np.argsort(to, axis=1, kind="stable")
    mine = order[:, 0]
    first = to[np.arange(n), mine]
    second = to[np.arange(n), order[:, 1]] if k > 1 else np.full(n, np.inf)
    # Point j's loss when point h comes in: if its own medoid goes, it takes h or its second; else h if that is nearer.
    stays = np.minimum(distances, first[:, None]) - first[:, None]  # [j, h]
    leaves = np.minimum(distances, second[:, None]) - first[:, None]
    owner = np.zeros((k, n))
    owner[mine, np.arange(n)] = 1.0
    change = stays.sum(axis=0)[None, :] + owner @ (leaves - stays)  # [medoid, h]
    change[:, chosen] = np.inf
    out, came = divmod(int(change.argmin()), n)
    if change[out, came] >= -_GAIN * max(1.0, float(first.sum())):
        return None
    better = chosen.copy()
    better[out] = came
    return better
