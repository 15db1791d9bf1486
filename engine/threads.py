"""How many CPU threads torch uses while our models run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads_set(count: int | None) -> Iterator[None]:
    """Run on so many of torch's CPU threads, and put the process back as it was; None: leave it alone."""
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
