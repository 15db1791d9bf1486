"""Schedules: at which positions to consult in each text, fixed before it is written; and the random twin of one.

A twin spends exactly what the run did that it is drawn from, and knows nothing. With n_i consults of the run in text i
and S the list of the positions of all of them, a twin gives every text i again n_i different positions, so that all
texts together have exactly the positions S: the consult count of each text and the position histogram of all are those
of the run to the last consult. Only which text a position belongs to is left to chance.

A draw begins with the run's own arrangement. Two consults are chosen evenly, 50 times as often as there are consults,
and their positions are exchanged if they are of different texts and both texts allow it: no two consults of a text may
be closer than a burst, or the second could not happen, and no exchange may raise the number of positions beyond their
text's reach. As pairs are chosen evenly and an exchange can be undone by the same pair, all arrangements with the same
number of positions out of reach that the chain can come to are equally likely in the long run (N. Metropolis and
others, Journal of Chemical Physics 21 (1953) 1087, with a constant density). Texts are taken in the order of their
problems' ids, so that a draw does not depend on the order of the records.

The reach of a text is the length of the base's own text. Up to its first consult a twin writes just that, so a position
within reach can be met, at least where it is the first. A run's own positions may lie beyond, as its consults have made
texts longer. A twin's consult that its text was too short for does not happen: tables have what was asked for beside
what happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np

Positions: TypeAlias = tuple[int, ...]  # generated-token indices, ascending
Schedule: TypeAlias = Mapping[str, Positions]  # by problem

_SWAPS: Final = 50  # tried for each consult


def twin(schedule: Schedule, reach: Mapping[str, int], gap: float, seed: int) -> dict[str, Positions]:
    """A random twin, as the module says.

    Args:
        schedule: where the run consulted.
        reach: tokens of each text that positions should lie in.
        gap: the least distance of two consults in a text: the tokens of a burst.
        seed: of the exchanges.

    Returns:
        Positions by problem, in the order of ``schedule``.
    """
    texts = sorted(schedule)
    own = [list(schedule[name]) for name in texts]
    limits = [reach[name] for name in texts]
    owner = [place for place, positions in enumerate(own) for _ in positions]
    position = [p for positions in own for p in positions]
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
    made = {name: tuple(sorted(positions)) for name, positions in zip(texts, own, strict=True)}
    return {name: made[name] for name in schedule}


def total(schedule: Schedule) -> int:
    """Consults asked for."""
    return sum(map(len, schedule.values()))


def _pairs(count: int, seed: int) -> list[list[int]]:
    """Pairs of consults to try, drawn evenly."""
    if count < 2:
        return []
    drawn: list[list[int]] = np.random.default_rng(seed).integers(0, count, size=(_SWAPS * count, 2)).tolist()
    return drawn


def _fits(new: int, positions: Sequence[int], leaving: int, gap: float) -> bool:
    """Whether a position is at least a burst away from all others of a text but the one that leaves."""
    return all(abs(new - p) >= gap for p in positions if p != leaving)
