"""Part (f): tokens a second of 1 to 256 sequences at once, by the base alone and guided."""

from __future__ import annotations

import math

from dodona.bench.apart import Work
from dodona.bench.effort import FULL, QUICK, Effort
from dodona.bench.gpu.options import DRAWN, Options
from dodona.bench.gpu.piece import Outcome, outcome
from dodona.bench.throughput import MIDDLE, Arm, measured, row_of

BATCHES = (1, 4, 16, 64, 128, 256)
RATE = 1 / 32


def effort_of(options: Options) -> Effort:
    """Texts long enough that the prompts do not count for much."""
    if options.quick:
        return QUICK._replace(batches=(1, 4), repeats=1, temperature=DRAWN)
    return FULL._replace(batches=BATCHES, tokens=128, repeats=2, temperature=DRAWN)


def pieces(options: Options) -> tuple[str, ...]:
    """Batch by batch, from the ends inwards."""
    batches = effort_of(options).batches
    order = sorted(batches, key=lambda batch: (batch not in (batches[0], batches[-1]), batch))
    return tuple(f"{part} x {batch}" for batch in order for part in ("guided", "base alone"))


def worker(options: Options) -> Work:
    """Gives a piece's row by its name."""
    effort = effort_of(options)
    engine = options.subject().engine(max_batch=max(effort.batches), max_length=effort.prompt + effort.tokens)

    def work(name: str) -> Outcome:
        part, _, batch = name.partition(" x ")
        guided = part == "guided"
        arm = Arm(part, int(batch), math.inf if guided else 0, MIDDLE, RATE if guided else 0.0)
        runs = [measured(engine, arm, effort) for _ in range(effort.repeats + 1)]
        return outcome(row_of(arm, effort, runs[1:]))

    return work
