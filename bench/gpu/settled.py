"""The kernel that settles a step of one token against the torch program that is its reference, on a run's own seats.

A run is stopped here and there. From the state that its seat has then, the next program runs once by the kernel and
once by torch's operations; records, seats and live keys must agree. The seat is put back before the run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dodona.bench.gpu.piece import Outcome, outcome
from dodona.bench.gpu.replays import BY_POSITION, ROWS, settle, state_of, watched_by
from dodona.engine.device_loop import DeviceLoop
from dodona.engine.engine import Engine
from dodona.engine.request import Request
from dodona.engine.seats import Column, Phase
from dodona.engine.sequence import BASE, ORACLE
from dodona.engine.step import Step

CLOSE = 1e-4  # of signals, absolutely and relatively
EVERY = 3  # tokens from one stop to the next

Run = Callable[..., Tensor]


def by_both(engine: Engine, request: Request) -> Outcome:
    """Every stop's program by the engine's own step and by ``Step``."""
    loop = engine.loop
    assert isinstance(loop, DeviceLoop)
    problems: list[str] = []
    programs = 0
    want = engine.generate(request).ids
    stream = engine.stream(request)
    while True:
        try:
            token = next(stream)
        except StopIteration as stop:
            ids = stop.value.ids
            break
        if token.position % EVERY == 0:
            for model, step in loop._steps.items():
                found = compared(loop, step.run, partial(Step.run, step), model)
                programs += found is not None
                problems += [f"after token {token.position}: {text}" for text in found or ()]
    if ids != want:
        problems.append("the text went on differently after the stops")
    return outcome({"programs": programs, "tokens": len(want)}, problems[:10])


def compared(loop: DeviceLoop, ours: Run, reference: Run, model: str) -> list[str] | None:
    """Where two ways to run a model's next program differ; None if no seat waits for the model."""
    with torch.inference_mode():
        settle(loop)
        for member in loop._members.values():
            phase = Phase(int(loop.seats.numbers[member.seat, Column.PHASE]))
            if {Phase.BASE: BASE, Phase.ORACLE: ORACLE}.get(phase) == model:
                return list(_differences(loop, member, ours, reference, model))
    return None


def _differences(loop: DeviceLoop, member: Any, ours: Run, reference: Run, model: str) -> Iterator[str]:
    seats, seat = loop.seats, member.seat
    shape, watched = loop._shape(model, 1, [member]), watched_by(loop, member, model)
    rows_M = torch.tensor([seat], device=loop.graphs.device)
    before = {name: getattr(seats, name)[seat].clone() for name in (*ROWS, *BY_POSITION)}
    states = []
    for run in (ours, reference):
        record = run(shape, rows_M, watched)[0].clone()
        settle(loop)
        states.append({"record": record, **state_of(loop, member)})
        for name, values in before.items():
            getattr(seats, name)[seat] = values
    settle(loop)
    for name, found in states[0].items():
        want = states[1].get(name)
        if want is None or found.shape != want.shape or not _close(found, want):
            yield f"the {model}'s {name} by the kernel and by torch differ"


def _close(found: Tensor, want: Tensor) -> bool:
    if not found.is_floating_point():
        return torch.equal(found, want)
    return torch.allclose(found.float(), want.float(), rtol=CLOSE, atol=CLOSE, equal_nan=True)
