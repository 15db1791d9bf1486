"""Pages of a KV cache as integers: who holds which page, without a tensor in sight.

A slot is one sequence's view of a cache: a list of pages and a length. Pages are reference-counted; ``fork`` shares
them, and whoever next writes into a shared page gets a copy of it first (copy-on-write). The caller performs the copies
that ``extend`` returns. Page 0 and slot 0 belong to nobody: padding points at them.
"""

from __future__ import annotations

import heapq


class PoolExhausted(Exception):
    """Not enough free pages; nothing was changed."""


class PagePool:
    """Reference-counted pages of ``page_size`` tokens and the slots that hold them."""

    def __init__(self, pages: int, page_size: int) -> None:
        if pages < 1 or page_size < 1:
            raise ValueError(f"a pool needs at least one page of at least one token, not {pages} of {page_size}")
        self.page_size = page_size
        self.pages = pages
        self._refs = [0] * (pages + 1)
        self._free = list(range(1, pages + 1))  # a heap: low pages first keeps a lone sequence's pages contiguous
        self._tables: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}
        self._free_slots: list[int] = []
        self._slots = 1
        self._poisoned: set[int] = set()
        self.dirty: list[int] = []  # freed pages that must be zeroed before anyone reads them
        self.touched: set[int] = set()  # slots whose table changed, for whoever keeps a copy of the tables

    # --- reading ---

    @property
    def free_pages(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    @property
    def open_slots(self) -> int:
        """Slots in use."""
        return len(self._tables)

    @property
    def capacity(self) -> int:
        """Tokens that one slot alone could hold."""
        return self.pages * self.page_size

    def length(self, slot: int) -> int:
        """Tokens in the slot."""
        return self._lengths[slot]

    def table(self, slot: int) -> list[int]:
        """The slot's pages, in order; not to be changed by the caller."""
        return self._tables[slot]

    def pages_for(self, tokens: int) -> int:
        """Pages that hold so many tokens."""
        return -(-tokens // self.page_size)

    def needed(self, slot: int, tokens: int) -> int:
        """Free pages that appending ``tokens`` to the slot would take, a copied last page included."""
        if tokens == 0:
            return 0
        table, length = self._tables[slot], self._lengths[slot]
        fresh = max(0, self.pages_for(length + tokens) - len(table))
        return fresh + int(self._writes_shared(table, length))

    def _writes_shared(self, table: list[int], length: int) -> bool:
        index = length // self.page_size
        return index < len(table) and self._refs[table[index]] > 1

    # --- changing ---

    def open(self) -> int:
        """A new empty slot."""
        if self._free_slots:
            slot = heapq.heappop(self._free_slots)
        else:
            slot, self._slots = self._slots, self._slots + 1
        self._tables[slot], self._lengths[slot] = [], 0
        self.touched.add(slot)
        return slot

    def extend(self, slot: int, tokens: int) -> list[tuple[int, int]]:
        """Append ``tokens`` to the slot; returns the page copies (from, to) that must be done before they are written.

        Raises:
            PoolExhausted: too few free pages; the slot is as it was.
        """
        if self.needed(slot, tokens) > len(self._free):
            raise PoolExhausted
        table, length = self._tables[slot], self._lengths[slot]
        copies = []
        if tokens and self._writes_shared(table, length):
            index = length // self.page_size
            old, table[index] = table[index], self._take()
            self._release(old)
            copies.append((old, table[index]))
            self.touched.add(slot)
        while len(table) * self.page_size < length + tokens:
            table.append(self._take())
            self.touched.add(slot)
        self._lengths[slot] = length + tokens
        return copies

    def truncate(self, slot: int, length: int) -> None:
        """Forget all tokens from ``length`` on."""
        if not 0 <= length <= self._lengths[slot]:
            raise ValueError(f"cannot truncate a slot of {self._lengths[slot]} tokens to {length}")
        table = self._tables[slot]
        keep = self.pages_for(length)
        for page in table[keep:]:
            self._release(page)
        del table[keep:]
        self._lengths[slot] = length
        self.touched.add(slot)

    def fork(self, slot: int, length: int | None = None) -> int:
        """A new slot that shares the first ``length`` tokens (default: all) of another."""
        length = self._lengths[slot] if length is None else length
        if not 0 <= length <= self._lengths[slot]:
            raise ValueError(f"cannot fork {length} tokens of a slot that has {self._lengths[slot]}")
        shared = self._tables[slot][: self.pages_for(length)]
        twin = self.open()
        for page in shared:
            self._refs[page] += 1
        self._tables[twin], self._lengths[twin] = list(shared), length
        return twin

    def close(self, slot: int) -> None:
        """Give the slot and its share of the pages back."""
        for page in self._tables.pop(slot):
            self._release(page)
        del self._lengths[slot]
        heapq.heappush(self._free_slots, slot)

    def poison(self, slot: int) -> None:
        """Mark the slot's pages as holding NaN: each is zeroed (see ``dirty``) once nobody holds it."""
        self._poisoned.update(self._tables[slot])

    def _take(self) -> int:
        page = heapq.heappop(self._free)
        self._refs[page] = 1
        return page

    def _release(self, page: int) -> None:
        self._refs[page] -= 1
        if self._refs[page] == 0:
            heapq.heappush(self._free, page)
            if page in self._poisoned:
                self._poisoned.discard(page)
                self.dirty.append(page)
