"""Makes the schedules of an arm's placebos, from its consults and the base's own texts, once: later they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.result import Result
from dodona.eval.causal.views import again
from dodona.eval.placebo.apart import Apart, apart_of
from dodona.eval.placebo.arms import HINDSIGHT, STEPWISE, TWIN, Placebo, trigger_of
from dodona.eval.placebo.book import Recorded
from dodona.eval.placebo.hindsight import Candidate, hindsight, next_candidate, stepwise
from dodona.eval.placebo.log import ScheduleLog, source_of
from dodona.eval.placebo.schedule import Positions, total, twin


class Planner:
    """Of one arm.

    Args:
        problems: every problem's id.
        arm: the runs of the arm, on every problem.
        base: those of the base alone.
        log: of schedules.
        apart: how far the models are apart on the base's own texts, asked for where a schedule needs it.
        engine: called once something has to be run for one.
        step: told of everything that was run.

    Raises:
        DodonaError: the arm made no consult, or records cannot be read.
    """

    def __init__(
        self,
        problems: list[str],
        arm: Recorded,
        base: Recorded,
        log: ScheduleLog,
        apart: Callable[[], Mapping[str, Apart]],
        engine: Callable[[], Engine],
        step: Callable[[str], None] = lambda stage: None,
    ) -> None:
        self.arm, self.base = arm.arm, base.arm
        self._problems, self._origin, self._log = problems, base.origin, log
        self._apart, self._engine, self._step = apart, engine, step
        self._base_texts = base.texts
        own = arm.texts
        self.own = {name: own[name].starts if name in own else () for name in problems}
        reaching = {**own, **self._base_texts}  # the arm's own text where the base alone failed
        self._reach = {name: len(reaching[name].ids) if name in reaching else 0 for name in problems}
        self._source = source_of(own, self._base_texts)
        if not total(self.own):
            raise DodonaError(f"the arm {self.arm.name!r} made no consult, so it has no placebo")

    def schedule(self, placebo: Placebo) -> dict[str, Positions]:
        """Where a placebo consults, by problem: as it was written down, else made now and written down.

        Raises:
            DodonaError: it was drawn from other texts, or what it needs cannot be run.
        """
        name = placebo.arm.name
        found = self._log.schedule(name, self._source)
        if found is None:
            made = self._make(placebo)
            found = {problem: made.get(problem, ()) for problem in self._problems}
            self._log.keep(name, self._source, found)
        return found

    def _make(self, placebo: Placebo) -> dict[str, Positions]:
        consults, c, k = total(self.own), self.arm.c, self.arm.k
        if placebo.kind == TWIN:
            assert placebo.draw is not None
            return twin(self.own, self._reach, k, placebo.draw)
        if placebo.kind == HINDSIGHT:
            return hindsight(self._apart(), consults, c, k)
        assert placebo.kind == STEPWISE
        first = {name: next_candidate(apart, 0) for name, apart in self._apart().items()}
        return stepwise(first, self._steps, consults, c)

    def _steps(self, asked: Mapping[str, Positions]) -> Iterator[tuple[str, Candidate | None]]:
        """The next candidates of texts with these consults."""
        log, arm = self._log, self.arm.name
        left = {}
        for name, positions in asked.items():
            if log.knows_step(self._source, arm, name, positions):
                yield name, log.step(self._source, arm, name, positions)
            else:
                left[name] = positions
        if not left:
            return
        requests = (
            again(
                self._origin,
                self.base,
                self._base_texts[name],
                c=len(positions),
                k=self.arm.k,
                trigger=trigger_of(positions, name),
                seed=self.arm.seed,
                divergence=True,
                id=name,
            )
            for name, positions in left.items()
        )
        for result in self._engine().generate(requests):
            assert result.request.id is not None
            name = result.request.id
            found = _next(result)
            log.keep_step(self._source, arm, name, left[name], found)
            self._step("stepwise")
            yield name, found


def _next(result: Result) -> Candidate | None:
    """Where the base's text after the last burst first goes another way than the oracle would."""
    bursts = np.flatnonzero(result.sources)
    start = int(bursts[-1]) + 1 if len(bursts) else 0
    apart = apart_of(result, start)
    return None if apart is None else next_candidate(apart, start)
