"""What one layer's attention heads look at, for chosen tokens of a forward: the attention signals, in plain PyTorch.

With a_hj the attention of head h to live key j, of n live keys (never padding):

    attn_entropy          mean_h H_h,   H_h = -sum_j a_hj ln a_hj        nats
    attn_varentropy       mean_h (H_h - mean_h H_h)^2                    nats^2
    agreement             mean_h mean_j |a_hj - mean_h a_hj|             falls as 1/n
    interaction_strength  mean_h mean_j |q_h.k_j / sqrt(D)|

``kernels/attention_signals.py`` has the same for a decode step on a GPU.

Shape suffixes: R tokens, C keys (live and padding), K key/value heads, G query heads per key/value head, H = K*G,
D head size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dodona.engine.cache import PagedCache

ATTENTION_SIGNALS = ("attn_entropy", "attn_varentropy", "agreement", "interaction_strength")


class Observed:
    """Asks one forward for the attention of some of its tokens, and keeps the answer.

    Args:
        layers: layer of each token.
        rows: place of each token in the ragged forward.
        slots: its sequence's slot.
        positions: its position there, which is the last of its live keys.
    """

    def __init__(self, layers: list[int], rows: list[int], slots: list[int], positions: list[int]) -> None:
        self._wanted: dict[int, list[int]] = {}
        for index, layer in enumerate(layers):
            self._wanted.setdefault(layer, []).append(index)
        self._tokens = list(zip(rows, slots, positions, strict=True))
        self.values_R4: list[Tensor | None] = [None] * len(layers)  # [4] float32 each, as ATTENTION_SIGNALS

    def look(self, cache: PagedCache, layer: int, q_THD: Tensor) -> None:
        """Take the rotated queries of a layer, whose keys are in their pages already."""
        wanted = self._wanted.get(layer)
        if wanted is None:
            return
        rows, slots, positions = zip(*(self._tokens[index] for index in wanted), strict=True)
        device = cache.device
        found = attention_signals(
            cache,
            layer,
            q_THD[torch.tensor(rows, device=q_THD.device)].to(device),
            torch.tensor(slots, device=device),
            torch.tensor(positions, device=device),
            cache.pool.pages_for(max(positions) + 1),
        )
        for index, values in zip(wanted, found, strict=True):
            self.values_R4[index] = values


def attention_signals(
    cache: PagedCache, layer: int, q_RHD: Tensor, slots_R: Tensor, positions_R: Tensor, pages: int
) -> Tensor:
    """The four signals of each token, ``[R, 4]`` float32, in the order of ``ATTENTION_SIGNALS``.

    Args:
        q_RHD: rotated queries of the layer.
        pages: of each slot, in which all its live keys lie.
    """
    rows, heads, dim = q_RHD.shape
    keys_PSKD = cache.paged[layer][0]
    held = cache.page_table[slots_R, :pages].flatten().to(keys_PSKD.device)
    k_RCKD = keys_PSKD[held].reshape(rows, -1, *keys_PSKD.shape[2:]).float().to(q_RHD.device)
    q_RKGD = q_RHD.float().view(rows, k_RCKD.shape[2], -1, dim)
    scores_RHC = torch.einsum("rkgd,rckd->rkgc", q_RKGD, k_RCKD).reshape(rows, heads, -1) * dim**-0.5
    live_R1C = torch.arange(k_RCKD.shape[1], device=q_RHD.device) <= positions_R.view(-1, 1, 1)
    count_R = (positions_R + 1).float()
    weights_RHC = scores_RHC.masked_fill(~live_R1C, float("-inf")).softmax(-1)
    entropy_RH = -torch.special.xlogy(weights_RHC, weights_RHC).sum(-1)
    away_RHC = (weights_RHC - weights_RHC.mean(1, keepdim=True)).abs()
    strength_RHC = scores_RHC.abs().masked_fill(~live_R1C, 0.0)
    columns = (
        entropy_RH.mean(-1),
        entropy_RH.var(-1, correction=0),
        away_RHC.sum(-1).mean(-1) / count_R,
        strength_RHC.sum(-1).mean(-1) / count_R,
    )
    return torch.stack(columns, -1)
