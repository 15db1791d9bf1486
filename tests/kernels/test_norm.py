"""RMSNorm with its residual addition."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import DTYPES, assert_close, assert_rejects_mutants
from kernel_inputs import output_tolerance, randn

from dodona.kernels.norm import MAX_HIDDEN, Norm, rms_norm, rms_norm_reference


def norm_of(hidden: int, dtype: torch.dtype, eps: float = 1e-5) -> Norm:
    return Norm(randn(hidden, dtype=dtype, seed=9), eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [1, 7, 64, 4097])
@pytest.mark.parametrize("with_residual", [False, True])
def test_rows_of_any_width_are_normalised(dtype: torch.dtype, hidden: int, with_residual: bool) -> None:
    """A ragged tail that is summed with garbage, or a mean over the padded width."""
    x = randn(3, hidden, dtype=dtype)
    residual = randn(3, hidden, dtype=dtype, seed=1) if with_residual else None
    norm = norm_of(hidden, dtype)
    want = rms_norm_reference(x, norm, residual_TE=residual)
    got = rms_norm(x, norm, residual_TE=residual)
    assert_close(got.residual_TE, want.residual_TE, output_tolerance(2, dtype))
    # With a residual the sum is rounded before it is normalised, and where x and residual cancel that is a larger part.
    size = want.hidden_TE.abs().amax(-1, keepdim=True) if with_residual else 0.0
    assert_close(got.hidden_TE, want.hidden_TE, output_tolerance(hidden, dtype, roundings=2), size)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_comparison_can_fail(dtype: torch.dtype) -> None:
    """A tolerance that lets zeros or another row's numbers through."""
    x, norm = randn(4, 96, dtype=dtype), norm_of(96, dtype)
    want = rms_norm_reference(x, norm).hidden_TE
    assert_rejects_mutants(
        lambda got: assert_close(got, want, output_tolerance(96, dtype)), rms_norm(x, norm).hidden_TE
    )


def test_a_part_of_the_row_left_out_of_the_mean_is_noticed() -> None:
    """A dropped tile changes the scale by a percent or two: more than the tolerance of any dtype allows."""
    x, norm = randn(2, 1024), norm_of(1024, torch.float32)
    want = rms_norm_reference(x, norm).hidden_TE
    short = x.clone()
    short[:, 960:] = 0
    wrong = rms_norm_reference(short, norm).hidden_TE[:, :960]
    for dtype in DTYPES:
        with pytest.raises(AssertionError):
            assert_close(wrong, want[:, :960], output_tolerance(1024, dtype))


def test_tiny_and_huge_rows_keep_their_direction() -> None:
    """eps outside the mean, or squares that overflow float16."""
    x = torch.stack((randn(32) * 1e-3, randn(32) * 1e4)).half()
    norm = norm_of(32, torch.float16, eps=1e-6)
    got = rms_norm(x, norm).hidden_TE
    assert_close(got, rms_norm_reference(x, norm).hidden_TE, output_tolerance(32, torch.float16))


def test_strided_rows_are_read_where_they_are() -> None:
    """Rows of a slice, as the last tokens of a larger forward are."""
    wide = randn(4, 48)
    norm = norm_of(32, torch.float32)
    got = rms_norm(wide[::2, 8:40], norm, residual_TE=wide[1::2, :32])
    want = rms_norm_reference(wide[::2, 8:40], norm, residual_TE=wide[1::2, :32])
    assert_close(got.hidden_TE, want.hidden_TE, output_tolerance(32, torch.float32), 1.0)
    assert got.hidden_TE.is_contiguous()


def test_no_rows_give_no_rows() -> None:
    """A launch over an empty grid is an error on a GPU."""
    got = rms_norm(randn(0, 32), norm_of(32, torch.float32), residual_TE=randn(0, 32))
    assert got.hidden_TE.shape == got.residual_TE.shape == (0, 32)


@pytest.mark.parametrize(
    ("x", "weight", "residual"),
    [
        (randn(2, 3, 4), randn(4), None),
        (randn(2, 4), randn(5), None),
        (randn(2, 4), randn(4), randn(2, 5)),
        (randn(2, 4), randn(4), randn(2, 4, dtype=torch.bfloat16)),
        (randn(4, 2).T, randn(4), None),
        (randn(2, 4).double(), randn(4), None),
        (randn(1, MAX_HIDDEN + 1), randn(MAX_HIDDEN + 1), None),
    ],
    ids=["dims", "weight", "residual", "residual dtype", "strides", "dtype", "too wide"],
)
def test_wrong_arguments_are_refused(x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None) -> None:
    """Out-of-bounds reads in place of an error."""
    with pytest.raises(ValueError):
        rms_norm(x, Norm(weight, 1e-5), residual_TE=residual)
