"""Which part of an experiment this process does, where a launcher started several of them.

Process r of n does every n-th problem from the r-th on, all arms of it. That depends on nothing that is done already,
so processes that start at different moments neither do a run twice nor leave one out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from dodona.engine.errors import DodonaError

T = TypeVar("T")

# Where torchrun, accelerate and the launchers of MPI say how many processes there are; accelerate knows the same.
_SIZES: Final = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


@dataclass(frozen=True, slots=True)
class Shard:
    """Process ``index`` of ``count``; ``local`` counts the processes of this machine."""

    index: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that prints for all."""
        return self.index == 0

    @property
    def whole(self) -> bool:
        """Whether there is no other process."""
        return self.count == 1

    @property
    def label(self) -> str:
        """For messages, counted from 0 as launchers do."""
        return f"process {self.index} of {self.count}"

    def of(self, problems: Sequence[T]) -> list[T]:
        """This process's problems."""
        return list(problems[self.index :: self.count])

    def device(self, device: str | None) -> str | None:
        """The device of this process: its own GPU, unless one is named by its number; None: as torch finds it.

        `accelerate launch --cpu` means the CPU where nothing else is said.
        """
        if device is None and os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
            return "cpu"
        if self.whole or device not in (None, "cuda"):
            return device
        import torch

        if not torch.cuda.is_available():
            return device
        return f"cuda:{self.local % torch.cuda.device_count()}"


WHOLE: Final = Shard()


def current_shard() -> Shard:
    """This process's part, as `accelerate launch`, `torchrun` or an MPI launcher has arranged it.

    With RANK and WORLD_SIZE alone, without the address of a meeting point, they are taken at their word: so the jobs of
    an array need not run at the same time.

    Raises:
        DodonaError: the variables contradict each other, or the processes cannot find each other.
    """
    if next((size for name in _SIZES if (size := _number(name)) is not None), 1) <= 1:
        return WHOLE
    rank, count = _number("RANK"), _number("WORLD_SIZE")
    if rank is not None and count is not None:
        if not 0 <= rank < count:
            raise DodonaError(f"RANK={rank} is none of the {count} processes that WORLD_SIZE says there are")
        if not os.environ.get("MASTER_ADDR"):
            return Shard(rank, count, _number("LOCAL_RANK") or 0)
    return _arranged()


def _arranged() -> Shard:
    import torch
    from accelerate import PartialState

    if not os.environ.get("OMP_NUM_THREADS"):  # as torchrun sees to; each process with threads for all cores is slow
        threads = max(1, _cores() // (_number("LOCAL_WORLD_SIZE") or _number("WORLD_SIZE") or 1))
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
    try:
        # On the CPU whatever the models run on: the processes have nothing to tell each other but that they are there.
        state = PartialState(cpu=True)
    except (RuntimeError, ValueError) as error:  # torch.distributed's own errors are RuntimeErrors
        raise DodonaError(f"the processes cannot find each other: {' '.join(str(error).split())[:300]}") from error
    return Shard(int(state.process_index), int(state.num_processes), int(state.local_process_index))


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None or not text.strip():
        return None
    try:
        return int(text)
    except ValueError:
        raise DodonaError(f"{name} must be a whole number, not {text!r}") from None
