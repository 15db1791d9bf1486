"""What the first experiments did to their texts and their counting, each a switch of its own.

None of it is a valid measure. It is here so that the tables of that time can be explained: what was counted there can
be counted again beside the honest numbers, one switch after another. Two switches change what is written, two only how
it is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final

from dodona.engine.errors import DodonaError

NOT_VALID: Final = "compat: not a valid measure"  # stands wherever something of this is shown

STRIP, NO_END, DROP_UNPARSED, STRING_MATCH = "strip", "no-end", "drop-unparsed", "string-match"
SWITCHES: Final[Mapping[str, str]] = MappingProxyType(
    {
        STRIP: "where the writer changes, the text so far is handed on as text: stripped, and cut into tokens anew",
        NO_END: "no end token of either model ends a text: it goes on to the limit, and the last answer in it counts",
        DROP_UNPARSED: "runs without an answer that can be read leave the denominator",
        STRING_MATCH: "an answer is right only if it is the gold answer character for character",
    }
)
WRITTEN: Final = (STRIP, NO_END)  # they change what is written; each combination of them is runs of its own
GUIDED_INFERENCE: Final = "guided-inference"  # all of them


def in_order(switches: Iterable[str]) -> tuple[str, ...]:
    """Each switch once, in the order in which a ladder adds them.

    Raises:
        ValueError: an unknown one.
    """
    found = set(switches)
    if unknown := found - SWITCHES.keys():
        raise ValueError(f"no switch {sorted(unknown)[0]!r}")
    return tuple(switch for switch in SWITCHES if switch in found)


def read_switches(texts: Iterable[str]) -> tuple[str, ...]:
    """The switches that the option ``--compat`` names: lists with commas, ``guided-inference`` for all of them.

    Raises:
        DodonaError: an unknown one, or none in a list.
    """
    found: set[str] = set()
    known = (GUIDED_INFERENCE, *SWITCHES)
    for name in (part.strip() for text in texts for part in text.split(",")):
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise DodonaError(f"--compat takes {', '.join(known)}, or a list of these, not {name!r}{hint}")
        found |= SWITCHES.keys() if name == GUIDED_INFERENCE else {name}
    return in_order(found)


def variant_name(arm: str, switches: Sequence[str]) -> str:
    """What an arm is called that was written with these switches: the label, and then the honest arm's name."""
    return f"[{NOT_VALID}; {', '.join(switches)}] {arm}" if switches else arm


def is_variant(arm: str | None) -> bool:
    """Whether an arm of this name was written with such switches, and so is no valid measure."""
    return arm is not None and arm.startswith(f"[{NOT_VALID}")


def effective(switches: Iterable[str], *, alone: bool) -> tuple[str, ...]:
    """Those of the switches that change what an arm writes; ``alone``: one model writes it, so nothing is handed on."""
    return tuple(switch for switch in switches if switch in WRITTEN and not (alone and switch == STRIP))


def variants(switches: Sequence[str], *, alone: bool) -> list[tuple[str, ...]]:
    """The combinations that must be run for a ladder: each switch alone, and each with all before it.

    Args:
        switches: those asked for, in their order.
        alone: whether one model writes the text.
    """
    found = (effective(some, alone=alone) for some, _ in rungs(switches))
    return [some for some in dict.fromkeys(found) if some]


def rungs(switches: Sequence[str]) -> list[tuple[tuple[str, ...], bool]]:
    """What a ladder shows: the switches of each of its lines, and whether they add up or one stands alone.

    First none, then one more each time, then each alone.
    """
    rising = [(tuple(switches[:count]), True) for count in range(len(switches) + 1)]
    return rising + [((switch,), False) for switch in switches]
