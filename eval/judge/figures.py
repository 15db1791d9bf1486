"""The figures of one judge over all pairs that were asked for.

Every pair counts in ``n``: an error is neither won nor lost, so the two sides' rates and the share of errors add up to
one. Rates over fewer pairs say over how many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.eval.judge.agreement import Agreement, agreement
from dodona.eval.judge.judgement import Judgement
from dodona.eval.judge.length_control import LengthControlled, length_controlled
from dodona.eval.stats.intervals import Interval, clustered, normal_quantile, score_interval, wilson
from dodona.eval.stats.paired import mcnemar

QUARTERS: Final = 4


class Share(NamedTuple):
    """A rate with its 95 % interval; ``hits`` may be a half where ties count as such."""

    hits: float
    n: int
    interval: Interval

    @property
    def value(self) -> float:
        """The rate; NaN of nothing."""
        return self.hits / self.n if self.n else math.nan


class Quarter(NamedTuple):
    """The pairs whose difference in length lies in one quarter of all."""

    low: int  # characters, the smallest difference of answer a less answer b
    high: int
    wins: int
    losses: int
    ties: int
    errors: int
    rate: Share  # of a, over the pairs in it

    @property
    def n(self) -> int:
        """All of them."""
        return self.wins + self.losses + self.ties + self.errors


class Graded(NamedTuple):
    """The mean of the preferences for a side, with its standard error."""

    n: int  # pairs that have one
    mean: float  # NaN of nothing
    error: float  # sd / sqrt(n), with n - 1 in the sd; NaN for fewer than two


class Figures(NamedTuple):
    """All figures of one judge."""

    n: int
    wins: int  # of a
    losses: int
    ties: int
    errors: int
    split: int  # of the ties, those in which the two orders disagree
    rate_a: Share  # (wins + ties / 2) / n
    rate_b: Share  # (losses + ties / 2) / n
    rate_judged: Share  # of a, over the pairs without an error
    rate_decided: Share  # of a, over the pairs that were won or lost
    bounds: Interval  # of a's rate: if all errors had been lost, and if all had been won
    p_value: float  # sign test of wins against losses
    consistency: Share | None  # orders that name the same, of pairs with a verdict in both; None: no orders are known
    first: Share | None  # of the answer that is shown first, over pairs in which both orders chose an answer
    first_p: float | None  # sign test of twice the first against twice the second
    graded_a: Graded
    graded_b: Graded
    mass: float | None  # mean probability of any verdict
    quarters: Sequence[Quarter]
    unknown_lengths: int  # pairs that are in no quarter
    controlled: LengthControlled
    human: Agreement | None  # None: no pair has a person's verdict


def figures(judgements: Sequence[Judgement]) -> Figures:
    """The figures of the judgements of all pairs that were asked for."""
    n = len(judgements)
    wins, losses, ties = (sum(j.winner == name for j in judgements) for name in ("a", "b", "tie"))
    judged = wins + losses + ties
    both = [j for j in judgements if j.both]
    firsts = [j.firsts for j in judgements if j.firsts is not None]
    masses = [j.mass for j in judgements if j.mass is not None]
    labelled = [j for j in judgements if j.human is not None]
    scored = [(j.score, j.lengths) for j in judgements if j.score is not None and j.lengths is not None]
    return Figures(
        n=n,
        wins=wins,
        losses=losses,
        ties=ties,
        errors=n - judged,
        split=sum(j.consistent is False for j in both),
        rate_a=halves(wins, ties, n),
        rate_b=halves(losses, ties, n),
        rate_judged=halves(wins, ties, judged),
        rate_decided=share(wins, wins + losses),
        bounds=Interval((wins + ties / 2) / n, (wins + ties / 2 + n - judged) / n) if n else Interval(0.0, 1.0),
        p_value=mcnemar(wins, losses).exact,
        consistency=share(sum(j.consistent is True for j in both), len(both)) if both else None,
        first=Share(sum(firsts), 2 * len(firsts), clustered(firsts, 2)) if firsts else None,
        first_p=mcnemar(firsts.count(2), firsts.count(0)).exact if firsts else None,
        graded_a=graded([j.preference for j in judgements if j.preference is not None]),
        graded_b=graded([1 - j.preference for j in judgements if j.preference is not None]),
        mass=sum(masses) / len(masses) if masses else None,
        quarters=quarters(judgements),
        unknown_lengths=sum(j.lengths is None for j in judgements),
        controlled=length_controlled([score for score, _ in scored], [a - b for _, (a, b) in scored]),
        human=agreement([j.winner for j in labelled], [j.human for j in labelled]) if labelled else None,
    )


def share(count: int, n: int) -> Share:
    """A share with Wilson's interval."""
    return Share(count, n, wilson(count, n))


def halves(wins: int, ties: int, n: int) -> Share:
    """Wins and half of the ties, with Wilson's interval as if each pair had been won or lost; that is on the safe side.

    A tie has less variance than a win or a loss.
    """
    count = wins + ties / 2
    return Share(count, n, score_interval(count / n if n else 0.0, n, normal_quantile(0.95)))


def graded(preferences: Sequence[float]) -> Graded:
    """Mean, and the sample's standard deviation over the root of n."""
    n = len(preferences)
    values = np.asarray(preferences, dtype=np.float64)
    error = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return Graded(n, float(values.mean()) if n else math.nan, error)


def quarters(judgements: Sequence[Judgement]) -> list[Quarter]:
    """The pairs by quarters of the difference in length, errors included; equal differences stay together.

    So a quarter may be empty, and is left out, where many are equal.
    """
    known = [(j, j.lengths[0] - j.lengths[1]) for j in judgements if j.lengths is not None]
    if not known:
        return []
    differences = np.array([difference for _, difference in known])
    edges = np.quantile(differences, np.arange(1, QUARTERS) / QUARTERS)
    places = np.searchsorted(edges, differences, side="left")
    found = []
    for place in range(QUARTERS):
        inside = [(j, difference) for (j, difference), at in zip(known, places, strict=True) if at == place]
        if not inside:
            continue
        wins, losses, ties = (sum(j.winner == name for j, _ in inside) for name in ("a", "b", "tie"))
        lengths = [difference for _, difference in inside]
        errors = len(inside) - wins - losses - ties
        rate = halves(wins, ties, len(inside))
        found.append(Quarter(min(lengths), max(lengths), wins, losses, ties, errors, rate))
    return found


def as_dict(found: Figures) -> dict[str, Any]:
    """For JSON: rates as objects with rate, count, n, low and high; NaN becomes null."""
    return {name: _plain(value) for name, value in found._asdict().items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Share):
        return {
            "rate": value.value,
            "hits": value.hits,
            "n": value.n,
            "low": value.interval.low,
            "high": value.interval.high,
        }
    if isinstance(value, Agreement):
        return {"accuracy": value.accuracy} | {name: _plain(own) for name, own in value._asdict().items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _plain(own) for name, own in value._asdict().items()}
    return [_plain(own) for own in value] if isinstance(value, list) else value
