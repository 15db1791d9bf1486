"""What every kernel's wrapper needs around a launch: the machine, the tuning table, dependent launches, compile cases.

Nothing here reads a value from a device: what is launched depends on shapes, strides, dtypes and the device alone.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

TUNING_TABLE = Path(__file__).parent / "tuning.json"

log = logging.getLogger(__name__)


# The machine


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter: TRITON_INTERPRET=1, set before triton is imported."""
    return bool(triton.knobs.runtime.interpret)


@functools.cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability; (0, 0) in the interpreter."""
    return (0, 0) if interpreting() else torch.cuda.get_device_capability(device)


@functools.cache
def num_sms(device: torch.device) -> int:
    """Streaming multiprocessors; 1 in the interpreter, where splitting a row only costs time."""
    return 1 if interpreting() else torch.cuda.get_device_properties(device).multi_processor_count


def check_device(**tensors: Tensor | None) -> torch.device:
    """The one device that these tensors share.

    Raises:
        ValueError: they lie on different devices, or outside a GPU that Triton supports.
    """
    devices = {name: tensor.device for name, tensor in tensors.items() if tensor is not None}
    if len(set(devices.values())) != 1:
        raise ValueError(f"tensors of one call lie on different devices: {devices}")
    device = next(iter(devices.values()))
    if not interpreting():
        if device.type != "cuda":
            raise ValueError(f"these kernels need a CUDA device, or TRITON_INTERPRET=1 to be tried out, not {device}")
        if capability(device) < (8, 0):
            raise ValueError(f"these kernels need compute capability 8.0 or later, and {device} has less")
    return device


# Block sizes by device and shape


def config_for(
    op: str, shape_key: tuple[int, ...], device: torch.device, default: Mapping[str, int]
) -> Mapping[str, int]:
    """Block sizes, warps and stages of an op at a shape: tuning.json's entry for this device, else the default.

    The table is ``{device name: {op: {"4096x1024": {"BLOCK": 2048, "num_warps": 8}}}}``; what an entry does not name
    keeps its default. A missing entry is said once; the interpreter always takes the default.

    Raises:
        ValueError: an entry names something that the default does not.
    """
    if interpreting():
        return default
    entry = _table_entry(op, "x".join(map(str, shape_key)), torch.cuda.get_device_name(device))
    if unknown := entry.keys() - default.keys():
        raise ValueError(f"{TUNING_TABLE.name}: {op} has no {', '.join(sorted(unknown))}")
    return MappingProxyType({**default, **entry})


@functools.cache
def _table() -> Mapping[str, Mapping[str, Mapping[str, Mapping[str, int]]]]:
    return json.loads(TUNING_TABLE.read_text(encoding="utf-8"))


@functools.cache
def _table_entry(op: str, shape: str, device_name: str) -> Mapping[str, int]:
    entry = _table().get(device_name, {}).get(op, {}).get(shape)
    if entry is None:
        log.info("no tuned block sizes for %s at %s on %s: the default is used", op, shape, device_name)
        return MappingProxyType({})
    return MappingProxyType(entry)


# Programmatic dependent launch (compute capability 9.0 and later)


def pdl_supported(device: torch.device) -> bool:
    """Whether a kernel may be launched before its predecessor ends: the value of a kernel's ``USE_PDL``."""
    return capability(device) >= (9, 0)


def pdl_options(use_pdl: bool) -> dict[str, bool]:
    """The launch keyword that goes with ``USE_PDL=use_pdl``: ``kernel[grid](..., **pdl_options(use_pdl))``."""
    return {"launch_pdl": True} if use_pdl else {}


@triton.jit
def wait_for_producers(USE_PDL: tl.constexpr):
    """Block until the kernels before this one have finished and their stores are seen. Every kernel launched with PDL
    calls it before its first access that depends on them, writes to reused buffers included."""
    if USE_PDL:
        gdc_wait()


@triton.jit
def let_dependents_start(USE_PDL: tl.constexpr):
    """Allow the next kernel to be scheduled; it sees this one's stores only after its own wait."""
    if USE_PDL:
        gdc_launch_dependents()


# Compiling without a GPU


class LlamaShape(NamedTuple):
    """What a kernel's arguments depend on in one of the models that dodona is made for."""

    name: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int


LLAMA_SHAPES = (
    LlamaShape("1B", 2048, 32, 8, 64, 8192, 128256),
    LlamaShape("3B", 3072, 24, 8, 128, 8192, 128256),
    LlamaShape("8B", 4096, 32, 8, 128, 14336, 128256),
    LlamaShape("70B", 8192, 64, 8, 128, 28672, 128256),
)


class CompileCase(NamedTuple):
    """One kernel at one shape. Every kernel module has ``compile_cases() -> Iterator[CompileCase]``."""

    name: str  # "sample [8, 128256] bf16"
    fn: Any  # the jit function
    signature: dict[str, str]  # argument: type, as `signature_of` writes it; all arguments that are not constexprs
    constexprs: dict[str, Any]  # without USE_PDL, which the report sets to True from compute capability 9.0 on
    num_warps: int
    num_stages: int


_POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.uint8: "*u8",
    torch.int8: "*i8",
    torch.bool: "*i1",
}


def signature_of(**arguments: Any) -> dict[str, str]:
    """Types of a kernel's arguments, specialised as Triton does at a launch.

    A dtype stands for a pointer to it (16-byte aligned, as torch allocates); an int or float for a number of that
    value, with ``:16`` where the compiler may know that 16 divides it; an int of 1 and None are constants.
    """

    def one(value: Any) -> str:
        if value is None or (isinstance(value, int) and value == 1):
            return f"constexpr:{value}"
        if isinstance(value, torch.dtype):
            return f"{_POINTERS[value]}:16"
        if isinstance(value, float):
            return "fp32"
        width = "i32" if -(2**31) <= value < 2**31 else "i64"
        return f"{width}:16" if value % 16 == 0 else width

    return {name: one(value) for name, value in arguments.items()}
