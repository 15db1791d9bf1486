"""The decode step's operations by the Triton kernels, one launch or two each; same results as ``ops.TorchOps``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dodona.engine.cache import Feed, PagedBatch, PagedCache
from dodona.engine.linear import Product
from dodona.engine.sampling import Sampling
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

    def statistics(self, logits_NV: Tensor) -> Statistics:
        found = uncertainty(logits_NV)
        lse = torch.where(found.error == 0, found.lse, torch.nan)
        top1 = found.top1.clamp_min(0)
        return Statistics(lse, found.entropy, found.varentropy, top1, found.top_prob, found.margin)

    def choose(
        self,
        logits_NV: Tensor,
        top1_N: Tensor,
        samplings: Sequence[Sampling],
        keys: Sequence[tuple[int, int]],
        positions: Sequence[int],
    ) -> Tensor:
        if all(sampling.greedy for sampling in samplings):
            return top1_N
        device = logits_NV.device

        def floats(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)

        filtered = [s.top_k > 0 for s in samplings], [s.top_p < 1 for s in samplings], [s.min_p > 0 for s in samplings]
        drawn = sample(
            logits_NV,
            floats([s.temperature for s in samplings]),
            torch.tensor(keys, device=device),
            torch.tensor(positions, device=device),
            top_k_B=torch.tensor([s.top_k for s in samplings], device=device) if any(filtered[0]) else None,
            top_p_B=floats([s.top_p for s in samplings]) if any(filtered[1]) else None,
            min_p_B=floats([s.min_p for s in samplings]) if any(filtered[2]) else None,
        )
        return drawn.id.clamp_min(0)


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
