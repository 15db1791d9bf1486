"""Sentence BLEU of texts among each other, as sacrebleu computes it, for many pairs and subsets at once.

Text is tokenised by sacrebleu's 13a; the score is that of ``sacrebleu.sentence_bleu`` with its defaults: n-grams up to
four, orders that the text is too short for left out, and each order without a match smoothed exponentially. Counting
the n-grams once a text in place of once a pair is all the difference; the tests compare the scores.

Source: K. Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", ACL 2002; the smoothing is
method 3 of B. Chen and C. Cherry, "A Systematic Comparison of Smoothing Techniques for Sentence-Level BLEU", WMT 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.eval.diversity.ngrams import NgramTable

Array = np.ndarray[Any, Any]

ORDERS: Final = (1, 2, 3, 4)


def check_sacrebleu() -> None:
    """Find out that there is no sacrebleu before anything is computed.

    Raises:
        DodonaError: there is none.
    """
    try:
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise DodonaError(
            "BLEU needs sacrebleu, which is in the extra `diversity`: pip install -e '.[diversity]'; --without bleu "
            "leaves out what needs it"
        ) from error


class Bleu:
    """BLEU of some texts.

    Two equal texts score 100, empty ones too: they are no more diverse for being empty.

    Raises:
        DodonaError: there is no sacrebleu.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        check_sacrebleu()
        from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

        tokenise = Tokenizer13a()  # type: ignore[no-untyped-call, unused-ignore]
        known = {text: tokenise(text.rstrip()).split() for text in dict.fromkeys(texts)}
        self._table = NgramTable([known[text] for text in texts], ORDERS)
        self._all = np.concatenate([self._table.counts[n] for n in ORDERS], axis=1)  # [rows, n-grams of all orders]
        self._starts = np.cumsum([0, *(self._table.counts[n].shape[1] for n in ORDERS)])

    def pairs(self) -> Array:
        """[texts, texts] BLEU of the first text against the second as its reference, 0 to 100."""
        table = self._table
        matches = np.stack([table.overlaps(n) for n in ORDERS], axis=-1)  # [rows, rows, 4]
        totals = np.stack([table.totals(n) for n in ORDERS], axis=-1)[:, None, :]
        lengths = table.lengths
        scores = bleu(matches, np.broadcast_to(totals, matches.shape), lengths[:, None], lengths[None, :])
        np.fill_diagonal(scores, 100.0)
        found: Array = scores[np.ix_(table.row, table.row)]
        return found

    def symmetric(self) -> Array:
        """[texts, texts] the mean of both directions of ``pairs``."""
        pairs = self.pairs()
        return (pairs + pairs.T) / 2

    def self_bleu(self, chosen: Array) -> float:
        """Self-BLEU: each text against all others of the subset as its references, the mean; high is alike.

        NaN for a subset of one text, which has no references.

        Args:
            chosen: numbers of texts.

        Source: Y. Zhu et al., "Texygen: A Benchmarking Platform for Text Generation Models", arXiv:1802.01886.
        """
        if len(chosen) < 2:
            return float("nan")
        rows = self._table.row[chosen]
        counts = self._all[rows]
        # What the others have of an n-gram at most: the largest count; for who holds that alone, the second largest.
        largest = counts.max(axis=0)
        holds = counts == largest
        alone = holds.sum(axis=0) == 1
        second = np.where(holds, -1, counts).max(axis=0)
        clipped = np.minimum(counts, np.where(holds & alone, second, largest))
        sums = np.zeros((len(rows), clipped.shape[1] + 1), dtype=np.int64)
        clipped.cumsum(axis=1, out=sums[:, 1:])
        matches = sums[:, self._starts[1:]] - sums[:, self._starts[:-1]]
        totals = np.stack([self._table.totals(n)[rows] for n in ORDERS], axis=-1)
        lengths = self._table.lengths[rows]
        scores = bleu(matches, totals, lengths, _closest(lengths))
        repeated = (rows[:, None] == rows[None, :]).sum(axis=1) > 1
        return float(np.where(repeated, 100.0, scores).mean())


def bleu(matches: Array, totals: Array, length: Array, reference: Array) -> Array:
    """[...] the score from counts, 0 to 100.

    Args:
        matches: [..., 4] n-grams of each order that the reference has, too.
        totals: [..., 4] n-grams of each order.
        length, reference: [...] tokens of the text and of the reference of the closest length.
    """
    matches, totals = matches.astype(np.float64), totals.astype(np.float64)
    there = totals > 0
    missing = there & (matches == 0)
    halvings = np.cumsum(missing, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(missing, 1 / (2.0**halvings * totals), matches / totals)
        logs = np.where(there, np.log(precision), 0.0)
        mean = logs.sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)
        brevity = np.where(length < reference, np.exp(1 - reference / length), 1.0)
    found: Array = np.where((matches > 0).any(axis=-1), np.minimum(100 * brevity * np.exp(mean), 100.0), 0.0)
    return found


def _closest(lengths: Array) -> Array:
    """[m] of the other texts' lengths the closest one, the shorter of two."""
    found = []
    for place, length in enumerate(lengths):
        others = np.delete(lengths, place)
        found.append(min(others.tolist(), key=lambda other: (abs(other - length), other)))
    return np.array(found)
