"""How small may a batch become? Subsets that stand for all samples of a problem, against random and likely ones.

k-medoids keeps the samples that are nearest to all others under a distance: 1 - cosine of the embeddings, 1 - symmetric
BLEU / 100, or Jaccard's distance of the sets of word pairs. Likelihood keeps those of the highest mean log-probability,
the earlier one of two alike. Random is what all subsets of the size give on average.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.eval.diversity.medoids import k_medoids
from dodona.eval.diversity.pool import COVERAGE, MAJORITY, Pool
from dodona.eval.diversity.settings import Options
from dodona.eval.diversity.subsets import masks
from dodona.eval.diversity.votes import weighted_vote

Array = np.ndarray[Any, Any]

RANDOM: Final = "random"
LIKELY: Final = "likelihood"
WEIGHTED: Final = "weighted majority"  # each medoid's vote counts for its cluster
OUTCOMES: Final = (MAJORITY, WEIGHTED, COVERAGE)


class Kept(NamedTuple):
    """Which samples of a pool are kept."""

    chosen: Array  # [k]
    sizes: Array  # [k] samples that each stands for; 1 where there are no clusters


def kept(pool: Pool, size: int, distances: Mapping[str, Array]) -> dict[str, Kept]:
    """The subsets of one size, by method; random ones are none of them."""
    found = {}
    for metric, distance in distances.items():
        medoids = k_medoids(distance, size)
        found[f"k-medoids, {metric}"] = Kept(medoids.chosen, medoids.sizes)
    if not np.isnan(pool.logprobs).all():
        known = np.where(np.isnan(pool.logprobs), -np.inf, pool.logprobs)
        found[LIKELY] = Kept(np.sort(np.argsort(-known, kind="stable")[:size]), np.ones(size))
    return found


def pruned(pool: Pool, sizes: Sequence[int], options: Options) -> dict[tuple[str, int], dict[str, float]]:
    """Outcomes of every method and size, by their names; NaN where a method has no clusters to weigh."""
    distances = pool.distances()
    random = pool.expected(sizes, options)
    found: dict[tuple[str, int], dict[str, float]] = {}
    for place, size in enumerate(sizes):
        for method, one in kept(pool, size, distances).items():
            mask = masks(one.chosen[None, :], pool.n)
            values = pool.on(mask, options)
            outcomes = {MAJORITY: float(values[MAJORITY][0]), COVERAGE: float(values[COVERAGE][0])}
            weights = np.zeros(pool.n)
            weights[one.chosen] = one.sizes
            vote = weighted_vote(mask, pool.classes, pool.correct, weights)
            outcomes[WEIGHTED] = math.nan if method == LIKELY else float(vote[0])
            found[method, size] = outcomes
        found[RANDOM, size] = {
            MAJORITY: float(random[MAJORITY][place]),
            COVERAGE: float(random[COVERAGE][place]),
            WEIGHTED: math.nan,
        }
    return found
