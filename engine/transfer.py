"""The one place where the host waits for a device. Every number that Python looks at comes through here."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def to_host(tensor: Tensor) -> list[Any]:
    """The tensor's numbers as (nested) Python lists; on a GPU this waits for everything queued before it."""
    values: list[Any] = tensor.tolist()
    return values
