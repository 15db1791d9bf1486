"""Counts of n-grams of a few texts, as one table that subsets of the texts are looked up in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def words(text: str) -> list[str]:
    """The tokens of distinct-n: what stands between white space, as it is written."""
    return text.split()


def ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """How often each run of ``n`` tokens occurs."""
    return Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))


class NgramTable:
    """The n-grams of some texts, by order.

    Equal texts share a row; ``row`` says which one each text has.

    Args:
        texts: each as its tokens.
        orders: the values of n.
    """

    def __init__(self, texts: Sequence[Sequence[str]], orders: Sequence[int]) -> None:
        self.orders = tuple(orders)
        distinct = {tuple(tokens): None for tokens in texts}
        numbers = {tokens: number for number, tokens in enumerate(distinct)}
        self.row = np.array([numbers[tuple(tokens)] for tokens in texts], dtype=np.int64)  # [texts]
        self.lengths = np.array([len(tokens) for tokens in distinct], dtype=np.int64)  # [rows] tokens
        self.counts = {n: _table([ngrams(tokens, n) for tokens in distinct]) for n in self.orders}  # [rows, n-grams]

    def totals(self, n: int) -> Array:
        """[rows] n-grams of each row's text."""
        return np.maximum(self.lengths - n + 1, 0)

    def distinct(self, chosen: Array, n: int) -> float:
        """Different n-grams over all n-grams of these texts; NaN where there is none.

        Args:
            chosen: numbers of texts.
        """
        rows = self.row[chosen]
        total = int(self.totals(n)[rows].sum())
        return float((self.counts[n][rows] > 0).any(axis=0).sum() / total) if total else float("nan")

    def overlaps(self, n: int) -> Array:
        """[rows, rows] how many n-grams two texts share, each as often as in the text that has fewer of it."""
        counts = self.counts[n]
        return np.stack([np.minimum(one, counts).sum(axis=1, dtype=np.int64) for one in counts])

    def jaccard(self, n: int) -> Array:
        """[texts, texts] 1 - shared over all different n-grams of two texts, 0 of equal texts: Jaccard's distance."""
        held = (self.counts[n] > 0).astype(np.float64)
        both = held @ held.T
        each = held.sum(axis=1)
        either = each[:, None] + each[None, :] - both
        distance = np.where(either > 0, 1 - both / np.maximum(either, 1), 1.0)
        np.fill_diagonal(distance, 0.0)
        found: Array = distance[np.ix_(self.row, self.row)]
        return found


def _table(counters: Sequence[Counter[tuple[str, ...]]]) -> Array:
    """[texts, n-grams] int32."""
    numbers: dict[tuple[str, ...], int] = {}
    for counter in counters:
        for gram in counter:
            numbers.setdefault(gram, len(numbers))
    table = np.zeros((len(counters), len(numbers)), dtype=np.int32)
    for counter, line in zip(counters, table, strict=True):
        for gram, count in counter.items():
            line[numbers[gram]] = count
    return table
