"""Where a consult should have been, known afterwards: how a trigger that saw the oracle could have spent its budget.

Both kinds spend as many consults in all as the run, on whichever texts they like, within its c for each text:

    hindsight   the positions of the base's own texts at which the models are furthest apart, ranked over all texts:
                first those where their first choices differ, then by divergence (JS where it was recorded, else the
                oracle's surprise at the base's token). They are fixed before a consult changes the text.
    stepwise    a text's next consult is at the first position after its last burst where the first choices differ, in
                the text as it then stands. Each text in turn gets one more; where the budget does not last for all of a
                round, those go first where the models are furthest apart.

Neither is a bound in the strict sense: a disagreement may not matter, and the best set of positions is a search over
all of them. They are what is known to be reachable by someone who sees where the two models differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from dodona.eval.causal.views import View
from dodona.eval.placebo.schedule import Positions


class Candidate(NamedTuple):
    """Where a text's next consult would be."""

    position: int
    divergence: float  # nats


def hindsight(views: Mapping[str, View], consults: int, c: float, gap: float) -> dict[str, Positions]:
    """The positions of largest divergence, no more than c a text, no two closer than a burst.

    Args:
        views: of the base's own texts.
        consults: of all texts together.
        gap: the tokens of a burst.
    """
    names = list(views)
    lengths = [len(view.ids) for view in views.values()]
    text = np.repeat(np.arange(len(names)), lengths)
    nothing = np.zeros(0)
    position = np.concatenate([nothing, *(np.arange(length) for length in lengths)]).astype(np.int64)
    value = np.concatenate([nothing, *(view.divergence for view in views.values())])
    differs = np.zeros(len(position), dtype=bool)
    for start, view in zip(np.cumsum([0, *lengths]), views.values(), strict=False):
        differs[start + view.diverging] = True
    chosen: list[list[int]] = [[] for _ in names]
    left = consults
    for row in np.lexsort((position, text, -value, ~differs)):
        if left == 0:
            break
        own, p = chosen[text[row]], int(position[row])
        if len(own) < c and all(abs(p - other) >= gap for other in own):
            own.append(p)
            left -= 1
    return {name: tuple(sorted(own)) for name, own in zip(names, chosen, strict=True)}


def next_candidate(view: View, start: int) -> Candidate | None:
    """The first disagreement from a position on; None: there is none."""
    ahead = view.diverging[np.searchsorted(view.diverging, start) :]
    return Candidate(int(ahead[0]), float(view.divergence[ahead[0]])) if len(ahead) else None


Ask = Callable[[Mapping[str, Positions]], Iterable[tuple[str, Candidate | None]]]


def stepwise(first: Mapping[str, Candidate | None], ask: Ask, consults: int, c: float) -> dict[str, Positions]:
    """One consult after the other, each where the text as it then stands first goes another way.

    Args:
        first: the first candidate of each text.
        ask: runs texts with the positions that they have so far; gives each one's next candidate.
        consults: of all texts together.
    """
    chosen: dict[str, Positions] = {name: () for name in first}
    candidates = {name: candidate for name, candidate in first.items() if candidate is not None}
    left = consults
    while left > 0 and candidates and c > 0:
        order = {name: place for place, name in enumerate(first)}
        ranked = sorted(candidates, key=lambda name: (-_rank(candidates[name].divergence), order[name]))[:left]
        for name in ranked:
            chosen[name] += (candidates[name].position,)
        left -= len(ranked)
        going = {name: chosen[name] for name in ranked if len(chosen[name]) < c}
        candidates = {}
        if left > 0 and going:
            candidates = {name: found for name, found in _sorted(ask(going), order) if found is not None}
    return chosen


def _sorted(
    found: Iterable[tuple[str, Candidate | None]], order: Mapping[str, int]
) -> Iterator[tuple[str, Candidate | None]]:
    yield from sorted(found, key=lambda one: order[one[0]])


def _rank(divergence: float) -> float:
    return -math.inf if math.isnan(divergence) else divergence
