"""Two models' views of the same tokens against float64: ranks exactly, divergences to float32's last digits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import DEVICE, DTYPES, VOCABULARIES, assert_close, assert_rejects_mutants, tolerance
from torch import Tensor

from dodona.engine import signals
from dodona.kernels.pair import CONFIG, PRODUCT_CONFIG, Pair, pair, pair_of_products, pair_reference
from dodona.kernels.uncertainty import Uncertainty

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered.*:RuntimeWarning")

BIG_TILE = CONFIG | {"BLOCK": 32768}


def draw(rows: int, vocab: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocab, generator=generator) * scale).to(DEVICE)


def some_ids(rows: int, vocab: int) -> Tensor:
    return (torch.arange(rows, device=DEVICE) * 7919 + vocab // 2) % vocab


def assert_pair(got: Pair, want: Pair, vocab: int) -> None:
    """Ranks and ids exactly; divergences relative to themselves, above the square of what rounds the logarithms."""
    near = tolerance(vocab)
    for mine, theirs in ((got.base, want.base), (got.oracle, want.oracle)):
        for name in Uncertainty._fields[:8]:
            assert_close(getattr(mine, name), getattr(theirs, name), near, scale=1.0)
        assert mine.top1.tolist() == theirs.top1.tolist()
        assert mine.error.tolist() == theirs.error.tolist()
    assert got.base_rank.tolist() == want.base_rank.tolist()
    assert got.oracle_rank.tolist() == want.oracle_rank.tolist()
    assert_close(got.kl, want.kl, 4 * near, scale=1e-2)
    assert_close(got.js, want.js, 4 * near, scale=1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("splits", [1, 3])
def test_the_pair_equals_the_float64_one(dtype: torch.dtype, vocab: int, splits: int) -> None:
    """Base and oracle swapped, a ragged end that counts as logit 0, ranks off by one."""
    base, oracle = draw(2, vocab).to(dtype), draw(2, vocab, seed=1, scale=2.0).to(torch.float32)
    ids = some_ids(2, vocab)
    got = pair(base, oracle, ids, splits=splits, config=BIG_TILE if vocab > 10000 else CONFIG | {"BLOCK": 512})
    assert_pair(got, pair_reference(base, oracle, ids), vocab)


def test_ranks_are_those_of_the_eager_engine() -> None:
    """Ties count as equal: `strictly larger` in both."""
    logits, ids = draw(3, 200).round(), some_ids(3, 200)
    got = pair(logits, logits, ids)
    assert got.base_rank.tolist() == got.oracle_rank.tolist() == signals.rank(logits, ids).tolist()


@pytest.mark.parametrize("difference", [0.0, 1e-4, 1e-2, 0.2, 1.0, 20.0])
def test_divergences_of_models_that_nearly_agree_keep_their_digits(difference: float) -> None:
    """sum p (ln p - ln q) has terms of both signs: for models that agree to 1e-4 only rounding is left of it."""
    base = draw(2, 3000, scale=1.0)
    oracle = base + draw(2, 3000, seed=1, scale=1.0) * difference
    ids = some_ids(2, 3000)
    got, want = pair(base, oracle, ids), pair_reference(base, oracle, ids)
    floor = 1e-11  # (1e-6)^2 a token, what rounds ln p, and as much from the cross term
    assert_close(got.kl, want.kl, 1e-4, scale=floor / 1e-4 if difference < 1e-3 else 0.0)
    assert_close(got.js, want.js, 1e-4, scale=floor / 1e-4 if difference < 1e-3 else 0.0)
    assert (got.kl >= 0).all() and (got.js >= 0).all()
    if difference == 0:
        assert got.kl.tolist() == got.js.tolist() == [0.0, 0.0]
    if difference == 1e-4:
        p, q = base.log_softmax(-1), oracle.log_softmax(-1)
        with pytest.raises(AssertionError):
            assert_close((p.exp() * (p - q)).sum(-1), want.kl, 1e-4, scale=floor / 1e-4)


def test_tokens_that_one_model_excludes() -> None:
    """Where only the base has mass KL is infinite and JS is not; where only the oracle has, both are finite."""
    base, oracle = draw(4, 700), draw(4, 700, seed=1)
    oracle[0, 5] = -torch.inf
    base[1, 5] = -torch.inf
    base[2, 300:], oracle[2, 300:] = -torch.inf, -torch.inf
    base[3, 1:], oracle[3, :1] = -torch.inf, -torch.inf
    ids = torch.zeros(4, dtype=torch.int64, device=DEVICE)
    got = pair(base, oracle, ids)
    assert_pair(got, pair_reference(base, oracle, ids), 700)
    assert got.kl.isinf().tolist() == [True, False, False, True]
    assert float(got.js[3]) == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-6)


def test_rows_far_from_zero() -> None:
    """Logits around 500 in one model and around -500 in the other are the same distributions."""
    base, oracle = ((draw(2, 900, seed=seed) * 64).round() / 64 for seed in (0, 1))
    ids = some_ids(2, 900)
    plain, shifted = pair(base, oracle, ids), pair(base + 500, oracle - 500, ids)
    assert torch.equal(plain.kl, shifted.kl)
    assert torch.equal(plain.js, shifted.js)


def test_a_row_that_is_broken_in_one_model_has_no_divergence() -> None:
    """NaN of the oracle must not look like disagreement."""
    base, oracle = draw(3, 100), draw(3, 100, seed=1)
    base[0, 50], oracle[1] = torch.nan, -torch.inf
    ids = some_ids(3, 100)
    got = pair(base, oracle, ids)
    assert_pair(got, pair_reference(base, oracle, ids), 100)
    assert got.kl.isnan().tolist() == [True, True, False]
    assert got.base_rank[:2].tolist() == [0, 0]


def test_ids_outside_the_vocabulary_have_no_rank() -> None:
    """-1 stands for no id."""
    got = pair(draw(2, 50), draw(2, 50, seed=1), torch.tensor([-1, 50], dtype=torch.int32, device=DEVICE))
    assert got.base_rank.tolist() == got.oracle_rank.tolist() == [0, 0]
    assert got.base.logprob.isnan().all()
    assert got.kl.isfinite().all()


def whole_numbers(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Small enough that their products are exact in any order of addition."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator).to(DEVICE, dtype)


@pytest.mark.parametrize(
    ("rows", "vocab", "base_size", "oracle_size", "dtype"),
    [
        (3, 1, 8, 8, torch.float32),
        (3, 7, 24, 40, torch.float32),
        (40, 300, 16, 80, torch.bfloat16),  # more rows than a tile has
        (2, 4097, 16, 32, torch.float16),
        (2, 128256, 8, 16, torch.bfloat16),
    ],
)
def test_products_give_what_their_logits_give(
    rows: int, vocab: int, base_size: int, oracle_size: int, dtype: torch.dtype
) -> None:
    """Logits that are never stored, computed twice: both passes must round them as stored ones are."""
    base, oracle = (whole_numbers(rows, size, seed=3, dtype=dtype) for size in (base_size, oracle_size))
    base_weight = whole_numbers(vocab, base_size, seed=1, dtype=dtype) / 8
    oracle_weight = whole_numbers(vocab, oracle_size, seed=2, dtype=dtype) / 8
    ids = some_ids(rows, vocab)
    config = PRODUCT_CONFIG | ({"BLOCK_V": 2048, "BLOCK_K": 16, "BLOCK_N": 16} if vocab > 4000 else {})
    got = pair_of_products(base, base_weight, oracle, oracle_weight, ids, config=config)
    logits = [
        (hidden.double() @ weight.double().T).to(dtype)
        for hidden, weight in ((base, base_weight), (oracle, oracle_weight))
    ]
    assert_pair(got, pair_reference(*logits, ids), vocab)


def test_no_rows_are_no_launch() -> None:
    """A sync over no tokens has no opinions."""
    ids = torch.empty(0, dtype=torch.int64, device=DEVICE)
    empty, weight = torch.empty(0, 8, device=DEVICE), torch.ones(5, 8, device=DEVICE)
    for got in (pair(empty, empty, ids), pair_of_products(empty, weight, empty, weight, ids)):
        assert got.kl.shape == got.base_rank.shape == got.oracle.lse.shape == (0,)


@pytest.mark.parametrize("name", ["base_rank", "oracle_rank", "kl", "js"])
def test_the_comparison_rejects_broken_kernels(name: str) -> None:
    """Zeros, the wrong order, rows that were not written."""
    base, oracle, ids = draw(4, 600), draw(4, 600, seed=1), some_ids(4, 600)
    want = pair_reference(base, oracle, ids)
    got = pair(base, oracle, ids)
    assert_rejects_mutants(lambda field: assert_pair(got._replace(**{name: field}), want, 600), getattr(got, name))


def test_the_comparison_rejects_a_tile_that_was_not_read() -> None:
    """128 of 4097 tokens left out of the divergences."""
    base, oracle, ids = draw(1, 4097, scale=1.0), draw(1, 4097, seed=1, scale=1.0), some_ids(1, 4097)
    want = pair_reference(base, oracle, ids)
    log_p, log_q = base.double().log_softmax(-1), oracle.double().log_softmax(-1)
    terms = log_p.exp() * (log_p - log_q) - log_p.exp() + log_q.exp()
    assert_close(terms.sum(-1), want.kl, 1e-12)
    terms[:, 1024:1152] = 0
    with pytest.raises(AssertionError):
        assert_pair(pair(base, oracle, ids)._replace(kl=terms.sum(-1)), want, 4097)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"oracle_NV": torch.zeros(3, 5)}, "shape"),
        ({"oracle_NV": torch.zeros(4, 3).T}, "contiguous"),
        ({"base_NV": torch.zeros(3, 4, dtype=torch.int64)}, "float32"),
        ({"ids_N": torch.zeros(4, dtype=torch.int64)}, "ids"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(wrong: dict[str, Any], message: str) -> None:
    """Models of different vocabularies cannot be compared token by token."""
    arguments = {
        "base_NV": torch.zeros(3, 4),
        "oracle_NV": torch.zeros(3, 4),
        "ids_N": torch.zeros(3, dtype=torch.int64),
    } | wrong
    with pytest.raises(ValueError, match=message):
        pair(**{name: value.to(DEVICE) for name, value in arguments.items()})


def test_products_that_do_not_fit_are_refused() -> None:
    """Likewise for output matrices of different vocabularies."""
    hidden, ids = torch.zeros(3, 8, device=DEVICE), torch.zeros(3, dtype=torch.int64, device=DEVICE)
    with pytest.raises(ValueError, match="rows"):
        pair_of_products(hidden, torch.zeros(5, 8, device=DEVICE), hidden, torch.zeros(6, 8, device=DEVICE), ids)
