"""Cases of what a layer does beside products and attention: rms_norm, rope_append, silu_mul; and pages for others."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dodona.bench import plain
from dodona.bench.case import DTYPE, Case, Inputs, Plan, Spec, norm_weight, normal, size_of, with_compiled
from dodona.bench.checks import Comparison, close, roughly
from dodona.kernels.launch import LlamaShape

if TYPE_CHECKING:
    from dodona.kernels.paged import PagedKV
    from dodona.kernels.rope import Rope

EPS = 1e-5


def rms_norm_specs(plan: Plan) -> Iterator[Spec]:
    """With a residual, as between the halves of a layer."""
    for shape in plan.models:
        for tokens in plan.tokens:
            yield Spec("rms_norm", f"{shape.name} [{tokens}, {shape.hidden}]", partial(_rms_norm, tokens, shape))


def rope_append_specs(plan: Plan) -> Iterator[Spec]:
    """One token, and a prompt."""
    for shape in plan.models:
        for tokens in plan.tokens:
            label = f"{shape.name} [{tokens}, {shape.heads} + 2 * {shape.kv_heads}, {shape.head_dim}]"
            yield Spec("rope_append", label, partial(_rope_append, tokens, shape, plan))


def silu_mul_specs(plan: Plan) -> Iterator[Spec]:
    """One token, and a prompt."""
    for shape in plan.models:
        for tokens in plan.tokens:
            label = f"{shape.name} [{tokens}, 2 * {shape.intermediate}]"
            yield Spec("silu_mul", label, partial(_silu_mul, tokens, shape))


def rope_tables(positions: int, head_dim: int, device: torch.device) -> Rope:
    """Tables of base 500000, as Llama 3 has without its scaling."""
    from dodona.kernels.rope import Rope

    frequencies = 500000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), frequencies)
    cos, sin = angles.cos().float(), angles.sin().float()
    return Rope(torch.cat((cos, cos), -1).to(device), torch.cat((-sin, sin), -1).to(device))


def fresh_pages(sequences: int, keys: int, shape: LlamaShape, plan: Plan, device: torch.device) -> PagedKV:
    """Pages in random order for so many keys of each sequence; the table is as wide as the plan's longest sequence."""
    from dodona.kernels.paged import PagedKV

    pages = -(-keys // plan.page_size)
    width = -(-max(*plan.lengths, plan.context, keys) // plan.page_size)
    order = torch.randperm(sequences * pages, generator=torch.Generator().manual_seed(11)) + 1
    table = torch.zeros(sequences, width, dtype=torch.int64)
    table[:, :pages] = order.view(sequences, pages)
    size = (sequences * pages + 1, plan.page_size, shape.kv_heads, shape.head_dim)
    k, v = (normal(*size, device=device, seed=seed) for seed in (12, 13))
    return PagedKV(k, v, table.to(device))


def _rms_norm(tokens: int, shape: LlamaShape, device: torch.device) -> Case:
    from dodona.kernels.norm import Norm, rms_norm, rms_norm_reference

    x, residual = (normal(tokens, shape.hidden, device=device, seed=seed) for seed in (0, 1))

    def torch_norm(i: Inputs) -> tuple[Tensor, Tensor]:
        total = i["x"] + i["residual"]
        return plain.rms_norm(total, i["norm"]), total

    def both(want: tuple[Tensor, Tensor], got: tuple[Tensor, Tensor]) -> Iterator[Comparison]:
        yield close("hidden", got[0], want[0], dtype=DTYPE, terms=shape.hidden, roundings=2)
        yield close("residual", got[1], want[1], dtype=DTYPE)

    return Case(
        inputs={"x": x, "residual": residual, "norm": Norm(norm_weight(shape.hidden, device=device, seed=2), EPS)},
        run=lambda i: rms_norm(i["x"], i["norm"], residual_TE=i["residual"]),
        expect=lambda i: rms_norm_reference(i["x"], i["norm"], residual_TE=i["residual"]),
        compare=lambda _, want, got: both(want, got),
        moved={"x, residual": size_of(x, residual), "hidden, residual": size_of(x, residual)},
        peers=with_compiled(torch_norm, both),
        from_memory=False,
    )


def _rope_append(tokens: int, shape: LlamaShape, plan: Plan, device: torch.device) -> Case:
    from dodona.kernels.rope import rope_append, rope_append_reference

    keys = max(plan.lengths[0], tokens)
    qkv = normal(tokens, (shape.heads + 2 * shape.kv_heads) * shape.head_dim, device=device, seed=0)
    inputs = {
        "qkv": qkv,
        "rope": rope_tables(keys, shape.head_dim, device),
        "positions": torch.arange(keys - tokens, keys, device=device),
        "pages": fresh_pages(1, keys, shape, plan, device),
        "slots": torch.zeros(tokens, dtype=torch.int64, device=device),
    }

    def everything(i: Inputs) -> tuple[Tensor, Rope, Tensor, PagedKV, Tensor]:
        return i["qkv"], i["rope"], i["positions"], i["pages"], i["slots"]

    def compare(i: Inputs, want: tuple[Tensor, ...], got: Tensor) -> Iterator[Comparison]:
        for name, have, wanted in zip("qkv", (got, *i["pages"][:2]), want, strict=True):
            yield close(name, have, wanted, dtype=DTYPE)

    return Case(
        inputs=inputs,
        run=lambda i: rope_append(*everything(i), heads=shape.heads),
        expect=lambda i: rope_append_reference(*everything(i), heads=shape.heads),
        compare=compare,
        moved={"qkv": size_of(qkv), "q, k, v": size_of(qkv), "tables": 2 * tokens * shape.head_dim * 4},
        peers=with_compiled(
            lambda i: plain.rope_append(*everything(i), shape.heads),
            lambda want, got: [roughly("q", got, want[0], dtype=DTYPE)],
        ),
        from_memory=False,
    )


def _silu_mul(tokens: int, shape: LlamaShape, device: torch.device) -> Case:
    from dodona.kernels.mlp import silu_mul, silu_mul_reference

    x = normal(tokens, 2 * shape.intermediate, device=device, seed=0)
    return Case(
        inputs={"x": x},
        run=lambda i: silu_mul(i["x"]),
        expect=lambda i: silu_mul_reference(i["x"]),
        compare=lambda _, want, got: [close("y", got, want, dtype=DTYPE)],
        moved={"gate, up": size_of(x), "y": size_of(x) // 2},
        peers=with_compiled(lambda i: plain.silu_mul(i["x"]), lambda want, got: [roughly("y", got, want, dtype=DTYPE)]),
        from_memory=False,
    )
