"""Statistics of logits against float64: sizes, dtypes, broken rows, ties, and rows on which float32 formulas fail."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import DEVICE, DTYPES, VOCABULARIES, assert_close, assert_rejects_mutants, tolerance
from torch import Tensor

from dodona.engine import signals
from dodona.kernels.uncertainty import (
    HAS_INF,
    HAS_NAN,
    NOTHING_FINITE,
    ROW_CONFIG,
    Uncertainty,
    uncertainty,
    uncertainty_reference,
)

# NumPy's own remarks on the NaN and infinities of broken rows, in the interpreter.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered.*:RuntimeWarning")

BIG_TILE = ROW_CONFIG | {"LANES": 2048}  # in the interpreter a tile costs the same whatever its size


def draw(rows: int, vocab: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocab, generator=generator) * scale).to(DEVICE)


def assert_statistics(got: Uncertainty, want: Uncertainty, vocab: int) -> None:
    """Every field; a lse that rounds to float32, probabilities and moments to a few float32 roundings."""
    near = tolerance(vocab)
    for name in ("lse", "top_logit", "top_prob", "second_prob", "varentropy"):
        assert_close(getattr(got, name), getattr(want, name), near, scale=1e-30)  # what float32 cannot hold is 0
    assert_close(got.entropy, want.entropy, near, scale=1.0)  # ln s - mean, of which s is about 1 in a peaked row
    assert_close(got.margin, want.margin, near, scale=want.top_prob)
    assert_close(got.logprob, want.logprob, near, scale=1.0)
    assert got.top1.tolist() == want.top1.tolist()
    assert got.error.tolist() == want.error.tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("splits", [1, 3])
def test_statistics_equal_the_float64_ones(dtype: torch.dtype, vocab: int, splits: int) -> None:
    """A ragged tail that is read as zeros, a part left out of the merge, a bfloat16 sum: each shows in some size."""
    logits = draw(2, vocab).to(dtype)
    ids = torch.tensor([vocab - 1, vocab // 2], device=DEVICE)
    config = BIG_TILE if vocab > 10000 else None
    got = uncertainty(logits, ids, splits=splits, config=config)
    assert_statistics(got, uncertainty_reference(logits, ids), vocab)


def test_the_eager_engine_computes_the_same_signals() -> None:
    """A trigger's threshold means the same on both backends only if the definitions agree."""
    logits = draw(3, 513)
    logits[1, 5:500] = -torch.inf
    got, eager = uncertainty(logits), signals.statistics(logits)
    for name in eager._fields:
        assert_close(getattr(got, name).double(), getattr(eager, name).double(), 1e-5, scale=1.0)


@pytest.mark.parametrize("splits", [1, 2])
def test_a_shift_of_all_logits_changes_nothing_but_lse(splits: int) -> None:
    """exp(500) is infinite: a kernel that does not subtract the maximum first gives NaN."""
    logits = (draw(2, 700) * 64).round() / 64  # so that adding 500 is exact
    plain, shifted = uncertainty(logits, splits=splits), uncertainty(logits + 500, splits=splits)
    for name in set(plain._fields) - {"lse", "top_logit", "logprob"}:
        assert torch.equal(getattr(plain, name), getattr(shifted, name)), name
    assert_close(shifted.lse, plain.lse.double() + 500, tolerance())
    assert_statistics(shifted, uncertainty_reference(logits + 500), 700)


