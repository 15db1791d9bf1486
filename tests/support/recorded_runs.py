"""Real runs of the embedded pair on a few problems, as `dodona eval` records them, for what goes on with such."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from dodona.engine.engine import Engine
from dodona.eval.arms import Arm
from dodona.eval.run import Experiment, Run
from dodona.eval.shard import WHOLE
from dodona.eval.store import Place, Store
from dodona.eval.tasks.names import task_named
from dodona.eval.tasks.problem import Selection
from dodona.eval.traces import Traces

BASE = Arm(0, 0, "never", "before", 0)
ORACLE = Arm(math.inf, math.inf, "always", "before", 0)
GUIDED = Arm(3, 4, "entropy > 0.5", "before", 0)


def record_runs(
    place: Path,
    engine: Engine,
    arms: Sequence[Arm] = (BASE, GUIDED, ORACLE),
    *,
    problems: int = 20,
    levels: tuple[int, ...] = (2, 3, 4),
    trace: bool = False,
    **options: Any,
) -> Path:
    """Run these arms and record them in a folder, or in one file where the path ends in .jsonl."""
    task = task_named("arith")
    chosen = task.load(Selection(num_samples=problems, levels=levels))
    experiment = Experiment(task, chosen, list(arms), {"max_new_tokens": 256, **options})
    where = Place(place, folder=place.suffix != ".jsonl")
    config = experiment.config(engine)
    traced = Traces(where, experiment.arms, config, WHOLE) if trace else nullcontext()
    with Store(where, config, experiment.arms, experiment.problems) as store, traced as traces:
        for _ in Run(experiment, store, traces).finish(engine):
            pass
    return place
