"""The one place where the host waits for a device. Every number that Python looks at comes through here."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor


def to_host(tensor: Tensor) -> list[Any]:
    """The tensor's numbers as (nested) Python lists; on a GPU this waits for everything queued before it."""
    values: list[Any] = tensor.tolist()
    return values


class Arrival:
    """A tensor on its way to the host, by a copy that nobody waits for, and how long the device took to make it.

    Make one before the work is queued and call ``fetch`` after it.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._started = self._event()
        self._there: Tensor | None = None

    def fetch(self, tensor: Tensor) -> None:
        """Queue the copy, behind what makes the tensor."""
        self._ended = self._event()
        if self._cuda:
            self._there = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
            self._there.copy_(tensor, non_blocking=True)
            self._copied = self._event()
        else:
            self._there = tensor

    @property
    def arrived(self) -> bool:
        """Whether it is here; asking does not wait."""
        return not self._cuda or self._copied.query()

    def wait(self, poll_seconds: float) -> list[Any]:
        """Its numbers, after looking for it again and again."""
        while not self.arrived:
            if poll_seconds:
                time.sleep(poll_seconds)
        assert self._there is not None
        return to_host(self._there)

    @property
    def milliseconds(self) -> float:
        """Time between construction and ``fetch``, on the device's own clock; only once it has arrived."""
        if self._cuda:
            return float(self._started.elapsed_time(self._ended))
        return 1e3 * float(self._ended - self._started)

    def _event(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
