"""Kernel launches in tests of the engine: which there are, what reads values meanwhile, and how long they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from dodona.kernels import linear, qkv
from dodona.kernels.launch import interpreting
from dodona.kernels.stream import default_config

# Every way from a tensor to a Python value.
HOST_READS = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__", "__array__")


def _launcher() -> tuple[Any, str]:
    """Where all launches pass: the class and its method."""
    if interpreting():
        from triton.runtime.interpreter import GridExecutor

        return GridExecutor, "__call__"
    from triton.runtime.jit import JITFunction

    return JITFunction, "run"


def _name(launcher: Any) -> str:
    return str(launcher.fn.__name__)


@contextmanager
def counted_launches(*, executed: bool = True) -> Iterator[list[str]]:
    """The names of the kernels that are launched, in their order; launched in name only where not ``executed``."""
    owner, method = _launcher()
    launch, names = getattr(owner, method), []

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        names.append(_name(self))
        return launch(self, *args, **kwargs) if executed else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, counting)
        yield names


@contextmanager
def no_host_reads() -> Iterator[None]:
    """Every way from a tensor to Python raises, but for the interpreter's own while it plays a kernel."""
    owner, method = _launcher()
    launch, playing = getattr(owner, method), []

    def played(self: Any, *args: Any, **kwargs: Any) -> Any:
        playing.append(self)
        try:
            return launch(self, *args, **kwargs)
        finally:
            playing.pop()

    def guarded(name: str, read: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(*args: Any, **kwargs: Any) -> Any:
            if not playing:
                raise AssertionError(f"Tensor.{name} looked at a value")
            return read(*args, **kwargs)

        return refuse

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, played)
        for name in HOST_READS:
            patch.setattr(torch.Tensor, name, guarded(name, getattr(torch.Tensor, name)))
        yield


def use_large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in few blocks: in the interpreter a block takes about the same time whatever its size."""
    if interpreting():
        for module in (linear, qkv):
            monkeypatch.setattr(module, "default_config", lambda *shape: default_config(*shape) | {"BLOCK_N": 128})
