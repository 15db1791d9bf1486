"""Whether what a kernel gave is what its float64 reference gives, to the accuracy that its dtype and sums allow.

An element may be off by

    roundings eps(dtype) (|want| + scale) + 4 eps(float32) sqrt(terms) scale

where scale is the size of what was added up (the root mean square of the row, unless said otherwise), because sums
cancel and errors do not. Inputs count as exact, since references start from the same rounded numbers. Zeros in place of
a result are far outside of this.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

FLOAT32_EPS = torch.finfo(torch.float32).eps


class Comparison(NamedTuple):
    """One output against its reference."""

    name: str
    error: float  # the largest difference, in units of what is allowed; above 1 it fails

    @property
    def passed(self) -> bool:
        """Whether the output is accurate enough."""
        return self.error <= 1


def close(
    name: str,
    got: Tensor,
    want: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    terms: int = 1,
    roundings: int = 1,
    scale: Tensor | float | None = None,
) -> Comparison:
    """Compare floats.

    Args:
        name: of the output.
        got: what was computed.
        want: the reference, float64.
        dtype: what the output, or what goes into its sums, is rounded to.
        terms: how many numbers are added up in float32.
        roundings: how often something is rounded to ``dtype`` on the way.
        scale: the size of those numbers; None: the root mean square of each row of ``want``.
    """
    if got.shape != want.shape:
        return Comparison(f"{name}: shape {list(got.shape)}, not {list(want.shape)}", math.inf)
    if got.numel() == 0:
        return Comparison(name, 0.0)
    if scale is None:
        scale = row_size(want)
    slack = roundings * torch.finfo(dtype).eps * (want.abs() + scale) + 4 * FLOAT32_EPS * math.sqrt(terms) * scale
    error = ((got.double() - want).abs() / slack).nan_to_num(nan=math.inf).amax()
    return Comparison(name, float(error))


def roughly(name: str, got: Tensor, want: Tensor, *, dtype: torch.dtype, terms: int = 1) -> Comparison:
    """Compare with a peer that rounds after each of its steps."""
    return close(name, got, want, dtype=dtype, terms=terms, scale=3 * row_size(want))


def row_size(want: Tensor) -> Tensor:
    """The root mean square of each row, which has as many dimensions."""
    return want.square().mean(-1, keepdim=True).sqrt()


def value(name: str, got: Tensor, want: Tensor, *, terms: int, dtype: torch.dtype = torch.float32) -> Comparison:
    """Compare statistics of distributions (nats, probabilities): each is of the size of itself, and of 1."""
    return close(name, got, want, dtype=dtype, terms=terms, scale=want.abs() + 1)


def share(name: str, got: Tensor, want: Tensor, *, terms: int) -> Comparison:
    """Compare numbers that may be small: each is of the size of itself alone."""
    return close(name, got, want, terms=terms, scale=want.abs() + 1e-30)


def equal(name: str, got: Tensor, want: Tensor) -> Comparison:
    """Compare whole numbers."""
    if got.shape != want.shape:
        return Comparison(f"{name}: shape {list(got.shape)}, not {list(want.shape)}", math.inf)
    wrong = int((got != want).sum())
    return Comparison(f"{name}: {wrong} of {got.numel()} differ" if wrong else name, math.inf if wrong else 0.0)


def between(name: str, got: Tensor, low: Tensor, high: Tensor) -> Comparison:
    """Whole numbers that rounding may move, but not past these bounds."""
    wrong = int(((got < low) | (got > high)).sum())
    return Comparison(f"{name}: {wrong} of {got.numel()} out of bounds" if wrong else name, math.inf if wrong else 0.0)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """``torch.empty`` gives NaN (the largest number, for integers) in here, so that what nobody writes shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
