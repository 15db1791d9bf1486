"""Part (d): step programs by kernel and by torch, captured and not, on frozen seats, and how often the host waits.

``frozen``: a program may run on a seat that does not wait for its model (it triggered, it is done, its record has not
been read yet). It must leave the seat, and all that the caches hold of its text, bit for bit as they were.
"""

from __future__ import annotations

import functools
import json
import math
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dodona.bench import steps
from dodona.bench.apart import Work
from dodona.bench.effort import FULL, QUICK
from dodona.bench.gpu.options import DRAWN, Options
from dodona.bench.gpu.piece import Outcome, outcome, skipped
from dodona.bench.profile import read_trace
from dodona.bench.spans import PREFIX, uncaptured
from dodona.bench.subject import NEVER, requests
from dodona.engine.device_loop import DeviceLoop
from dodona.engine.engine import Engine
from dodona.engine.request import Request
from dodona.engine.result import Result
from dodona.engine.seats import Column, Phase
from dodona.engine.sequence import BASE, ORACLE
from dodona.engine.step import Watch

PIECES = (
    "one token by the kernel and by torch",
    "replay against uncaptured",
    "frozen replays",
    "host synchronisations",
)
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
WAITED = "called a synchronizing"  # torch's warning; the one about the mode itself speaks of "synchronizing" too
STEADY = "steady state"
ROWS = ("numbers", "sampling", "pending", "pending_lse", "emas")  # of Seats, a row a seat
BY_POSITION = ("ids", "base", "oracle", "draws")  # likewise, a place a position
SMOOTH = ("entropy", "logprob", "oracle_logprob", "oracle_entropy")  # signals that rounding moves a little, at most
SIGNAL_GAP = 0.05  # nats: cuBLAS may choose another order of summation inside a graph
SIZES = (1, 4)  # tokens of the programs that are run on frozen seats


def pieces(options: Options) -> tuple[str, ...]:
    """All of them."""
    return PIECES


def worker(options: Options) -> Work:
    """Gives a piece by its name."""
    effort = (QUICK if options.quick else FULL)._replace(tokens=32 if options.quick else 128)
    engine = options.subject().engine(max_batch=4, max_length=effort.prompt + effort.tokens)
    every, k = (3, 4) if options.quick else (12, 8)
    common: dict[str, Any] = {"max_new_tokens": effort.tokens, "temperature": DRAWN}
    guided = requests(engine, 1, effort.prompt, c=math.inf, k=k, trigger=f"every({every})", **common)[0]
    alone = requests(engine, 1, effort.prompt, c=1, k=1, trigger=NEVER, **common)[0]

    def work(name: str) -> Outcome:
        if name == "replay against uncaptured":
            return against_uncaptured(engine, guided)
        if name == "frozen replays":
            return frozen_replays(engine, guided)
        if not options.on_cuda:
            return skipped("needs a CUDA device")
        if name == "one token by the kernel and by torch":
            from dodona.bench.gpu.settled import by_both

            return by_both(engine, guided)
        return host_synchronisations(engine, {"base alone": alone, "guided": guided})

    return work


def against_uncaptured(engine: Engine, request: Request) -> Outcome:
    """The same request captured (twice) and launch by launch: equal tokens and signals, and the times of both."""
    loop = engine.loop
    assert isinstance(loop, DeviceLoop)
    first, _ = steps.run(engine, request)
    captured, forwards = steps.run(engine, request)
    with uncaptured(engine):
        plain, plain_forwards = steps.run(engine, request)
    others = {"the first run": first, "launch by launch": plain}
    problems = [f"{name}: {text}" for name, result in others.items() if (text := other_than(captured, result))]
    if loop.graphs.device.type == "cuda" and not loop.graphs.replays:
        problems.append("no program was replayed")
    figures = {
        "tokens": len(captured.ids),
        "signal_gap": max(largest_gap(captured, first), largest_gap(captured, plain)),
        "captures": loop.graphs.captures,
        "replays": loop.graphs.replays,
        "captured_ms": steps.taken_apart(captured, forwards).milliseconds,
        "uncaptured_ms": steps.taken_apart(plain, plain_forwards).milliseconds,
    }
    return outcome(figures, problems)


def other_than(want: Result, found: Result) -> str | None:
    """Where a result is another one; None if tokens are the same and signals too, but for rounding."""
    if found.ids != want.ids:
        pairs = zip(found.ids, want.ids, strict=False)
        return f"other tokens from position {next((i for i, (a, b) in enumerate(pairs) if a != b), len(want.ids))} on"
    gap = largest_gap(want, found)
    return f"the same tokens, and signals off by {gap:.3g}" if not gap <= SIGNAL_GAP else None


def largest_gap(want: Result, found: Result) -> float:
    """The largest difference of a signal, in nats; NaN if one is NaN where the other is not."""
    gaps = []
    for name in SMOOTH:
        one, other = want.signals[name], found.signals[name]
        known = ~np.isnan(one)
        if (known != ~np.isnan(other)).any():
            return math.nan
        gaps += np.abs(one[known] - other[known]).tolist()
    return max(gaps, default=0.0)


# --- frozen seats ---


def frozen_replays(engine: Engine, request: Request) -> Outcome:
    """Stop a run here and there, run programs on its frozen seat twice, compare, and go on: the text stays the same."""
    want = engine.generate(request).ids
    problems: list[str] = []
    checks = 0
    stream = engine.stream(request)
    while True:
        try:
            token = next(stream)
        except StopIteration as stop:
            result = stop.value
            break
        if token.position % 5 == 3:
            found = probe(engine)
            checks += 1
            problems += [f"after token {token.position}: {text}" for text in found]
    if result.ids != want:
        problems.append("the text went on differently after the replays")
    return outcome({"stops": checks, "programs": checks * len(SIZES) * 4 * 2, "tokens": len(want)}, problems[:10])


