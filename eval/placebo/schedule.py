"""Schedules: at which positions to consult in each text, fixed before it is written; and random twins of one.

A twin has exactly the spending of the run that it is drawn from and none of its knowledge. Two kinds:

    twin        every text keeps its number of consults, and the positions of all consults change hands
    shuffled    the texts' whole lists of positions change hands, numbers and spacing included

So in both the positions that are asked for are, all texts together, those of the run itself: the position histogram is
the same to the last consult. A draw is the end of a chain of swaps: two consults (or two lists) of different texts are
chosen evenly, and exchanged if neither text gets a position beyond its reach or two consults closer than a burst. As
swaps are chosen evenly both ways, the chain has every arrangement that it can reach equally often (N. Metropolis and
others, Journal of Chemical Physics 21 (1953) 1087, with a constant density).

The reach of a text is the length of the base's own text: before its first consult a twin writes just that, and where
chance picks the positions most consults change nothing. A run's own arrangement may go beyond it, as its consults have
made texts longer; exchanges that make a text worse in this respect are refused, so that it can only get better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np

Positions: TypeAlias = tuple[int, ...]  # ascending
Schedule: TypeAlias = Mapping[str, Positions]  # by problem

_SWAPS: Final = 50  # tried for each consult, or each list


def twin(schedule: Schedule, reach: Mapping[str, int], gap: float, seed: int) -> dict[str, Positions]:
    """A random twin: as many consults in each text, and in all of them together at the same positions.

    Args:
        schedule: where the run consulted.
        reach: tokens of each text that a position must lie in.
        gap: the least distance of two consults in a text: the tokens of a burst.
        seed: of the swaps.
    """
    texts = list(schedule)
    owner = [place for place, name in enumerate(texts) for _ in schedule[name]]
    position = [p for name in texts for p in schedule[name]]
    own = [list(schedule[name]) for name in texts]
    limits = [reach[name] for name in texts]
    for a, b in _pairs(len(owner), seed):
        i, j, p, q = owner[a], owner[b], position[a], position[b]
        if i == j or p == q:
            continue
        if (q >= limits[i]) + (p >= limits[j]) > (p >= limits[i]) + (q >= limits[j]):
            continue
        if not _fits(q, own[i], p, gap) or not _fits(p, own[j], q, gap):
            continue
        own[i][own[i].index(p)] = q
        own[j][own[j].index(q)] = p
        position[a], position[b] = q, p
    return {name: tuple(sorted(own[place])) for place, name in enumerate(texts)}


def shuffled(schedule: Schedule, reach: Mapping[str, int], seed: int) -> dict[str, Positions]:
    """The same lists of positions in other texts."""
    texts = list(schedule)
    own = [schedule[name] for name in texts]
    limits = [reach[name] for name in texts]

    def beyond(positions: Sequence[int], limit: int) -> int:
        return sum(p >= limit for p in positions)

    for i, j in _pairs(len(texts), seed):
        if i == j:
            continue
        before = beyond(own[i], limits[i]) + beyond(own[j], limits[j])
        if beyond(own[j], limits[i]) + beyond(own[i], limits[j]) <= before:
            own[i], own[j] = own[j], own[i]
    return dict(zip(texts, own, strict=True))


def total(schedule: Schedule) -> int:
    """Consults asked for."""
    return sum(map(len, schedule.values()))


def _pairs(count: int, seed: int) -> list[tuple[int, int]]:
    """Pairs to try, drawn evenly."""
    if count < 2:
        return []
    drawn = np.random.default_rng(seed).integers(0, count, size=(_SWAPS * count, 2))
    return [(int(a), int(b)) for a, b in drawn]


def _fits(new: int, positions: Sequence[int], leaving: int, gap: float) -> bool:
    """Whether a position is at least a burst away from all others of a text but the one that leaves."""
    return all(abs(new - p) >= gap for p in positions if p != leaving)
