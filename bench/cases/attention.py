"""Cases of attention over pages: one query a sequence, with and without signals, and many queries of one sequence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dodona.bench import plain
from dodona.bench.case import DTYPE, Case, Goal, Inputs, Plan, Spec, normal, size_of, with_compiled
from dodona.bench.cases.layer import fresh_pages
from dodona.bench.checks import Comparison, close, roughly, share, value
from dodona.kernels.launch import LlamaShape

GOALS = {(1, 4096): Goal("us", 8.0)}


def decode_specs(plan: Plan) -> Iterator[Spec]:
    """Batches of equally long sequences."""
    for shape in plan.models:
        for sequences in plan.sequences:
            for keys in plan.lengths:
                label = f"{shape.name} {sequences} x {keys} keys"
                build = partial(_decode, sequences, keys, shape, plan)
                yield Spec("attention_decode", label, build, GOALS.get((sequences, keys)))


def signals_specs(plan: Plan) -> Iterator[Spec]:
    """Decoding with head statistics, and the four signals from them."""
    for shape in plan.models:
        keys = plan.lengths[-1]
        yield Spec("attention_signals", f"{shape.name} 1 x {keys} keys", partial(_signals, 1, keys, shape, plan))


def extend_specs(plan: Plan) -> Iterator[Spec]:
    """One sequence that catches up by so many tokens."""
    for shape in plan.models:
        for lag in plan.lags:
            label = f"{shape.name} {lag} queries, {plan.context} keys"
            yield Spec("attention_extend", label, partial(_extend, lag, shape, plan))


def _inputs(
    queries: int, sequences: int, keys: int, shape: LlamaShape, plan: Plan, device: torch.device
) -> dict[str, Any]:
    """Queries, pages with NaN wherever no live key lies, and the same keys and values in one piece."""
    pages = fresh_pages(sequences, keys, shape, plan, device)
    used = pages.table[:, : -(-keys // plan.page_size)]
    live = keys - (used.shape[1] - 1) * plan.page_size  # keys on the last page
    for x in pages[:2]:
        x[0] = torch.nan
        last = x[used[:, -1]]
        last[:, live:] = torch.nan
        x[used[:, -1]] = last
    k, v = (x[used].flatten(1, 2)[:, :keys].transpose(1, 2).contiguous() for x in pages[:2])
    return {
        "q": normal(queries, shape.heads, shape.head_dim, device=device, seed=0),
        "pages": pages,
        "lengths": torch.full((sequences,), keys, dtype=torch.int64, device=device),
        "k": k,
        "v": v,
    }


def _moved(inputs: dict[str, Any]) -> dict[str, int]:
    return {"k, v": size_of(inputs["k"], inputs["v"]), "q, out": 2 * size_of(inputs["q"])}


def _near(want: Tensor, got: Tensor, keys: int) -> list[Comparison]:
    return [close("out", got, want, dtype=DTYPE, terms=keys, roundings=2)]  # of the attention, and of the result


def _decode(sequences: int, keys: int, shape: LlamaShape, plan: Plan, device: torch.device) -> Case:
    from dodona.kernels.attention import attention_decode, attention_reference

    inputs = _inputs(sequences, sequences, keys, shape, plan, device)
    return Case(
        inputs=inputs,
        run=lambda i: attention_decode(i["q"], i["pages"], i["lengths"]).out_THD,
        expect=lambda i: attention_reference(i["q"], i["pages"], None, None, i["lengths"]).out_THD,
        compare=lambda _, want, got: _near(want, got, keys),
        moved=_moved(inputs),
        peers=with_compiled(
            lambda i: plain.decode(i["q"], i["k"], i["v"]),
            lambda want, got: [roughly("out", got, want, dtype=DTYPE, terms=keys)],
        ),
    )


def _signals(sequences: int, keys: int, shape: LlamaShape, plan: Plan, device: torch.device) -> Case:
    from dodona.kernels.attention import attention_decode, attention_reference
    from dodona.kernels.attention_signals import attention_signals, attention_signals_reference

    inputs = _inputs(sequences, sequences, keys, shape, plan, device)

    def run(i: Inputs) -> Any:
        attended = attention_decode(i["q"], i["pages"], i["lengths"], statistics=True)
        assert attended.heads is not None
        return attended, attention_signals(i["q"], i["pages"], attended.heads, i["lengths"])

    def expect(i: Inputs) -> Any:
        attended = attention_reference(i["q"], i["pages"], None, None, i["lengths"])
        return attended, attention_signals_reference(i["q"], i["pages"], i["lengths"])

    def compare(_: Inputs, want: Any, got: Any) -> Iterator[Comparison]:
        (attended, signals), (attended_want, signals_want) = got, want
        yield from _near(attended_want.out_THD, attended.out_THD, keys)
        for name in ("lse", "entropy", "strength"):
            have, wanted = getattr(attended.heads, name), getattr(attended_want.heads, name)
            yield value(name, have, wanted, terms=keys)
        for name in ("attn_entropy", "attn_varentropy", "interaction_strength"):
            yield value(name, getattr(signals, name), getattr(signals_want, name), terms=keys)
        yield share("agreement", signals.agreement, signals_want.agreement, terms=keys)

    def compare_plain(want: Any, got: tuple[Tensor, ...]) -> Iterator[Comparison]:
        yield roughly("out", got[0], want[0].out_THD, dtype=DTYPE, terms=keys)
        yield value("attn_entropy", got[1], want[1].attn_entropy, terms=keys, dtype=DTYPE)

    return Case(
        inputs=inputs,
        run=run,
        expect=expect,
        compare=compare,
        moved=_moved(inputs),
        peers=with_compiled(lambda i: plain.attention_signals(i["q"], i["k"], i["v"]), compare_plain),
    )


def _extend(lag: int, shape: LlamaShape, plan: Plan, device: torch.device) -> Case:
    from dodona.kernels.attention import attention_extend, attention_reference

    keys = plan.context
    inputs = _inputs(lag, 1, keys, shape, plan, device)
    position = torch.arange(keys, device=device)
    inputs["starts"] = torch.tensor([0, lag], device=device)
    inputs["seen"] = position[None, :] <= position[keys - lag :, None]

    def run(i: Inputs) -> Tensor:
        return attention_extend(i["q"], i["pages"], i["starts"], i["lengths"], max_queries=lag)

    return Case(
        inputs=inputs,
        run=run,
        expect=lambda i: attention_reference(i["q"], i["pages"], None, i["starts"], i["lengths"]).out_THD,
        compare=lambda _, want, got: _near(want, got, keys),
        moved=_moved(inputs),
        peers=with_compiled(
            lambda i: plain.extend(i["q"], i["k"], i["v"], i["seen"]),
            lambda want, got: [roughly("out", got, want, dtype=DTYPE, terms=keys)],
        ),
        operations=4 * shape.heads * shape.head_dim * (lag * keys - lag * (lag - 1) // 2),
    )
