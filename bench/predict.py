"""What a guided text should take: costs of single forwards, measured in other runs, times the ledger's counts.

    request + base steps x base(1) + catch-ups x base(tokens a catch-up) + steps without a trigger x alone(1)
            + syncs x oracle(tokens a sync) + oracle steps x oracle(1)

A cost is the time from the end of the forward before to a forward's own end, so that what the host does between them is
a part of it. It is measured for each number of sequences at once, because rows, the gathering of pages and the host's
work all grow with that, and it depends on

* the tokens that each sequence reads: a table, with straight lines between its entries;
* how many are in the cache: a slope, which is attention's;
* the forwards that the model has just made. After a switch from the other model its weights are out of the processor's
  nearer caches, and the next forwards are slower: on the embedded pair the first by a third, the second by a tenth;
* whether a trigger is asked: a base step that may not consult, or no more, asks none.

The prompt is expected to be in the caches but for its last token (``prefixes.py``), whose forward counts as a step.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from dodona.bench.watch import EMPTY, Forward, elapsed
from dodona.engine.config import LlamaConfig
from dodona.engine.ledger import Ledger
from dodona.engine.sequence import BASE, ORACLE

Table = tuple[tuple[float, float], ...]  # places and values, ascending

ALONE = "alone"  # beside the models' names, a kind of forward: the base's, without a trigger
WARM = 3  # forwards of one token after which a model's next ones are as fast as they get
SPREAD = 2.0  # contexts that differ by this factor show a slope


class ModelCosts(NamedTuple):
    """Of one kind of forward, in ms in an empty cache."""

    extend: Table  # the first after a switch, by tokens read
    steps: tuple[float, ...]  # of one token: the first, the second, ... after that; the last for all others
    slope: float  # that a token in the cache adds to a step
    extend_slope: float  # and to the first after a switch


class Costs(NamedTuple):
    """Of a number of sequences at once."""

    request: float  # ms outside the forwards, from the call to the results
    kinds: Mapping[str, ModelCosts]  # alone, base, oracle, as far as they were measured


class Watched(NamedTuple):
    """A run whose forwards were watched; its sequences keep in step."""

    batch: int
    asks: bool  # whether each base step asks a trigger
    milliseconds: float
    forwards: Sequence[Forward]


class Bucket(NamedTuple):
    """Forwards of a run that are alike."""

    run: int  # its place in a turn
    batch: int
    kind: str
    tokens: int  # of each sequence
    age: int  # forwards of this model just before, at most WARM; 0: a switch


class Point(NamedTuple):
    """What a bucket's forwards took."""

    context: float
    ms: float


def calibrated(turns: Iterable[Iterable[Watched]]) -> dict[int, Costs]:
    """Costs by batch, from the same runs in several turns.

    Within a run means, because what is predicted is a sum, to which a slow forward adds all of its time; of the turns
    the median, as of what it is compared with.

    Raises:
        ValueError: no runs.
    """
    outside: dict[int, list[float]] = defaultdict(list)
    found: dict[Bucket, list[Point]] = defaultdict(list)
    for turn in turns:
        for index, run in enumerate(turn):
            forwards = [forward for forward in run.forwards if forward.kind != EMPTY]
            span = elapsed(forwards[0].ended, forwards[-1].ended)
            outside[run.batch].append(run.milliseconds - span - forwards[0].milliseconds)
            for bucket, periods in _periods(index, run, forwards).items():
                found[bucket].append(Point(*map(statistics.mean, zip(*periods, strict=True))))
    if not outside:
        raise ValueError("no runs to calibrate with")
    points = {bucket: Point(*map(statistics.median, zip(*some, strict=True))) for bucket, some in found.items()}
    return {
        batch: Costs(
            max(0.0, statistics.median(values)),
            {
                kind: _model_costs({b: point for b, point in points.items() if (b.batch, b.kind) == (batch, kind)})
                for kind in (ALONE, BASE, ORACLE)
                if any((b.batch, b.kind) == (batch, kind) for b in points)
            },
        )
        for batch, values in outside.items()
    }


