"""Checks of the arguments of public wrappers: shapes, strides and dtypes, never values."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
INTEGERS = (torch.int32, torch.int64)


def check_float(name: str, x: Tensor, shape: tuple[int | None, ...], like: Tensor | None = None) -> None:
    """A floating-point tensor of this shape (None: any size) whose last dimension is contiguous.

    Raises:
        ValueError: it is not, or its dtype is not that of ``like``.
    """
    if x.dtype not in FLOATS or (like is not None and x.dtype != like.dtype):
        wanted = "bfloat16, float16 or float32" if like is None else str(like.dtype).removeprefix("torch.")
        raise ValueError(f"{name} must be {wanted}, not {x.dtype}")
    _check_shape(name, x, shape)
    if x.shape[-1] > 1 and x.numel() and x.stride(-1) != 1:
        raise ValueError(f"{name} must be contiguous in its last dimension, not of strides {tuple(x.stride())}")


def check_integer(name: str, x: Tensor, shape: tuple[int | None, ...]) -> None:
    """An int32 or int64 tensor of this shape (None: any size) whose last dimension is contiguous.

    Raises:
        ValueError: it is not.
    """
    if x.dtype not in INTEGERS:
        raise ValueError(f"{name} must be int32 or int64, not {x.dtype}")
    _check_shape(name, x, shape)
    if x.shape[-1] > 1 and x.numel() and x.stride(-1) != 1:
        raise ValueError(f"{name} must be contiguous in its last dimension, not of strides {tuple(x.stride())}")


def _check_shape(name: str, x: Tensor, shape: tuple[int | None, ...]) -> None:
    fits = x.dim() == len(shape) and all(want in (None, have) for have, want in zip(x.shape, shape, strict=True))
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must have shape [{wanted}], not {list(x.shape)}")
