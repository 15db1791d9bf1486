"""What the strong model's signals say where it begins to write, and where recovered and lost completions part.

At the cut all completions of a prefix have one distribution. A recovered and a lost completion of one prefix agree up
to some token; at that position, too, they saw the same distribution and drew different tokens from it. These are the
places where the outcome was decided, as far as one draw decides it.

Intervals are by bootstrap over problems.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.eval.analysis.resample import Estimate, problem_weights, rank, ratio
from dodona.eval.recover.findings import Findings
from dodona.eval.recover.rows import Completion, Prefix
from dodona.eval.recover.settings import STRONG

Array = np.ndarray[Any, Any]

MEASURES: Final = ("entropy", "varentropy", "margin")
AFTER: Final = 40  # tokens after the cut that the profile shows
MOST_TOKENS: Final = 10  # pairs of tokens that are listed


class AtCut(NamedTuple):
    """One signal of the first distribution after the cut, over completions."""

    measure: str
    recovered: Estimate  # mean
    lost: Estimate
    auroc: Estimate | None  # chance that a recovered completion has a higher value than a lost one; None: undefined


class Parting(NamedTuple):
    """Where a recovered and a lost completion of one prefix part."""

    prefix: str  # row id
    problem_id: str
    recovered: str  # row id
    lost: str
    depth: int  # tokens after the cut that both have in common
    tokens: tuple[int, int]  # the next one of the recovered, and of the lost; -1 where it ended
    signals: dict[str, float]  # of the distribution there


class AtParting(NamedTuple):
    """One signal at the partings, beside all positions of the same completions."""

    measure: str
    there: Estimate
    elsewhere: Estimate


def at_cut(findings: Findings, prefixes: Sequence[Prefix], resamples: int = 1000) -> list[AtCut]:
    """The signals at the cut, of recovered and of lost completions."""
    runs = [run for run in findings.runs(prefixes, STRONG) if run.outcome != "failed" and run.ids]
    if not runs:
        return []
    problem, weights = _problems(runs, resamples)
    recovered = np.array([run.correct for run in runs])
    found = []
    for measure in MEASURES:
        values = np.array([_at(run, measure, 0) for run in runs])
        known = ~np.isnan(values)
        if not known.any():
            continue
        means = [_mean(values, problem, weights, known & side) for side in (recovered, ~recovered)]
        both = bool((known & recovered).any() and (known & ~recovered).any())
        area = rank(values[known], recovered[known], problem[known], weights).auroc if both else None
        found.append(AtCut(measure, means[0], means[1], area))
    return found


def partings(findings: Findings, prefixes: Sequence[Prefix]) -> list[Parting]:
    """Every pair of a recovered and a lost completion of one prefix, and where they part."""
    found = []
    for prefix in prefixes:
        runs = [run for run in findings.runs([prefix], STRONG) if run.outcome != "failed"]
        for good in (run for run in runs if run.correct):
            for bad in (run for run in runs if not run.correct):
                depth = common(good.ids, bad.ids)
                tokens = tuple(run.ids[depth] if depth < len(run.ids) else -1 for run in (good, bad))
                longer = good if len(good.ids) > depth else bad
                signals = {measure: _at(longer, measure, depth) for measure in MEASURES}
                found.append(
                    Parting(
                        *(prefix.row_id, prefix.problem_id, good.row_id, bad.row_id, depth),
                        (tokens[0], tokens[1]),
                        signals,
                    )
                )
    return found


def at_partings(findings: Findings, found: Sequence[Parting], resamples: int = 1000) -> list[AtParting]:
    """The signals at the partings, and at all other positions of the completions that part."""
    if not found:
        return []
    by_id = {run.row_id: run for runs in findings.completions.values() for run in runs}
    problems = {pid: index for index, pid in enumerate(dict.fromkeys(parting.problem_id for parting in found))}
    weights = problem_weights(len(problems), resamples)
    places: dict[str, set[int]] = {}  # where a completion parts from another
    for parting in found:
        for row_id in (parting.recovered, parting.lost):
            places.setdefault(row_id, set()).add(parting.depth)
    rows = []
    for measure in MEASURES:
        sums = np.zeros((4, len(problems)))  # sum and count at the partings, sum and count elsewhere
        for parting in found:
            value = parting.signals[measure]
            if not np.isnan(value):
                sums[0:2, problems[parting.problem_id]] += value, 1
        for row_id, at in places.items():
            values = by_id[row_id].signals.get(measure, np.zeros(0, dtype=np.float32))
            other = np.array([value for place, value in enumerate(values) if place not in at])
            other = other[~np.isnan(other)]
            sums[2:4, problems[by_id[row_id].problem_id]] += other.sum(), len(other)
        rows.append(AtParting(measure, ratio(sums[0], sums[1], weights), ratio(sums[2], sums[3], weights)))
    return rows


def token_pairs(found: Sequence[Parting], text: Callable[[int], str]) -> list[tuple[str, str, int]]:
    """What the recovered wrote and what the lost wrote where they part, the most frequent first."""
    pairs = Counter((_token(parting.tokens[0], text), _token(parting.tokens[1], text)) for parting in found)
    listed = sorted(pairs.items(), key=lambda entry: (-entry[1], entry[0]))
    return [(good, bad, count) for (good, bad), count in listed[:MOST_TOKENS]]


def profile(findings: Findings, prefixes: Sequence[Prefix], measure: str, recovered: bool) -> tuple[Array, Array]:
    """The mean of a signal by tokens after the cut, and over how many completions; [AFTER] each, NaN over none."""
    sums, counts = np.zeros(AFTER), np.zeros(AFTER)
    for run in findings.runs(prefixes, STRONG):
        if run.outcome == "failed" or run.correct is not recovered:
            continue
        values = run.signals.get(measure, np.zeros(0, dtype=np.float32))[:AFTER]
        known = ~np.isnan(values)
        sums[: len(values)] += np.where(known, values, 0)
        counts[: len(values)] += known
    with np.errstate(invalid="ignore"):
        return sums / np.where(counts > 0, counts, np.nan), counts


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts have in common from their beginning."""
    for place, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return place
    return min(len(a), len(b))


def _problems(runs: Sequence[Completion], resamples: int) -> tuple[Array, Array]:
    """The number of each run's problem, and how often each problem is drawn."""
    numbers = {pid: index for index, pid in enumerate(dict.fromkeys(run.problem_id for run in runs))}
    return np.array([numbers[run.problem_id] for run in runs]), problem_weights(len(numbers), resamples)


def _mean(values: Array, problem: Array, weights: Array, chosen: Array) -> Estimate:
    count = weights.shape[1]
    part = np.bincount(problem[chosen], weights=values[chosen], minlength=count)
    return ratio(part, np.bincount(problem[chosen], minlength=count), weights)


def _at(run: Completion, measure: str, place: int) -> float:
    values = run.signals.get(measure)
    return float(values[place]) if values is not None and place < len(values) else float("nan")


def _token(token: int, text: Callable[[int], str]) -> str:
    return "(end)" if token < 0 else text(token)
