"""Cases of the weight-streaming products: linear, qkv_append and lm_head."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dodona.bench import plain
from dodona.bench.case import (
    DTYPE,
    Case,
    Goal,
    Inputs,
    Peer,
    Plan,
    Spec,
    norm_weight,
    normal,
    size_of,
    weights,
    with_compiled,
)
from dodona.bench.cases.layer import fresh_pages, rope_tables
from dodona.bench.cases.logits import compare_draws, compare_statistics, draw_inputs, expected_draw
from dodona.bench.checks import Comparison, close, roughly, row_size, value
from dodona.kernels.launch import LlamaShape

EPS = 1e-5
GOAL_MODELS = ("1B", "8B")


class Product(NamedTuple):
    """One of a layer's products."""

    name: str
    outputs: int
    inner: int
    norm: bool
    residual: bool
    silu_mul: bool


def products_of(shape: LlamaShape) -> tuple[Product, ...]:
    """The four products of a decoder layer, with what the decode step fuses to them."""
    heads_width = shape.heads * shape.head_dim
    return (
        Product("qkv", heads_width + 2 * shape.kv_heads * shape.head_dim, shape.hidden, True, False, False),
        Product("o", shape.hidden, heads_width, False, True, False),
        Product("gate_up", shape.intermediate, shape.hidden, True, False, True),
        Product("down", shape.hidden, shape.intermediate, False, True, False),
    )


def linear_specs(plan: Plan) -> Iterator[Spec]:
    """Every product of every model."""
    for shape in plan.models:
        for product in products_of(shape):
            for rows in plan.rows:
                label = f"{shape.name} {product.name} [{rows}, {product.inner}] to {product.outputs}"
                goal = Goal("percent", 85.0) if rows == 1 and shape.name in GOAL_MODELS else None
                yield Spec("linear", label, partial(_linear, rows, product), goal)


def qkv_append_specs(plan: Plan) -> Iterator[Spec]:
    """The first half of a layer up to attention."""
    for shape in plan.models:
        for rows in plan.rows:
            yield Spec("qkv_append", f"{shape.name} [{rows}, {shape.hidden}]", partial(_qkv_append, rows, shape, plan))


def lm_head_specs(plan: Plan) -> Iterator[Spec]:
    """Final norm, output matrix, statistics and draw."""
    for shape in plan.models:
        for rows in plan.rows:
            label = f"{shape.name} [{rows}, {shape.hidden}] to {shape.vocab}"
            yield Spec(
                "lm_head", label, partial(_lm_head, rows, shape), Goal("over_product_us", 2.0) if rows == 1 else None
            )


def _linear(rows: int, product: Product, device: torch.device) -> Case:
    from dodona.kernels.linear import linear, linear_reference
    from dodona.kernels.norm import Norm

    _, outputs, inner, has_norm, has_residual, silu_mul = product
    x = normal(rows, inner, device=device, seed=0)
    weight = weights(2 * outputs if silu_mul else outputs, inner, device=device, seed=1)
    inputs: dict[str, Any] = {"x": x, "weight": weight, "norm": None, "residual": None}
    if has_norm:
        inputs["norm"] = Norm(norm_weight(inner, device=device, seed=2), EPS)
    if has_residual:
        inputs["residual"] = normal(rows, outputs, device=device, seed=3)

    def given(i: Inputs) -> dict[str, Any]:
        return {"norm": i["norm"], "residual_MN": i["residual"], "silu_mul": silu_mul}

    def expect(i: Inputs) -> tuple[Tensor, Tensor]:
        """The result, and the size of an error in it for each unit of relative error in the product's sums."""
        y = linear_reference(i["x"], i["weight"], **given(i))
        if not silu_mul:
            return y, row_size(y)
        z = linear_reference(i["x"], i["weight"], norm=i["norm"])
        gate, up = z.abs().chunk(2, -1)
        return y, row_size(z) * (gate + up)

    peers = with_compiled(
        lambda i: plain.linear(i["x"], i["weight"], i["norm"], i["residual"], silu_mul),
        lambda want, got: [close("y", got, want[0], dtype=DTYPE, terms=inner, scale=3 * want[1])],
    )
    return Case(
        inputs=inputs,
        run=lambda i: linear(i["x"], i["weight"], **given(i)),
        expect=expect,
        compare=lambda _, want, got: [
            close("y", got, want[0], dtype=DTYPE, terms=inner, roundings=1 + has_norm, scale=want[1])
        ],
        moved={"weight": size_of(weight), "x": size_of(x, inputs["residual"]), "y": rows * outputs * DTYPE.itemsize},
        peers={**peers, "cublas": Peer(lambda i: F.linear(i["x"], i["weight"]))},
    )


