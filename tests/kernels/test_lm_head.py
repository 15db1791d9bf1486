"""Final norm, output product, statistics and draw in one: against float64, and against the kernels that read logits.

Where logits must be the same to the bit, inputs are small whole numbers, whose products are exact in any order.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import DEVICE, DTYPES, VOCABULARIES, assert_close, assert_rejects_mutants, tolerance
from torch import Tensor

from dodona.engine import philox
from dodona.kernels.lm_head import CONFIG, Draw, LmHead, lm_head, lm_head_reference
from dodona.kernels.norm import Norm
from dodona.kernels.sample import Filters, Sample, sample
from dodona.kernels.uncertainty import Uncertainty, uncertainty, uncertainty_reference

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered.*:RuntimeWarning")

# In the interpreter a tile costs the same whatever its size; NumPy adds up a tile's rows one after another, though.
BIG_TILE = CONFIG | {"BLOCK_V": 1024}


def whole_numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator).to(DEVICE, dtype)


def random_numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


def draw_for(rows: int, **filters: Any) -> Draw:
    """Greedy for every third row, temperatures from 0.5 for the others."""
    temperatures = [0.0 if row % 3 == 2 else 0.5 + 0.1 * row for row in range(rows)]
    keys = [philox.request_key(1, f"request {row}") for row in range(rows)]
    return Draw(
        torch.tensor(temperatures, device=DEVICE),
        torch.tensor(keys, dtype=torch.int64, device=DEVICE).view(rows, 2),
        torch.arange(rows, device=DEVICE) * 11,
        Filters(**{name: torch.tensor([value] * rows, device=DEVICE) for name, value in filters.items()}),
    )


def assert_like_stored_logits(got: LmHead, logits: Tensor, ids: Tensor | None, draw: Draw | None) -> None:
    """What `uncertainty` and `sample` find in the same logits."""
    near = tolerance(logits.shape[1])
    want = uncertainty_reference(logits, ids)
    for name in Uncertainty._fields[:8]:
        assert_close(getattr(got.statistics, name), getattr(want, name), near, scale=1.0)
    assert got.statistics.top1.tolist() == want.top1.tolist()
    assert got.statistics.error.tolist() == want.error.tolist()
    if draw is not None and got.drawn is not None:
        drawn = sample(logits, draw.temperature_B, draw.keys_B2, draw.positions_B, statistics=uncertainty(logits))
        assert got.drawn.id.tolist() == drawn.id.tolist()
        assert_close(got.drawn.logprob, drawn.logprob.double(), near, scale=1.0)
        assert_close(got.drawn.sampled_logprob, drawn.sampled_logprob.double(), near, scale=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", VOCABULARIES[:3])
def test_statistics_and_draw_are_those_of_the_logits(dtype: torch.dtype, vocab: int) -> None:
    """A tile merged wrongly, a ragged end counted in, noise of another token: the kernel on stored logits knows."""
    rows = 3
    hidden, weight = whole_numbers(rows, 24, dtype=dtype), whole_numbers(vocab, 24, seed=1, dtype=dtype) / 8
    ids = torch.tensor([vocab - 1, 0, vocab // 2], device=DEVICE)
    draw = draw_for(rows)
    got = lm_head(hidden, weight, ids_B=ids, draw=draw, config=BIG_TILE if vocab > 4000 else None)
    logits = (hidden.double() @ weight.double().T).to(dtype)
    assert got.logits_BV is None
    assert_like_stored_logits(got, logits, ids, draw)


def test_statistics_of_a_full_vocabulary() -> None:
    """More parts than a block of the merging kernel was written for, and a ragged last one."""
    hidden, weight = whole_numbers(2, 16, dtype=torch.bfloat16), whole_numbers(128256, 16, seed=1, dtype=torch.bfloat16)
    ids = torch.tensor([128255, 5], device=DEVICE)
    got = lm_head(hidden, weight / 8, ids_B=ids, config=CONFIG | {"BLOCK_V": 2048, "BLOCK_K": 16})
    assert_like_stored_logits(got, (hidden.double() @ weight.double().T / 8).bfloat16(), ids, None)


@pytest.mark.parametrize(("rows", "size"), [(1, 64), (16, 200)])
def test_the_norm_comes_before_the_product(rows: int, size: int) -> None:
    """The norm's weight, its eps and its mean over a hidden size that no tile divides."""
    hidden, weight = random_numbers(rows, size) * 5, random_numbers(301, size, seed=1) / size**0.5
    norm = Norm(random_numbers(size, seed=2) + 1.5, 1e-2)
    got = lm_head(hidden, weight, norm=norm, want_logits=True)
    want = lm_head_reference(hidden, weight, norm)
    assert got.logits_BV is not None and want.logits_BV is not None
    near = tolerance(size)
    assert_close(got.logits_BV, want.logits_BV, near, scale=size**0.5)
    assert_close(got.statistics.lse, want.statistics.lse, near, scale=size**0.5)
    assert_close(got.statistics.entropy, want.statistics.entropy, near, scale=size**0.5)
    assert_like_stored_logits(got, got.logits_BV, None, None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_rounded_once(dtype: torch.dtype) -> None:
    """Sums kept in half precision lose all but two digits at this hidden size."""
    hidden, weight = random_numbers(4, 512, dtype=dtype), (random_numbers(300, 512, seed=1) / 20).to(dtype)
    norm = Norm(random_numbers(512, seed=2, dtype=dtype) + 1.5, 1e-5)
    got = lm_head(hidden, weight, norm=norm, want_logits=True)
    assert got.logits_BV is not None
    assert got.logits_BV.dtype == dtype
    normed = F.rms_norm(hidden, (512,), norm.weight_E, norm.eps)  # rounded to the dtype, as the kernel's is
    assert_close(got.logits_BV, normed.double() @ weight.double().T, tolerance(512, rounded=dtype), scale=1.0)
    assert_like_stored_logits(got, got.logits_BV, None, None)


def test_filters_act_on_the_logits_of_the_same_pass() -> None:
    """With top-k the draw is `sample`'s, from logits in the model's dtype."""
    hidden, weight = (
        whole_numbers(3, 16, dtype=torch.bfloat16),
        whole_numbers(500, 16, seed=1, dtype=torch.bfloat16) / 8,
    )
    draw = draw_for(3, top_k=4, min_p=0.05)
    got = lm_head(hidden, weight, draw=draw)
    assert got.drawn is not None and got.logits_BV is None
    logits = (hidden.double() @ weight.double().T).bfloat16()
    want = sample(
        logits, draw.temperature_B, draw.keys_B2, draw.positions_B,
        top_k_B=draw.filters.top_k, min_p_B=draw.filters.min_p,
    )  # fmt: skip
    assert got.drawn.id.tolist() == want.id.tolist()
    assert_close(got.drawn.sampled_logprob, want.sampled_logprob.double(), tolerance(500), scale=1.0)


def test_next_to_no_temperature_is_greedy() -> None:
    """Scores that overflow are all alike, and the first token wins."""
    hidden, weight = random_numbers(4, 96), random_numbers(400, 96, seed=1)
    draw = draw_for(4)
    draw.temperature_B.copy_(torch.tensor([1e-15, 1e-30, 1e-40, 0.0]))
    got = lm_head(hidden, weight, draw=draw)
    assert got.drawn is not None and got.drawn.id.tolist() == got.statistics.top1.tolist()
    assert got.drawn.sampled_logprob.tolist() == [0.0] * 4


def test_a_row_does_not_depend_on_its_batch() -> None:
    """A request gives the same text alone and in company, to the bit."""
    hidden, weight = random_numbers(9, 96), random_numbers(400, 96, seed=1)
    norm, draw = Norm(random_numbers(96, seed=2), 1e-5), draw_for(9)
    together = lm_head(hidden, weight, norm=norm, draw=draw)
    alone = lm_head(
        hidden[4:5], weight, norm=norm, draw=Draw(draw.temperature_B[4:5], draw.keys_B2[4:5], draw.positions_B[4:5])
    )
    assert all(torch.equal(a[4:5], b) for a, b in zip(together.statistics[:7], alone.statistics[:7], strict=True))
    assert together.drawn is not None and alone.drawn is not None
    assert all(torch.equal(a[4:5], b) for a, b in zip(together.drawn, alone.drawn, strict=True))


def test_rows_may_lie_apart() -> None:
    """The last rows of a ragged forward, and an output matrix that is part of a larger one."""
    wide, weights = random_numbers(6, 100), random_numbers(250, 90, seed=1)
    hidden, weight = wide[1::2, 10:74], weights[:200, :64]
    got = lm_head(hidden, weight, want_logits=True)
    assert got.logits_BV is not None
    assert_close(got.logits_BV, hidden.double() @ weight.double().T, tolerance(64), scale=8.0)


def test_broken_rows_give_no_token() -> None:
    """NaN in a hidden state, and products that overflow, are errors of their row alone."""
    hidden, weight = whole_numbers(4, 32), whole_numbers(200, 32, seed=1) / 4
    hidden[0, 3] = torch.nan
    weight[7] = 0.0
    weight[7, 0] = 3e38
    hidden[:, 0] = torch.tensor([0.0, 1e3, 0.0, 0.0])
    got = lm_head(hidden, weight, draw=draw_for(4))
    assert got.statistics.error.tolist() == [1, 3, 0, 0]
    assert got.drawn is not None
    assert got.drawn.id[:2].tolist() == [-1, -1]
    assert (got.drawn.id[2:] >= 0).all()


def test_no_rows_are_no_launch() -> None:
    """A forward whose rows all finished asks for nothing."""
    got = lm_head(torch.empty(0, 8, device=DEVICE), torch.ones(5, 8, device=DEVICE), draw=draw_for(0), want_logits=True)
    assert got.statistics.lse.shape == (0,)
    assert got.drawn is not None and got.drawn.id.shape == (0,)
    assert got.logits_BV is not None and got.logits_BV.shape == (0, 5)


@pytest.mark.parametrize("name", ["lse", "entropy", "varentropy", "top_prob", "logprob"])
def test_the_comparison_rejects_broken_statistics(name: str) -> None:
    """Zeros, the wrong order, rows that were not written."""
    hidden, weight = whole_numbers(4, 24, seed=3), whole_numbers(300, 24, seed=1) / 8
    ids = torch.arange(4, device=DEVICE)
    logits = hidden @ weight.T
    got = lm_head(hidden, weight, ids_B=ids)

    def check(field: Tensor) -> None:
        assert_like_stored_logits(got._replace(statistics=got.statistics._replace(**{name: field})), logits, ids, None)

    assert_rejects_mutants(check, getattr(got.statistics, name))


@pytest.mark.parametrize("name", Sample._fields)
def test_the_comparison_rejects_a_broken_draw(name: str) -> None:
    """Likewise."""
    hidden, weight = whole_numbers(4, 24, seed=3), whole_numbers(300, 24, seed=1) / 8
    logits, draw = hidden @ weight.T, draw_for(4)._replace(temperature_B=torch.ones(4, device=DEVICE))
    got = lm_head(hidden, weight, draw=draw)
    assert got.drawn is not None
    drawn = got.drawn

    def check(field: Tensor) -> None:
        assert_like_stored_logits(got._replace(drawn=drawn._replace(**{name: field})), logits, None, draw)

    assert_rejects_mutants(check, getattr(drawn, name))


def test_the_comparison_rejects_broken_logits() -> None:
    """Zeros, a transposed matrix, a tail that was not written, a tile of the hidden size that was not multiplied."""
    hidden, weight = random_numbers(4, 128), random_numbers(300, 128, seed=1)
    got = lm_head(hidden, weight, want_logits=True)
    want = hidden.double() @ weight.double().T
    assert got.logits_BV is not None

    def check(logits: Tensor) -> None:
        assert_close(logits, want, tolerance(128), scale=12.0)

    assert_rejects_mutants(check, got.logits_BV)
    with pytest.raises(AssertionError):
        check(hidden[:, :64] @ weight[:, :64].T)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"hidden_BE": torch.zeros(17, 8)}, "sixteen|16"),
        ({"hidden_BE": torch.zeros(3, 7)}, "weight"),
        ({"hidden_BE": torch.zeros(3, 8, dtype=torch.bfloat16)}, "weight"),
        ({"weight_VE": torch.zeros(8, 5).T}, "contiguous"),
        ({"weight_VE": torch.zeros(0, 8)}, "weight"),
        ({"norm": Norm(torch.zeros(7, device=DEVICE), 1e-5)}, "norm"),
        ({"ids_B": torch.zeros(4, dtype=torch.int64)}, "ids"),
        ({"draw": draw_for(2)}, "temperature"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(wrong: dict[str, Any], message: str) -> None:
    """A matrix of another hidden size is read across its rows."""
    arguments: dict[str, Any] = {"hidden_BE": torch.zeros(3, 8), "weight_VE": torch.zeros(5, 8)} | wrong
    moved = {name: value.to(DEVICE) if isinstance(value, Tensor) else value for name, value in arguments.items()}
    with pytest.raises(ValueError, match=message):
        lm_head(**moved)