def predicted(ledger: Ledger, unasked: int, costs: Costs, base: LlamaConfig, oracle: LlamaConfig | None) -> float:
    """Milliseconds of a run, from the ledger of one of its sequences, which all did the same.

    Args:
        ledger: of a run without preemptions whose prompt was shared.
        unasked: base steps that could not consult: all where c is 0, else those after the last burst of the budget.
        costs: for as many sequences at once.
        base: the models, to read the ledger's operations.
        oracle: None where there is none.
    """
    context = mean_context(ledger.base_flops, ledger.base_fed, base)
    catch_ups = ledger.base_forwards - ledger.base_steps - ledger.prefill_tokens
    singles = 0 if catch_ups else ledger.consults  # catch-ups of one token, which the ledger counts as steps
    asked = ledger.base_steps + ledger.prefill_tokens - singles - unasked
    total = costs.request
    if unasked:
        total += steps_cost(costs.kinds[ALONE], context, unasked, 0 if asked > 0 else 1)
    if asked > 0:
        total += steps_cost(costs.kinds[BASE], context, asked, catch_ups + singles + 1)
    if catch_ups or singles:
        tokens = ledger.catch_up_tokens / catch_ups if catch_ups else 1.0
        total += (catch_ups + singles) * extend_cost(costs.kinds[BASE], context, tokens)
    syncs = ledger.oracle_forwards - ledger.oracle_steps
    if syncs and oracle is not None:
        context = mean_context(ledger.oracle_flops, ledger.oracle_fed, oracle)
        total += syncs * extend_cost(costs.kinds[ORACLE], context, ledger.sync_tokens / syncs)
        total += steps_cost(costs.kinds[ORACLE], context, ledger.oracle_steps, syncs)
    return total


def extend_cost(costs: ModelCosts, context: float, tokens: float) -> float:
    """Ms of the first forward after a switch."""
    return at(costs.extend, tokens) + costs.extend_slope * context


def steps_cost(costs: ModelCosts, context: float, steps: int, switches: int) -> float:
    """Ms of so many forwards of one token, in as many stretches as there were switches."""
    total, left = 0.0, steps
    for ms in costs.steps[:-1]:
        some = min(switches, left)
        total, left = total + some * ms, left - some
    return total + left * costs.steps[-1] + steps * costs.slope * context


def at(table: Table, place: float) -> float:
    """A table's value, on straight lines between its entries and beyond its ends; a lone entry is everywhere.

    Raises:
        ValueError: an empty table.
    """
    if not table:
        raise ValueError("nothing was measured for this")
    if len(table) == 1:
        return table[0][1]
    right = next((i for i in range(1, len(table) - 1) if table[i][0] >= place), len(table) - 1)
    (x0, y0), (x1, y1) = table[right - 1], table[right]
    return max(0.0, y0 + (y1 - y0) * (place - x0) / (x1 - x0))


def mean_context(flops: float, fed: int, config: LlamaConfig) -> float:
    """How many tokens those that were fed attended to on average, as their operations say."""
    if not fed:
        return 0.0
    fixed = config.flops_per_token(0)
    found = (flops / fed - fixed) / (config.flops_per_token(1) - fixed)
    return found if math.isfinite(found) else 0.0


def _periods(index: int, run: Watched, forwards: Sequence[Forward]) -> dict[Bucket, list[Point]]:
    """The forwards of a run that all its sequences took part in, all with as many tokens."""
    found: dict[Bucket, list[Point]] = defaultdict(list)
    age = 0
    for before, forward in pairwise(forwards):
        age = age + 1 if before.model == forward.model else 0
        if len(forward.tokens) == run.batch and len(set(forward.tokens)) == 1:
            kind = ALONE if forward.model == BASE and not run.asks else forward.model
            bucket = Bucket(index, run.batch, kind, forward.tokens[0], min(age, WARM))
            found[bucket].append(Point(statistics.mean(forward.contexts), elapsed(before.ended, forward.ended)))
    return found


def _model_costs(points: Mapping[Bucket, Point]) -> ModelCosts:
    """The costs that one kind's points show."""
    ages = {bucket.age for bucket in points if bucket.tokens == 1 and bucket.age} or {0}
    steady = [point for bucket, point in points.items() if bucket.tokens == 1 and bucket.age == max(ages)]
    slope = _slope([steady])
    first: dict[int, list[Point]] = defaultdict(list)
    for bucket, point in points.items():
        if not bucket.age:
            first[bucket.tokens].append(point)
    extend_slope = _slope(first.values()) or slope
    last = statistics.mean(point.ms - slope * point.context for point in steady)
    steps = []
    for age in range(1, WARM):
        some = [p.ms - slope * p.context for b, p in points.items() if b.tokens == 1 and b.age == age]
        steps.append(statistics.mean(some) if some else last)
    table = [(float(n), statistics.mean(p.ms - extend_slope * p.context for p in some)) for n, some in first.items()]
    return ModelCosts(tuple(sorted(table)), (*steps, last), slope, extend_slope)


def _slope(groups: Iterable[Sequence[Point]]) -> float:
    """Ms a token in the cache, within groups that are otherwise alike; 0 where contexts hardly differ."""
    above = below = 0.0
    for points in groups:
        if not points or max(p.context for p in points) < SPREAD * min(p.context for p in points):
            continue
        middle, level = statistics.mean(p.context for p in points), statistics.mean(p.ms for p in points)
        above += sum((p.context - middle) * (p.ms - level) for p in points)
        below += sum((p.context - middle) ** 2 for p in points)
    return max(0.0, above / below) if below else 0.0