def flat_rows(vocab: int) -> Tensor:
    """Almost uniform rows whose varentropies lie far below float32's rounding of the entropy."""
    rows = draw(3, vocab, scale=1e-3)
    rows[1] = 0.0
    rows[1, vocab // 3] = 2.0**-7  # one logit a bfloat16 step above all others
    rows[2, 0] += 1e-1
    return rows


@pytest.mark.parametrize("splits", [1, 3])
def test_varentropy_of_almost_uniform_rows_keeps_its_digits(splits: int) -> None:
    """One logit just above 131071 equal ones: power sums about the maximum cancel, and keep two digits or none."""
    rows = flat_rows(131072)
    want = uncertainty_reference(rows)
    got = uncertainty(rows, splits=splits, config=BIG_TILE)
    assert_statistics(got, want, rows.shape[1])

    d = rows - rows.amax(-1, keepdim=True)
    s, t1, t2 = (d.exp() * d**power for power in (0, 1, 2))
    s, t1, t2 = s.sum(-1), t1.sum(-1), t2.sum(-1)
    with pytest.raises(AssertionError):
        assert_close(t2 / s - (t1 / s) ** 2, want.varentropy, tolerance(rows.shape[1]))


def test_equal_logits_have_no_varentropy() -> None:
    """A negative or tiny positive variance of nothing would fire a trigger `varentropy > 0`."""
    got = uncertainty(torch.full((1, 5000), 3.25, device=DEVICE))
    assert got.varentropy.tolist() == [0.0]
    assert got.top1.tolist() == [0]
    assert got.margin.tolist() == [0.0]


@pytest.mark.parametrize("splits", [1, 3])
def test_peaked_rows(splits: int) -> None:
    """Nearly all mass on one token: the other terms underflow, and 0 * inf must not come of it."""
    rows = draw(4, 3000, scale=1.0)
    rows[0, 17] += 30
    rows[1, 2999] += 150
    rows[2] = -3.0e38
    rows[2, 1500] = 3.0e38
    rows[3, 1:] = -torch.inf
    assert_statistics(uncertainty(rows, splits=splits), uncertainty_reference(rows), 3000)


@pytest.mark.parametrize("splits", [1, 3])
def test_masked_logits_count_as_probability_zero(splits: int) -> None:
    """A whole tile, a whole piece and a scattered half of -inf: an empty part must not enter a mean as 0."""
    rows = draw(3, 5000)
    rows[0, :4500] = -torch.inf
    rows[1, 100:] = -torch.inf
    rows[2, ::2] = -torch.inf
    ids = torch.tensor([0, 99, 4999], device=DEVICE)
    assert_statistics(uncertainty(rows, ids, splits=splits), uncertainty_reference(rows, ids), 5000)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("splits", [1, 3])
def test_a_broken_row_has_a_code_and_no_token(dtype: torch.dtype, splits: int) -> None:
    """A NaN that a maximum swallows becomes a confident token; a broken row must not touch its neighbours either."""
    rows = draw(7, 2500).to(dtype)
    rows[0, 0] = torch.nan
    rows[1, 2499] = torch.nan
    rows[2] = torch.nan
    rows[3] = -torch.inf
    rows[4, 1200] = torch.inf
    rows[5, 3], rows[5, 2400] = torch.inf, torch.nan
    got, want = uncertainty(rows, splits=splits), uncertainty_reference(rows)
    assert_statistics(got, want, 2500)
    assert got.error.tolist() == [HAS_NAN, HAS_NAN, HAS_NAN, NOTHING_FINITE, HAS_INF, HAS_NAN, 0]
    assert got.top1[:6].tolist() == [-1] * 6
    assert all(field[:6].isnan().all() for field in got[:8])


@pytest.mark.parametrize("splits", [1, 3])
def test_the_lowest_id_among_equal_maxima_wins(splits: int) -> None:
    """bfloat16 logits tie often; with another choice than the eager argmax texts differ between backends."""
    rows = draw(4, 9000).bfloat16()
    ties = [(5, 6, 7), (8999, 1024), (3000, 3000 + 1024, 5999), (4095, 4096, 2)]
    for row, ids in zip(rows, ties, strict=True):
        row[list(ids)] = 20.0
    got = uncertainty(rows, splits=splits)
    assert got.top1.tolist() == [min(ids) for ids in ties]
    assert got.margin.tolist() == [0.0] * 4
    assert torch.equal(got.second_prob, got.top_prob)


def test_rows_may_lie_apart() -> None:
    """Logits of the last positions are slices of a larger tensor; reading them as dense gives another row's."""
    wide = draw(6, 1100)
    rows = wide[1::2, 40:937]
    assert not rows.is_contiguous()
    assert_statistics(uncertainty(rows), uncertainty_reference(rows), 897)


def test_ids_outside_the_vocabulary_have_no_logprob() -> None:
    """-1 stands for no id; reading there is another row's memory."""
    logits = draw(3, 50)
    got = uncertainty(logits, torch.tensor([-1, 50, 7], dtype=torch.int32, device=DEVICE))
    assert got.logprob[:2].isnan().all()
    assert_close(got.logprob[2:], logits[2:].double().log_softmax(-1)[:, 7], tolerance(50))
    assert uncertainty(logits).logprob.isnan().all()


def test_no_rows_are_no_launch() -> None:
    """A scheduler that finds nothing to do asks for statistics of nothing."""
    got = uncertainty(torch.empty(0, 128256, device=DEVICE), torch.empty(0, dtype=torch.int64, device=DEVICE))
    assert [tuple(field.shape) for field in got] == [(0,)] * len(got)


def test_a_second_run_gives_the_same_bits() -> None:
    """Sums in an order that depends on timing make runs with the same seed differ."""
    logits = draw(2, 3000)
    assert all(torch.equal(a, b) for a, b in zip(uncertainty(logits)[:7], uncertainty(logits)[:7], strict=True))


@pytest.mark.parametrize("name", Uncertainty._fields[:8])
def test_the_comparison_rejects_broken_kernels(name: str) -> None:
    """Zeros, rows in the wrong order, a tail not written, a tile of the vocabulary not read: none may pass."""
    logits, ids = draw(4, 1024, seed=1), torch.tensor([3, 500, 900, 1000], device=DEVICE)
    want = uncertainty_reference(logits, ids)
    got = uncertainty(logits, ids)

    def check(field: Tensor) -> None:
        assert_statistics(got._replace(**{name: field}), want, 1024)

    assert_rejects_mutants(check, getattr(got, name))


def test_the_comparison_rejects_a_tile_that_was_not_read() -> None:
    """1024 of 128256 logits, not the largest ones: the smallest mistake in tiling."""
    logits = draw(1, 128256, scale=1.0)
    want = uncertainty_reference(logits)
    logits[:, 64000:65024] = -torch.inf
    got = uncertainty_reference(logits)
    assert got.top1 == want.top1
    for name in ("lse", "entropy", "varentropy", "top_prob"):
        with pytest.raises(AssertionError):
            assert_close(getattr(got, name), getattr(want, name), tolerance(128256))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"logits_BV": torch.zeros(3)}, "shape"),
        ({"logits_BV": torch.zeros(3, 4, dtype=torch.float64)}, "float32"),
        ({"logits_BV": torch.zeros(3, 0)}, "vocabulary"),
        ({"logits_BV": torch.zeros(4, 3).T}, "contiguous"),
        ({"ids_B": torch.zeros(2, dtype=torch.int64)}, "ids"),
        ({"ids_B": torch.zeros(3)}, "ids"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(wrong: dict[str, Any], message: str) -> None:
    """A wrong stride or dtype that is not refused is a kernel that reads past its memory."""
    arguments = {"logits_BV": torch.zeros(3, 4), "ids_B": torch.zeros(3, dtype=torch.int64)} | wrong
    with pytest.raises(ValueError, match=message):
        uncertainty(*(value.to(DEVICE) for value in arguments.values()))
