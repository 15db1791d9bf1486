"""SiLU times up."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import DTYPES, assert_close, assert_rejects_mutants
from kernel_inputs import output_tolerance, randn

from dodona.kernels.mlp import silu_mul, silu_mul_reference


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("inner", [1, 7, 4097])
def test_rows_of_any_width_are_gated(dtype: torch.dtype, inner: int) -> None:
    """Gate and up exchanged, or halves split at the padded width."""
    gate_up = randn(3, 2 * inner, dtype=dtype, scale=3)
    smallest = 1e-3 if dtype == torch.float16 else 0.0  # below, float16 has fewer bits
    assert_close(silu_mul(gate_up), silu_mul_reference(gate_up), output_tolerance(1, dtype), smallest)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_comparison_can_fail(dtype: torch.dtype) -> None:
    """A tolerance that lets zeros or another row's numbers through."""
    gate_up = randn(4, 192, dtype=dtype)
    want = silu_mul_reference(gate_up)
    assert_rejects_mutants(lambda got: assert_close(got, want, output_tolerance(1, dtype)), silu_mul(gate_up))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # e^1e4 is inf, as it should be
def test_extreme_gates_stay_finite() -> None:
    """exp of a large number: inf / inf is NaN."""
    gate = torch.tensor([[-1e4, -200.0, -89.0, 0.0, 89.0, 1e4]])
    gate_up = torch.cat((gate, torch.ones(1, 6)), -1).to(randn(1).device)
    assert_close(silu_mul(gate_up), silu_mul_reference(gate_up), output_tolerance(1, torch.float32), 1e-30)


def test_strided_rows_are_read_where_they_are() -> None:
    """A product's output may be a slice of a larger buffer."""
    wide = randn(4, 64)
    got = silu_mul(wide[::2, 4:36])
    assert_close(got, silu_mul_reference(wide[::2, 4:36]), output_tolerance(1, torch.float32))


def test_no_rows_give_no_rows() -> None:
    """A launch over an empty grid is an error on a GPU."""
    assert silu_mul(randn(0, 8)).shape == (0, 4)


@pytest.mark.parametrize(
    "x", [randn(2, 7), randn(8), randn(8, 2).T, randn(2, 8).double()], ids=["odd", "dims", "strides", "dtype"]
)
def test_wrong_arguments_are_refused(x: torch.Tensor) -> None:
    """Out-of-bounds reads in place of an error."""
    with pytest.raises(ValueError):
        silu_mul(x)
