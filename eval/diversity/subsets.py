"""Subsets of samples: all of them where they are few, else so many that a seed draws."""

from __future__ import annotations

import math
import zlib
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def subsets(n: int, size: int, most: int, draws: int, seed: int, key: str) -> Array:
    """[subsets, size] int64: numbers below ``n`` in rising order.

    All subsets if there are at most ``most``; else ``draws`` different ones, each as likely as any other.

    Args:
        seed, key: of the draws, which depend on nothing else.

    Raises:
        ValueError: a size that is not in 1 to n, or nothing to draw.
    """
    if not 1 <= size <= n:
        raise ValueError(f"a subset of {n} samples has 1 to {n} of them, not {size}")
    if most < 1 or draws < 1:
        raise ValueError("there must be at least one subset")
    if math.comb(n, size) <= max(most, 1):
        return _all(n, size)
    total = math.comb(n, size)
    if draws >= total:
        return _all(n, size)
    random = np.random.default_rng([seed % 2**32, zlib.crc32(f"{key}/{size}".encode())])
    found: dict[bytes, Array] = {}
    while len(found) < draws:
        block = np.sort(np.argsort(random.random((draws, n)), axis=1)[:, :size], axis=1)
        for row in block:
            found.setdefault(row.tobytes(), row)
            if len(found) == draws:
                break
    return np.stack(list(found.values())).astype(np.int64)


@lru_cache(maxsize=64)
def _all(n: int, size: int) -> Array:
    made = np.array(list(combinations(range(n), size)), dtype=np.int64).reshape(-1, size)
    made.flags.writeable = False  # shared by all who ask
    return made


def masks(chosen: Array, n: int) -> Array:
    """[subsets, n] bool: the same subsets as masks."""
    mask = np.zeros((len(chosen), n), dtype=bool)
    np.put_along_axis(mask, chosen, True, axis=1)
    return mask
