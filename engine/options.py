"""What the options of ``Engine`` come to: device, dtype, and what runs a step."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from dodona.engine.errors import RequestError

# Parameters below which one CPU thread is used: waking a second one for microseconds of work gains nothing, and on a
# machine busy with something else the two wait for each other at every operation (6700 tokens/s became 260).
ONE_THREAD = 10_000_000


class Backend(NamedTuple):
    """What runs a step."""

    ops: str  # torch or triton: its operations
    loop: str  # host or device: where it is decided


BACKENDS = MappingProxyType({"eager": Backend("torch", "host"), "triton": Backend("triton", "device")})


def backend_of(options: Mapping[str, Any]) -> Backend:
    """What the options ``backend``, ``ops`` and ``loop`` of Engine come to.

    Raises:
        RequestError: there is no such backend or loop.
    """
    name, loop = options.get("backend") or "eager", options.get("loop")
    if name not in BACKENDS:
        raise RequestError(f"backend must be {' or '.join(map(repr, BACKENDS))}, not {name!r}")
    if loop not in (None, "host", "device"):
        raise RequestError(f"loop must be 'host' or 'device', not {loop!r}")
    return Backend(options.get("ops") or BACKENDS[name].ops, loop or BACKENDS[name].loop)


def device_of(device: str | torch.device | None) -> torch.device:
    """The device that an option names.

    Raises:
        RequestError: it is unknown, or not here.
    """
    try:
        chosen = (
            torch.device(device) if device is not None else torch.device("cuda" if torch.cuda.is_available() else "cpu")
        )
    except RuntimeError as error:
        raise RequestError(f"unknown device {device!r}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise RequestError(f"device {chosen} is not supported: cpu or cuda")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise RequestError("no CUDA device was found: use device='cpu'")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise RequestError(f"there is no device {chosen}: this machine has {torch.cuda.device_count()} of them")
    return chosen


def current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a device CUDA's current one, which is where Triton launches, whatever its arguments are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def dtype_of(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """The dtype that an option names, or the device's own.

    Raises:
        RequestError: it is none that models run in.
    """
    names = {"bfloat16": torch.bfloat16, "bf16": torch.bfloat16, "float16": torch.float16, "fp16": torch.float16}
    names |= {"float32": torch.float32, "fp32": torch.float32}
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    chosen = names.get(dtype) if isinstance(dtype, str) else dtype
    if chosen not in names.values():
        raise RequestError(f"dtype {dtype!r} is not one of float32, bfloat16, float16")
    assert chosen is not None
    return chosen
