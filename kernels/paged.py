"""One layer's paged keys and values, as the kernels see them.

Position i of a sequence lies in page ``table[slot, i // S]``, at place ``i % S``. Page 0 belongs to nobody: a row of
zeros in the table is a slot without pages, to which nothing is written: masked keys count 0 times their values, and
0 * NaN would be NaN.

Shape suffixes: P pages, S page size, K key/value heads, D head size.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from dodona.kernels.checks import check_float, check_integer


class PagedKV(NamedTuple):
    """The keys and values of one layer, and where each sequence's lie."""

    k_PSKD: Tensor  # [P, S, K, D] any strides, the last dimension contiguous
    v_PSKD: Tensor  # [P, S, K, D] of k's dtype and strides
    table: Tensor  # [slots, pages of a slot] int32 or int64, page numbers

    @property
    def page_size(self) -> int:
        """Positions in a page."""
        return self.k_PSKD.shape[1]

    @property
    def capacity(self) -> int:
        """The most keys that a slot can have."""
        return self.table.shape[1] * self.page_size

    def check(self, like: Tensor) -> None:
        """Shapes, dtypes and strides.

        Raises:
            ValueError: they do not fit together, or keys are not of the dtype of ``like``.
        """
        check_float("k", self.k_PSKD, (None, None, None, None), like=like)
        check_float("v", self.v_PSKD, tuple(self.k_PSKD.shape), like=like)
        check_integer("page table", self.table, (None, None))
        if self.k_PSKD.stride() != self.v_PSKD.stride():
            raise ValueError(f"k and v differ in strides: {self.k_PSKD.stride()} and {self.v_PSKD.stride()}")


@triton.jit
def place_offsets(row_ptr, first, stop, stride_page, stride_place, PAGE_SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Offsets (int64, ``[BLOCK]``) in k or v of positions first, first + 1, ..., of which those below stop are looked
    up.

    ``row_ptr`` is the sequence's row of the table; first is a multiple of BLOCK. A block that cannot cross a page's
    border needs one look-up, and its addresses are then known to be evenly spaced.
    """
    if PAGE_SIZE % BLOCK == 0:
        page = tl.load(row_ptr + first // PAGE_SIZE).to(tl.int64)
        return page * stride_page + (first % PAGE_SIZE + tl.arange(0, BLOCK)).to(tl.int64) * stride_place
    else:
        position = first + tl.arange(0, BLOCK)
        page = tl.load(row_ptr + position // PAGE_SIZE, mask=position < stop, other=0).to(tl.int64)
        return page * stride_page + (position % PAGE_SIZE).to(tl.int64) * stride_place
