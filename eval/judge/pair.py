"""One pair of answers to a question, and what is asked of a judge about it."""

from __future__ import annotations

import hashlib
import json
from typing import Final, Literal, NamedTuple, TypeAlias

Winner: TypeAlias = Literal["a", "b", "tie"]
Choice: TypeAlias = Literal["first", "second", "tie"]

AB: Final = "ab"  # answer a is shown first
BA: Final = "ba"
ORDERS: Final = (AB, BA)


class Pair(NamedTuple):
    """Two answers to one question. A text that is not there is None."""

    pair_id: str
    question: str | None
    answer_a: str | None
    answer_b: str | None
    context: str | None = None
    reference: str | None = None  # the true answer
    human: Winner | None = None  # a person's verdict
    preference: float | None = None  # a verdict that the input has: 1 is all for a, 2 all for b
    no_preference: str | None = None  # why the input's verdict cannot be used
    fault: str | None = None  # why it cannot be judged, where it is not one of the texts that lacks

    @property
    def lengths(self) -> tuple[int, int] | None:
        """Characters of both answers, where there are both."""
        if self.answer_a is None or self.answer_b is None:
            return None
        return len(self.answer_a), len(self.answer_b)

    @property
    def digest(self) -> str:
        """16 hex digits over all of its texts: whether two pairs of one id are one pair."""
        texts = [self.question, self.context, self.reference, self.answer_a, self.answer_b]
        return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]

    def lacks(self, *, reference: bool) -> str | None:
        """Why no judge can be asked about it; None: one can.

        Args:
            reference: whether the judge needs the true answer.
        """
        if self.fault is not None:
            return self.fault
        needed = [("question", self.question), ("answer a", self.answer_a), ("answer b", self.answer_b)]
        if reference:
            needed.append(("true answer", self.reference))
        missing = [name for name, text in needed if text is None]
        return f"no {' and no '.join(missing)}" if missing else None


class Ask(NamedTuple):
    """A pair in one order, all of whose texts are there but for the optional ones."""

    pair_id: str
    order: str  # ab or ba
    question: str
    first: str  # the answer that is shown first, as A
    second: str
    context: str | None = None
    reference: str | None = None

    def key(self, identity: str) -> str:
        """32 hex digits over who judges and everything that is shown: equal keys have equal verdicts.

        Args:
            identity: of the judge, with all of its settings, as a text.
        """
        shown = [identity, self.question, self.context, self.reference, self.first, self.second]
        return hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:32]


def asks_of(pair: Pair) -> tuple[Ask, Ask]:
    """A pair that lacks nothing, in both orders."""
    assert pair.question is not None and pair.answer_a is not None and pair.answer_b is not None
    about = (pair.context, pair.reference)
    return (
        Ask(pair.pair_id, AB, pair.question, pair.answer_a, pair.answer_b, *about),
        Ask(pair.pair_id, BA, pair.question, pair.answer_b, pair.answer_a, *about),
    )
