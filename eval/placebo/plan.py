"""The schedules of an arm's placebos: from its own consults and the base's texts, and for one kind from runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.result import Result
from dodona.eval.causal.log import OriginLog
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.texts import Text
from dodona.eval.causal.views import View, again, views_of
from dodona.eval.placebo.arms import HINDSIGHT, SHUFFLED, STEPWISE, TWIN, Placebo, trigger_of
from dodona.eval.placebo.hindsight import Candidate, hindsight, next_candidate, stepwise
from dodona.eval.placebo.schedule import Positions, Schedule, shuffled, total, twin
from dodona.eval.recorded import RecordedArm

SCHEMA: Final = "steps-1"
LOG: Final = "-steps.log"  # beside the records


class StepLog:
    """The next candidates of texts with some consults, on the disk, so that a killed search goes on.

    Raises:
        DodonaError: as OriginLog.
    """

    def __init__(self, path: Path, origin: Origin) -> None:
        self.path = path
        self.known: dict[tuple[str, str, Positions], Candidate | None] = {}  # by arm, problem and positions so far
        self._log = OriginLog(path, origin, SCHEMA, "--steps")
        for number, entry in self._log.entries():
            try:
                key = str(entry["arm"]), str(entry["problem_id"]), tuple(map(int, entry["positions"]))
                found = entry["next"]
                self.known[key] = None if found is None else Candidate(int(found), float(entry["divergence"]))
            except (KeyError, TypeError, ValueError) as error:
                self.close()
                raise self._log.damaged(number, error) from error

    def append(self, arm: str, problem_id: str, positions: Positions, found: Candidate | None) -> None:
        """Write down where the next consult of a text would be."""
        place, divergence = (None, None) if found is None else found
        entry = {"arm": arm, "problem_id": problem_id, "positions": list(positions)}
        self._log.append({**entry, "next": place, "divergence": divergence})
        self.known[arm, problem_id, positions] = found

    def close(self) -> None:
        """Close the file; closing again does nothing."""
        self._log.close()

    def __enter__(self) -> StepLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class Planner:
    """Makes the schedules of one arm's placebos.

    Args:
        origin, arm: the arm, which has a record of every problem.
        base: the arm of the base alone, likewise.
        log: of steps.
        engine: called once something has to be run.
        step: told of everything that was run.

    Raises:
        DodonaError: the arm has no consults, or records are missing.
    """

    origin: Origin
    arm: RecordedArm
    base: RecordedArm
    log: StepLog
    engine: Callable[[], Engine]
    step: Callable[[str], None] = lambda stage: None
    _views: dict[str, View] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.arm.base_alone:
            raise DodonaError(f"the arm {self.arm.name!r} has no consults, so it has no placebo")
        self.texts: Mapping[str, Text] = self.origin.whole(self.arm)
        self.base_texts: Mapping[str, Text] = self.origin.whole(self.base)

    @property
    def own(self) -> dict[str, Positions]:
        """Where the arm consulted."""
        return {name: text.starts for name, text in self.texts.items()}

    @property
    def reach(self) -> dict[str, int]:
        """Tokens of the base's own text; of the arm's where that one failed."""
        return {name: len(self.base_texts.get(name, text).ids) for name, text in self.texts.items()}

    @property
    def views(self) -> dict[str, View]:
        """Both models' view of the base's own texts."""
        if self._views is None:
            texts = {name: text for name, text in self.base_texts.items() if text.ids}
            self._views = views_of(self.origin, self.base, texts, self.engine, lambda: self.step("texts"))
        return self._views

    def schedule(self, placebo: Placebo) -> dict[str, Positions]:
        """Where a placebo consults, by problem.

        Raises:
            DodonaError: runs that are needed cannot be made.
        """
        own, gap = self.own, self.arm.k
        found: Schedule
        if placebo.kind == TWIN:
            assert placebo.draw is not None
            found = twin(own, self.reach, gap, placebo.draw)
        elif placebo.kind == SHUFFLED:
            assert placebo.draw is not None
            found = shuffled(own, self.reach, placebo.draw)
        elif placebo.kind == HINDSIGHT:
            found = hindsight(self.views, total(own), self.arm.c, gap)
        else:
            assert placebo.kind == STEPWISE
            first = {name: next_candidate(view, 0) for name, view in self.views.items()}
            found = stepwise(first, self._steps, total(own), self.arm.c)
        return {problem.problem_id: found.get(problem.problem_id, ()) for problem in self.origin.experiment.problems}

    def _steps(self, asked: Mapping[str, Positions]) -> Iterator[tuple[str, Candidate | None]]:
        """The next candidates of texts with these consults."""
        left = {}
        for name, positions in asked.items():
            key = self.arm.name, name, positions
            if key in self.log.known:
                yield name, self.log.known[key]
            else:
                left[name] = positions
        if not left:
            return
        requests = (
            again(
                self.origin,
                self.base,
                self.base_texts[name],
                c=len(positions),
                k=self.arm.k,
                trigger=trigger_of(positions, name),
                seed=self.arm.seed,
                id=json.dumps([name, positions]),
            )
            for name, positions in left.items()
        )
        for result in self.engine().generate(requests):
            assert result.request.id is not None
            name = json.loads(result.request.id)[0]
            found = _next(result)
            self.log.append(self.arm.name, name, left[name], found)
            self.step("steps")
            yield name, found


def _next(result: Result) -> Candidate | None:
    """Where the base's text after the last burst first goes another way than the oracle would."""
    oracle = np.flatnonzero(result.sources)
    if result.error is not None or not len(oracle):
        return None
    start = int(oracle[-1]) + 1
    columns = {name: np.asarray(values) for name, values in result.signals.items()}
    if np.isnan(columns["oracle_top1"][start:]).any():
        return None
    view = View(tuple(result.ids), {name: values for name, values in columns.items() if not _unknown(values[start:])})
    return next_candidate(view, start)


def _unknown(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bool:
    return bool(np.isnan(values).any())
