"""The schedules of placebos on the disk, as they were drawn: a killed study goes on with the same ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

from dodona.engine.errors import DodonaError
from dodona.eval.causal.log import OriginLog
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.texts import Text
from dodona.eval.placebo.hindsight import Candidate
from dodona.eval.placebo.schedule import Positions

SCHEMA: Final = "placebo-1"


class ScheduleLog:
    """Schedules by placebo, and the steps of a search that is under way. Open for adding to from construction on.

    Args:
        path: made where it is missing.
        origin: the experiment.

    Raises:
        DodonaError: as OriginLog, or a line that cannot be read.
    """

    def __init__(self, path: Path, origin: Origin) -> None:
        self.path = path
        self.schedules: dict[str, dict[str, Positions]] = {}  # by the placebo's name, then by problem
        self._sources: dict[str, str] = {}
        self._steps: dict[tuple[str, str, str, Positions], Candidate | None] = {}
        self._log = OriginLog(path, origin, SCHEMA, "--output-dir")
        for number, entry in self._log.entries():
            try:
                if "schedule" in entry:
                    name = str(entry["placebo"])
                    self._sources[name] = str(entry["drawn_from"])
                    self.schedules[name] = {key: tuple(map(int, row)) for key, row in entry["schedule"].items()}
                else:
                    source, arm, problem = (str(entry[field]) for field in ("drawn_from", "arm", "problem_id"))
                    found = entry["next"]
                    self._steps[source, arm, problem, tuple(map(int, entry["positions"]))] = (
                        None if found is None else Candidate(int(found), float(entry["js"]))
                    )
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self.close()
                raise self._log.damaged(number, error) from error

    def schedule(self, placebo: str, source: str) -> dict[str, Positions] | None:
        """The schedule of a placebo; None: there is none yet.

        Args:
            source: the digest of what it is drawn from.

        Raises:
            DodonaError: it was drawn from something else.
        """
        if self._sources.get(placebo, source) != source:
            raise DodonaError(
                f"{self.path} has a schedule of {placebo!r} that was drawn when the arm or the base alone had other "
                "texts or problems: give another --output-dir"
            )
        return self.schedules.get(placebo)

    def keep(self, placebo: str, source: str, schedule: Mapping[str, Positions]) -> None:
        """Write a schedule down."""
        lists = {name: list(positions) for name, positions in schedule.items()}
        self._log.append({"placebo": placebo, "drawn_from": source, "schedule": lists})
        self._sources[placebo], self.schedules[placebo] = source, dict(schedule)

    def knows_step(self, source: str, arm: str, problem_id: str, positions: Positions) -> bool:
        """Whether it was found out where the next consult of a text would be."""
        return (source, arm, problem_id, positions) in self._steps

    def step(self, source: str, arm: str, problem_id: str, positions: Positions) -> Candidate | None:
        """Where it would be; None: nowhere."""
        return self._steps[source, arm, problem_id, positions]

    def keep_step(self, source: str, arm: str, problem_id: str, positions: Positions, found: Candidate | None) -> None:
        """Write down where it would be."""
        place, js = (None, None) if found is None else found
        entry = {"drawn_from": source, "arm": arm, "problem_id": problem_id, "positions": list(positions)}
        self._log.append({**entry, "next": place, "js": js})
        self._steps[source, arm, problem_id, positions] = found

    def close(self) -> None:
        """Close the file; closing again does nothing."""
        self._log.close()

    def __enter__(self) -> ScheduleLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def source_of(texts: Mapping[str, Text], base: Mapping[str, Text]) -> str:
    """Sixteen hex digits that stand for what schedules are drawn from: an arm's consults, and the base's own texts."""
    names = sorted({*texts, *base})
    parts = [[name, _of(texts.get(name)), _of(base.get(name))] for name in names]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()[:16]


def _of(text: Text | None) -> list[list[int]] | None:
    return None if text is None else [list(text.starts), list(text.ids)]
