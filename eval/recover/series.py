"""The lines of tables and plots by difficulty: straight shots, and completions of each kind of prefix."""

from __future__ import annotations

from typing import NamedTuple

from dodona.eval.recover.findings import ERROR, Findings, Group
from dodona.eval.recover.rates import Tally
from dodona.eval.recover.rows import OFF, ON, Prefix
from dodona.eval.recover.settings import ROLES, STRONG, WEAK


class Series(NamedTuple):
    """One line: right and all runs by problem."""

    name: str
    short: str
    tally: Tally
    straight: bool = False  # without a prefix


def straight_series(findings: Findings) -> list[Series]:
    """Straight shots, of all problems."""
    return [Series(f"{role}, straight shot", f"{role} shot", findings.shots[role], straight=True) for role in ROLES]


def prefix_series(findings: Findings, fraction: float) -> list[Series]:
    """Completions of prefixes that were cut at a fraction."""
    found = []
    wrong: list[Prefix] = []
    for group in findings.groups:
        if group.fraction == fraction:
            prefixes = findings.of(group)
            found.append(Series(f"strong, {group.kind} wrong prefix", group.kind, findings.tally(prefixes, STRONG)))
            wrong += prefixes if group.kind in (OFF, ON) else []
            rest = [prefix for prefix in prefixes if prefix.row_id not in findings.harmless]
            if 0 < len(rest) < len(prefixes):
                name, short = f"strong, {group.kind}, {ERROR}", f"{group.kind}, {ERROR}"
                found.append(Series(name, short, findings.tally(rest, STRONG)))
    if right := findings.right_of(wrong):
        found.append(Series("strong, right prefix", "right prefix", findings.tally(right, STRONG)))
    if own := findings.of(Group(OFF, fraction)):
        found.append(Series("weak, own wrong prefix", "weak, own", findings.tally(own, WEAK)))
    return found
