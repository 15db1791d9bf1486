"""Cases over logits: uncertainty, sample, pair and pair_of_products."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dodona.bench import plain
from dodona.bench.case import DTYPE, Case, Goal, Inputs, Plan, Spec, normal, size_of, weights, with_compiled
from dodona.bench.checks import Comparison, between, equal, value
from dodona.engine.philox import gumbel
from dodona.kernels.launch import LlamaShape

SPREAD = 2.5  # standard deviation of the logits
GOALS = {(1, 128256): Goal("us", 6.0), (8192, 151936): Goal("percent", 85.0)}
ROWS_AT_ONCE = 512  # of a float64 reference


def uncertainty_specs(plan: Plan) -> Iterator[Spec]:
    """Statistics of one row, of a batch and of a whole evaluation."""
    for rows, vocab in plan.logits:
        yield Spec("uncertainty", f"[{rows}, {vocab}]", partial(_uncertainty, rows, vocab), GOALS.get((rows, vocab)))


def sample_specs(plan: Plan) -> Iterator[Spec]:
    """Draws with and without filters."""
    for rows in plan.draws:
        for filtered in (False, True):
            shape = f"[{rows}, {plan.vocab}]" + (" top-k top-p min-p" if filtered else "")
            yield Spec("sample", shape, partial(_sample, rows, plan.vocab, filtered))


def pair_specs(plan: Plan) -> Iterator[Spec]:
    """An oracle's view of as many tokens as one weight pass may take."""
    for rows in dict.fromkeys((1, plan.views)):
        yield Spec("pair", f"[{rows}, {plan.vocab}]", partial(_pair, rows, plan.vocab))


def pair_of_products_specs(plan: Plan) -> Iterator[Spec]:
    """The same from hidden states, for each model and the next larger one; a single model is its own oracle."""
    pairs = list(pairwise(plan.models)) or [(plan.models[0], plan.models[0])]
    for small, large in pairs:
        shape = f"{small.name} and {large.name}, [{plan.views}, {small.vocab}]"
        yield Spec("pair_of_products", shape, partial(_pair_of_products, plan.views, small, large))


def compare_statistics(got: Any, want: Any, vocab: int) -> Iterator[Comparison]:
    """All fields of an `Uncertainty`."""
    for name in ("lse", "entropy", "varentropy", "top_logit", "top_prob", "second_prob", "margin", "logprob"):
        yield value(name, getattr(got, name), getattr(want, name), terms=vocab)
    for name in ("top1", "error"):
        yield equal(name, getattr(got, name), getattr(want, name))


def in_pieces(reference: Any, *rows: Tensor) -> Any:
    """A reference over many rows, a few at a time, so that float64 fits."""
    parts = [reference(*some) for some in zip(*(tensor.split(ROWS_AT_ONCE) for tensor in rows), strict=True)]
    return parts[0] if len(parts) == 1 else type(parts[0])(*map(torch.cat, zip(*parts, strict=True)))


def _ids(rows: int, vocab: int, device: torch.device) -> Tensor:
    generator = torch.Generator(device).manual_seed(5)
    return torch.randint(0, vocab, (rows,), generator=generator, device=device)


def _uncertainty(rows: int, vocab: int, device: torch.device) -> Case:
    from dodona.kernels.uncertainty import Uncertainty, uncertainty, uncertainty_reference

    def torch_statistics(i: Inputs) -> tuple[Tensor, ...]:
        return plain.statistics(i["logits"], i["ids"])

    def compare_plain(want: Uncertainty, got: tuple[Tensor, ...]) -> Iterator[Comparison]:
        yield value("entropy", got[0], want.entropy, terms=vocab)
        yield value("varentropy", got[1], want.varentropy, terms=vocab)

    logits = normal(rows, vocab, device=device, seed=0, std=SPREAD)
    return Case(
        inputs={"logits": logits, "ids": _ids(rows, vocab, device)},
        run=lambda i: uncertainty(i["logits"], i["ids"]),
        expect=lambda i: in_pieces(uncertainty_reference, i["logits"], i["ids"]),
        compare=lambda _, want, got: compare_statistics(got, want, vocab),
        moved={"logits": size_of(logits)},
        peers=with_compiled(torch_statistics, compare_plain),
        from_memory=False,
    )


