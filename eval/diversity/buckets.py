"""Batches sorted by a measure into buckets, of equal width or of equal count."""

from __future__ import annotations

import math
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np

from dodona.eval.stats.correlation import ranks

Array = np.ndarray[Any, Any]
Kind: TypeAlias = Literal["width", "quantile"]

KINDS: Final[tuple[Kind, ...]] = ("width", "quantile")


class Bucket(NamedTuple):
    """The batches whose measure lies in one stretch."""

    rows: Array  # numbers of the batches
    low: float  # the stretch, of equal width; else the least and the largest value
    high: float
    least: float  # of the values in it; NaN where it is empty
    most: float
    mean: float


def buckets(values: Array, count: int, kind: Kind) -> list[Bucket]:
    """Values in buckets, from low to high; those that are not finite are in none.

    Of equal width: the stretch from the least to the largest value in ``count`` equal parts, each without its upper end
    but for the last; some may be empty. By quantiles: about as many values in each, by their ranks; equal values are
    never divided, so there may be fewer buckets. Where all values are equal there is one bucket.

    Raises:
        ValueError: no bucket asked for.
    """
    if count < 1:
        raise ValueError(f"{count} buckets")
    rows = np.flatnonzero(np.isfinite(values))
    known = values[rows]
    if not len(known):
        return []
    low, high = float(known.min()), float(known.max())
    if low == high:
        return [Bucket(rows, low, high, low, high, float(known.mean()))]
    edges = np.linspace(low, high, count + 1)
    if kind == "width":
        places = np.clip(np.searchsorted(edges, known, side="right") - 1, 0, count - 1)
    else:
        places = np.minimum(((ranks(known) - 0.5) / len(known) * count).astype(np.int64), count - 1)
    found = []
    for place in range(count):
        inside = places == place
        own = known[inside]
        if not len(own):
            if kind == "width":
                nothing = math.nan, math.nan, math.nan
                found.append(Bucket(rows[inside], float(edges[place]), float(edges[place + 1]), *nothing))
            continue
        ends = (edges[place], edges[place + 1]) if kind == "width" else (own.min(), own.max())
        values_of = float(own.min()), float(own.max()), float(own.mean())
        found.append(Bucket(rows[inside], float(ends[0]), float(ends[1]), *values_of))
    return found
