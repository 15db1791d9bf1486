"""Which of a wrong text's tokens made it wrong: where to let the oracle take over, and what the answers say.

Let t be the base's tokens, n of them, and S(p) whether the answer is right where the oracle takes over just before
token p and writes the rest (its first choices). S(0) is the oracle alone. The base's text is wrong, so S "at n" is
False.

Where S(p) holds and S(p + 1) does not, token p is fatal: before it the oracle could still save the answer, after it no
longer. If S(0) holds there is at least one. S is not monotone in general (the base may write a fatal token and later
one that puts the oracle right again), so there are two ends:

    first fatal token   the earliest p with S(p) and not S(p + 1): the first wrong token of the text
    last fatal token    the latest p with S(p): up to here the answer could still be saved, never after it

Both are the same where S changes once, from True to False. Bisection finds that change, the causal token, in
log2 takeovers; in a text where S changes more often it finds one of the fatal tokens, and may not notice. The earliest
p with S(p) is 0 whenever the oracle alone is right, which is why it is not what is looked for.

S can only change at a position where the oracle's first choice is another token than t[p]: where it is the same token,
taking over before p or after it writes the same text. So only these positions are tried, and an exhaustive search of
all of them knows S everywhere. That is exact as long as a choice does not depend on the batch by rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple


class Finding(NamedTuple):
    """What the takeovers that were tried say of one wrong text."""

    causal: int | None  # the fatal token that was found, the last one in an exhaustive search; None: S(0) is False
    verified: bool  # a takeover just before it makes the answer right, and one just after it does not
    monotone: bool  # no takeover that was tried contradicts a single change from right to wrong
    exhaustive: bool  # S is known everywhere
    fatal: tuple[int, ...]  # every p known to have S(p) and not S(p + 1), ascending
    healing: tuple[int, ...]  # every p known to have S(p + 1) and not S(p)

    @property
    def first_fatal(self) -> int | None:
        """The first wrong token; known only after an exhaustive search, or where it is the only change."""
        return self.fatal[0] if self.exhaustive and self.fatal else None


def places(diverging: Sequence[int]) -> list[int]:
    """The positions at which a takeover may tell something: the start, and where the oracle writes another token."""
    return sorted({0, *map(int, diverging)})


def wanted(known: Mapping[int, bool], diverging: Sequence[int], tokens: int, *, exhaustive: bool = False) -> list[int]:
    """Where to let the oracle take over next; nothing once the search is over.

    Args:
        known: S at the positions that have been tried.
        diverging: where the oracle's first choice is another token.
        tokens: n.
        exhaustive: try every one of them.
    """
    at = places(diverging)
    if 0 not in known:
        return [0]
    if not known[0]:
        return []
    if exhaustive and (left := [p for p in at if p not in known]):
        return left
    low, high = _change(known, at, last=exhaustive)
    if high - low > 1:
        return [at[(low + high) // 2]]
    around = [at[low] + 1] if at[low] + 1 < tokens else []
    around += [at[place] for place in (low - 1, high, high + 1) if 0 <= place < len(at)]
    return [p for p in dict.fromkeys(around) if p not in known]


def finding(known: Mapping[int, bool], diverging: Sequence[int], tokens: int) -> Finding:
    """What is known once nothing is wanted any more."""
    at = places(diverging)
    exhaustive = all(p in known for p in at)
    tried = [p for p in at if p in known]
    if not tried or not known[tried[0]]:
        return Finding(None, False, True, exhaustive, (), ())
    low, _ = _change(known, at, last=exhaustive)
    causal = at[low]
    after = known.get(causal + 1, False) if causal + 1 < tokens else False
    outcomes = [known[p] for p in sorted(known)] + [False]
    changes = sum(before != later for before, later in pairwise(outcomes))
    fatal, healing = [], []
    for place, p in enumerate(at):
        following = at[place + 1] if place + 1 < len(at) else None
        if p not in known or (following is not None and following not in known):
            continue
        later = known[following] if following is not None else False
        if known[p] and not later:
            fatal.append(p)
        elif later and not known[p]:
            healing.append(p)
    return Finding(causal, known[causal] and not after, changes == 1, exhaustive, tuple(fatal), tuple(healing))


def _change(known: Mapping[int, bool], at: Sequence[int], *, last: bool) -> tuple[int, int]:
    """Two places, True and False, between which bisection has not looked yet; next to each other where it is done.

    The place after the last one stands for the end of the text, where S is False. ``last``: of all that are known,
    the last change.
    """
    low, high = 0, len(at)
    if last:
        low = max(place for place, p in enumerate(at) if known.get(p, False))
        return low, low + 1
    while high - low > 1 and (middle := at[(low + high) // 2]) in known:
        low, high = ((low + high) // 2, high) if known[middle] else (low, (low + high) // 2)
    return low, high
