"""The bytes that a forward must read at least, and what that makes of a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dodona.engine.config import LlamaConfig


def weight_bytes(config: LlamaConfig, itemsize: int) -> int:
    """Weights that every forward reads once: all matrices (the output matrix once, of the lookup nothing) and norms."""
    return (config.matmul_parameters + (2 * config.num_layers + 1) * config.hidden_size) * itemsize


def forward_bytes(config: LlamaConfig, itemsize: int, contexts: Iterable[int]) -> int:
    """Bytes of one forward: the weights once, and each sequence's keys and values, of ``contexts`` tokens."""
    return weight_bytes(config, itemsize) + sum(contexts) * config.kv_bytes_per_token(itemsize)


def against_ceiling(size: float, milliseconds: float, ceilings: Mapping[str, Any]) -> dict[str, float]:
    """Bytes, GB/s, and percent of the read ceiling measured in the same run."""
    rate = size / milliseconds / 1e6
    figures = {"bytes": size, "gb_s": rate}
    if ceilings.get("read_gb_s"):
        figures["floor_ms"] = size / ceilings["read_gb_s"] / 1e6
        figures["percent_of_read"] = 100 * rate / ceilings["read_gb_s"]
    return figures
