"""Captured step programs where there is no GPU: torch's graphs and streams are played by stand-ins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from dodona.bench import timing
from dodona.engine.graph import Graphs

CPU = torch.device("cpu")
SPARE = 4


class Streams:
    """The current stream, and those that were made."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.home = self.current = Stream()
        self.made: list[Stream] = []
        self.captured: list[Stream] = []
        self.broken = False  # whether a capture that is under way can still be ended
        patch.setattr(torch.cuda, "Stream", self.make)
        patch.setattr(torch.cuda, "current_stream", lambda device: self.current)
        patch.setattr(torch.cuda, "stream", self.entered)
        patch.setattr(torch.cuda, "graph", self.capture)
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
        patch.setattr(torch.cuda, "CUDAGraph", object)

    def make(self, device: torch.device) -> Stream:
        self.made.append(Stream())
        return self.made[-1]

    @contextmanager
    def entered(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def capture(self, graph: object, pool: object = None, stream: Stream | None = None) -> Iterator[None]:
        """As in torch 2.11: a capture that cannot be ended raises by itself, and stays on its stream."""
        self.captured.append(stream or Stream())
        before, self.current = self.current, self.captured[-1]
        try:
            yield
        finally:
            if self.broken:
                raise RuntimeError("operation failed due to a previous error during capture")
            self.current = before


class Stream:
    """Nothing waits."""

    def wait_stream(self, other: Stream) -> None: ...

    def synchronize(self) -> None: ...


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    return Streams(monkeypatch)


def failing_when_captured(streams: Streams, error: Exception) -> Callable[[Tensor], Tensor]:
    def program(rows_M: Tensor) -> Tensor:
        if streams.captured:
            streams.broken = True
            raise error
        return rows_M

    return program


def test_a_program_is_tried_on_the_empty_seat_and_captured_on_one_stream(streams: Streams) -> None:
    """A stream for each capture, or another for the warm-up: cuBLAS keeps 32 MiB for every stream that it has seen."""
    ran: list[tuple[Stream, list[int]]] = []

    def program(rows_M: Tensor) -> Tensor:
        ran.append((streams.current, rows_M.tolist()))
        return rows_M

    graphs = Graphs(CPU, SPARE)
    for count in (1, 3):
        assert graphs._capture(program, count).rows_M.tolist() == [SPARE] * count
    (stream,) = streams.made
    assert streams.captured == [stream, stream]
    assert ran == [(stream, [SPARE])] * 3 + [(stream, [SPARE] * 3)] * 3
    assert streams.current is streams.home and graphs.captures == 2


@pytest.mark.parametrize("error", [RuntimeError("a copy from the host"), torch.OutOfMemoryError("no room")])
def test_a_program_that_cannot_be_captured_says_why(streams: Streams, error: Exception) -> None:
    """What ends a broken capture says only that there was an error; and all later work stays on the capture's stream,
    where nobody waits for it."""
    graphs = Graphs(CPU, SPARE)
    with pytest.raises(type(error), match=str(error)):
        graphs._capture(failing_when_captured(streams, error), 1)
    assert streams.current is streams.home and graphs.captures == 0


def test_a_timed_call_that_cannot_be_captured_leaves_its_stream(streams: Streams) -> None:
    """The events of the calls after it would be on another stream than the copies that they wait for."""
    program = failing_when_captured(streams, RuntimeError("a copy from the host"))
    with pytest.raises(RuntimeError):
        timing._captured([lambda: program(torch.zeros(1))], [], CPU)
    assert streams.current is streams.home