def draw_inputs(rows: int, device: torch.device, module: ModuleType, *, filtered: bool) -> dict[str, Any]:
    """Temperatures, keys, positions and filters of rows of draws."""

    def column(number: float, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full((rows,), number, dtype=dtype, device=device)

    generator = torch.Generator(device).manual_seed(7)
    return {
        "temperature": column(0.7),
        "keys": torch.randint(0, 2**32, (rows, 2), generator=generator, device=device),
        "positions": torch.arange(rows, device=device),
        "filters": module.Filters(column(50, torch.int64), column(0.9), column(0.02)) if filtered else module.Filters(),
    }


def compare_draws(got: Any, want: Any, vocab: int) -> Iterator[Comparison]:
    """All fields of a `Sample`."""
    yield equal("id", got.id, want.id)
    yield value("logprob", got.logprob, want.logprob, terms=vocab)
    yield value("sampled_logprob", got.sampled_logprob, want.sampled_logprob, terms=vocab)


def expected_draw(module: ModuleType, logits_BV: Tensor, i: Inputs) -> Any:
    """`sample_reference` with the engine's own noise."""
    noise = gumbel(i["keys"], i["positions"], logits_BV.shape[1])
    return module.sample_reference(logits_BV, i["temperature"], noise, i["filters"])


def _sample(rows: int, vocab: int, filtered: bool, device: torch.device) -> Case:
    from dodona.kernels import sample as module
    from dodona.kernels.uncertainty import uncertainty

    logits = normal(rows, vocab, device=device, seed=1, std=SPREAD)

    def run(i: Inputs) -> Any:
        k, p, least = i["filters"]
        return module.sample(
            i["logits"],
            i["temperature"],
            i["keys"],
            i["positions"],
            top_k_B=k,
            top_p_B=p,
            min_p_B=least,
            statistics=i["statistics"],
        )

    return Case(
        inputs={
            "logits": logits,
            "statistics": uncertainty(logits),
            **draw_inputs(rows, device, module, filtered=filtered),
        },
        run=run,
        expect=lambda i: expected_draw(module, i["logits"], i),
        compare=lambda _, want, got: compare_draws(got, want, vocab),
        moved={"logits": size_of(logits)},
        peers=with_compiled(lambda i: plain.draw(i["logits"], i["temperature"], i["filters"]), None),
        from_memory=False,
    )


def _compare_views(got: Any, want: Any, vocab: int, dtype: torch.dtype) -> Iterator[Comparison]:
    yield value("kl", got.kl, want.kl, terms=vocab, dtype=dtype)
    yield value("js", got.js, want.js, terms=vocab, dtype=dtype)
    for name in ("base", "oracle"):
        for field in ("lse", "entropy", "varentropy", "top_prob", "logprob"):
            have, wanted = getattr(getattr(got, name), field), getattr(getattr(want, name), field)
            yield value(f"{name}.{field}", have, wanted, terms=vocab, dtype=dtype)


def _plain_views(vocab: int, dtype: torch.dtype) -> Any:
    def compare(want: Any, got: tuple[Tensor, ...]) -> Iterable[Comparison]:
        yield value("kl", got[0], want.kl, terms=vocab, dtype=dtype)
        yield value("js", got[1], want.js, terms=vocab, dtype=dtype)

    return compare


def _pair(rows: int, vocab: int, device: torch.device) -> Case:
    from dodona.kernels.pair import pair, pair_reference

    base = normal(rows, vocab, device=device, seed=2, std=SPREAD)
    oracle = (base + normal(rows, vocab, device=device, seed=3)).to(DTYPE)

    def compare(_: Inputs, want: Any, got: Any) -> Iterator[Comparison]:
        yield from _compare_views(got, want, vocab, torch.float32)
        yield equal("base_rank", got.base_rank, want.base_rank)
        yield equal("oracle_rank", got.oracle_rank, want.oracle_rank)

    return Case(
        inputs={"base": base, "oracle": oracle, "ids": _ids(rows, vocab, device)},
        run=lambda i: pair(i["base"], i["oracle"], i["ids"]),
        expect=lambda i: pair_reference(i["base"], i["oracle"], i["ids"]),
        compare=compare,
        moved={"base": size_of(base), "oracle": size_of(oracle)},
        peers=with_compiled(
            lambda i: plain.compared(i["base"], i["oracle"], i["ids"]), _plain_views(vocab, torch.float32)
        ),
        from_memory=False,
    )


def _pair_of_products(rows: int, small: LlamaShape, large: LlamaShape, device: torch.device) -> Case:
    from dodona.kernels.pair import pair_of_products, pair_reference

    vocab = small.vocab
    inputs = {
        "base": normal(rows, small.hidden, device=device, seed=0),
        "base_weight": weights(vocab, small.hidden, device=device, seed=1),
        "oracle": normal(rows, large.hidden, device=device, seed=2),
        "oracle_weight": weights(vocab, large.hidden, device=device, seed=3),
        "ids": _ids(rows, vocab, device),
    }

    def products(i: Inputs) -> tuple[Tensor, Tensor]:
        base, oracle = (i[name].double() @ i[f"{name}_weight"].double().T for name in ("base", "oracle"))
        return base.to(DTYPE), oracle.to(DTYPE)

    def compare(i: Inputs, want: Any, got: Any) -> Iterator[Comparison]:
        yield from _compare_views(got, want, vocab, DTYPE)
        ids = i["ids"].unsqueeze(1)
        for name, logits in zip(("base", "oracle"), products(i), strict=True):
            given = logits.double().gather(1, ids)
            slack = 2 * torch.finfo(DTYPE).eps * (given.abs() + logits.double().abs().mean())
            low, high = ((logits > given + step * slack).sum(-1) + 1 for step in (1, -1))
            yield between(f"{name}_rank", getattr(got, f"{name}_rank"), low, high)

    def torch_views(i: Inputs) -> tuple[Tensor, ...]:
        base = torch.nn.functional.linear(i["base"], i["base_weight"])
        return plain.compared(base, torch.nn.functional.linear(i["oracle"], i["oracle_weight"]), i["ids"])

    return Case(
        inputs=inputs,
        run=lambda i: pair_of_products(i["base"], i["base_weight"], i["oracle"], i["oracle_weight"], i["ids"]),
        expect=lambda i: pair_reference(*products(i), i["ids"]),
        compare=compare,
        moved={name: size_of(inputs[name]) for name in ("base_weight", "oracle_weight", "base", "oracle")},
        peers=with_compiled(torch_views, _plain_views(vocab, DTYPE)),
        operations=2 * rows * vocab * (small.hidden + large.hidden),
    )
