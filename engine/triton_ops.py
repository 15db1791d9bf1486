"""The step's operations by the Triton kernels; same results as ``ops.TorchOps``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dodona.engine.cache import Feed, PagedBatch, PagedCache
from dodona.engine.config import LlamaConfig
from dodona.engine.fused import FusedHead, FusedLayer, sampled, statistics_of
from dodona.engine.llama import Attention, LayerWeights
from dodona.engine.sampling import Settings
from dodona.engine.scores import Choice
from dodona.engine.signals import Statistics
from dodona.engine.triton_attention import TritonBatch, TritonGrid
from dodona.kernels.uncertainty import Uncertainty, uncertainty


class TritonOps:
    """Kernels where they are made for the shape; see fused.py for where they are not."""

    def layer(self, weights: LayerWeights, index: int, config: LlamaConfig) -> FusedLayer:
        return FusedLayer(weights, index, config)

    def head(self, norm_E: Tensor, weight_VE: Tensor, config: LlamaConfig) -> FusedHead:
        return FusedHead(norm_E, weight_VE, config)

    def batch(self, cache: PagedCache, feeds: Sequence[Feed]) -> PagedBatch:
        return TritonBatch(cache, feeds)

    def grid(self, cache: PagedCache, slots_M: Tensor, starts_M: Tensor, queries: int, pages: int) -> Attention:
        return TritonGrid(cache, slots_M, starts_M, queries)

    def statistics(self, logits_NV: Tensor) -> Statistics:
        return statistics_of(uncertainty(logits_NV))

    def draw(
        self, logits_NV: Tensor, stats: Statistics, settings: Settings, keys_N2: Tensor, positions_N: Tensor
    ) -> Tensor:
        known = Uncertainty(
            lse=stats.lse,
            entropy=stats.entropy,
            varentropy=stats.varentropy,
            top_logit=stats.top_logit,
            top_prob=stats.top_prob,
            second_prob=stats.top_prob - stats.margin,
            margin=stats.margin,
            logprob=stats.top_logit - stats.lse,
            top1=stats.top1,
            error=stats.lse.isnan().to(torch.int32),
        )
        return sampled(logits_NV, known, Choice(settings, keys_N2, positions_N)).id.clamp_min(0)
