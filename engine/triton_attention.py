"""The attention of a forward whose rotary embedding, cache append and attention itself are kernels.

What is the same in every layer (positions, slots, lengths) is made once a forward, on the device and from shapes alone.

Shape suffixes: M slots, n queries of each, T tokens, H query heads, K key/value heads, D head size, R = (H + 2K) * D.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dodona.engine.attention_stats import Observed
from dodona.engine.cache import Feed, Group, PagedBatch, PagedCache
from dodona.kernels.attention import attention_decode, attention_extend
from dodona.kernels.paged import PagedKV
from dodona.kernels.rope import Rope, rope_append


class TritonAttention:
    """What a forward's tokens are to the cache. A subclass sets all but ``rope``."""

    cache: PagedCache
    rope: Rope
    positions_T: Tensor  # [T] int64, in their sequences
    slots_T: Tensor  # [T] int64
    queries: int  # the most tokens of a slot
    slots_M: Tensor  # [M] int64
    lengths_M: Tensor  # [M] int64, live keys once the tokens are appended
    starts: Tensor  # [M + 1] int64, each slot's first token among T; only where queries is above 1
    observed: Observed | None = None  # whose attention is asked for

    def rotate_by(self, cos_PD: Tensor, sin_PD: Tensor) -> None:
        """Take the rotary tables."""
        self.rope = Rope(cos_PD, sin_PD)

    def pages(self, layer: int) -> PagedKV:
        """A layer's pages."""
        return PagedKV(*self.cache.paged[layer], self.cache.page_table)

    def attend(self, layer: int, qkv_TR: Tensor) -> Tensor:
        """Rotate q and k, write keys and values to their pages, attend over the live keys; returns ``[T, H*D]``."""
        heads = self.cache.config.num_heads
        q_THD = rope_append(qkv_TR, self.rope, self.positions_T, self.pages(layer), self.slots_T, heads=heads)
        return self.attend_appended(layer, q_THD)

    def attend_appended(self, layer: int, q_THD: Tensor) -> Tensor:
        """Attend where q is rotated and its tokens' keys and values are in their pages; returns ``[T, H*D]``."""
        pages = self.pages(layer)
        if self.observed is not None:
            self.observed.look(self.cache, layer, q_THD)
        if self.queries == 1:
            out_THD = attention_decode(q_THD, pages, self.lengths_M, self.slots_M).out_THD
        else:
            out_THD = attention_extend(
                q_THD, pages, self.starts, self.lengths_M, self.slots_M, max_queries=self.queries
            )
        return out_THD.flatten(1)


class TritonGrid(TritonAttention):
    """A grid (see grid.py): n tokens for each slot, from positions that only the device knows.

    One token has a place always, because a slot's first new token is at most the last of its sequence. What is past
    the end is padding of more, and goes to page 0, by way of slot 0, which has no pages.
    """

    def __init__(self, cache: PagedCache, slots_M: Tensor, starts_M: Tensor, queries: int) -> None:
        self.cache, self.queries, self.slots_M = cache, queries, slots_M.contiguous()
        self.lengths_M = starts_M + queries
        self.positions_T, self.slots_T = starts_M.contiguous(), self.slots_M
        if queries > 1:
            offsets = torch.arange(queries, device=cache.device)
            self.positions_T = (starts_M.unsqueeze(1) + offsets).flatten()
            self.slots_T = slots_M.repeat_interleave(queries)
            self.starts = torch.arange(0, (len(slots_M) + 1) * queries, queries, device=cache.device)

    def rotate_by(self, cos_PD: Tensor, sin_PD: Tensor) -> None:
        """Take the rotary tables; padding past the last position, or past the page table, has no place."""
        super().rotate_by(cos_PD, sin_PD)
        if self.queries > 1:
            capacity = min(self.cache.page_table.shape[1] * self.cache.pool.page_size, len(cos_PD))
            inside_T = self.positions_T < capacity
            self.positions_T, self.slots_T = self.positions_T * inside_T, self.slots_T * inside_T


class TritonBatch(TritonAttention, PagedBatch):
    """A ragged forward of feeds that the host knows."""

    def __init__(self, cache: PagedCache, feeds: Sequence[Feed]) -> None:
        PagedBatch.__init__(self, cache, feeds)
        counts = [len(feed.ids) for feed in self.ordered]
        slots = [feed.slot for feed in self.ordered]
        self.queries = max(counts, default=1)
        self.slots_M, counts_M = torch.tensor([slots, counts], device=cache.device).unbind(0)
        self.slots_T = self.slots_M.repeat_interleave(counts_M, output_size=sum(counts))
        self.lengths_M = cache.lengths[self.slots_M]
        self.starts = F.pad(counts_M.cumsum(0), (1, 0))

    def _make_groups(self, feeds: list[Feed], sizes: list[int]) -> list[Group]:
        return []  # the kernels attend to all feeds at once
