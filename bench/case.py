"""A case of the operator benchmark: one kernel at one shape, its reference, its peers and the bytes it must move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dodona.bench.checks import Comparison
from dodona.kernels.launch import LLAMA_SHAPES, LlamaShape

Inputs = Mapping[str, Any]  # tensors, and tuples of tensors
DTYPE = torch.bfloat16


class Plan(NamedTuple):
    """Which shapes the cases have."""

    models: tuple[LlamaShape, ...]
    logits: tuple[tuple[int, int], ...]  # of uncertainty: rows and vocabulary
    vocab: int  # of sample and pair
    draws: tuple[int, ...]  # rows of sample
    views: int  # rows of pair: tokens that an oracle catches up on
    rows: tuple[int, ...]  # of products
    tokens: tuple[int, ...]  # rows of norm, rope and mlp
    sequences: tuple[int, ...]  # of decode attention
    lengths: tuple[int, ...]  # keys of each of them
    lags: tuple[int, ...]  # queries of extend attention
    context: int  # its keys
    page_size: int


FULL = Plan(
    models=LLAMA_SHAPES,
    logits=((1, 128256), (64, 128256), (8192, 151936)),
    vocab=128256,
    draws=(1, 64),
    views=180,
    rows=(1, 4, 16),
    tokens=(1, 512),
    sequences=(1, 16, 64),
    lengths=(512, 4096),
    lags=(8, 128, 512),
    context=4096,
    page_size=256,
)

# Small enough for Triton's interpreter, with ragged tails and the rows of both ways to multiply.
QUICK = Plan(
    models=(LlamaShape("tiny", hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=96, vocab=321),),
    logits=((1, 1003), (5, 1003)),
    vocab=517,
    draws=(3,),
    views=3,
    rows=(1, 3),
    tokens=(3,),
    sequences=(1, 3),
    lengths=(37,),
    lags=(5,),
    context=21,
    page_size=16,
)


class Goal(NamedTuple):
    """What a case should reach on the machine that the goals were set for."""

    kind: str  # "us": microseconds; "percent": of the read ceiling; "over_product_us": beyond the bare product
    value: float


class Peer(NamedTuple):
    """Another way to do the work, or the part of it that a library has."""

    run: Callable[[Inputs], Any]
    compare: Callable[[Any, Any], Iterable[Comparison]] | None = None  # (want, got); None: it gives something else
    compiled: bool = False  # run it through torch.compile


@dataclass(frozen=True, slots=True)
class Case:
    """Everything about one kernel at one shape, on a device."""

    inputs: Inputs
    run: Callable[[Inputs], Any]
    expect: Callable[[Inputs], Any]  # the reference; called before `run`, which may write into its inputs
    compare: Callable[[Inputs, Any, Any], Iterable[Comparison]]  # (inputs after run, want, got)
    moved: Mapping[str, int]  # bytes that must be read or written, by what they are
    peers: Mapping[str, Peer] = field(default_factory=lambda: MappingProxyType({}))
    from_memory: bool = True  # False: the inputs are what the kernel before has just written, so they may be in L2
    operations: int = 0  # of floating point, where they and not the bytes are the limit

    @property
    def bytes(self) -> int:
        """All bytes moved."""
        return sum(self.moved.values())


class Spec(NamedTuple):
    """A case before anything is allocated or imported for it."""

    op: str  # its name in the table of ops
    shape: str  # with op, names the case
    build: Callable[[torch.device], Case]
    goal: Goal | None = None

    @property
    def key(self) -> str:
        """The name of the case."""
        return f"{self.op} {self.shape}"


def with_compiled(
    run: Callable[[Inputs], Any], compare: Callable[[Any, Any], Iterable[Comparison]] | None
) -> dict[str, Peer]:
    """Plain torch, and the same through torch.compile."""
    return {"torch": Peer(run, compare), "compile": Peer(run, compare, compiled=True)}


def normal(*shape: int, device: torch.device, seed: int, std: float = 1.0, dtype: torch.dtype = DTYPE) -> Tensor:
    """Normal numbers that depend on shape, seed and kind of device."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.empty(*shape, dtype=dtype, device=device).normal_(0.0, std, generator=generator)


def weights(rows: int, columns: int, *, device: torch.device, seed: int) -> Tensor:
    """A matrix that keeps the size of what it multiplies."""
    return normal(rows, columns, device=device, seed=seed, std=columns**-0.5)


def norm_weight(size: int, *, device: torch.device, seed: int) -> Tensor:
    """Positive numbers about 1, as a trained norm has."""
    return normal(size, device=device, seed=seed, std=0.1).add_(1.0)


def size_of(*values: Any) -> int:
    """Bytes of tensors, in whatever they are nested."""
    return sum(
        value.numel() * value.element_size() if isinstance(value, Tensor) else size_of(*value)
        for value in values
        if isinstance(value, Tensor | tuple)
    )


def cloned(value: Any) -> Any:
    """A copy in memory of its own of nested dictionaries, tuples and tensors."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {name: cloned(item) for name, item in value.items()}
    if isinstance(value, tuple):
        items = [cloned(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value