def _qkv_append(rows: int, shape: LlamaShape, plan: Plan, device: torch.device) -> Case:
    from dodona.kernels.norm import Norm
    from dodona.kernels.qkv import qkv_append, qkv_append_reference

    width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    keys = plan.lengths[0]
    inputs = {
        "x": normal(rows, shape.hidden, device=device, seed=0),
        "weight": weights(width, shape.hidden, device=device, seed=1),
        "norm": Norm(norm_weight(shape.hidden, device=device, seed=2), EPS),
        "rope": rope_tables(keys, shape.head_dim, device),
        "positions": torch.arange(keys - rows, keys, device=device),
        "pages": fresh_pages(rows, keys, shape, plan, device),
        "slots": torch.arange(rows, device=device).flip(0),
    }

    def everything(i: Inputs) -> tuple[Any, ...]:
        return tuple(i[name] for name in ("x", "weight", "norm", "rope", "positions", "pages", "slots"))

    def torch_append(i: Inputs) -> Tensor:
        z = plain.linear(i["x"], i["weight"], i["norm"], None, False)
        return plain.rope_append(z, i["rope"], i["positions"], i["pages"], i["slots"], shape.heads)

    def compare(i: Inputs, want: Any, got: Tensor) -> Iterator[Comparison]:
        for name, have, wanted in zip("qkv", (got, *i["pages"][:2]), want, strict=True):
            yield close(name, have, wanted, dtype=DTYPE, terms=shape.hidden, roundings=2)

    return Case(
        inputs=inputs,
        run=lambda i: qkv_append(*everything(i), heads=shape.heads),
        expect=lambda i: qkv_append_reference(*everything(i), heads=shape.heads),
        compare=compare,
        moved={
            "weight": size_of(inputs["weight"]),
            "x": size_of(inputs["x"]),
            "q, k, v": rows * width * DTYPE.itemsize,
        },
        peers={
            **with_compiled(
                torch_append, lambda want, got: [roughly("q", got, want[0], dtype=DTYPE, terms=shape.hidden)]
            ),
            "cublas": Peer(lambda i: F.linear(i["x"], i["weight"])),
        },
    )


def _lm_head(rows: int, shape: LlamaShape, device: torch.device) -> Case:
    from dodona.kernels import sample as draws
    from dodona.kernels.linear import linear
    from dodona.kernels.lm_head import Draw, lm_head, lm_head_reference
    from dodona.kernels.norm import Norm
    from dodona.kernels.uncertainty import uncertainty_reference

    vocab, hidden = shape.vocab, shape.hidden
    weight = weights(vocab, hidden, device=device, seed=1).mul_(2.5)
    drawing = draw_inputs(rows, device, draws, filtered=False)
    inputs = {
        "x": normal(rows, hidden, device=device, seed=0),
        "weight": weight,
        "norm": Norm(norm_weight(hidden, device=device, seed=2), EPS),
        "ids": torch.arange(rows, device=device) * (vocab // rows),
        "draw": Draw(drawing["temperature"], drawing["keys"], drawing["positions"]),
        **drawing,
    }

    def run(i: Inputs, *, want_logits: bool = False) -> Any:
        return lm_head(i["x"], i["weight"], norm=i["norm"], ids_B=i["ids"], draw=i["draw"], want_logits=want_logits)

    def expect(i: Inputs) -> dict[str, Tensor]:
        logits = lm_head_reference(i["x"], i["weight"], i["norm"], i["ids"]).logits_BV
        assert logits is not None
        return {"logits": logits, "entropy": uncertainty_reference(logits.to(DTYPE), i["ids"]).entropy}

    def compare(i: Inputs, want: dict[str, Tensor], got: Any) -> Iterator[Comparison]:
        # The statistics are of the logits that this kernel rounded; so let it write them, and look at both.
        logits = run(i, want_logits=True).logits_BV
        yield close("logits", logits, want["logits"], dtype=DTYPE, terms=hidden, roundings=2)
        yield from compare_statistics(got.statistics, uncertainty_reference(logits, i["ids"]), vocab)
        yield from compare_draws(got.drawn, expected_draw(draws, logits, i), vocab)

    def torch_head(i: Inputs) -> tuple[Tensor, ...]:
        logits = F.linear(plain.rms_norm(i["x"], i["norm"]), i["weight"])
        return *plain.statistics(logits, i["ids"]), plain.draw(logits, i["temperature"], i["filters"])

    def compare_entropy(want: Any, got: Any) -> list[Comparison]:
        return [value("entropy", got[0], want["entropy"], terms=vocab, dtype=DTYPE)]

    return Case(
        inputs=inputs,
        run=run,
        expect=expect,
        compare=compare,
        moved={"weight": size_of(weight), "x": size_of(inputs["x"])},
        peers={
            **with_compiled(torch_head, compare_entropy),
            "cublas": Peer(lambda i: F.linear(i["x"], i["weight"])),
            # Our own product without statistics: what they add is the difference.
            "product": Peer(
                lambda i: linear(i["x"], i["weight"], norm=i["norm"]),
                lambda want, got: [roughly("logits", got, want["logits"], dtype=DTYPE, terms=hidden)],
            ),
        },
    )
