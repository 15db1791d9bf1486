"""Part (a): what the machine is, and how fast its memory can be read and copied."""

from __future__ import annotations

from typing import Any

import torch

from dodona.bench.apart import Work
from dodona.bench.birth import birth_certificate, clocks
from dodona.bench.ceiling import ceilings
from dodona.bench.gpu.options import Options
from dodona.bench.gpu.piece import Outcome, outcome

PIECES = ("device", "ceilings", "matrix product")


def pieces(options: Options) -> tuple[str, ...]:
    """All of them."""
    return PIECES


def worker(options: Options) -> Work:
    """Gives a piece by its name."""
    device = options.torch_device

    def work(name: str) -> Outcome:
        if name == "device":
            return outcome(_facts(device))
        if name == "ceilings":
            return outcome(ceilings(device, quick=options.quick) | {"clocks": clocks()})
        return outcome(_product(device, size=512 if device.type == "cpu" else 8192))

    return work


def _facts(device: torch.device) -> dict[str, Any]:
    facts = birth_certificate("", device)
    facts.pop("command")
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        facts |= {"free_bytes": free, "total_bytes": total, "matmul_precision": torch.get_float32_matmul_precision()}
    return facts


def _product(device: torch.device, size: int) -> dict[str, float]:
    """A large matrix product on random numbers in bfloat16, for what long extends are measured against."""
    import time

    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.empty(size, size, dtype=torch.bfloat16, device=device).normal_(generator=generator) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return {"size": size, "tflop_s": 2 * size**3 / best / 1e12}
