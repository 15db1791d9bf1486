"""The paged KV cache of one model, and the attention over it in plain PyTorch.

Shape suffixes: L layers, P pages, S page size, K key/value heads, G query heads per key/value head, H = K*G, D head
size, T tokens of a ragged forward, B sequences of one group, n queries of each, C keys (live and padding).

A forward is described by ``Feed``s: which slot is given how many new tokens. ``PagedCache.begin`` makes room for them
(pages, copy-on-write) and returns a ``PagedBatch``, the ``Attention`` that one forward uses. Feeds are ordered and
grouped so that sequences with about as many new tokens attend in one padded product: decode rows together, bursts
together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dodona.engine.attention_stats import Observed
from dodona.engine.config import LlamaConfig
from dodona.engine.pages import PagePool

_GROUP_COST = 1 << 17  # bytes of keys and values that are read in the time that one more group's calls take


class Feed(NamedTuple):
    """New tokens for one slot, of which the outputs of the last ``wanted`` are asked for."""

    slot: int
    ids: list[int]
    wanted: int


class Group(NamedTuple):
    """Feeds that attend in one product: rows ``start:stop`` of the ragged forward."""

    start: int
    stop: int
    batch: int  # B
    queries: int  # n, the longest feed's
    spread: Tensor | None  # [B*n] int64, row of each padded query; None where no feed is padded
    gather: Tensor | None  # [stop-start] int64, padded query of each row
    keys: slice | None  # the keys' place in the pool where there is one sequence and its pages are in one piece
    pages: Tensor | None  # [B*pages] int64 otherwise
    mask: Tensor | None  # [B, 1, 1 or G*n, C] in the model's dtype, 0 or -inf; None where every key is live


class Indices(NamedTuple):
    """What attention needs of a batch, on one device."""

    places_T: Tensor  # int64, where each token's key and value go in the pool
    cos_T1D: Tensor
    sin_T1D: Tensor
    groups: list[Group]

    def to(self, device: torch.device) -> Indices:
        """The same on another device."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        groups = [
            group._replace(
                spread=moved(group.spread), gather=moved(group.gather), pages=moved(group.pages), mask=moved(group.mask)
            )
            for group in self.groups
        ]
        return Indices(self.places_T.to(device), self.cos_T1D.to(device), self.sin_T1D.to(device), groups)


