"""How long calls take on a CUDA device, and how fast its memory can be read and copied at most.

Calls are timed as replays of a CUDA graph, as a decode step runs them: the host is not in it, and a call's launch may
overlap with the end of the one before. What must come from memory, not from L2, is given as several copies of its
inputs that are used in turn and together exceed the cache three times. Calls that cannot be captured are timed one by
one between events, after a write that fills the cache with something else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from dodona.bench.spread import spread

Call = Callable[[], object]

CACHES = 3  # copies together are at least so many times the L2 cache
MAX_COPIES = 128
SAMPLE_US = 400.0  # a sample lasts at least so long, because an event is precise to half a microsecond
SHORT_US, SHORT_CALLS = 100.0, 50  # and has so many calls where each is short, so that what starts a graph is shared
TOTAL_US = 60_000.0
SAMPLES = (12, 100)  # at least, at most
CEILING_BYTES = 4 * 2**30
READ_VARIANTS = ((4096, 8, 8), (8192, 4, 8), (4096, 16, 4), (2048, 16, 4))  # int32s a block, blocks a program, warps

log = logging.getLogger(__name__)


class Timing(NamedTuple):
    """Microseconds a call."""

    p20: float
    p50: float
    p80: float
    method: str  # "graph", or "events" with the cache flushed
    copies: int  # sets of inputs used in turn
    samples: int


class Ceilings(NamedTuple):
    """GB/s, 10^9 bytes, of the best way found."""

    read: float  # bytes read
    copy: float  # bytes read and written


def copies_needed(size: int, device: torch.device) -> int:
    """Sets of inputs of so many bytes that together exceed the L2 cache and fit in half of the free memory."""
    l2 = torch.cuda.get_device_properties(device).L2_cache_size
    wanted = -(-CACHES * l2 // max(size, 1))
    room = torch.cuda.mem_get_info(device)[0] // 2 // max(size, 1)
    return max(1, min(wanted, MAX_COPIES, room))


def time_calls(calls: Sequence[Call], device: torch.device) -> Timing:
    """Time the same work on several sets of inputs, used in turn."""
    single = _estimate(calls[0], device)
    least = max(SAMPLE_US / single, SHORT_CALLS if single < SHORT_US else 1)
    rounds = math.ceil(least / len(calls))
    try:
        graph = _captured([*calls] * rounds, calls, device)
    except RuntimeError as error:
        log.info("timed call by call, since no graph can hold it: %s", (str(error).splitlines() or [""])[0])
        torch.cuda.synchronize(device)
        return _flushed(calls[0], single, device)
    number = rounds * len(calls)
    count = _samples(_estimate(graph.replay, device))
    events = _events(graph.replay, count, None)
    torch.cuda.synchronize(device)
    samples = [1000 * start.elapsed_time(stop) / number for start, stop in events]
    return Timing(*spread(samples)[:3], "graph", len(calls), count)


def read_memory(x_ptr, sums_ptr, BLOCK: tl.constexpr, STEPS: tl.constexpr):  # type: ignore[no-untyped-def]
    """A kernel that reads ``STEPS`` blocks a program and writes one sum, so that no load can be left out."""
    program = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.int32)
    for step in tl.static_range(STEPS):
        total += tl.load(x_ptr + (program * STEPS + step) * BLOCK + lane, eviction_policy="evict_first")
    tl.store(sums_ptr + program, tl.sum(total, 0))


read_kernel = triton.jit(read_memory)


def measure_ceilings(device: torch.device) -> Ceilings:
    """The fastest read and the fastest copy of a buffer far larger than the cache."""
    size = min(CEILING_BYTES, torch.cuda.mem_get_info(device)[0] // 4)
    unit = max(block * steps for block, steps, _ in READ_VARIANTS)
    count = size // 4 // unit * unit
    x = torch.randint(0, 1000, (count,), dtype=torch.int32, device=device)
    y = torch.empty_like(x)
    sums = torch.empty(
        count // min(block * steps for block, steps, _ in READ_VARIANTS), dtype=torch.int32, device=device
    )

    def read(block: int, steps: int, warps: int) -> Call:
        return lambda: read_kernel[(count // (block * steps),)](x, sums, BLOCK=block, STEPS=steps, num_warps=warps)

    reads = [time_calls([read(*variant)], device).p50 for variant in READ_VARIANTS]
    reads.append(time_calls([x.sum], device).p50)
    copy = time_calls([lambda: y.copy_(x)], device).p50
    return Ceilings(gb_per_second(4 * count, min(reads)), gb_per_second(8 * count, copy))


def gb_per_second(size: int, microseconds: float) -> float:
    """10^9 bytes a second."""
    return size / microseconds / 1000


def _samples(microseconds: float) -> int:
    return int(min(max(TOTAL_US / max(microseconds, 1.0), SAMPLES[0]), SAMPLES[1]))


def _estimate(call: Call, device: torch.device) -> float:
    """About how many microseconds a call takes, warm."""
    for _ in range(2):
        call()
    torch.cuda.synchronize(device)
    events = _events(call, 5, None)
    torch.cuda.synchronize(device)
    return max(1.0, *(1000 * float(start.elapsed_time(stop)) for start, stop in events[1:]))


def _captured(calls: Sequence[Call], warm_up: Sequence[Call], device: torch.device) -> Any:
    """A graph of these calls; each of the warm-up's is called twice before, on the stream of the capture."""
    stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):  # around the capture too, which would not leave its stream where it fails
        for call in (*warm_up, *warm_up):
            call()
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
    return graph


def _flushed(call: Call, single: float, device: torch.device) -> Timing:
    """Each call alone between two events, the cache filled with zeros before it."""
    l2 = torch.cuda.get_device_properties(device).L2_cache_size
    filler = torch.empty(CACHES * l2, dtype=torch.uint8, device=device)
    count = _samples(single)
    events = _events(call, count, filler)
    torch.cuda.synchronize(device)
    samples = [1000 * start.elapsed_time(stop) for start, stop in events]
    return Timing(*spread(samples)[:3], "events", 1, count)


def _events(call: Call, count: int, filler: torch.Tensor | None) -> list[tuple[torch.cuda.Event, torch.cuda.Event]]:
    events = []
    for _ in range(count):
        if filler is not None:
            filler.zero_()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        events.append((start, stop))
    return events
