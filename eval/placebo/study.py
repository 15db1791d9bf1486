"""An arm with its placebos, read back from the records: the lines of the table, and the check of the own oracle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dodona.engine.records import read_records
from dodona.eval.causal.origin import Origin
from dodona.eval.placebo.arms import KINDS, OWN_ORACLE, Placebo
from dodona.eval.placebo.comparison import Line, Side, line
from dodona.eval.placebo.runs import OwnOracle
from dodona.eval.recorded import RecordedArm


@dataclass(frozen=True, slots=True)
class Study:
    """One arm's comparison."""

    origin: Origin
    arm: RecordedArm
    problems: int
    lines: tuple[Line, ...]
    own_oracle_differs: int | None  # texts of the base as its own oracle that are not the base's; None: it was not run

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "arm": self.arm.name,
            "config_hash": self.origin.config_hash,
            "problems": self.problems,
            "lines": [one.as_dict() for one in self.lines],
            "own_oracle_texts_that_differ": self.own_oracle_differs,
        }


def study(origin: Origin, arm: RecordedArm, made: Sequence[Placebo], own: OwnOracle | None) -> Study:
    """Compare an arm with its placebos.

    Args:
        origin: read after the placebos were run.
        made: the arm's placebos.
        own: whose records have the base as its own oracle.

    Raises:
        DodonaError: records cannot be read.
    """
    problems = [problem.problem_id for problem in origin.experiment.problems]
    alone = origin.base_of(arm)
    base = _side(origin, "base", "base alone", [alone])
    of_arm = _side(origin, "arm", arm.name, [arm])
    sides = [base, of_arm]
    differs = None
    for kind in KINDS:
        if kind == OWN_ORACLE and own is not None:
            beside = Origin(own.place.path)
            same = beside.arm(arm.name)
            sides.append(_side(beside, kind, "the base as its own oracle", [same]))
            texts, own_texts = origin.texts(alone), beside.texts(same)
            differs = sum(name not in texts or texts[name].ids != text.ids for name, text in own_texts.items())
            continue
        arms = [origin.arm(placebo.arm.name) for placebo in made if placebo.kind == kind]
        if arms:
            sides.append(_side(origin, kind, f"{kind} [{len(arms)} draws]" if len(arms) > 1 else kind, arms))
    if (oracle := origin.oracle_alone) is not None:
        sides.append(_side(origin, "oracle", "oracle alone", [oracle]))
    return Study(origin, arm, len(problems), tuple(line(side, problems, base, of_arm) for side in sides), differs)


def _side(origin: Origin, kind: str, name: str, arms: Sequence[RecordedArm]) -> Side:
    rows = [origin.experiment.rows[arm.name] for arm in arms]
    positions = [p for arm in arms for text in origin.texts(arm).values() for p in text.starts]
    asked = None
    if kind in KINDS and kind != OWN_ORACLE:
        asked = sum(len(positions) for arm in arms for positions in _asked(origin, arm))
    return Side(kind, name, rows, positions, asked)


def _asked(origin: Origin, arm: RecordedArm) -> Iterator[Sequence[int]]:
    for file in origin.files(arm):
        for record in read_records(file):
            if record.get("arm") == arm.name:
                yield record["placebo"]["asked"]
