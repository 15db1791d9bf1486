"""What a rule gives on average over all subsets of k of n samples: exactly, by counting them instead of making them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, Any]

MOST: Final = 1000  # samples; binomial coefficients of more leave the range of float64


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Coverage: the chance that a subset of ``k`` of ``n`` samples holds a right one, 1 - C(n-c, k) / C(n, k).

    The unbiased estimator of the chance that k new samples hold a right one. Both coefficients are whole numbers of any
    size, and their quotient is rounded once.

    Raises:
        ValueError: counts that no experiment can give, or fewer samples than ``k``: there is no estimate then.

    Source: M. Chen et al., "Evaluating Large Language Models Trained on Code", arXiv:2107.03374 (2021), equation 1.
    """
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} right ones of {n} samples")
    _check_size(n, k)
    total = math.comb(n, k)
    return (total - math.comb(n - correct, k)) / total


def best_at_k(rewards: Sequence[float] | Array, correct: Sequence[float] | Array, k: int) -> float:
    """Best-of-k: how often the sample of the highest reward in a subset of ``k`` is right, over all subsets.

    Of equal rewards each is chosen as often as the others. A sample without a reward (NaN) is chosen only where no
    sample of the subset has one.

    Args:
        rewards: [n].
        correct: [n] 0 or 1.

    Raises:
        ValueError: sides of different lengths, or a ``k`` that is not in 1 to n.
    """
    if len(rewards) != len(correct):
        raise ValueError(f"{len(rewards)} rewards of {len(correct)} samples")
    n = len(rewards)
    _check_size(n, k)
    blocks: dict[float, list[float]] = {}
    for reward, right in zip(rewards, correct, strict=True):
        blocks.setdefault(-math.inf if math.isnan(reward) else float(reward), []).append(float(right))
    total, below, value = math.comb(n, k), 0, 0.0
    for reward in sorted(blocks):
        rights = blocks[reward]
        upto = below + len(rights)
        value += (math.comb(upto, k) - math.comb(below, k)) / total * (math.fsum(rights) / len(rights))
        below = upto
    return value


def majority_at_k(
    counts: Sequence[int], values: Sequence[float], silent: int, most: int, *, ties: bool = True
) -> Array:
    """How often the majority of a subset is right, over all subsets, for every size at once: [most + 1], NaN at 0.

    A subset's winners are the classes with most votes in it. Several winners share it: the value is their mean, which
    is what drawing one of them gives on average. A subset without a vote is wrong.

    The subsets of k with a certain winner of j votes are counted by the coefficient of x^(k-j) in the product of the
    other classes' polynomials: sum over i of C(n_d, i) x^i up to i = j, with a second variable for those that reach j.

    Args:
        counts: [classes] votes for each, 1 or more.
        values: [classes] how right each is, 0 to 1.
        silent: samples that have no vote.
        most: the largest size.
        ties: False takes a subset with several winners as wrong.

    Raises:
        ValueError: fewer samples than ``most``, more than ``MOST``, or counts that are no counts.
    """
    n = sum(counts) + silent
    if len(counts) != len(values) or silent < 0 or any(count < 1 for count in counts):
        raise ValueError(f"{list(counts)} votes for classes of {len(values)} values, {silent} without")
    _check_size(n, most)
    if n > MOST:
        raise ValueError(f"{n} samples are more than the {MOST} that can be counted")
    sums = np.zeros(most + 1)
    for votes in range(1, min(most, max(counts, default=0)) + 1):
        room = most - votes  # samples beside the winner's
        small = silent + sum(count for count in counts if count < votes)
        large = Counter(count for count in counts if count >= votes)
        for count in large:
            value = math.fsum(v for c, v in zip(counts, values, strict=True) if c == count)
            if value == 0:
                continue
            table = _binomials(small, room)[None, :]  # [others that tie + 1, samples + 1]
            for other in (large - Counter([count])).elements():
                table = _with_class(table, other, votes, room)
            shares = 1 / (1 + np.arange(len(table))) if ties else np.eye(1, len(table))[0]
            sums[votes:] += value * math.comb(count, votes) * (shares @ table)
    sums[0] = math.nan
    totals = np.array([float(math.comb(n, k)) for k in range(most + 1)])
    found: Array = np.minimum(sums / totals, 1.0)
    return found


def _binomials(n: int, most: int) -> Array:
    """[most + 1] C(n, i)."""
    return np.array([float(math.comb(n, i)) for i in range(most + 1)])


def _with_class(table: Array, count: int, votes: int, room: int) -> Array:
    """Subsets counted with one more class, which has at most ``votes`` votes in them and ties where it has as many."""
    reach = min(len(table), room // votes) + 1  # winners that fit beside one another
    found = np.zeros((reach, room + 1))
    below = _binomials(count, min(votes - 1, room))
    for taken, ways in enumerate(below):
        found[: len(table), taken:] += ways * table[:reach, : room + 1 - taken]
    if votes <= room:
        found[1:, votes:] += math.comb(count, votes) * table[: reach - 1, : room + 1 - votes]
    return found


def _check_size(n: int, k: int) -> None:
    if k < 1:
        raise ValueError(f"a subset has 1 or more samples, not {k}")
    if n < k:
        raise ValueError(f"{k} of {n} samples: at least {k} are needed")
