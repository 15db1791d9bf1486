"""The placebos of an arm: what each is called in the records, and the trigger that makes a text follow its schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from dodona.engine.errors import DodonaError
from dodona.engine.trigger_parser import MAX_LENGTH
from dodona.eval.arms import Arm

TWIN, OWN_ORACLE, HINDSIGHT, STEPWISE = "twin", "own-oracle", "hindsight", "stepwise"
KINDS: Final[Mapping[str, str]] = MappingProxyType(  # in the order of tables
    {
        TWIN: "as many consults in each text, at positions exchanged at random between texts",
        OWN_ORACLE: "the same trigger, and the base as its own oracle: a control of the hand-off",
        HINDSIGHT: "as many consults in all, where the two models are furthest apart on the base's own texts",
        STEPWISE: "as many consults in all, each where the text as it then stands first goes another way",
    }
)
BOUNDS: Final = frozenset({HINDSIGHT, STEPWISE})  # they know what the oracle says


class Placebo(NamedTuple):
    """One placebo of an arm whose consults are fixed before its texts are written."""

    of: Arm
    kind: str
    draw: int | None = None  # the seed of a twin

    @property
    def arm(self) -> Arm:
        """The arm as which records know it.

        Its trigger is a name, not an expression: each text has positions of its own, which its record's trigger says.
        """
        parts = [self.of.trigger, *([] if self.of.when == "before" else [self.of.when])]
        parts += [] if self.draw is None else [f"draw {self.draw}"]
        return Arm(self.of.c, self.of.k, f"{self.kind}({'; '.join(parts)})", "before", self.of.seed)


def is_placebo(trigger: str) -> bool:
    """Whether an arm's trigger is the name of a placebo."""
    kind, bracket, _ = trigger.partition("(")
    return bool(bracket) and kind in KINDS


def trigger_of(positions: Sequence[int], problem_id: str) -> str:
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


def placebos(of: Arm, kinds: Sequence[str], draws: range) -> list[Placebo]:
    """The placebos of an arm in the order of their table; the base as its own oracle is none of them.

    Args:
        kinds: those that are wanted.
        draws: seeds of the twins.
    """
    found = []
    for kind in KINDS:
        if kind in kinds and kind != OWN_ORACLE:
            found += [Placebo(of, kind, draw) for draw in draws] if kind == TWIN else [Placebo(of, kind)]
    return found


def read_kinds(text: str) -> tuple[str, ...]:
    """The kinds that a list with commas names, in the order of their table.

    Raises:
        DodonaError: an unknown one.
    """
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in KINDS:
            raise DodonaError(f"--placebos takes {', '.join(KINDS)}, or a list of these, not {name!r}")
    return tuple(kind for kind in KINDS if kind in names)
