"""What a judge's verdicts in both orders say together about a pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from dodona.eval.judge.pair import AB, Choice, Pair, Winner
from dodona.eval.judge.verdict import CHOICES, Verdict


class Judgement(NamedTuple):
    """One pair, judged or counted as an error."""

    pair_id: str
    winner: Winner | None  # None: an error
    ab: Choice | None = None  # the verdict with answer a first; None: an error, or the input had the verdict
    ba: Choice | None = None  # with answer b first
    preference: float | None = None  # of a, 0 to 1, mean of both orders
    mass: float | None = None  # probability of any verdict, mean of both orders
    error: str | None = None
    lengths: tuple[int, int] | None = None  # characters of answer a and of b
    human: Winner | None = None
    digest: str = ""  # of the pair

    @property
    def both(self) -> bool:
        """Whether both orders have a verdict."""
        return self.ab is not None and self.ba is not None

    @property
    def consistent(self) -> bool | None:
        """Whether both orders name the same; None where one has no verdict."""
        return _named(self.ab, AB) == _named(self.ba, "ba") if self.both else None

    @property
    def firsts(self) -> int | None:
        """How many of the two orders chose the answer that was shown first; None where one chose no answer."""
        if not self.both or "tie" in (self.ab, self.ba):
            return None
        return [self.ab, self.ba].count("first")

    @property
    def score(self) -> float | None:
        """Of a: 1 won, 1/2 tie, 0 lost; None for an error."""
        return None if self.winner is None else {"a": 1.0, "tie": 0.5, "b": 0.0}[self.winner]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; ``consistent`` is there for readers."""
        values = self._asdict() | {"consistent": self.consistent}
        values["lengths"] = None if self.lengths is None else list(self.lengths)
        return values


def judgement(pair: Pair, fault: str | None, ab: Verdict | None, ba: Verdict | None) -> Judgement:
    """A pair's judgement: whom both orders name wins; orders that disagree are a tie; an error in one is an error.

    Args:
        fault: why nobody was asked; None: somebody was.
        ab, ba: the verdicts with answer a first and with answer b first.
    """
    if fault is not None or ab is None or ba is None:
        return _about(pair, Judgement(pair.pair_id, None, error=fault or "not judged"))
    errors = [f"{verdict.error} ({order} first)" for verdict, order in ((ab, "a"), (ba, "b")) if verdict.choice is None]
    winner: Winner | None = None
    if not errors:
        named = _named(ab.choice, AB)
        winner = named if named == _named(ba.choice, "ba") else "tie"
    preference = None
    if ab.preference is not None and ba.preference is not None:
        preference = (ab.preference + 1 - ba.preference) / 2
    mass = None if ab.mass is None or ba.mass is None else (ab.mass + ba.mass) / 2
    error = "; ".join(errors) or None
    return _about(pair, Judgement(pair.pair_id, winner, ab.choice, ba.choice, preference, mass, error))


def preferred(pair: Pair) -> Judgement:
    """The judgement that the input has: below 1.5 a wins, above b, and 1.5 is a tie."""
    if pair.preference is None:
        return _about(pair, Judgement(pair.pair_id, None, error=pair.no_preference or "no preference"))
    winner: Winner = "a" if pair.preference < 1.5 else "b" if pair.preference > 1.5 else "tie"
    return _about(pair, Judgement(pair.pair_id, winner, preference=2 - pair.preference))


def read_judgement(record: Mapping[str, Any]) -> Judgement:
    """The judgement that ``as_dict`` made a record of.

    Raises:
        KeyError, TypeError, ValueError: it did not.
    """
    winner, human, lengths = record["winner"], record["human"], record["lengths"]
    for value in (winner, human):
        if value not in ("a", "b", "tie", None):
            raise ValueError(f"there is no winner {value!r}")
    for name in ("ab", "ba"):
        if record[name] is not None and record[name] not in CHOICES:
            raise ValueError(f"there is no verdict {record[name]!r}")
    return Judgement(
        str(record["pair_id"]),
        cast("Winner | None", winner),
        record["ab"],
        record["ba"],
        None if record["preference"] is None else float(record["preference"]),
        None if record["mass"] is None else float(record["mass"]),
        record["error"],
        None if lengths is None else (int(lengths[0]), int(lengths[1])),
        cast("Winner | None", human),
        str(record["digest"]),
    )


def _about(pair: Pair, found: Judgement) -> Judgement:
    """With what is known of the pair itself."""
    return found._replace(lengths=pair.lengths, human=pair.human, digest=pair.digest)


def _named(choice: Choice | None, order: str) -> Winner:
    """Whom a verdict names in this order."""
    if choice is None or choice == "tie":
        return "tie"
    return "a" if (choice == "first") == (order == AB) else "b"
