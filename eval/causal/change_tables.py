"""What consults change, summed up: how many help and how many hurt, with intervals by bootstrap over problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.engine.result import json_number
from dodona.eval.analysis.resample import Estimate, problem_weights, ratio
from dodona.eval.causal.changes import Change, Changes
from dodona.eval.causal.positions import MODES
from dodona.eval.report.table import Cell, Head, Table, count, words

Array = np.ndarray[Any, Any]

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


def groups(found: Changes, *, resamples: int, seed: int) -> list[Group]:
    """All consults, and parts of them."""
    return [
        _group(name, [c for c in found.changes if chosen(c)], resamples, seed)
        for name, chosen in _parts(found)
        if any(map(chosen, found.changes))
    ]


def _parts(found: Changes) -> Iterator[tuple[str, Callable[[Change], bool]]]:
    yield "all", lambda change: True
    yield "without it wrong", lambda change: not change.right_without
    yield "without it right", lambda change: change.right_without
    if any(change.differs is not None for change in found.changes):
        yield "first choices differ", lambda change: change.differs is True
        yield "first choices agree", lambda change: change.differs is False
    if found.mode == "consults":
        for number in range(_NUMBERS):
            yield f"consult {number + 1} of its text", lambda change, n=number: change.number == n  # type: ignore[misc]
        yield f"consult {_NUMBERS + 1} and later", lambda change: change.number >= _NUMBERS


def _group(name: str, changes: list[Change], resamples: int, seed: int) -> Group:
    problems = {problem: place for place, problem in enumerate(dict.fromkeys(c.text.problem_id for c in changes))}
    place = np.array([problems[change.text.problem_id] for change in changes])
    values = np.array([change.change for change in changes])
    weights = problem_weights(len(problems), resamples, seed)

    def total(part: Array) -> Array:
        return np.bincount(place, weights=part.astype(np.float64), minlength=len(problems))

    whole = total(np.ones(len(changes)))
    helps, hurts, change = (ratio(total(part), whole, weights) for part in (values > 0, values < 0, values))
    return Group(name, len(changes), len(problems), helps, hurts, change)


def summary(found: Changes, *, resamples: int, seed: int) -> dict[str, Any]:
    """Everything for JSON."""
    return {
        "arm": found.arm.name,
        "config_hash": found.origin.config_hash,
        "positions": found.mode,
        "k": json_number(found.k),
        "problems": found.problems,
        "failed": found.failed,
        "not_repeated": list(found.unseen),
        "forks": found.forks,
        "bootstrap": {"over": "problems", "resamples": resamples, "seed": seed},
        "groups": [group.as_dict() for group in groups(found, resamples=resamples, seed=seed)],
    }


def table(found: Changes, *, resamples: int, seed: int) -> Table:
    """The same as a table."""
    heads = [
        Head("consults", f"{MODES[found.mode]}; parts of them below"),
        Head("n", "consults that were tried"),
        Head("problems", "so many problems they are of"),
        Head("helps", "share that turns a wrong answer into a right one, with a 95 % bootstrap over problems"),
        Head("hurts", "share that turns a right answer into a wrong one"),
        Head("change", "mean change in right answers a consult, in percentage points: helps less hurts"),
    ]
    rows = [
        [
            words(group.name),
            count(group.consults),
            count(group.problems),
            *(_percent(share) for share in (group.helps, group.hurts)),
            _percent(group.change, signed=True),
        ]
        for group in groups(found, resamples=resamples, seed=seed)
    ]
    title = (
        f"{found.arm.name}: what one consult of k={json_number(found.k)} changes, {MODES[found.mode]} "
        f"({found.problems} problems, {found.forks} forks)"
    )
    return Table(title, heads, rows)


def _percent(value: Estimate, *, signed: bool = False) -> Cell:
    sign = "+" if signed else ""

    def shown(share: float) -> str:
        return f"{round(100 * share, 2) + 0.0:{sign}.2f}"

    text = shown(value.value)
    if value.interval is not None:
        text += f" [{shown(value.interval.low)}, {shown(value.interval.high)}]"
    return Cell(text, value.value)
