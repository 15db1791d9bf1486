"""How many CPU threads torch uses while our models run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dodona.engine.errors import RequestError

MOST = 8  # threads a core; far more than any gain, far fewer than what a process may start


def check_threads(count: int | None) -> None:
    """Refuse a number of threads at which OpenMP ends the process.

    Raises:
        RequestError: it is too large for this machine.
    """
    cores = os.cpu_count() or 1
    if count is not None and count > MOST * cores:
        raise RequestError(f"threads must be {MOST * cores} at most on this machine's {cores} cores, not {count}")


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
