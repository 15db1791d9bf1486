"""Choosing the next token: greedy, or Gumbel-max over the filtered distribution with counter-based noise.

The filters act in the order of transformers' processors: temperature, top-k, top-p, min-p; each keeps at least the most
likely token. ``argmax(logits / T + Gumbel noise)`` is a draw from the softmax of ``logits / T`` (Gumbel 1954; Maddison
et al. 2014, arXiv:1411.0030).

Shape suffixes: N rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from dodona.engine.errors import RequestError
from dodona.engine.philox import gumbel
from dodona.engine.signals import Statistics


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one model's tokens are drawn. The default, temperature 0, is greedy.

    Raises:
        RequestError: a number out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # in (0, 1]; 1: off
    min_p: float = 0.0  # in [0, 1]; 0: off

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise RequestError(f"temperature must be a number of 0 or more, not {self.temperature}")
        if isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 0:
            raise RequestError(f"top_k must be a whole number of 0 (off) or more, not {self.top_k}")
        if self.top_k > 2**31 - 1:
            raise RequestError(f"top_k must be {2**31 - 1} at most, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p must lie in (0, 1], not {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise RequestError(f"min_p must lie in [0, 1], not {self.min_p}")

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0


class Settings(NamedTuple):
    """The settings of many rows as tensors, and which of them matter for any row (known to the host)."""

    temperature_N: Tensor  # float32, 0 is greedy
    top_k_N: Tensor  # int64, 0 is off
    top_p_N: Tensor  # float32
    min_p_N: Tensor  # float32
    ordered: bool  # whether some row has top-k or top-p
    min_p: bool  # whether some row has min-p


def settings_of(samplings: Sequence[Sampling], device: torch.device) -> Settings:
    """One row for each of the samplings."""

    def column(values: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    return Settings(
        column([s.temperature for s in samplings]),
        column([s.top_k for s in samplings], torch.int64),
        column([s.top_p for s in samplings]),
        column([s.min_p for s in samplings]),
        any(s.top_k > 0 or s.top_p < 1 for s in samplings),
        any(s.min_p > 0 for s in samplings),
    )


def filtered_logits(logits_NV: Tensor, settings: Settings) -> Tensor:
    """Logits over temperature in float32, with what top-k, top-p and min-p leave out set to -inf.

    Greedy rows are divided by 1: nobody looks at them.
    """
    temperature = settings.temperature_N
    scores = logits_NV.float() / torch.where(temperature > 0, temperature, 1.0).unsqueeze(1)
    vocab = scores.shape[-1]
    if settings.ordered:
        ordered, order = torch.sort(scores, dim=-1, descending=True, stable=True)
        top_k, top_p = settings.top_k_N.unsqueeze(1), settings.top_p_N.unsqueeze(1)
        limits = torch.where((top_k > 0) & (top_k < vocab), top_k, vocab)
        ties = ordered < ordered.gather(1, limits - 1)  # top-k keeps what equals the k-th score
        ordered = ordered.masked_fill(ties, float("-inf"))
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # mass of all that is more likely
        first = torch.arange(vocab, device=scores.device) == 0
        ordered = ordered.masked_fill((before >= top_p) & ~first & (top_p < 1), float("-inf"))
        scores = torch.empty_like(scores).scatter_(1, order, ordered)
    if settings.min_p:
        p = scores.softmax(-1)
        unlikely = p < settings.min_p_N.unsqueeze(1) * p.amax(-1, keepdim=True)
        scores = scores.masked_fill(unlikely, float("-inf"))
    return scores


def draw(logits_NV: Tensor, top1_N: Tensor, settings: Settings, keys_N2: Tensor, positions_N: Tensor) -> Tensor:
    """The token of each row, ``[N]`` int64; nothing here looks at a value on the host.

    Args:
        logits_NV: raw logits.
        top1_N: their argmax, which greedy rows return as it is.
        settings: each row's.
        keys_N2: int64, each row's Philox key (``philox.request_key``).
        positions_N: int64, each row's generated-token index.
    """
    scores = filtered_logits(logits_NV, settings)
    drawn = (scores + gumbel(keys_N2, positions_N, scores.shape[-1])).argmax(-1)
    return torch.where(settings.temperature_N > 0, drawn, top1_N)


def choose(
    draw_rows: Draw,
    logits_NV: Tensor,
    stats: Statistics,
    samplings: Sequence[Sampling],
    keys: Sequence[tuple[int, int]],
    positions: Sequence[int],
) -> Tensor:
    """The token of each row, ``[N]`` int64, with settings, keys and positions from the host.

    Only the rows that are not greedy go to ``draw_rows`` (``Ops.draw``).
    """
    drawn = [row for row, sampling in enumerate(samplings) if not sampling.greedy]
    if not drawn:
        return stats.top1
    device = logits_NV.device
    rows = torch.tensor(drawn, device=device)
    tokens = draw_rows(
        logits_NV[rows],
        Statistics._make(column[rows] for column in stats),
        settings_of([samplings[row] for row in drawn], device),
        torch.tensor([keys[row] for row in drawn], device=device),
        torch.tensor([positions[row] for row in drawn], device=device),
    )
    return stats.top1.scatter(0, rows, tokens)


Draw: TypeAlias = Callable[[Tensor, Statistics, Settings, Tensor, Tensor], Tensor]
