"""Everything that a report says, computed from pools: the same pools give the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.eval.analysis.resample import Estimate, difference, percentile, problem_weights, share
from dodona.eval.diversity.buckets import KINDS, Bucket, buckets
from dodona.eval.diversity.correlations import Association, associations
from dodona.eval.diversity.pool import COVERAGE, MAJORITY, RIGHT, Pool
from dodona.eval.diversity.pruning import OUTCOMES, RANDOM, pruned
from dodona.eval.diversity.rewards import LOGPROB
from dodona.eval.diversity.settings import Options
from dodona.eval.diversity.subsets import masks

Array = np.ndarray[Any, Any]

TEMPERATURE: Final = "temperature"
NUMBER: Final = "number right"
# What a correlation holds fixed; a study of one temperature, or without likelihoods, has fewer of them.
CONTROLS: Final = ((LOGPROB,), (TEMPERATURE,), (LOGPROB, TEMPERATURE))


class Line(NamedTuple):
    """One line of the table by sample size."""

    temperature: float | None
    size: int
    rules: Mapping[str, Estimate]


class Frame(NamedTuple):
    """Batches of one size: a few of every pool."""

    size: int
    problem: Array  # [B] number of the problem
    temperature: Array  # [B] NaN where it is not known
    measures: Mapping[str, Array]  # [B] each
    rules: Mapping[str, Array]  # [B] each

    @property
    def outcomes(self) -> dict[str, Array]:
        """What measures are correlated with."""
        return {MAJORITY: self.rules[MAJORITY], COVERAGE: self.rules[COVERAGE], NUMBER: self.rules[RIGHT] * self.size}


class Correlated(NamedTuple):
    """The correlations of one measure with one outcome over batches of one size."""

    size: int
    measure: str
    outcome: str
    found: Association


class BucketLine(NamedTuple):
    """A bucket with what every rule gives on its batches."""

    measure: str
    kind: str
    bucket: Bucket
    rules: Mapping[str, Estimate]


class Pruned(NamedTuple):
    """A method of pruning at one temperature and size."""

    temperature: float | None
    method: str
    size: int
    outcomes: Mapping[str, Estimate]
    kept: Mapping[str, Estimate]  # over the same outcome of all samples; a weighted majority over the majority
    against_random: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Findings:
    """A study's numbers."""

    n: int  # samples of the smallest pool, to which all sizes fit
    problems: tuple[str, ...]
    temperatures: tuple[float | None, ...]
    sizes: tuple[int, ...]
    batch: int | None
    lines: tuple[Line, ...]
    frames: tuple[Frame, ...]
    correlated: tuple[Correlated, ...]
    controls: tuple[tuple[str, ...], ...]
    buckets: tuple[BucketLine, ...]
    pruned: tuple[Pruned, ...]

    @property
    def rules(self) -> list[str]:
        """Of the table by sample size."""
        return list(self.lines[0].rules)

    @property
    def measures(self) -> list[str]:
        """Of the correlations."""
        return list(dict.fromkeys(one.measure for one in self.correlated))


def analyse(pools: Sequence[Pool], options: Options) -> Findings:
    """Compute everything.

    Args:
        pools: of every problem one at each temperature.

    Raises:
        DodonaError: sizes that need more samples than there are.
    """
    n = min(pool.n for pool in pools)
    sizes = options.sizes_of(n)
    batch = options.batch_of(n)
    problems = tuple(dict.fromkeys(pool.problem_id for pool in pools))
    temperatures = tuple(dict.fromkeys(pool.temperature for pool in pools))
    weights = problem_weights(len(problems), options.resamples, options.seed)
    number = {name: place for place, name in enumerate(problems)}

    lines, expected = [], {}
    for pool in pools:
        expected[pool.problem_id, pool.temperature] = pool.expected(sizes, options)
    for temperature in temperatures:
        for place, size in enumerate(sizes):
            rules = {
                rule: mean_of([expected[name, temperature][rule][place] for name in problems], weights)
                for rule in pools[0].rules()
            }
            lines.append(Line(temperature, size, rules))
    frames = [frame(pools, size, options, number) for size in sorted({*sizes, *([batch] if batch else [])}) if size > 1]
    frames = [one for one in frames if one.measures]
    correlated, controls = correlate(frames, weights)
    bucketed = [line for one in frames if one.size == batch for line in bucket_lines(one, options.buckets, weights)]
    smaller = [size for size in sizes if size < n]
    cut = prune(pools, smaller, n, options, weights) if smaller and frames else []
    return Findings(
        n,
        problems,
        temperatures,
        tuple(sizes),
        batch,
        tuple(lines),
        tuple(frames),
        tuple(correlated),
        controls,
        tuple(bucketed),
        tuple(cut),
    )


def mean_of(values: Sequence[float], weights: Array) -> Estimate:
    """The mean over problems with its interval; NaN where one of them is not known."""
    part = np.asarray(values, dtype=np.float64)
    return share(part, np.ones(len(part)), weights)


