"""Choosing the next token: greedy, or Gumbel-max over the filtered distribution with counter-based noise.

The filters act in the order of transformers' processors: temperature, top-k, top-p, min-p; each keeps at least the most
likely token. ``argmax(logits / T + Gumbel noise)`` is a draw from the softmax of ``logits / T`` (Gumbel 1954; Maddison
et al. 2014, arXiv:1411.0030).

Shape suffixes: N rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dodona.engine.errors import RequestError
from dodona.engine.philox import gumbel


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one model's tokens are drawn. The default, temperature 0, is greedy."""

    temperature: float = 0.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise RequestError(f"temperature must be a number of 0 or more, not {self.temperature}")
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 0:
            raise RequestError(f"top_k must be a whole number of 0 (off) or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p must lie in (0, 1], not {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise RequestError(f"min_p must lie in [0, 1], not {self.min_p}")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0


def filtered_logits(logits_NV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Logits over temperature in float32, with what top-k, top-p and min-p leave out set to -inf; no greedy rows."""

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=logits_NV.device).unsqueeze(1)

    scores = logits_NV.float() / column([s.temperature for s in samplings])
    vocab = scores.shape[-1]
    if any(0 < s.top_k < vocab or s.top_p < 1 for s in samplings):
        ordered, order = torch.sort(scores, dim=-1, descending=True, stable=True)
        ranks = torch.arange(vocab, device=scores.device)
        limits = column([s.top_k if 0 < s.top_k < vocab else vocab for s in samplings])
        ties = ordered < ordered.gather(1, limits.long() - 1)  # top-k keeps what equals the k-th score
        ordered = ordered.masked_fill(ties, float("-inf"))
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # mass of all that is more likely
        beyond = (before >= column([s.top_p for s in samplings])) & (ranks > 0)
        beyond &= column([s.top_p for s in samplings]) < 1
        ordered = ordered.masked_fill(beyond, float("-inf"))
        scores = torch.empty_like(scores).scatter_(1, order, ordered)
    if any(s.min_p > 0 for s in samplings):
        p = scores.softmax(-1)
        unlikely = p < column([s.min_p for s in samplings]) * p.amax(-1, keepdim=True)
        scores = scores.masked_fill(unlikely, float("-inf"))
    return scores


def choose(
    logits_NV: Tensor,
    top1_N: Tensor,
    samplings: Sequence[Sampling],
    keys: Sequence[tuple[int, int]],
    positions: Sequence[int],
) -> Tensor:
    """The token of each row, ``[N]`` int64.

    Args:
        logits_NV: raw logits.
        top1_N: their argmax, which greedy rows return as it is.
        samplings: each row's settings.
        keys: each row's Philox key (``philox.request_key``).
        positions: each row's generated-token index.
    """
    drawn = [row for row, sampling in enumerate(samplings) if not sampling.greedy]
    if not drawn:
        return top1_N
    device = logits_NV.device
    rows = torch.tensor(drawn, device=device)
    scores = filtered_logits(logits_NV[rows], [samplings[row] for row in drawn])
    noise = gumbel(
        torch.tensor([keys[row] for row in drawn], device=device),
        torch.tensor([positions[row] for row in drawn], device=device),
        scores.shape[-1],
    )
    return top1_N.scatter(0, rows, (scores + noise).argmax(-1))