class PagedCache:
    """Keys and values of one model, with the pages' bookkeeping in ``pool``.

    ``storages`` hold them: ``[L, 2, P, S, K, D]`` for each run of layers that are on one device.

    Args:
        device: of the page table and all indices.
        layers: each layer's device; None: all on ``device``.
    """

    def __init__(
        self,
        config: LlamaConfig,
        *,
        pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
        layers: Sequence[torch.device] | None = None,
    ) -> None:
        self.pool = PagePool(pages, page_size)
        self.config, self.device, self.dtype = config, device, dtype
        self.devices = tuple(layers or (device,) * config.num_layers)
        self.storages: list[Tensor] = []
        for place, run in groupby(self.devices):
            shape = (len(list(run)), 2, pages + 1, page_size, config.num_kv_heads, config.head_dim)
            self.storages.append(torch.zeros(shape, dtype=dtype, device=place))
        self.paged = [(layer[0], layer[1]) for storage in self.storages for layer in storage]
        self.flat = [(layer[0], layer[1]) for storage in self.storages for layer in storage.flatten(2, 3)]
        self.page_table = torch.zeros(8, 8, dtype=torch.int64, device=device)  # [slots, pages of a slot], 0 = none
        self.lengths = torch.zeros(8, dtype=torch.int64, device=device)  # [slots]
        self.row_bytes = 2 * config.num_kv_heads * config.head_dim * dtype.itemsize  # of one token in one layer
        self._mirrored: dict[int, list[int]] = {}  # what each row of page_table holds
        self.zero, self.minus_inf = torch.tensor([0.0, float("-inf")], dtype=dtype, device=device).unbind()
        self._arange = torch.arange(page_size, device=device)

    def arange(self, stop: int) -> Tensor:
        """``[stop]`` int64: 0, 1, 2, ..."""
        if stop > len(self._arange):
            self._arange = torch.arange(1 << (stop - 1).bit_length(), device=self.device)
        return self._arange[:stop]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(storage.nbytes for storage in self.storages)

    # --- making room ---

    def begin(self, feeds: Sequence[Feed]) -> None:
        """Append the feeds' tokens to their slots, ahead of the forward that will fill them in.

        Raises:
            PoolExhausted: before anything was changed for the feed that does not fit; the scheduler reserves first.
        """
        self._extend([(feed.slot, len(feed.ids)) for feed in feeds])

    def reserve(self, slot: int, tokens: int) -> None:
        """Give a slot the pages of so many tokens in all, for forwards that are not known yet.

        Raises:
            PoolExhausted: nothing was changed.
        """
        self._extend([(slot, tokens - self.pool.length(slot))])

    def _extend(self, slots: list[tuple[int, int]]) -> None:
        copies = [copy for slot, tokens in slots for copy in self.pool.extend(slot, tokens)]
        self._scrub()
        if copies:
            old, new = (torch.tensor(pages, device=self.device) for pages in zip(*copies, strict=True))
            for storage in self.storages:
                storage[:, :, new.to(storage.device)] = storage[:, :, old.to(storage.device)]
        self._mirror([slot for slot, _ in slots])

    def _scrub(self) -> None:
        if self.pool.dirty:
            for storage in self.storages:
                storage[:, :, torch.tensor(self.pool.dirty, device=storage.device)] = 0
            self.pool.dirty.clear()

    def _mirror(self, slots: list[int]) -> None:
        """Bring the device's page table and lengths up to date for these slots, in one write each."""
        rows, columns, pages = [], [], []
        changed = self.pool.touched.intersection(slots)
        self.pool.touched -= changed
        for slot in changed:
            table, known = self.pool.table(slot), self._mirrored.get(slot, [])
            self._mirrored[slot] = list(table)
            for column in range(max(len(table), len(known))):
                page = table[column] if column < len(table) else 0  # page 0 in place of those given back
                if column >= len(known) or known[column] != page:
                    rows.append(slot)
                    columns.append(column)
                    pages.append(page)
        if rows:
            self.grow(max(rows) + 1, max(columns) + 1)
            where = torch.tensor([rows, columns, pages], device=self.device)
            self.page_table[where[0], where[1]] = where[2]
        if slots:
            self.grow(max(slots) + 1, 1)
            where = torch.tensor([slots, [self.pool.length(slot) for slot in slots]], device=self.device)
            self.lengths[where[0]] = where[1]

    def grow(self, slots: int, columns: int) -> None:
        """Make the page table at least so large; what it holds is kept."""
        have_slots, have_columns = self.page_table.shape
        if slots > have_slots or columns > have_columns:
            more_slots = max(have_slots, 1 << (slots - 1).bit_length())
            more_columns = max(have_columns, 1 << (columns - 1).bit_length())
            grow = (0, more_columns - have_columns, 0, more_slots - have_slots)
            self.page_table = F.pad(self.page_table, grow)
            self.lengths = F.pad(self.lengths, (0, more_slots - have_slots))


