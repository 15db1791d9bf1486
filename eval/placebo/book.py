"""The runs of a study by arm: those that were recorded before it, and those in its own folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dodona.engine.errors import DodonaError
from dodona.eval.arms import Arm
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.texts import Text
from dodona.eval.recorded import RecordedArm
from dodona.eval.rows import Row


class Recorded(NamedTuple):
    """An arm's runs."""

    origin: Origin  # which has them
    arm: RecordedArm

    @property
    def rows(self) -> Mapping[str, Row]:
        """By problem."""
        return self.origin.experiment.rows[self.arm.name]

    @property
    def texts(self) -> Mapping[str, Text]:
        """By problem, without those of failed runs.

        Raises:
            DodonaError: records cannot be read.
        """
        return self.origin.texts(self.arm)


class Book:
    """Finds the runs of arms. What was written since it was made, it does not know.

    Args:
        origin: the experiment, as it was recorded before.
        records: the study's own folder of records, which need not be there yet.

    Raises:
        DodonaError: that folder's records are of another experiment.
    """

    def __init__(self, origin: Origin, records: Path) -> None:
        self.origin = origin
        self.problems = [problem.problem_id for problem in origin.experiment.problems]
        self._origins = [origin]
        if any(path.stat().st_size for path in records.glob("*.jsonl")):
            own = Origin(records)
            if own.config_hash != origin.config_hash:
                raise DodonaError(f"{records} has runs of another experiment: give another --output-dir")
            self._origins.append(own)

    def find(self, arm: Arm) -> Recorded | None:
        """The runs of an arm; None where there is none."""
        for origin in self._origins:
            if origin.experiment.rows.get(arm.name):
                return Recorded(origin, next(a for a in origin.experiment.arms if a.name == arm.name))
        return None

    def runs(self, arm: Arm) -> Recorded:
        """The runs of an arm on every problem.

        Raises:
            DodonaError: some are missing.
        """
        found = self.find(arm)
        missing = [name for name in self.problems if found is None or name not in found.rows]
        if found is None or missing:
            raise DodonaError(
                f"{len(missing)} of {len(self.problems)} runs of the arm {arm.name!r} have no record yet: let "
                "`dodona eval` do them first"
            )
        return found
