"""Tables of the judges' figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from dodona.eval.judge.agreement import Agreement
from dodona.eval.judge.figures import Graded, Share
from dodona.eval.judge.results import Between, Rated, between
from dodona.eval.report.table import NONE, Cell, Head, Table, count, number, p_value, words
from dodona.eval.stats.intervals import Interval

JUDGE: Final = Head("judge", "")
_COUNTS: Final = (
    Head("pairs", "All that were asked for; the denominator of A's and B's rates."),
    Head("A won", "Both orders name A."),
    Head("B won", "Both orders name B."),
    Head("ties", "The orders disagree, or both say that neither is better."),
    Head("errors", "An answer or a verdict is missing; neither won nor lost, but in the denominator."),
)
_RATES: Final = (
    Head("A's rate", "(A won + ties / 2) / pairs, with Wilson's 95 % interval."),
    Head("B's rate", "(B won + ties / 2) / pairs, likewise. With the share of errors the two add up to 100 %."),
    Head("A of judged", "(A won + ties / 2) / pairs without an error."),
    Head("A of decided", "A won / (A won + B won)."),
    Head("n decided", "A won + B won."),
    Head("p", "Exact two-sided sign test of A won against B won."),
)
_BIAS: Final = (
    Head("consistent", "Pairs whose two orders name the same, of those with a verdict in both."),
    Head("split ties", "Ties because the two orders disagree."),
    Head("first chosen", "Verdicts for the answer that was shown first, over pairs in which both orders chose one."),
    Head("p (first)", "Exact sign test of pairs that chose the first twice against those that chose the second twice."),
    Head("A, equal length", "A's rate at equal lengths by a logistic fit on tanh(difference in length / its sd)."),
    Head("ln odds by length", "That fit's slope: above 0 longer answers win more often."),
)
_GRADED: Final = (
    Head("n graded", "Pairs with probabilities of the verdicts in both orders, or with a preference in the input."),
    Head("A preferred", "Mean preference for A, 0 to 100 %, and its standard error sd / sqrt(n)."),
    Head("B preferred", "Likewise for B."),
    Head("mass", "Mean probability that the judge gave to the three verdicts together, of all that it could write."),
)


def judge_tables(ratings: Sequence[Rated]) -> list[Table]:
    """All tables that these judges have something to say in."""
    tables = [_counts(ratings), _rates(ratings)]
    if any(rated.figures.consistency is not None or rated.figures.quarters for rated in ratings):
        tables.append(_bias(ratings))
    if any(rated.figures.graded_a.n for rated in ratings):
        tables.append(_graded(ratings))
    if any(rated.figures.quarters for rated in ratings):
        tables.append(_quarters(ratings))
    if any(rated.figures.human is not None for rated in ratings):
        tables.append(_human(ratings))
    if len(ratings) > 1:
        tables.append(_between(between(ratings)))
    return tables


def _counts(ratings: Sequence[Rated]) -> Table:
    rows = []
    for rated in ratings:
        f = rated.figures
        rows.append([words(rated.judge), *map(count, (f.n, f.wins, f.losses, f.ties, f.errors))])
    return Table("Verdicts over all pairs", (JUDGE, *_COUNTS), rows)


def _rates(ratings: Sequence[Rated]) -> Table:
    rows = []
    for rated in ratings:
        f = rated.figures
        rates = map(share, (f.rate_a, f.rate_b, f.rate_judged, f.rate_decided))
        rows.append([words(rated.judge), *rates, count(f.rate_decided.n), p_value(f.p_value)])
    return Table("Win rates", (JUDGE, *_RATES), rows)


def _bias(ratings: Sequence[Rated]) -> Table:
    rows = []
    for rated in ratings:
        f = rated.figures
        controlled = f.controlled
        length = Cell(NONE)
        if controlled.rate is not None and controlled.interval is not None:
            length = Cell(_percent(controlled.rate, controlled.interval), controlled.rate)
        slope = Cell(NONE)
        if controlled.slope is not None and controlled.slope_interval is not None:
            low, high = controlled.slope_interval
            slope = Cell(f"{controlled.slope:+.2f} [{low:+.2f}, {high:+.2f}]", controlled.slope)
        split = count(f.split) if f.consistency is not None else Cell(NONE)
        rows.append(
            [words(rated.judge), share(f.consistency), split, share(f.first), p_value(f.first_p), length, slope]
        )
    return Table("Bias by position and by length", (JUDGE, *_BIAS), rows)


def _graded(ratings: Sequence[Rated]) -> Table:
    rows = []
    for rated in ratings:
        f = rated.figures
        mass = Cell(NONE) if f.mass is None else number(f.mass, 3)
        rows.append([words(rated.judge), count(f.graded_a.n), _mean(f.graded_a), _mean(f.graded_b), mass])
    return Table("Graded preference", (JUDGE, *_GRADED), rows)


def _quarters(ratings: Sequence[Rated]) -> Table:
    heads = (
        JUDGE,
        Head("A's length less B's", "Characters, by quarters of this difference; equal differences stay together."),
        Head("pairs", "In this quarter."),
        *_COUNTS[1:],
        _RATES[0],
    )
    rows = []
    for rated in ratings:
        for q in rated.figures.quarters:
            span = Cell(f"{q.low:+d} to {q.high:+d}", q.low)
            counts = map(count, (q.n, q.wins, q.losses, q.ties, q.errors))
            rows.append([words(rated.judge), span, *counts, share(q.rate)])
    return Table("By difference in length", heads, rows)


def _human(ratings: Sequence[Rated]) -> Table:
    heads = (
        JUDGE,
        Head("labelled", "Pairs with a person's verdict."),
        Head("same verdict", "Of these, pairs on which the judge says the same; an error is another verdict."),
        Head("kappa", "Cohen's, with a 95 % bootstrap interval over pairs."),
    )
    rows = []
    for rated in ratings:
        human = rated.figures.human
        if human is not None:
            rows.append([words(rated.judge), count(human.n), *_agreed(human)])
    return Table("Agreement with people", heads, rows)


def _between(found: Sequence[Between]) -> Table:
    heads = (
        Head("judges", ""),
        Head("both asked", "Pairs that were asked of both judges."),
        Head("left out", "Pairs that were asked of one alone, or whose texts differ."),
        Head("same verdict", "Of the pairs asked of both, an error being a verdict of its own."),
        Head("kappa", "Cohen's, with a 95 % bootstrap interval over pairs."),
        Head("opposed", "Pairs that one judge gives to A and the other to B."),
        Head("A's rate, second less first", "Percentage points, over the pairs asked of both."),
    )
    rows = [
        [
            words(f"{two.first} and {two.second}"),
            count(two.agreement.n),
            count(two.left_out),
            *_agreed(two.agreement),
            count(two.opposed),
            Cell(NONE) if math.isnan(two.difference) else Cell(f"{100 * two.difference:+.1f}", two.difference),
        ]
        for two in found
    ]
    return Table("Judges beside each other", heads, rows)


def share(value: Share | None) -> Cell:
    """A rate with its interval."""
    return Cell(NONE) if value is None or not value.n else Cell(_percent(value.value, value.interval), value.value)


def _agreed(found: Agreement) -> tuple[Cell, Cell]:
    same = Cell(NONE) if not found.n else Cell(_percent(found.accuracy, found.interval), found.accuracy)
    if found.kappa is None:
        return same, Cell(NONE)
    interval = ""
    if found.kappa_interval is not None:
        interval = f" [{found.kappa_interval.low:.2f}, {found.kappa_interval.high:.2f}]"
    return same, Cell(f"{found.kappa:.2f}{interval}", found.kappa)


def _mean(value: Graded) -> Cell:
    if not value.n:
        return Cell(NONE)
    error = "" if math.isnan(value.error) else f" ± {100 * value.error:.2f}"
    return Cell(f"{100 * value.mean:.2f} %{error}", value.mean)


def _percent(rate: float, interval: Interval) -> str:
    return f"{100 * rate:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
