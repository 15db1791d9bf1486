"""How far the base's next-token distribution is from the oracle's, from kept hidden states.

With p the base's distribution and q the oracle's of the same position, full vocabulary, temperature 1, nats:

    kl   KL(p || q) = sum p (ln p - ln q)
    js   [KL(p || r) + KL(q || r)] / 2,   r = (p + q) / 2;   at most ln 2

Hidden states are a few kilobytes a position where logits are hundreds, so they are what a sequence keeps until both
models have read it; logits are made again in blocks. ``kernels/pair.py`` does the same without storing any.

Shape suffixes: N positions, E hidden size (each model's own), V vocabulary.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dodona.engine.llama import Llama

_LOGITS_AT_ONCE = 1 << 24  # positions x vocabulary of one block


class Divergence(NamedTuple):
    """Of each position."""

    kl: Tensor  # [N] float32, nats, KL(base || oracle)
    js: Tensor  # [N] float32, nats


def divergence(base: Llama, oracle: Llama, base_NE: Tensor, oracle_NE: Tensor) -> Divergence:
    """KL and JS of each position, from what both models' ``forward`` returned."""
    block = max(1, _LOGITS_AT_ONCE // base.config.vocab_size)
    parts = [
        divergence_of_logits(base.logits(base_NE[at : at + block]), oracle.logits(oracle_NE[at : at + block]))
        for at in range(0, len(base_NE), block)
    ]
    if not parts:
        return Divergence(torch.zeros(0), torch.zeros(0))
    return Divergence(torch.cat([part.kl for part in parts]), torch.cat([part.js for part in parts]))


def divergence_of_logits(base_NV: Tensor, oracle_NV: Tensor) -> Divergence:
    """KL and JS of rows of raw logits; a logit of -inf is probability 0."""
    log_p, log_q = base_NV.float().log_softmax(-1), oracle_NV.float().log_softmax(-1)
    log_r = torch.logaddexp(log_p, log_q) - math.log(2)
    kl, p_r, q_r = (_kl(*pair) for pair in ((log_p, log_q), (log_p, log_r), (log_q, log_r)))
    return Divergence(kl.clamp_min(0), ((p_r + q_r) / 2).clamp(0, math.log(2)))  # rounding alone leaves the range


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)
