"""Where a consult should have been, known afterwards: what a trigger that saw the oracle could have done.

Both kinds spend as many consults in all as the run, on whichever texts they like, within its c for each text:

    hindsight   the positions of the base's own texts where the two models are furthest apart: of all tokens of all
                texts those of the largest Jensen-Shannon divergence, no two of a text closer than a burst.
    stepwise    a text's next consult is at the first position after its last burst where the oracle's first choice is
                another token, in the text as it then stands. Each text in turn gets one more; where the budget does not
                last for all of a round, those go first where the models are furthest apart.

They are called bounds because they know what no trigger can know. Neither is the best that could be done. The positions
of ``hindsight`` are chosen in the text that the base writes without help, and after the first burst the text is another
one; a divergence need not matter to the answer; and an oracle that reads a wrong beginning may go on with it.
``stepwise`` knows the text, and still takes the first disagreement for the one that counts. The best set of positions
would be a search over all of them. So a run may do better than either, and its regret may be below 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from dodona.eval.placebo.apart import Apart
from dodona.eval.placebo.schedule import Positions


class Candidate(NamedTuple):
    """Where a text's next consult would be."""

    position: int
    js: float  # nats


def hindsight(apart: Mapping[str, Apart], consults: int, c: float, gap: float) -> dict[str, Positions]:
    """The positions of largest divergence; of equal ones those of the first problem by its id, and there the first.

    Args:
        apart: of the base's own texts.
        consults: of all texts together; fewer where the texts have no more room.
        c: consults of one text at most.
        gap: the least distance of two consults in a text: the tokens of a burst.
    """
    names = sorted(apart)
    lengths = [len(apart[name].js) for name in names]
    text = np.repeat(np.arange(len(names)), lengths)
    position = np.concatenate([np.arange(0), *(np.arange(length) for length in lengths)])
    js = np.concatenate([np.zeros(0), *(apart[name].js for name in names)])
    chosen: list[list[int]] = [[] for _ in names]
    left = consults
    for row in np.lexsort((position, text, -js)):
        if left == 0:
            break
        own, p = chosen[text[row]], int(position[row])
        if len(own) < c and all(abs(p - other) >= gap for other in own):
            own.append(p)
            left -= 1
    made = {name: tuple(sorted(own)) for name, own in zip(names, chosen, strict=True)}
    return {name: made[name] for name in apart}


def next_candidate(apart: Apart, start: int) -> Candidate | None:
    """The first disagreement; None: there is none.

    Args:
        apart: from some position of the text on.
        start: that position.
    """
    ahead = np.flatnonzero(apart.differs)
    return Candidate(start + int(ahead[0]), float(apart.js[ahead[0]])) if len(ahead) else None


Ask = Callable[[Mapping[str, Positions]], Iterable[tuple[str, Candidate | None]]]


def stepwise(first: Mapping[str, Candidate | None], ask: Ask, consults: int, c: float) -> dict[str, Positions]:
    """One consult after the other, each where the text as it then stands first goes another way.

    Args:
        first: the first candidate of each text.
        ask: runs texts with the positions that they have so far; gives each one's next candidate, in any order.
        consults: of all texts together; fewer where the models no longer differ.
        c: consults of one text at most.
    """
    chosen: dict[str, Positions] = {name: () for name in first}
    candidates = {name: candidate for name, candidate in first.items() if candidate is not None and c > 0}
    left = consults
    while left > 0 and candidates:
        ranked = sorted(candidates, key=lambda name: (-candidates[name].js, name))[:left]
        for name in ranked:
            chosen[name] += (candidates[name].position,)
        left -= len(ranked)
        going = {name: chosen[name] for name in ranked if len(chosen[name]) < c}
        candidates = {}
        if left > 0 and going:
            candidates = {name: found for name, found in ask(going) if found is not None}
    return chosen
