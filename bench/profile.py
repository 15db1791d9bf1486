"""``dodona bench profile``: where a guided run's time goes, by phase and by kernel, from torch's profiler.

The profiler writes a Chrome trace (chrome://tracing, ui.perfetto.dev), and the tables are read from that same file. On
a GPU a phase's time is that of the kernels that were launched inside its span (``spans.py``); on the CPU it is that of
the span, without the spans inside it. ``host`` is the rest of the wall time: no kernel ran, or no span.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dodona.bench.effort import Effort
from dodona.bench.floor import against_ceiling, forward_bytes
from dodona.bench.spans import PREFIX, marked, span, uncaptured
from dodona.bench.subject import requests
from dodona.bench.watch import EMPTY, Forward, watched
from dodona.engine.engine import Engine

Row = dict[str, Any]
WINDOW = "window"  # the span around all that is profiled
HOST = "host"
KERNELS = 20  # that a table shows


class Event(NamedTuple):
    """A piece of a trace, in microseconds."""

    name: str
    start: float
    duration: float
    thread: Any
    correlation: Any  # between a launch and its kernels

    @property
    def end(self) -> float:
        """When it was over."""
        return self.start + self.duration


class Trace(NamedTuple):
    """What the tables need of a Chrome trace."""

    spans: list[Event]  # ours
    operators: list[Event]  # torch's, on the CPU
    launches: list[Event]  # calls of the CUDA runtime and driver
    kernels: list[Event]  # and copies and fills, on the device


class Use(NamedTuple):
    """Time of a kernel, or of an operator without what it calls."""

    name: str
    phase: str
    calls: int
    microseconds: float


def rows(
    engine: Engine, effort: Effort, ceilings: Mapping[str, Any], trace: Path, *, batch: int, captured: bool
) -> Iterator[Row]:
    """Profile a guided run (the base alone where there is no oracle), write its trace, and give the tables' rows."""
    forwards = record(engine, effort, trace, batch=batch, captured=captured)
    yield from table_rows(engine, forwards, read_trace(json.loads(trace.read_text(encoding="utf-8"))), ceilings)


def asked(engine: Engine, effort: Effort, batch: int) -> list[Any]:
    """The requests that are profiled."""
    every, k = effort.guided[0] if effort.guided else (8, 8)
    options: dict[str, Any] = {"max_new_tokens": effort.tokens, "c": math.inf, "k": k, "trigger": f"every({every})"}
    return requests(engine, batch, effort.prompt, temperature=effort.temperature, **options)


