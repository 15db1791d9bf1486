"""The operations of a decode step that have two implementations: torch's, and the Triton kernels of ``dodona.kernels``.

Everything else (scheduling, caches, triggers) is the same for both. ``TorchOps`` is the reference and runs anywhere;
``TritonOps`` needs a CUDA device, or ``TRITON_INTERPRET=1`` to be tried out without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dodona.engine.errors import RequestError
from dodona.engine.linear import Product, product
from dodona.engine.sampling import Settings, draw
from dodona.engine.signals import Statistics, statistics

if TYPE_CHECKING:
    from dodona.engine.cache import Feed, PagedBatch, PagedCache
    from dodona.engine.llama import Attention


class Ops(Protocol):
    """What a model and the loop ask for. T tokens, E hidden, F intermediate, N rows, V vocabulary."""

    def rms_norm(self, x_TE: Tensor, weight_E: Tensor, eps: float) -> Tensor:
        """Root-mean-square norm of each row."""
        ...

    def silu_mul(self, gate_up_T2F: Tensor) -> Tensor:
        """SiLU of the gate half times the up half, ``[T, F]``."""
        ...

    def product(self, weight: Tensor, bias: Tensor | None) -> Product:
        """The function that multiplies by a weight."""
        ...

    def batch(self, cache: PagedCache, feeds: Sequence[Feed]) -> PagedBatch:
        """The attention of one ragged forward, whose tokens are already in the cache's pool."""
        ...

    def grid(self, cache: PagedCache, slots_M: Tensor, starts_M: Tensor, queries: int, pages: int) -> Attention:
        """The attention of a forward of ``queries`` tokens for each of some slots, from position ``starts`` on.

        Nothing here depends on values: the last ``pages`` may hold keys that are not live, which are masked.
        """
        ...

    def statistics(self, logits_NV: Tensor) -> Statistics:
        """Entropy, varentropy and the rest of each row."""
        ...

    def draw(
        self, logits_NV: Tensor, top1_N: Tensor, settings: Settings, keys_N2: Tensor, positions_N: Tensor
    ) -> Tensor:
        """The token of each row, as ``sampling.draw``."""
        ...


class TorchOps:
    """Plain PyTorch."""

    def rms_norm(self, x_TE: Tensor, weight_E: Tensor, eps: float) -> Tensor:
        return F.rms_norm(x_TE, weight_E.shape, weight_E, eps)

    def silu_mul(self, gate_up_T2F: Tensor) -> Tensor:
        gate, up = gate_up_T2F.chunk(2, -1)
        return F.silu(gate) * up

    def product(self, weight: Tensor, bias: Tensor | None) -> Product:
        return product(weight, bias)

    def batch(self, cache: PagedCache, feeds: Sequence[Feed]) -> PagedBatch:
        from dodona.engine.cache import PagedBatch

        return PagedBatch(cache, feeds)

    def grid(self, cache: PagedCache, slots_M: Tensor, starts_M: Tensor, queries: int, pages: int) -> Attention:
        from dodona.engine.grid import Grid

        return Grid(cache, slots_M, starts_M, queries, pages)

    def statistics(self, logits_NV: Tensor) -> Statistics:
        return statistics(logits_NV)

    def draw(
        self, logits_NV: Tensor, top1_N: Tensor, settings: Settings, keys_N2: Tensor, positions_N: Tensor
    ) -> Tensor:
        return draw(logits_NV, top1_N, settings, keys_N2, positions_N)


def make_ops(name: str, device: torch.device) -> Ops:
    """``torch`` or ``triton``.

    Raises:
        RequestError: an unknown name, or triton without a device to run on.
    """
    if name == "torch":
        return TorchOps()
    if name == "triton":
        from dodona.engine.triton_ops import TritonOps
        from dodona.kernels.launch import interpreting

        if device.type != "cuda" and not interpreting():
            raise RequestError("ops='triton' needs a CUDA device, or TRITON_INTERPRET=1 to try the kernels without one")
        return TritonOps()
    raise RequestError(f"ops must be 'torch' or 'triton', not {name!r}")
