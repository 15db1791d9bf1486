"""Who judges: a small protocol, and the scripted judges, whose verdicts are known in advance.

A scripted judge is no judge of quality but for ``exact``: its figures are what a bias gives by itself, to be held
against those of a real one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

from dodona.engine.errors import DodonaError
from dodona.eval.judge.pair import Ask, Choice
from dodona.eval.judge.verdict import Verdict


class Judge(Protocol):
    """One judge."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that its verdicts depend on, beside what it is shown; for JSON, and nothing secret in it."""
        ...

    @property
    def needs_reference(self) -> bool:
        """Whether it can judge without a true answer."""
        ...

    def judge(self, asks: Sequence[Ask]) -> Iterator[Verdict]:
        """The verdicts on these, in their order; what fails is a verdict with an error, never an exception."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


def identity(judge: Judge) -> str:
    """A judge's settings as one text: canonical JSON."""
    return json.dumps(judge.settings, sort_keys=True, separators=(",", ":"))


class Script(Protocol):
    """A rule."""

    def __call__(self, ask: Ask, seed: int) -> Choice:
        """The verdict on a pair in one order."""
        ...


@dataclass(frozen=True, slots=True)
class ScriptedJudge:
    """A judge that follows a rule of ``SCRIPTS``, or ``exact`` with a grader.

    Args:
        name: of the rule.
        rule: what it says.
        seed: of the rule that draws.
        needs_reference: whether the rule looks at the true answer.
    """

    name: str
    rule: Script
    seed: int = 0
    needs_reference: bool = False

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its name, and the seed where it draws."""
        return {"judge": f"script {self.name}", **({"seed": self.seed} if self.name == "random" else {})}

    def judge(self, asks: Sequence[Ask]) -> Iterator[Verdict]:
        """One after the other."""
        for ask in asks:
            try:
                yield Verdict(self.rule(ask, self.seed))
            except DodonaError as error:  # a true answer in which there is none
                yield Verdict(None, error=str(error))

    def close(self) -> None:
        """Nothing to let go of."""


def _longer(ask: Ask, seed: int) -> Choice:
    first, second = len(ask.first), len(ask.second)
    return "first" if first > second else "second" if second > first else "tie"


def _shorter(ask: Ask, seed: int) -> Choice:
    first, second = len(ask.first), len(ask.second)
    return "first" if first < second else "second" if second < first else "tie"


def _random(ask: Ask, seed: int) -> Choice:
    """A fair coin for each question in each order, the same in every run."""
    digest = hashlib.sha256(ask.key(f"random {seed}").encode()).digest()
    return "first" if digest[0] < 128 else "second"


def _first(ask: Ask, seed: int) -> Choice:
    return "first"


def _second(ask: Ask, seed: int) -> Choice:
    return "second"


SCRIPTS: Final[Mapping[str, Script]] = MappingProxyType(
    {"first": _first, "second": _second, "longer": _longer, "shorter": _shorter, "random": _random}
)
EXACT: Final = "exact"


def exact_judge(right: Callable[[str, str], bool]) -> ScriptedJudge:
    """The judge that compares both answers with the true one: the right one wins, two right or two wrong are a tie.

    Args:
        right: whether an answer gives the true answer, given as the second.
    """

    def rule(ask: Ask, seed: int) -> Choice:
        assert ask.reference is not None
        first, second = right(ask.first, ask.reference), right(ask.second, ask.reference)
        return "tie" if first == second else "first" if first else "second"

    return ScriptedJudge(EXACT, rule, needs_reference=True)
