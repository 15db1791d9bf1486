"""Statistics of next-token distributions in plain PyTorch: full vocabulary, temperature 1, natural logarithms, float32.

Shape suffixes: N rows, V vocabulary. Definitions, with p the softmax of a row of raw logits:

    entropy     H = -sum p ln p                      nats
    varentropy  sum p (ln p + H)^2                   nats^2   (the variance of the surprise -ln p)
    top_prob    the largest p
    margin      the largest minus the second largest p
    logprob     ln p of a given token                nats
    rank        1 + how many tokens have a strictly larger logit than the given one
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BASE_SIGNALS = ("entropy", "varentropy", "top_prob", "margin", "logprob")
ORACLE_SIGNALS = ("oracle_logprob", "oracle_rank", "oracle_top1", "oracle_entropy", "oracle_margin", "agree")


class Statistics(NamedTuple):
    """What one pass over a row of logits gives. A NaN ``lse`` marks a row with NaN or without a finite logit."""

    lse: Tensor  # [N] float32, nats: ln sum exp logits; NaN for a broken row
    entropy: Tensor  # [N] float32, nats
    varentropy: Tensor  # [N] float32, nats^2
    top1: Tensor  # [N] int64, the lowest id among the largest logits
    top_prob: Tensor  # [N] float32
    margin: Tensor  # [N] float32
    top_logit: Tensor  # [N] float32


def statistics(logits_NV: Tensor) -> Statistics:
    """Entropy, varentropy and the two largest probabilities of each row; -inf logits count as probability 0."""
    x = logits_NV.float()
    top, top1 = x.max(-1, keepdim=True)
    shifted = x - top
    weight = shifted.exp()
    total = weight.sum(-1, keepdim=True)
    log_total = total.log()
    p = weight / total
    surprise = log_total - shifted.clamp_min(-200.0)  # -ln p; exp(-200) is 0 in float32, so 0 * inf never happens
    entropy = (p * surprise).sum(-1)
    varentropy = (p * (surprise - entropy.unsqueeze(-1)).square()).sum(-1)
    top_prob = total.reciprocal().squeeze(-1)
    second = p.scatter(-1, top1, 0.0).amax(-1)
    lse = (top + log_total).squeeze(-1)
    lse = torch.where(lse.isfinite(), lse, torch.nan)
    return Statistics(lse, entropy, varentropy, top1.squeeze(-1), top_prob, top_prob - second, top.squeeze(-1))


def logprob(logits_NV: Tensor, lse_N: Tensor, ids_N: Tensor) -> Tensor:
    """``[N]`` float32: ln p of the given ids, at temperature 1."""
    return logits_NV.gather(-1, ids_N.unsqueeze(-1)).squeeze(-1).float() - lse_N


def rank(logits_NV: Tensor, ids_N: Tensor) -> Tensor:
    """``[N]`` int64: 1 + the number of tokens whose logit is strictly larger than the given one's."""
    return 1 + (logits_NV > logits_NV.gather(-1, ids_N.unsqueeze(-1))).sum(-1)
