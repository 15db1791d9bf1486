"""The rules and measures of a diversity study once more, written as their definitions say and as slowly as that is."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

Subset = tuple[int, ...]


def over_subsets(n: int, k: int, value: Callable[[Subset], float]) -> float:
    """The mean over all subsets."""
    found = [value(subset) for subset in itertools.combinations(range(n), k)]
    return math.fsum(found) / len(found)


def coverage(correct: Sequence[int], subset: Subset) -> float:
    return float(any(correct[i] for i in subset))


def vote(
    classes: Sequence[int], correct: Sequence[int], subset: Subset, weights: Sequence[float] | None = None
) -> float:
    """The mean over the answers with most votes of the share of their samples that are right."""
    votes: dict[int, float] = defaultdict(float)
    for i in subset:
        if classes[i] >= 0:
            votes[classes[i]] += 1.0 if weights is None else weights[i]
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [name for name, count in votes.items() if math.isclose(count, most, rel_tol=1e-12, abs_tol=1e-12)]
    shares = []
    for winner in winners:
        members = [correct[i] for i in range(len(classes)) if classes[i] == winner]
        shares.append(sum(members) / len(members))
    return sum(shares) / len(shares)


def first_vote(classes: Sequence[int], correct: Sequence[int], subset: Subset) -> float:
    """Ties go to the answer that came first."""
    answers = [classes[i] for i in subset if classes[i] >= 0]
    if not answers:
        return 0.0
    winner = max(dict.fromkeys(answers), key=answers.count)
    members = [correct[i] for i in range(len(classes)) if classes[i] == winner]
    return sum(members) / len(members)


def best(rewards: Sequence[float], correct: Sequence[int], subset: Subset) -> float:
    known = [-math.inf if math.isnan(rewards[i]) else rewards[i] for i in subset]
    rights = [correct[i] for i, reward in zip(subset, known, strict=True) if reward == max(known)]
    return sum(rights) / len(rights)


def medoid(utility: np.ndarray, correct: Sequence[int], subset: Subset) -> float:
    """The sample with the highest mean utility against the others."""
    scores = []
    for i in subset:
        others = [utility[i, j] for j in subset if j != i]
        scores.append(sum(others) / len(others) if others else 0.0)
    top = max(scores)
    rights = [correct[i] for i, score in zip(subset, scores, strict=True) if abs(score - top) <= 1e-9]
    return sum(rights) / len(rights)


def residual_correlation(x: np.ndarray, y: np.ndarray, controls: Sequence[np.ndarray]) -> float:
    """Pearson's correlation of what least squares on the controls leaves."""
    design = np.stack([np.ones(len(x)), *controls], axis=1)
    left = [column - design @ np.linalg.lstsq(design, column, rcond=None)[0] for column in (x, y)]
    return float(np.corrcoef(*left)[0, 1])
