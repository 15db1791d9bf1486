"""The kernels' work in plain torch, as one would write it without them: the peers of the operator benchmark.

Shape suffixes as in the kernels' files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:  # these run also where a kernel's module does not
    from dodona.kernels.norm import Norm
    from dodona.kernels.paged import PagedKV
    from dodona.kernels.rope import Rope
    from dodona.kernels.sample import Filters


def statistics(logits_BV: Tensor, ids_B: Tensor) -> tuple[Tensor, ...]:
    """Entropy, varentropy, largest probability, margin, its id, log-probability of the ids."""
    log_p = logits_BV.float().log_softmax(-1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(-1)
    varentropy = (p * (log_p + entropy.unsqueeze(1)).square()).sum(-1)
    top, top_ids = p.topk(2)
    logprob = log_p.gather(1, ids_B.unsqueeze(1)).squeeze(1)
    return entropy, varentropy, top[:, 0], top[:, 0] - top[:, 1], top_ids[:, 0], logprob


def draw(logits_BV: Tensor, temperature_B: Tensor, filters: Filters) -> Tensor:
    """An id a row, by exponential noise in place of a multinomial; top-k and top-p by sorting."""
    scores = logits_BV.float() / temperature_B.unsqueeze(1)
    if filters.top_k is not None and filters.top_p is not None and filters.min_p is not None:
        ordered, order = scores.sort(-1, descending=True)
        rank = torch.arange(scores.shape[1], device=scores.device)
        ordered = ordered.masked_fill(rank >= filters.top_k.unsqueeze(1), -torch.inf)
        p = ordered.softmax(-1)
        beyond = (p.cumsum(-1) - p >= filters.top_p.unsqueeze(1)) | (p < filters.min_p.unsqueeze(1) * p[:, :1])
        scores = torch.empty_like(scores).scatter_(1, order, ordered.masked_fill(beyond, -torch.inf))
    p = scores.softmax(-1)
    return (p / torch.empty_like(p).exponential_()).argmax(-1)


def compared(base_NV: Tensor, oracle_NV: Tensor, ids_N: Tensor) -> tuple[Tensor, ...]:
    """KL, JS, ranks of the ids and entropies under two models."""
    log_p, log_q = base_NV.float().log_softmax(-1), oracle_NV.float().log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    kl = (p * (log_p - log_q)).sum(-1)
    middle = ((p + q) / 2).log()
    js = ((p * (log_p - middle)).sum(-1) + (q * (log_q - middle)).sum(-1)) / 2
    at = ids_N.unsqueeze(1)
    base_rank = (log_p > log_p.gather(1, at)).sum(-1) + 1
    oracle_rank = (log_q > log_q.gather(1, at)).sum(-1) + 1
    return kl, js, base_rank, oracle_rank, -(p * log_p).sum(-1), -(q * log_q).sum(-1)


def rms_norm(x_TE: Tensor, norm: Norm) -> Tensor:
    """torch's own."""
    return F.rms_norm(x_TE, norm.weight_E.shape, norm.weight_E, norm.eps)


def silu_mul(gate_up_T2F: Tensor) -> Tensor:
    """SiLU of the gate times up."""
    gate, up = gate_up_T2F.chunk(2, -1)
    return F.silu(gate) * up


def linear(x_MK: Tensor, weight_NK: Tensor, norm: Norm | None, residual_MN: Tensor | None, silu: bool) -> Tensor:
    """Norm, product, SiLU-mul and residual, one after another."""
    y = F.linear(x_MK if norm is None else rms_norm(x_MK, norm), weight_NK)
    y = silu_mul(y) if silu else y
    return y if residual_MN is None else y + residual_MN


def rope_append(qkv_TR: Tensor, rope: Rope, positions_T: Tensor, pages: PagedKV, slots_T: Tensor, heads: int) -> Tensor:
    """Rotate q and k, write k and v to their pages, return q."""
    kv_heads, head_dim = pages.k_PSKD.shape[2:]
    q, k, v = qkv_TR.view(qkv_TR.shape[0], -1, head_dim).split((heads, kv_heads, kv_heads), 1)
    cos, sin = (table[positions_T].unsqueeze(1) for table in rope)

    def turned(x: Tensor) -> Tensor:
        return (x * cos + x.roll(head_dim // 2, -1) * sin).to(x.dtype)

    page = pages.table[slots_T, positions_T // pages.page_size]
    place = positions_T % pages.page_size
    pages.k_PSKD[page, place] = turned(k)
    pages.v_PSKD[page, place] = v
    return turned(q)


def decode(q_BHD: Tensor, k_BKCD: Tensor, v_BKCD: Tensor) -> Tensor:
    """One query a sequence over keys that lie in one piece."""
    out = F.scaled_dot_product_attention(q_BHD.unsqueeze(2), k_BKCD, v_BKCD, enable_gqa=True)
    return out.squeeze(2)


def extend(q_THD: Tensor, k_BKCD: Tensor, v_BKCD: Tensor, seen_TC: Tensor) -> Tensor:
    """The queries of one sequence over its keys, with a mask."""
    q = q_THD.transpose(0, 1).unsqueeze(0)
    out = F.scaled_dot_product_attention(q, k_BKCD, v_BKCD, attn_mask=seen_TC, enable_gqa=True)
    return out.squeeze(0).transpose(0, 1)


def attention_signals(q_BHD: Tensor, k_BKCD: Tensor, v_BKCD: Tensor) -> tuple[Tensor, ...]:
    """Attended values and the four signals, through stored scores."""
    group = q_BHD.shape[1] // k_BKCD.shape[1]
    k, v = k_BKCD.repeat_interleave(group, 1), v_BKCD.repeat_interleave(group, 1)
    x = (k @ q_BHD.unsqueeze(-1)).squeeze(-1).float() * q_BHD.shape[-1] ** -0.5
    log_a = x.log_softmax(-1)
    a = log_a.exp()
    entropy = -(a * log_a).sum(-1)
    agreement = (a - a.mean(1, keepdim=True)).abs().mean((1, 2))
    out = (a.to(v.dtype).unsqueeze(2) @ v).squeeze(2)
    return out, entropy.mean(1), entropy.var(1, correction=0), agreement, x.abs().mean((1, 2))
