"""Pages against a plain dictionary: whatever is appended, forked, cut or closed, nobody reads another's tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dodona.engine.cache import Feed, PagedCache
from dodona.engine.config import LlamaConfig
from dodona.engine.pages import PagePool, PoolExhausted

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["open", "extend", "extend", "extend", "fork", "truncate", "close"]),
        st.integers(0, 10**6),
        st.integers(0, 20),
    ),
    max_size=60,
)


class Model:
    """A pool beside the dictionary it must equal; page contents are written like a cache would write them."""

    def __init__(self, pages: int, page_size: int) -> None:
        self.pool, self.truth, self.memory = PagePool(pages, page_size), {}, {}
        self.clock = 0

    def read(self, slot: int) -> list[int]:
        size = self.pool.page_size
        table = self.pool.table(slot)
        return [self.memory[table[i // size], i % size] for i in range(self.pool.length(slot))]

    def extend(self, slot: int, tokens: int) -> None:
        size, start = self.pool.page_size, self.pool.length(slot)
        needed, free = self.pool.needed(slot, tokens), self.pool.free_pages
        try:
            copies = self.pool.extend(slot, tokens)
        except PoolExhausted:
            assert needed > free
            return
        assert needed <= free and self.pool.free_pages == free - needed
        for old, new in copies:
            for offset in range(size):
                if (old, offset) in self.memory:
                    self.memory[new, offset] = self.memory[old, offset]
        for position in range(start, start + tokens):
            self.clock += 1
            self.memory[self.pool.table(slot)[position // size], position % size] = self.clock
            self.truth[slot].append(self.clock)


@settings(max_examples=300, deadline=None)
@given(OPERATIONS, st.integers(1, 12), st.integers(1, 5))
def test_any_history_of_slots_reads_back_what_was_written(operations, pages, page_size):
    """Catches shared pages written in place, pages freed twice, pages lost."""
    model = Model(pages, page_size)
    pool = model.pool
    for name, pick, amount in operations:
        slots = sorted(model.truth)
        if name == "open" or not slots:
            model.truth[pool.open()] = []
            continue
        slot = slots[pick % len(slots)]
        length = min(amount, pool.length(slot))
        if name == "extend":
            model.extend(slot, amount)
        elif name == "fork":
            model.truth[pool.fork(slot, length)] = model.truth[slot][:length]
        elif name == "truncate":
            pool.truncate(slot, length)
            del model.truth[slot][length:]
        else:
            pool.close(slot)
            del model.truth[slot]
        for other, expected in model.truth.items():
            assert model.read(other) == expected
            assert 0 not in pool.table(other)
        held = {page for other in model.truth for page in pool.table(other)}
        assert pool.free_pages == pool.pages - len(held)
    for slot in list(model.truth):
        pool.close(slot)
    assert pool.free_pages == pool.pages and pool.open_slots == 0


def test_an_exhausted_pool_changes_nothing():
    """Catches a half-done extension: the scheduler must be able to preempt and try again."""
    pool = PagePool(2, 4)
    slot, other = pool.open(), pool.open()
    pool.extend(slot, 5)
    with pytest.raises(PoolExhausted):
        pool.extend(other, 1)
    assert pool.length(other) == 0 and pool.table(other) == [] and pool.free_pages == 0
    pool.truncate(slot, 4)
    assert pool.extend(other, 4) == []


def test_poisoned_pages_are_handed_out_clean():
    """A sequence whose values are NaN must not spoil whoever gets its pages: 0 times NaN is NaN behind any mask."""
    config = LlamaConfig.from_hf(
        {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
         "num_attention_heads": 2, "num_key_value_heads": 1}, name="tiny"
    )  # fmt: skip
    cache = PagedCache(config, pages=3, page_size=2, dtype=torch.float32, device=torch.device("cpu"))
    slot = cache.pool.open()
    cache.begin([Feed(slot, [1, 2, 3], 1)])
    cache.storages[0][:, :, cache.pool.table(slot)] = torch.nan
    twin = cache.pool.fork(slot)
    cache.pool.poison(slot)
    cache.pool.close(slot)
    assert cache.storages[0].isnan().any(), "a page that somebody still holds is left alone"
    cache.pool.close(twin)
    cache.begin([Feed(cache.pool.open(), [1], 1)])
    assert not cache.storages[0].isnan().any()


def test_the_device_table_and_lengths_follow_the_pool():
    """The page table on the device is what kernels read: it must show every slot's pages and length."""
    config = LlamaConfig.from_hf(
        {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
         "num_attention_heads": 2, "num_key_value_heads": 1}, name="tiny"
    )  # fmt: skip
    cache = PagedCache(config, pages=40, page_size=2, dtype=torch.float32, device=torch.device("cpu"))
    slots = [cache.pool.open() for _ in range(11)]
    cache.begin([Feed(slot, [1] * (index + 1), 1) for index, slot in enumerate(slots)])
    cache.pool.truncate(slots[9], 3)
    fork = cache.pool.fork(slots[9])
    cache.begin([Feed(slots[9], [1], 1), Feed(fork, [2, 3], 1)])
    for slot in (*slots, fork):
        table = cache.pool.table(slot)
        if slot in (slots[9], fork) or slot in slots[:9]:
            assert cache.page_table[slot, : len(table)].tolist() == table
            assert int(cache.lengths[slot]) == cache.pool.length(slot)
