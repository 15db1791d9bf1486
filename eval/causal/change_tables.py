"""What consults change, summed up: how many help and how many hurt, with intervals by bootstrap over problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.engine.result import json_number
from dodona.eval.analysis.disagreement import EDGES
from dodona.eval.analysis.resample import Estimate, problem_weights, ratio, share
from dodona.eval.causal.changes import Change, Changes
from dodona.eval.report.table import NONE, Cell, Head, Table, count, words
from dodona.eval.stats.intervals import Interval

Array = np.ndarray[Any, Any]

SIGNALS: Final = ("entropy", "margin")  # by which consults are put into bins, unless it is said
_SHARES: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, math.inf)
_EDGES: Final[Mapping[str, tuple[float, ...]]] = MappingProxyType(
    {"entropy": EDGES, "margin": _SHARES, "top_prob": _SHARES}
)
_PARTS: Final = 5  # bins of about equal size, of any other signal
_NUMBERS: Final = 5  # consults of a text that get a line each


class Group(NamedTuple):
    """Some of the consults."""

    name: str
    consults: int
    problems: int
    helps: Estimate  # of them, the share that turns a wrong answer into a right one
    hurts: Estimate  # the opposite
    change: Estimate  # mean of the changes: helps less hurts

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        estimates = {name: getattr(self, name).as_dict() for name in ("helps", "hurts", "change")}
        return {"name": self.name, "consults": self.consults, "problems": self.problems, **estimates}

    def flat(self) -> dict[str, Any]:
        """For CSV."""
        row: dict[str, Any] = {"group": self.name, "consults": self.consults, "problems": self.problems}
        for name in ("helps", "hurts", "change"):
            value, low, high = getattr(self, name).as_dict().values()
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        return row


class Bins(NamedTuple):
    """The consults by a signal at their position."""

    signal: str
    unknown: int  # consults whose signal is not known
    groups: Sequence[Group]  # in the order of the values, without those of no consult

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"signal": self.signal, "unknown": self.unknown, "groups": [group.as_dict() for group in self.groups]}


class Summary(NamedTuple):
    """All groups of what was found."""

    found: Changes
    groups: Sequence[Group]
    bins: Sequence[Bins]  # a signal each, those that are known at any position
    resamples: int
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = self.found
        return {
            "arm": found.arm.name,
            "config_hash": found.origin.config_hash,
            "positions": str(found.where),
            "k": json_number(found.k),
            "problems": found.problems,
            "failed": found.failed,
            "without_signals": list(found.unseen),
            "passed_over": found.passed_over,
            "consults": len(found.changes),
            "forks": len(found.outcomes),
            "bootstrap": {"over": "problems", "resamples": self.resamples, "seed": self.seed},
            "groups": [group.as_dict() for group in self.groups],
            "bins": [one.as_dict() for one in self.bins],
        }


def summary(found: Changes, *, resamples: int, seed: int, signals: Sequence[str] = SIGNALS) -> Summary:
    """All consults, and parts of them.

    Args:
        signals: by which they are put into bins.
    """

    def group(name: str, changes: Sequence[Change]) -> Group:
        return _group(name, changes, resamples, seed)

    parts = ((name, [change for change in found.changes if belongs(change)]) for name, belongs in _parts(found))
    groups = [group(name, changes) for name, changes in parts if changes]
    bins = []
    for signal in dict.fromkeys(signals):
        known = [change for change in found.changes if signal in change.signals]
        if known:
            inside = [group(name, part) for name, part in _binned(known, signal)]
            bins.append(Bins(signal, len(found.changes) - len(known), inside))
    return Summary(found, groups, bins, resamples, seed)


def _parts(found: Changes) -> Iterator[tuple[str, Callable[[Change], bool]]]:
    yield "all", lambda change: True
    yield "without it wrong", lambda change: not change.right_without
    yield "without it right", lambda change: change.right_without
    if any(change.differs is not None for change in found.changes):
        yield "first choices differ", lambda change: change.differs is True
        yield "first choices agree", lambda change: change.differs is False
    if found.where.kind in ("consults", "trigger"):
        for number in range(_NUMBERS):
            yield f"consult {number + 1} of its text", lambda change, n=number: change.number == n  # type: ignore[misc]
        yield f"consult {_NUMBERS + 1} and later", lambda change: change.number >= _NUMBERS


def _binned(changes: Sequence[Change], signal: str) -> Iterator[tuple[str, list[Change]]]:
    """The consults by their signal: between fixed edges where it has some, else in parts of about equal size."""
    values = np.array([change.signals[signal] for change in changes])
    edges = _EDGES.get(signal)
    if edges is None:
        inner = np.unique(np.quantile(values, np.linspace(0, 1, _PARTS + 1)[1:-1]))
        edges = (-math.inf, *map(float, inner), math.inf)
    place = np.searchsorted(np.array(edges[1:-1]), values, side="right")
    for index, (low, high) in enumerate(pairwise(edges)):
        inside = [change for change, own in zip(changes, place, strict=True) if own == index]
        if inside:
            yield _range(low, high), inside


def _range(low: float, high: float) -> str:
    if math.isinf(high):
        return "all" if math.isinf(low) else f"from {low:.3g}"
    return f"below {high:.3g}" if math.isinf(low) else f"{low:.3g} to {high:.3g}"


def _group(name: str, changes: Sequence[Change], resamples: int, seed: int) -> Group:
    problems = {problem: place for place, problem in enumerate(dict.fromkeys(c.text.problem_id for c in changes))}
    place = np.array([problems[change.text.problem_id] for change in changes])
    values = np.array([change.change for change in changes])
    weights = problem_weights(len(problems), resamples, seed)

    def total(part: Array) -> Array:
        return np.bincount(place, weights=part.astype(np.float64), minlength=len(problems))

    whole = total(np.ones(len(changes)))
    helps, hurts = (share(total(part), whole, weights) for part in (values > 0, values < 0))
    change = ratio(total(values), whole, weights)
    if len(set(values)) == 1 and helps.interval is not None and hurts.interval is not None:  # as far as these may go
        low, high = helps.interval.low - hurts.interval.high, helps.interval.high - hurts.interval.low
        change = change._replace(interval=Interval(low, high))
    return Group(name, len(changes), len(problems), helps, hurts, change)


def tables(made: Summary) -> list[Table]:
    """The groups, and a table for each signal."""
    found = made.found
    many = f"{found.problems} problems, {len(found.changes)} consults, {len(found.outcomes)} forks"
    title = f"{found.arm.name}: what one consult of k={json_number(found.k)} changes, {found.where} ({many})"
    shown = [_table(title, Head("consults", "all of them, and parts of them"), made.groups)]
    for one in made.bins:
        left = f", {one.unknown} consults without it left out" if one.unknown else ""
        head = Head(one.signal, "at the position, before the consult")
        shown.append(_table(f"by {one.signal}{left}", head, one.groups))
    return shown


def _table(title: str, first: Head, groups: Sequence[Group]) -> Table:
    heads = [
        first,
        Head("n", "consults that were tried"),
        Head("problems", "so many problems they are of"),
        Head("helps, %", "share that turns a wrong answer into a right one, with a 95 % bootstrap over problems"),
        Head("hurts, %", "share that turns a right answer into a wrong one, likewise"),
        Head("change, points", "mean change in right answers a consult, in percentage points: helps less hurts"),
    ]
    rows = [
        [
            words(group.name),
            count(group.consults),
            count(group.problems),
            *(_percent(one) for one in (group.helps, group.hurts)),
            _percent(group.change, signed=True),
        ]
        for group in groups
    ]
    return Table(title, heads, rows)


def _percent(value: Estimate, *, signed: bool = False) -> Cell:
    if math.isnan(value.value):
        return Cell(NONE)
    sign = "+" if signed else ""

    def shown(part: float) -> str:
        return f"{round(100 * part, 2) + 0.0:{sign}.2f}"

    text = shown(value.value)
    if value.interval is not None:
        text += f" [{shown(value.interval.low)}, {shown(value.interval.high)}]"
    return Cell(text, value.value)
