"""CUDA graphs: a step program is captured once for each shape and then replayed. Without a GPU it just runs.

A program has one input that changes, the numbers of its seats, and one output, its record; all else it reads and writes
in place. Before it is captured it runs on the empty seat, which changes nothing, so that kernels are compiled and
workspaces made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Program = Callable[[Tensor], Tensor]  # seats [M] -> record

_WARM_UPS = 2

_log = logging.getLogger(__name__)


class Captured(NamedTuple):
    """One captured program."""

    graph: torch.cuda.CUDAGraph
    rows_M: Tensor  # to be filled before a replay
    record: Tensor  # filled by it


class Graphs:
    """The captured programs of one device; they share one memory pool, as one runs at a time."""

    def __init__(self, device: torch.device, spare: int) -> None:
        self.device, self.spare = device, spare
        self.captures = self.replays = 0
        self._captured: dict[Hashable, Captured] = {}
        self._pool: Any = None  # a handle of torch's, made with the first capture
        self._stream: Any = None  # one for all warm-ups and captures, as cuBLAS keeps a workspace for each stream

    def run(self, key: Hashable, program: Program, rows: list[int]) -> Tensor:
        """Run a program on these seats, replaying it where it was captured under this key.

        Args:
            key: whatever the program's tensors and code depend on; None: it cannot be captured.
            rows: its seats.

        Returns:
            Its record on the device, to be copied before the next program runs.
        """
        rows_M = torch.tensor(rows, device="cpu")
        if self.device.type != "cuda":
            return program(rows_M)
        rows_M = rows_M.pin_memory()
        if key is None:
            return program(rows_M.to(self.device, non_blocking=True))
        if key not in self._captured:
            self._captured[key] = self._capture(program, len(rows))
        captured = self._captured[key]
        captured.rows_M.copy_(rows_M, non_blocking=True)
        captured.graph.replay()
        self.replays += 1
        return captured.record

    def forget(self) -> None:
        """Let go of everything captured, as the tensors that it used are no more."""
        self._captured.clear()
        self._pool = None

    def _capture(self, program: Program, count: int) -> Captured:
        rows_M = torch.full((count,), self.spare, device=self.device)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        here, graph = torch.cuda.current_stream(self.device), torch.cuda.CUDAGraph()
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                program(rows_M)
            try:
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                    record = program(rows_M)
            except RuntimeError as error:  # the end of a broken capture raises too, and says less
                first = error.__context__
                raise first if isinstance(first, RuntimeError) else error from None
        here.wait_stream(self._stream)
        self.captures += 1
        _log.debug("captured a step program of %d seats, the %dth", count, self.captures)
        return Captured(graph, rows_M, record)
