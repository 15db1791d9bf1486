"""A judge's verdict on one pair in one order, and the reader of verdicts in free text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

from dodona.eval.judge.pair import Choice

LABELS: Final[Mapping[str, Choice]] = {"A": "first", "B": "second", "C": "tie"}  # what judges write
CHOICES: Final = tuple(LABELS.values())

_LABEL: Final = r"(?P<label>A|B|C|[Tt]ie|TIE)"
_MARKS: Final = r"[\s*_`\"'\[\](){}<>:.=-]{0,12}"  # bounded: three of them in a row would take cubic time
_NOUN: Final = r"(?:(?:[Aa]nswer|[Rr]esponse|[Oo]ption|[Aa]ssistant|[Oo]utput)\s*)?"
_SAID: Final = re.compile(rf"(?i:\bverdict\b)(?:{_MARKS}(?i:is)\b)?{_MARKS}{_NOUN}{_MARKS}{_LABEL}(?![A-Za-z0-9])")
_BRACKETS: Final = re.compile(rf"\[\[\s*{_LABEL}\s*\]\]")
_ALONE: Final = re.compile(
    rf"{_MARKS}{_NOUN}{_MARKS}{_LABEL}{_MARKS}(?:(?:is|was)\s+(?:the\s+)?(?:better|best)(?:\s+(?:answer|one))?)?{_MARKS}!?"
)
_LONGEST: Final = 2000  # characters kept of what a judge wrote


class Verdict(NamedTuple):
    """What a judge says of one pair in one order."""

    choice: Choice | None  # None: no verdict, and ``error`` says why
    probabilities: Mapping[Choice, float] | None = None  # of first, second and tie, as the judge gave them
    text: str | None = None  # what the judge wrote, where it wrote
    error: str | None = None
    attempts: int = 1

    @property
    def preference(self) -> float | None:
        """Of the first answer, 0 to 1: its probability and half of a tie's, among those of the three verdicts."""
        if self.probabilities is None:
            return None
        first, second, tie = (self.probabilities.get(choice, 0.0) for choice in CHOICES)
        whole = first + second + tie
        return (first + tie / 2) / whole if whole > 0 else None

    @property
    def mass(self) -> float | None:
        """Probability of any verdict at all, where a judge could have written something else."""
        return None if self.probabilities is None else sum(self.probabilities.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        kept = None if self.text is None else self.text[:_LONGEST]
        probabilities: dict[Choice, float] | None = None
        if self.probabilities is not None:
            probabilities = {name: float(f"{value:.6g}") for name, value in self.probabilities.items()}
        return self._replace(text=kept, probabilities=probabilities)._asdict()


def read_verdict(record: Mapping[str, Any]) -> Verdict:
    """The verdict that ``as_dict`` made a record of.

    Raises:
        KeyError, TypeError, ValueError: it did not.
    """
    said, given = record["choice"], record["probabilities"]
    if said is not None and said not in CHOICES:
        raise ValueError(f"there is no verdict {said!r}")
    probabilities = None if given is None else {choice: float(given[choice]) for choice in CHOICES}
    error = record["error"]
    if said is None and error is None:
        raise ValueError("neither a verdict nor an error")
    return Verdict(cast("Choice | None", said), probabilities, record["text"], error, int(record["attempts"]))


def parse_verdict(text: str) -> Choice | None:
    """The verdict in a text; None where there is none, or several on the line that counts.

    Looked for in this order: the last line with ``Verdict: A``, the last with ``[[A]]``, the whole text or else its
    last line as a bare ``A``, ``(B)``, ``Tie`` or ``Answer A is better``. The letters are capitals: "a" is an article.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    for pattern in (_SAID, _BRACKETS):
        for line in reversed(lines):
            if found := {_choice(match["label"]) for match in pattern.finditer(line)}:
                return found.pop() if len(found) == 1 else None
    for candidate in lines[-1:]:
        if match := _ALONE.fullmatch(candidate.strip()):
            return _choice(match["label"])
    return None


def chosen(probabilities: Mapping[Choice, float]) -> Choice | None:
    """The verdict of the largest probability; two of the same are a tie, and None where a number is none."""
    values = [probabilities[choice] for choice in CHOICES]
    if not all(math.isfinite(value) for value in values) or not any(value > 0 for value in values):
        return None
    best = [choice for choice, value in zip(CHOICES, values, strict=True) if value == max(values)]
    return best[0] if len(best) == 1 else "tie"


def _choice(label: str) -> Choice:
    return LABELS.get(label, "tie")