def _share(part: Array, whole: Array, weights: Array) -> Estimate:
    """Sum of one over sum of the other, which may be 0 in a resample: that one is left out."""
    both = np.concatenate([np.ones((1, len(part))), weights])
    sums, wholes = both @ part, both @ whole
    values = np.where(wholes > 0, sums / np.where(wholes > 0, wholes, 1.0), np.nan)
    value, draws = float(values[0]), values[1:]
    return Estimate(value, None if math.isnan(value) else percentile(draws, 0.95), draws)


def frame(pools: Sequence[Pool], size: int, options: Options, number: Mapping[str, int]) -> Frame:
    """A few batches of every pool: all subsets where there are no more than ``options.batches``."""
    problem: list[int] = []
    temperature: list[float] = []
    measures: dict[str, list[Array]] = {}
    rules: dict[str, list[Array]] = {}
    for pool in pools:
        chosen = pool.subsets(size, options.batches, options.batches, options.seed)
        problem += [number[pool.problem_id]] * len(chosen)
        temperature += [math.nan if pool.temperature is None else pool.temperature] * len(chosen)
        for name, values in pool.measures(chosen).items():
            measures.setdefault(name, []).append(values)
        for name, values in pool.on(masks(chosen, pool.n), options).items():
            rules.setdefault(name, []).append(values)
    joined = [{name: np.concatenate(parts) for name, parts in found.items()} for found in (measures, rules)]
    rows = len(problem)
    known = {name: values for name, values in joined[0].items() if len(values) == rows}
    return Frame(size, np.array(problem, dtype=np.int64), np.array(temperature), known, joined[1])


def correlate(frames: Sequence[Frame], weights: Array) -> tuple[list[Correlated], tuple[tuple[str, ...], ...]]:
    """Every measure with every outcome, and what was held fixed in the partial correlations."""
    if not frames:
        return [], ()
    fixed: dict[str, Callable[[Frame], Array]] = {}
    if all(LOGPROB in one.measures for one in frames):
        fixed[LOGPROB] = lambda one: one.measures[LOGPROB]
    if len(np.unique(frames[0].temperature[~np.isnan(frames[0].temperature)])) > 1:
        fixed[TEMPERATURE] = lambda one: one.temperature
    controls = tuple(names for names in CONTROLS if all(name in fixed for name in names))
    found = []
    for one in frames:
        columns = {name: column(one) for name, column in fixed.items()}
        pairs = associations(one.measures, one.outcomes, one.problem, weights, columns, controls)
        found += [Correlated(one.size, measure, outcome, value) for (measure, outcome), value in pairs.items()]
    return found, controls


def bucket_lines(one: Frame, count: int, weights: Array) -> Iterator[BucketLine]:
    """Every measure's buckets, of both kinds."""
    problems = weights.shape[1]
    for measure, values in one.measures.items():
        for kind in KINDS:
            for bucket in buckets(values, count, kind):
                owner = one.problem[bucket.rows]
                whole = np.bincount(owner, minlength=problems).astype(np.float64)
                rules = {
                    rule: share(np.bincount(owner, weights=gained[bucket.rows], minlength=problems), whole, weights)
                    for rule, gained in one.rules.items()
                }
                yield BucketLine(measure, kind, bucket, rules)


def prune(pools: Sequence[Pool], sizes: Sequence[int], n: int, options: Options, weights: Array) -> list[Pruned]:
    """Every method at every temperature and size, beside all samples and beside random subsets."""
    gathered: dict[tuple[float | None, str, int], dict[str, list[float]]] = {}
    whole: dict[tuple[float | None, str], list[float]] = {}
    for pool in pools:
        full = pool.expected([pool.n], options)
        for outcome in OUTCOMES:
            base = COVERAGE if outcome == COVERAGE else MAJORITY
            whole.setdefault((pool.temperature, outcome), []).append(float(full[base][0]))
        for (method, size), outcomes in pruned(pool, sizes, options).items():
            place = gathered.setdefault((pool.temperature, method, size), {})
            for outcome, value in outcomes.items():
                place.setdefault(outcome, []).append(value)
    means = {
        key: {outcome: mean_of(values, weights) for outcome, values in columns.items()}
        for key, columns in gathered.items()
    }
    found = []
    for (temperature, method, size), columns in gathered.items():
        estimates = means[temperature, method, size]
        random = means[temperature, RANDOM, size]
        kept = {
            outcome: _share(np.array(values), np.array(whole[temperature, outcome]), weights)
            for outcome, values in columns.items()
        }
        against = {
            outcome: difference(estimates[outcome], random[COVERAGE if outcome == COVERAGE else MAJORITY])
            for outcome in columns
        }
        found.append(Pruned(temperature, method, size, estimates, kept, against))
    return found
