"""Inputs for the tests of the Llama kernels, and the size of the errors that their outputs may have."""

from __future__ import annotations

import torch
from kernel_checks import DEVICE, tolerance
from torch import Tensor

from dodona.kernels.paged import PagedKV
from dodona.kernels.rope import Rope

# Of a value near the lower end of its binade. bfloat16 is cut off, not rounded, by Triton's interpreter: a whole unit.
LAST_PLACE = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-7}


def output_tolerance(terms: int, dtype: torch.dtype, roundings: int = 1) -> float:
    """Relative error of a float32 sum of so many terms, after so many roundings to dtype on its way."""
    return tolerance(terms) + roundings * LAST_PLACE[dtype]


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator) * scale).to(dtype).to(DEVICE)


def integers(*values: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """A vector on the tests' device."""
    return torch.tensor(values, dtype=dtype, device=DEVICE)


def random_pages(
    lengths: list[int], *, kv_heads: int, head_dim: int, page_size: int, dtype: torch.dtype, seed: int = 0
) -> PagedKV:
    """Pages in random order that hold so many keys of each slot; NaN wherever no live key lies, page 0 included.

    Each slot has one page more than it needs and the table is as wide as the longest slot's.
    """
    counts = [-(-length // page_size) + 1 for length in lengths]
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(sum(counts) + 1, generator=generator) + 1  # one page belongs to nobody
    table = torch.zeros(len(lengths), max(counts), dtype=torch.int64)
    kv_2PSKD = torch.full((2, len(order) + 1, page_size, kv_heads, head_dim), torch.nan)
    taken = 0
    for slot, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        table[slot, :count] = order[taken : taken + count]
        taken += count
        # A slot's keys depend on its number and the seed, not on where they lie.
        keys = torch.Generator().manual_seed(1000 * seed + slot)
        place = torch.arange(length)
        kv_2PSKD[:, table[slot, place // page_size], place % page_size] = torch.randn(
            2, length, kv_heads, head_dim, generator=keys
        )
    k_PSKD, v_PSKD = kv_2PSKD.to(dtype).to(DEVICE)
    return PagedKV(k_PSKD, v_PSKD, table.to(DEVICE))


def moved_pages(pages: PagedKV, seed: int) -> PagedKV:
    """The same keys and values with every page but 0 in another place."""
    count = pages.k_PSKD.shape[0]
    order = torch.randperm(count - 1, generator=torch.Generator().manual_seed(seed)) + 1
    old_of_new = torch.cat((torch.zeros(1, dtype=torch.int64), order)).to(DEVICE)
    return PagedKV(pages.k_PSKD[old_of_new], pages.v_PSKD[old_of_new], old_of_new.argsort()[pages.table])


def rope_tables(positions: int, head_dim: int, dtype: torch.dtype = torch.float32) -> Rope:
    """Tables of base 10000 with the first half of the sine negated, as the engine makes them."""
    frequencies = 10000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies)
    cos, sin = angles.cos(), angles.sin()
    return Rope(
        torch.cat((cos, cos), -1).to(dtype).to(DEVICE),
        torch.cat((-sin, sin), -1).to(dtype).to(DEVICE),
    )
