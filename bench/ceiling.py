"""How fast the memory of a device can be read and copied at most, by the best of a few ways to do it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

_MIB = 1 << 20
CPU_MIB, QUICK_MIB = 512, 128  # buffers, larger than the caches of most processors
ROUNDS = 5


def ceilings(device: torch.device, *, quick: bool = False) -> dict[str, Any]:
    """GB/s (10^9 bytes): ``read_gb_s``, and ``copy_gb_s`` counting bytes read and written."""
    if device.type == "cuda":
        from dodona.bench.timing import measure_ceilings

        found = measure_ceilings(device)
        return {"read_gb_s": found.read, "copy_gb_s": found.copy}
    return _on_cpu((QUICK_MIB if quick else CPU_MIB) * _MIB)


def _on_cpu(size: int) -> dict[str, Any]:
    """With torch's threads, as the models run."""
    width = 4096
    matrix = torch.ones(size // 4 // width, width)
    vector, flat, other = torch.ones(width), matrix.flatten(), torch.empty(matrix.numel())
    half = matrix.bfloat16() if size <= QUICK_MIB * _MIB else None
    reads: list[tuple[int, Callable[[], object]]] = [
        (size, lambda: torch.mv(matrix, vector)),
        (size, flat.sum),
        (size, flat.max),
        (size, flat.view(torch.int64).sum),
    ]
    if half is not None:
        reads.append((size // 2, lambda: torch.mv(half, vector.bfloat16())))
    return {
        "read_gb_s": max(bytes_ / _fastest(call) for bytes_, call in reads) / 1e9,
        "copy_gb_s": 2 * size / _fastest(lambda: other.copy_(flat)) / 1e9,
        "buffer_mib": size // _MIB,
        "threads": torch.get_num_threads(),
    }


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of a few calls, after one to warm up."""
    best = float("inf")
    for round_ in range(ROUNDS + 1):
        started = time.perf_counter()
        call()
        if round_:
            best = min(best, time.perf_counter() - started)
    return best