class PagedBatch:
    """One ragged forward over a cache: its token ids, positions, wanted rows, and the attention itself."""

    cos_PD: Tensor
    sin_PD: Tensor

    def __init__(self, cache: PagedCache, feeds: Sequence[Feed]) -> None:
        self.cache, self._group_size = cache, cache.config.num_heads // cache.config.num_kv_heads
        pool, size = cache.pool, cache.pool.page_size
        order, sizes = _grouped(feeds, pool, cache.row_bytes)
        ids: list[int] = []
        positions: list[int] = []
        places: list[int] = []
        starts = [0] * len(feeds)
        for index in order:
            feed = feeds[index]
            starts[index] = len(ids)
            table, stop = pool.table(feed.slot), pool.length(feed.slot)
            span = range(stop - len(feed.ids), stop)
            ids += feed.ids
            positions += span
            places += [table[p // size] * size + p % size for p in span]
        wanted = [
            starts[i] + row for i, feed in enumerate(feeds) for row in range(len(feed.ids) - feed.wanted, len(feed.ids))
        ]
        packed = torch.tensor([ids, positions, places], device=cache.device)
        self.ids_T, self.positions_T, self._places_T = packed[0], packed[1], packed[2]
        everything = wanted == list(range(len(ids)))
        self.wanted_N = None if everything else torch.tensor(wanted, device=cache.device, dtype=torch.int64)
        self.tokens = len(ids)
        self.wanted = wanted  # row in T of each wanted row
        self.observed: Observed | None = None  # whose attention is asked for
        self.ordered = [feeds[i] for i in order]  # the feeds in the order of their rows
        self._groups = self._make_groups(self.ordered, sizes)

    def _make_groups(self, feeds: list[Feed], sizes: list[int]) -> list[Group]:
        groups, first, row = [], 0, 0
        for size in sizes:
            groups.append(self._make_group(feeds[first : first + size], row))
            row, first = groups[-1].stop, first + size
        return groups

    def _make_group(self, feeds: list[Feed], start: int) -> Group:
        cache, pool, device = self.cache, self.cache.pool, self.cache.device
        counts = [len(feed.ids) for feed in feeds]
        queries, batch, stop = max(counts), len(feeds), start + sum(counts)
        lengths = [pool.length(feed.slot) for feed in feeds]
        spread = gather = keys = pages = mask = None
        if any(count != queries for count in counts):
            rows: list[int] = []
            slots_of: list[int] = []
            row = start
            for b, count in enumerate(counts):
                rows += [row + min(i, count - 1) for i in range(queries)]
                slots_of += range(b * queries, b * queries + count)
                row += count
            spread, gather = torch.tensor(rows, device=device), torch.tensor(slots_of, device=device)
        table = pool.table(feeds[0].slot)
        if batch == 1 and table[-1] - table[0] == len(table) - 1 and table == list(range(table[0], table[-1] + 1)):
            keys = slice(table[0] * pool.page_size, table[0] * pool.page_size + lengths[0])
            live = lengths[0]
        else:
            width = pool.pages_for(max(lengths))
            slots = torch.tensor([feed.slot for feed in feeds], device=device)
            pages = cache.page_table[slots, :width].flatten()
            live = width * pool.page_size
        if queries > 1 or live != min(lengths):
            position_Bn = self.positions_T[start:stop] if spread is None else self.positions_T[spread]
            dead = cache.arange(live) > position_Bn.view(batch, 1, queries, 1)
            mask = torch.where(dead, cache.minus_inf, cache.zero)
            if queries > 1:
                mask = mask.repeat(1, 1, self._group_size, 1)
        return Group(start, stop, batch, queries, spread, gather, keys, pages, mask)

    def rotate_by(self, cos_PD: Tensor, sin_PD: Tensor) -> None:
        """Take the rotary tables ``[positions, D]``, the sine's first half negated."""
        self.cos_PD, self.sin_PD = cos_PD, sin_PD
        cos_T1D, sin_T1D = cos_PD[self.positions_T].unsqueeze(1), sin_PD[self.positions_T].unsqueeze(1)
        self._indices = {self.cache.device: Indices(self._places_T, cos_T1D, sin_T1D, self._groups)}

    def _on(self, device: torch.device) -> Indices:
        if device not in self._indices:
            self._indices[device] = self._indices[self.cache.device].to(device)
        return self._indices[device]

    def attend(self, layer: int, qkv_TR: Tensor) -> Tensor:
        """Rotate q and k, write keys and values to their pages, attend over the live keys; returns ``[T, H*D]``."""
        heads = self.cache.config.num_heads
        places_T, cos_T1D, sin_T1D, groups = self._on(self.cache.devices[layer])
        qk_THD, v_TKD = rotated(qkv_TR, self.cache.config, cos_T1D, sin_T1D)
        q_THD = qk_THD[:, :heads]
        k_flat, v_flat = self.cache.flat[layer]
        k_flat.index_copy_(0, places_T, qk_THD[:, heads:])
        v_flat.index_copy_(0, places_T, v_TKD)
        if self.observed is not None:
            self.observed.look(self.cache, layer, q_THD)
        if len(groups) == 1:
            return self._attend_group(layer, groups[0], q_THD)
        return torch.cat([self._attend_group(layer, group, q_THD) for group in groups])

    def _attend_group(self, layer: int, group: Group, q_THD: Tensor) -> Tensor:
        heads, dim = q_THD.shape[1:]
        kv_heads, g, b, n = heads // self._group_size, self._group_size, group.batch, group.queries
        q = q_THD[group.start : group.stop] if group.spread is None else q_THD[group.spread]
        q = q.reshape(b, n, kv_heads, g, dim).permute(0, 2, 3, 1, 4).reshape(b, kv_heads, g * n, dim)
        if group.keys is not None:
            k, v = (flat[group.keys].unsqueeze(0) for flat in self.cache.flat[layer])
        else:
            assert group.pages is not None
            k, v = (paged.index_select(0, group.pages).view(b, -1, kv_heads, dim) for paged in self.cache.paged[layer])
        out = F.scaled_dot_product_attention(q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=group.mask)
        out = out.view(b, kv_heads, g, n, dim).permute(0, 3, 1, 2, 4).reshape(b * n, heads * dim)
        return out if group.gather is None else out[group.gather]


def rotated(qkv_TR: Tensor, config: LlamaConfig, cos_T1D: Tensor, sin_T1D: Tensor) -> tuple[Tensor, Tensor]:
    """q and k ``[T, H+K, D]`` with their rotary embedding (the sine's first half negated), and v ``[T, K, D]``."""
    qkv_THD = qkv_TR.view(len(qkv_TR), -1, config.head_dim)
    split = config.num_heads + config.num_kv_heads
    qk_THD = qkv_THD[:, :split]
    qk_THD = torch.addcmul(qk_THD * cos_T1D, qk_THD.roll(config.head_dim // 2, -1), sin_T1D)
    return qk_THD, qkv_THD[:, split:]


def _grouped(feeds: Sequence[Feed], pool: PagePool, row_bytes: int) -> tuple[list[int], list[int]]:
    """The order in which feeds attend, and the sizes of their groups: about as many queries, about as many keys."""
    buckets: dict[int, list[tuple[int, int]]] = {}
    for index, feed in enumerate(feeds):
        buckets.setdefault(_bucket(len(feed.ids)), []).append((pool.pages_for(pool.length(feed.slot)), index))
    order, sizes = [], []
    for _, members in sorted(buckets.items()):
        members.sort()
        order += [index for _, index in members]
        sizes += _split([pages for pages, _ in members], _GROUP_COST / (pool.page_size * row_bytes))
    return order, sizes


def _split(pages: list[int], cost: float) -> list[int]:
    """Sizes of groups of ascending page counts; every member is padded to its group's last, a group costs ``cost``."""
    last = pages[-1]
    best = max(range(len(pages)), key=lambda cut: cut * (last - pages[cut - 1]) if cut else 0)
    if best == 0 or best * (last - pages[best - 1]) <= cost:
        return [len(pages)]
    return [*_split(pages[:best], cost), *_split(pages[best:], cost)]


def _bucket(tokens: int) -> int:
    """Feeds of 1 token, of 2-4, 5-8, 9-16, ... attend together."""
    return 0 if tokens == 1 else max(2, (tokens - 1).bit_length())
