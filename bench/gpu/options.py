"""What `dodona bench gpu` is told, as every part's process gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from dodona.bench.subject import Subject

EMBEDDED = ("arith-base", "arith-oracle")
DUMMIES = ("dummy:1B", "dummy:8B")
DRAWN = 1.0  # temperature, so that drawing a token is a part of every step that is timed


@dataclass(frozen=True, slots=True)
class Options:
    """The models, the device, and how much."""

    base: str
    oracle: str
    device: str
    quick: bool = False
    ceilings: Mapping[str, Any] = field(default_factory=dict)  # once they are measured

    @property
    def torch_device(self) -> torch.device:
        """The device."""
        return torch.device(self.device)

    @property
    def on_cuda(self) -> bool:
        """Whether it is a GPU; without one the same programs run on torch's operations, uncaptured."""
        return self.torch_device.type == "cuda"

    @property
    def ops(self) -> str:
        """The operations that are looked at."""
        return "triton" if self.on_cuda else "torch"

    def subject(self) -> Subject:
        """The models on the device's loop, in bfloat16 on a GPU."""
        dtype = "bfloat16" if self.on_cuda else "float32"
        return Subject(self.base, self.oracle, self.device, dtype, {"ops": self.ops, "loop": "device"})

    def eager(self) -> Subject:
        """The same on torch's operations and the host's loop."""
        ours = self.subject()
        return Subject(ours.base, ours.oracle, ours.device, ours.dtype, {"ops": "torch", "loop": "host"})
