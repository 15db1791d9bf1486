"""The operations of a step that have two implementations: torch's, and the Triton kernels of ``dodona.kernels``.

Everything else (scheduling, caches, triggers) is the same for both. ``TorchOps`` is the reference and runs anywhere;
``TritonOps`` needs a CUDA device, or ``TRITON_INTERPRET=1`` to be tried out without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from dodona.engine.cache import Feed, PagedBatch, PagedCache
from dodona.engine.config import LlamaConfig
from dodona.engine.errors import RequestError
from dodona.engine.grid import Grid
from dodona.engine.llama import Attention, LayerWeights, PlainHead, PlainLayer
from dodona.engine.sampling import Settings, draw
from dodona.engine.scores import Choice, Scores
from dodona.engine.signals import Statistics, statistics


class LayerStep(Protocol):
    """What a decoder layer does in a forward."""

    def __call__(self, x_TE: Tensor, attention: Attention) -> Tensor:
        """The layer's output ``[T, E]``; x may be overwritten."""
        ...


class Head(Protocol):
    """The final norm and the output product."""

    def logits(self, hidden_NE: Tensor) -> Tensor:
        """As ``Llama.logits``."""
        ...

    def score(self, hidden_NE: Tensor, ids_Mw: Tensor, choice: Choice | None, *, want_logits: bool) -> Scores:
        """As ``Llama.score``."""
        ...


class Ops(Protocol):
    """What a model and the loop ask for. T tokens, E hidden, N rows, M slots, V vocabulary."""

    def layer(self, weights: LayerWeights, index: int, config: LlamaConfig) -> LayerStep:
        """A decoder layer of these weights, which are this caller's to keep."""
        ...

    def head(self, norm_E: Tensor, weight_VE: Tensor, config: LlamaConfig) -> Head:
        """The head of these weights."""
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
        self, logits_NV: Tensor, stats: Statistics, settings: Settings, keys_N2: Tensor, positions_N: Tensor
    ) -> Tensor:
        """The token of each row, as ``sampling.draw``; ``stats`` are those of the same logits."""
        ...


class TorchOps:
    """Plain PyTorch."""

    def layer(self, weights: LayerWeights, index: int, config: LlamaConfig) -> LayerStep:
        return PlainLayer(weights, index, config)

    def head(self, norm_E: Tensor, weight_VE: Tensor, config: LlamaConfig) -> Head:
        return PlainHead(norm_E, weight_VE, config)

    def batch(self, cache: PagedCache, feeds: Sequence[Feed]) -> PagedBatch:
        return PagedBatch(cache, feeds)

    def grid(self, cache: PagedCache, slots_M: Tensor, starts_M: Tensor, queries: int, pages: int) -> Attention:
        return Grid(cache, slots_M, starts_M, queries, pages)

    def statistics(self, logits_NV: Tensor) -> Statistics:
        return statistics(logits_NV)

    def draw(
        self, logits_NV: Tensor, stats: Statistics, settings: Settings, keys_N2: Tensor, positions_N: Tensor
    ) -> Tensor:
        return draw(logits_NV, stats.top1, settings, keys_N2, positions_N)


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
