"""Named spans of a run, for torch's profiler and, as NVTX ranges, for Nsight Systems.

An engine is marked from outside for as long as it is profiled: its forwards by what they do, and within them the
statistics, the draws and the triggers. Nothing of it remains in an engine that is not profiled.

A captured program is one launch, so only its kernels' names tell what they do; the spans inside it show where it runs
uncaptured (``uncaptured``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from dodona.bench.watch import BURST, CATCH_UP, PREFILL, STEP, SYNC, kind_of, replaced
from dodona.engine import llama
from dodona.engine.device_loop import DeviceLoop
from dodona.engine.engine import Engine
from dodona.engine.sequence import BASE

PREFIX = "dodona: "
HEAD = "head"  # the output product; on the kernels statistics and draw are in it
SIGNALS = "signals"  # statistics; on the device's loop with torch's operations the draw too
SAMPLING, TRIGGER, COMMIT = "sampling", "trigger", "commit"


@contextmanager
def span(name: str, *, nvtx: bool) -> Iterator[None]:
    """One span."""
    with ExitStack() as stack:
        if nvtx:
            torch.cuda.nvtx.range_push(PREFIX + name)
            stack.callback(torch.cuda.nvtx.range_pop)
        stack.enter_context(torch.profiler.record_function(PREFIX + name))
        yield


@contextmanager
def marked(engine: Engine, *, nvtx: bool = False) -> Iterator[None]:
    """The engine's work is in spans here."""
    loop = engine.loop
    with ExitStack() as stack:

        def wrap(owner: Any, method: str, name_of: Callable[..., str]) -> None:
            inner = getattr(owner, method)

            def spanned(*args: Any, **kwargs: Any) -> Any:
                with span(name_of(*args), nvtx=nvtx):
                    return inner(*args, **kwargs)

            stack.enter_context(replaced(owner, method, spanned))

        if isinstance(loop, DeviceLoop):
            wrap(loop, "_launch", _kind_of_launch)
            for name, step in loop._steps.items():
                wrap(loop.runners[name].model.head, "score", lambda *_: HEAD)
                wrap(step, "_fired", lambda *_: TRIGGER)
            wrap(llama, "plain_scores", lambda *_: SIGNALS)
        else:
            for runner in filter(None, (engine.base, engine.oracle)):
                wrap(runner.model.head, "logits", lambda *_: HEAD)
            wrap(engine.base.ops, "statistics", lambda *_: SIGNALS)
            wrap(engine.base.ops, "draw", lambda *_: SAMPLING)
            wrap(loop, "_read", _kind_of_read)
            for settle in ("_settle_base", "_settle_oracle"):
                wrap(loop, settle, lambda *_: COMMIT)
        yield


@contextmanager
def uncaptured(engine: Engine) -> Iterator[None]:
    """Programs of the device's loop run launch by launch in here."""
    graphs = getattr(engine.loop, "graphs", None)
    if graphs is None:
        yield
        return
    run = graphs.run
    with replaced(graphs, "run", lambda _, program, rows: run(None, program, rows)):
        yield


def _kind_of_read(lane: Any, runner: Any, works: Any) -> str:
    return kind_of(lane.name, [(sequence, lane.length(sequence), tokens) for sequence, tokens in works])


def _kind_of_launch(model: str, tokens: int, members: Any) -> str:
    """By the host's guess of where the seats will be."""
    kinds = {_guessed(model, tokens, member) for member in members}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _guessed(model: str, tokens: int, member: Any) -> str:
    guess, sequence = member.guess, member.sequence
    if model == BASE:
        if guess.base < len(sequence.prompt):
            return PREFILL
        return STEP if tokens == 1 else CATCH_UP
    starts = sequence.consult_starts
    bursting = bool(starts) and guess.length - len(sequence.prompt) > starts[-1]
    return BURST if tokens == 1 and bursting else SYNC