def probe(engine: Engine) -> list[str]:
    """What programs on the frozen seats of a run that stands still have changed."""
    loop = engine.loop
    assert isinstance(loop, DeviceLoop)
    members = list(loop._members.values())
    if not members:  # the text has ended
        return []
    (member,), problems = members, []
    with torch.inference_mode():
        settle(loop)
        phase = int(loop.seats.numbers[member.seat, Column.PHASE])
        waits_for = {Phase.BASE: BASE, Phase.ORACLE: ORACLE}.get(Phase(phase))
        for model in loop.runners:
            if model != waits_for:
                problems += _replayed(loop, member, model, "waits for the other model")
        loop.seats.set(member.seat, {Column.PHASE: Phase.NOBODY})
        for model in loop.runners:
            problems += _replayed(loop, member, model, "is done")
        loop.seats.set(member.seat, {Column.PHASE: phase})
        settle(loop)
    return problems


def _replayed(loop: DeviceLoop, member: Any, model: str, why: str) -> list[str]:
    problems = []
    for tokens in SIZES:
        shape, before = loop._shape(model, tokens, [member]), state_of(loop, member)
        program = functools.partial(loop._steps[model].run, shape, watched=watched_by(loop, member, model))
        for turn in ("once", "twice"):
            loop.graphs.run(("frozen", shape, loop.seats.epoch), program, [member.seat])
            settle(loop)
            after = state_of(loop, member)
            changed = [name for name in before if not torch.equal(_bits(before[name]), _bits(after[name]))]
            if changed:
                what = f"the {model}'s program of {tokens} tokens, run {turn} on a seat that {why}"
                problems.append(f"{what}, changed {', '.join(changed)}")
                break
    return problems


def watched_by(loop: DeviceLoop, member: Any, model: str) -> list[Watch]:
    """The triggers that a program on this seat asks."""
    trigger = member.sequence.trigger
    return [Watch(loop._watched[trigger], trigger)] if model == BASE else []


def state_of(loop: DeviceLoop, member: Any) -> dict[str, Tensor]:
    """Copies of all that a seat has: its row of every tensor, but for the last place of what is by position, which
    takes what nobody wants; and its live keys and values."""
    seats, seat = loop.seats, member.seat
    found = {name: getattr(seats, name)[seat].clone() for name in ROWS}
    found |= {name: getattr(seats, name)[seat, :-1].clone() for name in BY_POSITION}
    for model, column in ((BASE, Column.BASE_LENGTH), (ORACLE, Column.ORACLE_LENGTH)):
        slot = getattr(member.sequence, model).slot
        if model in loop.runners and slot is not None:
            cache, live = loop.runners[model].cache, int(seats.numbers[seat, column])
            pages, size = cache.pool.table(slot), cache.pool.page_size
            places = torch.tensor([pages[at // size] * size + at % size for at in range(live)], dtype=torch.int64)
            for name, which in (("keys", 0), ("values", 1)):
                layers = [layer[which][places.to(layer[which].device)] for layer in cache.flat]
                found[f"{model}'s {name}"] = torch.cat([layer.flatten() for layer in layers]).clone()
    return found


def _bits(tensor: Tensor) -> Tensor:
    """A view in whole numbers: NaN equals itself there, and 0 is not -0."""
    sizes = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}
    return tensor.contiguous().view(sizes[tensor.element_size()])


def settle(loop: DeviceLoop) -> None:
    """Wait until the device has run what was launched."""
    if loop.graphs.device.type == "cuda":
        torch.cuda.synchronize(loop.graphs.device)


# --- waiting ---


def host_synchronisations(engine: Engine, asked: dict[str, Request]) -> Outcome:
    """Waits of the host a token in the steady state, by torch's own warnings and by the calls in a profile."""
    figures = {}
    for name, request in asked.items():
        steps.run(engine, request)  # what is captured on the way waits, and is not counted
        skip, count = 16, request.max_new_tokens - 32
        warned, where = counted_warnings(engine, request, skip, count)
        calls = counted_calls(engine, request, skip, count)
        figures[name] = {
            "tokens": count,
            "waits_a_token": warned / count,
            "calls_a_token": {call: number / count for call, number in calls.items()},
            "where": where,
        }
    return outcome(figures)


def counted_warnings(engine: Engine, request: Request, skip: int, count: int) -> tuple[int, list[str]]:
    """Synchronising operations while ``count`` tokens arrive, and the first lines of ours that made some."""
    stream = engine.stream(request)
    for _ in range(skip):
        next(stream)
    with warnings.catch_warnings(record=True) as caught, _sync_debug():
        warnings.simplefilter("always")
        for _ in range(count):
            next(stream)
    stream.close()
    found = [item for item in caught if WAITED in str(item.message)]
    places = dict.fromkeys(f"{Path(item.filename).name}:{item.lineno}" for item in found)
    return len(found), list(places)[:8]


@contextmanager
def _sync_debug() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def counted_calls(engine: Engine, request: Request, skip: int, count: int) -> dict[str, int]:
    """Calls of CUDA that wait, while ``count`` tokens arrive."""
    from torch.profiler import ProfilerActivity, profile, record_function

    stream = engine.stream(request)
    for _ in range(skip):
        next(stream)
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=activities) as profiler, record_function(PREFIX + STEADY):
        for _ in range(count):
            next(stream)
    stream.close()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        trace = read_trace(json.loads(path.read_text(encoding="utf-8")))
    (steady,) = (span for span in trace.spans if span.name == STEADY)
    inside = [call.name for call in trace.launches if steady.start <= call.start <= steady.end]
    return {name: inside.count(name) for name in WAITS}
