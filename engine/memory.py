"""The memory plan: weights, KV caches and workspace against what the device has, before anything is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from dodona.engine.config import LlamaConfig
from dodona.engine.errors import OutOfMemoryError

GIB = 1 << 30
_WORKSPACE = 0.06  # share of the device kept for activations, graphs and the allocator's slack
_CPU_CACHE_SHARE = 0.25  # of the host's free memory, for both caches together


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One model's part of the plan."""

    name: str
    weight_bytes: int
    kv_bytes_per_token: int
    kv_tokens: int

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache."""
        return self.kv_bytes_per_token * self.kv_tokens


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What both models take, and what there is. Bytes."""

    models: tuple[ModelPlan, ...]
    total: int
    workspace: int
    wanted_tokens: int  # KV tokens a model that the batch and length ask for

    @property
    def used(self) -> int:
        """Bytes planned for weights, caches and workspace."""
        return self.workspace + sum(model.weight_bytes + model.kv_bytes for model in self.models)

    def lines(self) -> list[str]:
        """The plan as a table for people."""
        rows = [f"{'':24}{'weights':>12}{'KV a token':>12}{'KV tokens':>12}{'KV cache':>12}"]
        for model in self.models:
            rows.append(
                f"{model.name[:23]:24}{_size(model.weight_bytes):>12}{_size(model.kv_bytes_per_token):>12}"
                f"{model.kv_tokens:>12}{_size(model.kv_bytes):>12}"
            )
        rows.append(f"workspace {_size(self.workspace)}, in all {_size(self.used)} of {_size(self.total)}")
        if any(model.kv_tokens < self.wanted_tokens for model in self.models):
            rows.append(
                f"the batch at full length would use {self.wanted_tokens} KV tokens a model; "
                "the scheduler admits what fits and preempts under pressure"
            )
        return rows


def plan_memory(
    models: list[tuple[str, LlamaConfig, int]],
    *,
    total: int,
    cache_budget: int | None,
    max_batch: int,
    max_length: int,
    kv_tokens: int | None,
) -> MemoryPlan:
    """Fit weights and caches of the models into ``total`` bytes.

    Args:
        models: (name, config, bytes an element) of each model.
        total: free bytes of the device.
        cache_budget: bytes for all caches together; None: whatever the weights and the workspace leave.
        max_batch: sequences at once.
        max_length: tokens of a sequence, prompt and answer.
        kv_tokens: tokens of each cache, where the user fixed it; None: as many as the batch can use and memory allows.

    Raises:
        OutOfMemoryError: with the numbers and the setting that would fit.
    """
    workspace = int(total * _WORKSPACE) if cache_budget is None else 0
    weights = {name: config.num_parameters * size for name, config, size in models}
    per_token = {name: config.kv_bytes_per_token(size) for name, config, size in models}
    room = total - workspace - sum(weights.values())
    listed = ", ".join(f"{name} {_size(size)}" for name, size in weights.items())
    if room <= 0:
        raise OutOfMemoryError(
            f"the weights ({listed}) and {_size(workspace)} of workspace do not fit into {_size(total)}: "
            "take smaller models or a device with more memory"
        )
    if cache_budget is not None:
        room = min(room, cache_budget)
    wanted = max_batch * max_length
    fitting = room // max(1, sum(per_token.values()))
    if kv_tokens is not None and kv_tokens > fitting:
        raise OutOfMemoryError(
            f"kv_tokens={kv_tokens} needs {_size(kv_tokens * sum(per_token.values()))} of KV cache beside the weights "
            f"({listed}), and {_size(room)} is free: kv_tokens={fitting} fits"
        )
    tokens = kv_tokens if kv_tokens is not None else min(wanted, fitting)
    if tokens < 1:
        raise OutOfMemoryError(f"no room for a KV cache beside the weights ({listed}) in {_size(total)}")
    plans = tuple(ModelPlan(name, weights[name], per_token[name], tokens) for name, _, _ in models)
    return MemoryPlan(plans, total, workspace, wanted)


def device_memory(device: torch.device) -> tuple[int, int | None]:
    """Free bytes of a device, and the budget of the caches on it (None: all that is left)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0], None
    free = _host_free()
    return free, int(free * _CPU_CACHE_SHARE)


def _host_free() -> int:
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: fall through to what POSIX offers
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
