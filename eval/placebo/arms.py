"""The placebos of an arm: what each is called in the records, and which positions it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from dodona.engine.errors import DodonaError
from dodona.engine.trigger import MAX_LENGTH
from dodona.eval.arms import Arm

TWIN, SHUFFLED, OWN_ORACLE, HINDSIGHT, STEPWISE = "twin", "shuffled", "own-oracle", "hindsight", "stepwise"
KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        TWIN: "as many consults in each text, the positions of all of them exchanged at random",
        SHUFFLED: "whole lists of positions exchanged at random between texts",
        OWN_ORACLE: "the same trigger, and the base as its own oracle",
        HINDSIGHT: "as many consults in all, where the two models are furthest apart on the base's own texts",
        STEPWISE: "as many consults in all, each where the text as it then stands first goes another way",
    }
)
DRAWN: Final = frozenset({TWIN, SHUFFLED})  # there are several of them, by seed
BOUNDS: Final = frozenset({HINDSIGHT, STEPWISE})  # they know what the oracle says


class Placebo(NamedTuple):
    """One placebo of an arm; its records lie beside those of the arm."""

    of: Arm
    kind: str
    draw: int | None = None  # which one, of those that are drawn

    @property
    def arm(self) -> Arm:
        """The arm as which records know it.

        Its trigger is a name, not an expression: each text has positions of its own, which its record's trigger says.
        """
        number = "" if self.draw is None else f",{self.draw}"
        return Arm(self.of.c, self.of.k, f"{self.kind}({self.of.trigger}{number})", "before", self.of.seed)


def is_placebo(trigger: str) -> bool:
    """Whether an arm's trigger is the name of a placebo."""
    kind, bracket, _ = trigger.partition("(")
    return bool(bracket) and kind in KINDS


def trigger_of(positions: tuple[int, ...], problem_id: str) -> str:
    """The trigger that consults at these positions.

    Raises:
        DodonaError: there are too many for one trigger.
    """
    if not positions:
        return "never"
    text = f"at({', '.join(map(str, positions))})"
    if len(text) > MAX_LENGTH:
        raise DodonaError(
            f"{len(positions)} consults in the text of {problem_id} are more than a trigger can name: run the arm "
            "with a smaller c"
        )
    return text


def placebos(of: Arm, kinds: tuple[str, ...], draws: range) -> list[Placebo]:
    """The placebos of an arm in the order of their table.

    Args:
        draws: numbers of those that are drawn.
    """
    found = []
    for kind in KINDS:
        if kind in kinds and kind != OWN_ORACLE:
            found += [Placebo(of, kind, draw) for draw in draws] if kind in DRAWN else [Placebo(of, kind)]
    return found


def read_kinds(text: str) -> tuple[str, ...]:
    """The kinds that a list with commas names.

    Raises:
        DodonaError: an unknown one.
    """
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name not in KINDS:
            raise DodonaError(f"--placebos takes {', '.join(KINDS)}, or a list of these, not {name!r}")
    return names