def record(engine: Engine, effort: Effort, trace: Path, *, batch: int, captured: bool) -> list[Forward]:
    """Run once to warm up and once with the profiler on."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if engine.device.type == "cuda" else [])
    with _as_asked(engine, captured=captured):
        generate(engine, effort, batch)
        with marked(engine), watched(engine) as forwards, profile(activities=activities) as profiler:
            generate(engine, effort, batch)
    profiler.export_chrome_trace(str(trace))
    return forwards


def in_ranges(engine: Engine, effort: Effort, *, batch: int, captured: bool) -> None:
    """The same run in NVTX ranges, for a profiler outside the process."""
    with _as_asked(engine, captured=captured):
        generate(engine, effort, batch)
        with marked(engine, nvtx=True):
            generate(engine, effort, batch, nvtx=True)


def generate(engine: Engine, effort: Effort, batch: int, *, nvtx: bool = False) -> None:
    """The run that is profiled."""
    with span(WINDOW, nvtx=nvtx):
        for result in engine.generate(asked(engine, effort, batch)):
            result.raise_for_error()
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)


def _as_asked(engine: Engine, *, captured: bool) -> AbstractContextManager[None]:
    return nullcontext() if captured else uncaptured(engine)


# --- from the trace to the tables ---


def read_trace(data: Mapping[str, Any]) -> Trace:
    """The parts of a Chrome trace, by their categories as torch writes them."""
    found = Trace([], [], [], [])
    for item in data["traceEvents"]:
        if item.get("ph") != "X":
            continue
        category, args = item.get("cat", ""), item.get("args", {})
        event = Event(item["name"], item["ts"], item.get("dur", 0), item.get("tid"), args.get("correlation"))
        if category == "user_annotation" and event.name.startswith(PREFIX):
            found.spans.append(event._replace(name=event.name.removeprefix(PREFIX)))
        elif category == "cpu_op":
            found.operators.append(event)
        elif category in ("cuda_runtime", "cuda_driver"):
            found.launches.append(event)
        elif category in ("kernel", "gpu_memcpy", "gpu_memset"):
            found.kernels.append(event)
    return found


def uses(trace: Trace) -> list[Use]:
    """Time by kernel and phase on a GPU, by operator and phase on the CPU; the longest first."""
    finder = Enclosing(trace.spans)
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    if trace.kernels:
        launches = {launch.correlation: launch for launch in trace.launches}
        for kernel in trace.kernels:
            launch = launches.get(kernel.correlation)
            times[kernel.name, finder.innermost(launch) if launch else HOST].append(kernel.duration)
    else:
        for operator, own in own_times(trace.operators):
            times[operator.name, finder.innermost(operator)].append(own)
    found = [Use(name, phase, len(values), sum(values)) for (name, phase), values in times.items()]
    return sorted(found, key=lambda use: (-use.microseconds, use.name, use.phase))


def phases(trace: Trace) -> tuple[dict[str, float], float]:
    """Microseconds of each phase, ``host`` included, and of the whole window."""
    windows = [event for event in trace.spans if event.name == WINDOW]
    whole = sum(event.duration for event in windows)
    found: dict[str, float] = defaultdict(float)
    if trace.kernels:
        for use in uses(trace):
            found[use.phase] += use.microseconds
        outside = found.pop(WINDOW, 0.0) + found.pop(HOST, 0.0)  # kernels of no phase: copies of records and the like
        found["other kernels"] = outside
        found[HOST] = max(0.0, whole - covered(trace.kernels))
    else:
        for event, own in own_times(trace.spans):
            found[HOST if event.name == WINDOW else event.name] += own
    return dict(found), whole


def covered(events: Sequence[Event]) -> float:
    """Microseconds in which at least one of the events was going on."""
    total, until = 0.0, -math.inf
    for event in sorted(events, key=lambda event: event.start):
        total += max(0.0, event.end - max(until, event.start))
        until = max(until, event.end)
    return total


def own_times(events: Sequence[Event]) -> Iterator[tuple[Event, float]]:
    """Each event with its time less that of the events inside it, thread by thread."""
    threads: dict[Any, list[Event]] = defaultdict(list)
    for event in events:
        threads[event.thread].append(event)
    for members in threads.values():
        members.sort(key=lambda event: (event.start, -event.duration))
        inside = [0.0] * len(members)
        stack: list[int] = []
        for index, event in enumerate(members):
            while stack and members[stack[-1]].end <= event.start:
                stack.pop()
            if stack:
                inside[stack[-1]] += event.duration
            stack.append(index)
        yield from ((event, max(0.0, event.duration - inner)) for event, inner in zip(members, inside, strict=True))


class Enclosing:
    """Finds the innermost span around an event of the same thread."""

    def __init__(self, spans: Sequence[Event]) -> None:
        self._threads: dict[Any, list[Event]] = defaultdict(list)
        self._outer: dict[Any, list[int]] = {}  # of each span, the one around it; -1: none
        for event in sorted(spans, key=lambda event: (event.start, -event.duration)):
            self._threads[event.thread].append(event)
        for thread, events in self._threads.items():
            outer: list[int] = []
            for index, event in enumerate(events):
                around = index - 1
                while around >= 0 and events[around].end <= event.start:
                    around = outer[around]
                outer.append(around)
            self._outer[thread] = outer
        self._starts = {thread: [event.start for event in events] for thread, events in self._threads.items()}

    def innermost(self, event: Event) -> str:
        """The span's name; ``host`` where there is none."""
        events = self._threads.get(event.thread, [])
        index = bisect_right(self._starts.get(event.thread, []), event.start) - 1
        while index >= 0 and events[index].end <= event.start:
            index = self._outer[event.thread][index]
        return events[index].name if index >= 0 else HOST


def table_rows(engine: Engine, forwards: Sequence[Forward], trace: Trace, ceilings: Mapping[str, Any]) -> Iterator[Row]:
    """A row for each phase and for each of the kernels that take longest."""
    times, whole = phases(trace)
    runners = {"base": engine.base, "oracle": engine.oracle}
    for phase, microseconds in sorted(times.items(), key=lambda item: -item[1]):
        members = [forward for forward in forwards if forward.kind == phase and forward.kind != EMPTY]
        size = sum(_bytes(runners[forward.model], engine, forward) for forward in members)
        row: Row = {
            "part": "phase",
            "phase": phase,
            "forwards": len(members),
            "tokens": sum(sum(forward.tokens) for forward in members),
            "ms": microseconds / 1e3,
            "share": microseconds / whole if whole else 0.0,
        }
        if inclusive := sum(forward.milliseconds for forward in members):
            row |= against_ceiling(size, inclusive, ceilings)  # of whole forwards, heads and statistics included
        yield row
    all_uses = uses(trace)
    total = sum(use.microseconds for use in all_uses)
    for use in all_uses[:KERNELS]:
        ms = use.microseconds / 1e3
        share = use.microseconds / total
        yield {"part": "kernel", "name": use.name, "phase": use.phase, "calls": use.calls, "ms": ms, "share": share}


def _bytes(runner: Any, engine: Engine, forward: Forward) -> int:
    return forward_bytes(runner.config, engine.dtype.itemsize, forward.contexts)
