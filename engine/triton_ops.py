"""The decode step's operations by the Triton kernels, one launch or two each; same results as ``ops.TorchOps``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dodona.engine.cache import Feed, PagedBatch, PagedCache
from dodona.engine.linear import Product
from dodona.engine.llama import Attention
from dodona.engine.sampling import Settings
from dodona.engine.signals import Statistics
from dodona.kernels.attention import attention_decode, attention_extend
from dodona.kernels.linear import linear
from dodona.kernels.mlp import silu_mul
from dodona.kernels.norm import Norm, rms_norm
from dodona.kernels.paged import PagedKV
from dodona.kernels.rope import Rope, rope_append
from dodona.kernels.sample import sample
from dodona.kernels.stream import MAX_ROWS
from dodona.kernels.uncertainty import uncertainty


class TritonOps:
    """Kernels where they are made for the shape: products of more than ``MAX_ROWS`` rows are torch's."""

    def rms_norm(self, x_TE: Tensor, weight_E: Tensor, eps: float) -> Tensor:
        return rms_norm(x_TE, Norm(weight_E, eps)).hidden_TE

    def silu_mul(self, gate_up_T2F: Tensor) -> Tensor:
        return silu_mul(gate_up_T2F)

    def product(self, weight: Tensor, bias: Tensor | None) -> Product:
        def multiply(x: Tensor) -> Tensor:
            return linear(x, weight, bias_N=bias) if x.shape[0] <= MAX_ROWS else F.linear(x, weight, bias)

        return multiply

    def batch(self, cache: PagedCache, feeds: Sequence[Feed]) -> PagedBatch:
        return TritonBatch(cache, feeds)

    def grid(self, cache: PagedCache, slots_M: Tensor, starts_M: Tensor, queries: int, pages: int) -> Attention:
        return TritonGrid(cache, slots_M, starts_M, queries, pages)

    def statistics(self, logits_NV: Tensor) -> Statistics:
        found = uncertainty(logits_NV)
        lse = torch.where(found.error == 0, found.lse, torch.nan)
        top1 = found.top1.clamp_min(0)
        return Statistics(lse, found.entropy, found.varentropy, top1, found.top_prob, found.margin)

    def draw(
        self, logits_NV: Tensor, top1_N: Tensor, settings: Settings, keys_N2: Tensor, positions_N: Tensor
    ) -> Tensor:
        ordered, min_p = settings.ordered, settings.min_p
        drawn = sample(
            logits_NV,
            settings.temperature_N,
            keys_N2.contiguous(),
            positions_N,
            top_k_B=settings.top_k_N if ordered else None,
            top_p_B=settings.top_p_N if ordered else None,
            min_p_B=settings.min_p_N if min_p else None,
        )
        return drawn.id.clamp_min(0)


class TritonGrid:
    """A grid (see grid.py) whose rotary embedding, cache append and attention are kernels, which need no ``pages``."""

    def __init__(self, cache: PagedCache, slots_M: Tensor, starts_M: Tensor, queries: int, pages: int) -> None:
        self.cache, self.queries = cache, queries
        self._slots_M, device = slots_M, cache.device
        positions_Mn = starts_M.unsqueeze(1) + torch.arange(queries, device=device)
        capacity = min(cache.page_table.shape[1] * cache.pool.page_size, cache.config.max_position_embeddings)
        # Padding past the end goes to page 0, by way of a slot that has no pages.
        beyond = positions_Mn >= capacity
        self._positions_T = positions_Mn.masked_fill(beyond, 0).flatten()
        self._slots_T = slots_M.unsqueeze(1).expand(-1, queries).masked_fill(beyond, 0).flatten()
        self._lengths_M = starts_M + queries
        self._starts = torch.arange(len(slots_M) + 1, device=device) * queries

    def rotate_by(self, cos_PD: Tensor, sin_PD: Tensor) -> None:
        """Take the rotary tables."""
        self._rope = Rope(cos_PD, sin_PD)

    def attend(self, layer: int, qkv_TR: Tensor) -> Tensor:
        """Rotate q and k, write keys and values to their pages, attend over the live keys; returns ``[T, H*D]``."""
        cache = self.cache
        pages = PagedKV(*cache.paged[layer], cache.page_table)
        q_THD = rope_append(qkv_TR, self._rope, self._positions_T, pages, self._slots_T, heads=cache.config.num_heads)
        if self.queries == 1:
            out_THD = attention_decode(q_THD, pages, self._lengths_M, self._slots_M).out_THD
        else:
            out_THD = attention_extend(
                q_THD, pages, self._starts, self._lengths_M, self._slots_M, max_queries=self.queries
            )
        return out_THD.flatten(1)


class TritonBatch(PagedBatch):
    """A ragged forward whose rotary embedding, cache append and attention are kernels."""

    def __init__(self, cache: PagedCache, feeds: Sequence[Feed]) -> None:
        super().__init__(cache, feeds)
        ordered = self.ordered
        counts = torch.tensor([len(feed.ids) for feed in ordered], device=cache.device)
        self._slots_B = torch.tensor([feed.slot for feed in ordered], device=cache.device)
        self._slots_T = self._slots_B.repeat_interleave(counts)
        self._lengths_B = cache.lengths[self._slots_B]
        self._starts = F.pad(counts.cumsum(0), (1, 0))
        self._longest = max((len(feed.ids) for feed in ordered), default=1)

    def attend(self, layer: int, qkv_TR: Tensor) -> Tensor:
        cache = self.cache
        k_PSKD, v_PSKD = cache.paged[layer]
        pages = PagedKV(k_PSKD, v_PSKD, cache.page_table)
        q_THD = rope_append(
            qkv_TR, Rope(self.cos_PD, self.sin_PD), self.positions_T, pages, self._slots_T, heads=cache.config.num_heads
        )
        if self._longest == 1:
            out_THD = attention_decode(q_THD, pages, self._lengths_B, self._slots_B).out_THD
        else:
            out_THD = attention_extend(
                q_THD, pages, self._starts, self._lengths_B, self._slots_B, max_queries=self._longest
            )
        return out_THD.flatten(1)
