"""The attention of a forward whose shape is fixed ahead: n tokens for each of M slots, read from device-side state.

A ``PagedBatch`` is made for feeds that the host knows. A grid is made where the host does not: each slot's tokens start
at a position that only the device knows, and what lies beyond a slot's live tokens is padding. Padding writes keys and
values too, to places that are overwritten before anybody reads them (or to page 0, which nobody owns), so a grid needs
no mask on writing and running it again changes nothing.

Shape suffixes: M slots, n queries of each, T = M*n, C keys (live and padding), S page size, K key/value heads, G query
heads per key/value head, H = K*G, D head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dodona.engine.cache import PagedCache, rotated


class Grid:
    """In plain PyTorch: pages are gathered, and one padded product attends."""

    def __init__(self, cache: PagedCache, slots_M: Tensor, starts_M: Tensor, queries: int, pages: int) -> None:
        self.cache, self.slots, self.queries = cache, len(slots_M), queries
        size, table = cache.pool.page_size, cache.page_table
        table_MW = table[slots_M, :pages]
        self.positions_Mn = starts_M.unsqueeze(1) + torch.arange(queries, device=cache.device)
        column_Mn = self.positions_Mn // size
        page_Mn = table_MW.gather(1, column_Mn.clamp(max=pages - 1)).masked_fill_(column_Mn >= pages, 0)
        self._places_T = (page_Mn * size + self.positions_Mn % size).flatten()
        self._nowhere_T11 = (page_Mn == 0).view(-1, 1, 1)
        self._pages = table_MW.flatten()
        keys = torch.arange(pages * size, device=cache.device)
        dead = keys > self.positions_Mn.view(self.slots, 1, queries, 1)
        group = cache.config.num_heads // cache.config.num_kv_heads
        mask = torch.where(dead, cache.minus_inf, cache.zero)
        self._mask = mask.repeat(1, 1, group, 1) if queries > 1 else mask

    def rotate_by(self, cos_PD: Tensor, sin_PD: Tensor) -> None:
        """Take the rotary tables; padding past the last position rotates as the last does."""
        positions_T = self.positions_Mn.flatten().clamp(max=len(cos_PD) - 1)
        self._cos_T1D, self._sin_T1D = cos_PD[positions_T].unsqueeze(1), sin_PD[positions_T].unsqueeze(1)

    def attend(self, layer: int, qkv_TR: Tensor) -> Tensor:
        """Rotate q and k, write keys and values to their pages, attend over the live keys; returns ``[T, H*D]``."""
        config, m, n = self.cache.config, self.slots, self.queries
        heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
        qk_THD, v_TKD = rotated(qkv_TR, config, self._cos_T1D, self._sin_T1D)
        k_flat, v_flat = self.cache.flat[layer]
        # Page 0 stays finite whatever a broken sequence computes: masked keys count 0 times their values.
        k_flat.index_copy_(0, self._places_T, qk_THD[:, heads:].masked_fill(self._nowhere_T11, 0.0))
        v_flat.index_copy_(0, self._places_T, v_TKD.masked_fill(self._nowhere_T11, 0.0))
        k, v = (paged.index_select(0, self._pages).view(m, -1, kv_heads, dim) for paged in self.cache.paged[layer])
        q = qk_THD[:, :heads].reshape(m, n, kv_heads, -1, dim).permute(0, 2, 3, 1, 4).reshape(m, kv_heads, -1, dim)
        out = F.scaled_dot_product_attention(q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=self._mask)
        return out.view(m, kv_heads, -1, n, dim).permute(0, 3, 1, 2, 4).reshape(m * n, heads * dim)
