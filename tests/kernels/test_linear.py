"""Products of a few rows with their prologues and epilogues."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_checks import DTYPES, assert_close, assert_rejects_mutants
from kernel_inputs import output_tolerance, randn
from torch import Tensor

from dodona.kernels.launch import LLAMA_SHAPES
from dodona.kernels.linear import linear, linear_reference
from dodona.kernels.norm import Norm
from dodona.kernels.stream import MAX_ROWS, default_config, shares

SMALL = {"num_warps": 4, "num_stages": 1}  # block sizes that give small matrices several tiles
GEMV = {"BLOCK_N": 4, "BLOCK_K": 64, "SPLITS": 1, **SMALL}
DOT = {"BLOCK_N": 16, "BLOCK_K": 64, "SPLITS": 1, **SMALL}


def blocks_for(rows: int) -> dict[str, int]:
    return GEMV if rows <= 2 else DOT


def inputs(rows: int, outputs: int, inner: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return randn(rows, inner, dtype=dtype), randn(outputs, inner, dtype=dtype, seed=1, scale=inner**-0.5)


def relative_for(inner: int, dtype: torch.dtype, normed: bool) -> float:
    """x times the norm's weight is rounded again where the tensor cores multiply."""
    return output_tolerance(inner, dtype, roundings=2 if normed else 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 2, 3, 16])
@pytest.mark.parametrize(("outputs", "inner"), [(1, 7), (7, 130), (33, 192)])
def test_products_of_any_shape(dtype: torch.dtype, rows: int, outputs: int, inner: int) -> None:
    """Ragged tails of both dimensions, rows of padding that are written, W read as if it were transposed."""
    x, weight = inputs(rows, outputs, inner, dtype)
    got = linear(x, weight, config=blocks_for(rows))
    assert_close(got, linear_reference(x, weight), relative_for(inner, dtype, False), 1.0)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("silu_mul", [False, True])
@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize(("rows", "dtype"), [(1, DTYPES[0]), (2, DTYPES[1]), (3, DTYPES[0]), (5, DTYPES[1])])
def test_prologues_and_epilogues(rows: int, dtype: torch.dtype, with_norm: bool, silu_mul: bool, splits: int) -> None:
    """The norm of a share of the columns, a bias added per split, gate and up exchanged, a residual before the gate."""
    outputs, inner = 21, 300
    x, weight = inputs(rows, 2 * outputs if silu_mul else outputs, inner, dtype)
    options: dict[str, Any] = {
        "norm": Norm(randn(inner, dtype=dtype, seed=2), 1e-5) if with_norm else None,
        "bias_N": randn(weight.shape[0], dtype=dtype, seed=3),
        "residual_MN": randn(rows, outputs, dtype=dtype, seed=4),
        "silu_mul": silu_mul,
    }
    got = linear(x * 3, weight, splits=splits, config=blocks_for(rows), **options)
    want = linear_reference(x * 3, weight, **options)
    size: float | Tensor = 1.0 if with_norm else 3.0  # of a sum's terms: the square root of the sum of their squares
    if silu_mul:  # an error of gate is multiplied by up, and the other way round; silu' is at most 1.1
        gate_up = linear_reference(x * 3, weight, norm=options["norm"], bias_N=options["bias_N"])
        size = 1.1 * size * (gate_up[:, :outputs].abs() + gate_up[:, outputs:].abs())
    assert_close(got, want, relative_for(inner, dtype, with_norm), size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [2, 4])
def test_the_comparison_can_fail(dtype: torch.dtype, rows: int) -> None:
    """Zeros, the transpose, or one tile of columns of one split left out."""
    x, weight = inputs(rows, 24, 1024, dtype)
    want = linear_reference(x, weight)

    def check(got: Tensor) -> None:
        assert_close(got, want, relative_for(1024, dtype, True), 1.0)

    assert_rejects_mutants(check, linear(x, weight, config=blocks_for(rows), splits=4))
    short = x.clone()
    short[:, 512:576] = 0
    with pytest.raises(AssertionError):
        check(linear_reference(short, weight))


@pytest.mark.parametrize("rows", [1, 4])
def test_the_default_blocks_give_the_same(rows: int) -> None:
    """Tests with small blocks alone would not see the ones that are used; here with split-K by the shape."""
    x, weight = inputs(rows, 40, 4097, torch.bfloat16)
    assert default_config(rows, 40, 4097)["SPLITS"] > 1
    residual = randn(rows, 40, dtype=torch.bfloat16)
    got = linear(x, weight, residual_MN=residual)
    want = linear_reference(x, weight, residual_MN=residual)
    assert_close(got, want, relative_for(4097, torch.bfloat16, False), 1.0)


@pytest.mark.parametrize("splits", [1, 2])
def test_a_norm_in_the_prologue_is_the_norm(splits: int) -> None:
    """A factor without eps, or that was taken from rounded or partial squares."""
    x, weight = inputs(1, 8, 512, torch.float32)
    norm = Norm(randn(512, seed=2), 1e-2)
    huge, tiny = (linear(x * scale, weight, norm=norm, config=GEMV, splits=splits) for scale in (1e4, 1e-4))
    assert_close(huge, linear_reference(x * 1e4, weight, norm=norm), relative_for(512, torch.float32, True), 1.0)
    assert_close(tiny, linear_reference(x * 1e-4, weight, norm=norm), relative_for(512, torch.float32, True), 1e-3)


@pytest.mark.parametrize("rows", [1, 3])
def test_strided_rows_are_read_where_they_are(rows: int) -> None:
    """Activations and weights that are slices of larger buffers, with NaN around them."""
    wide_x, wide_w = torch.full((2 * rows, 160), torch.nan), torch.full((24, 200), torch.nan)
    x, weight = inputs(rows, 12, 130, torch.float32)
    wide_x[::2, 16:146], wide_w[::2, 32:162] = x.cpu(), weight.cpu()
    wide_x, wide_w = wide_x.to(x.device), wide_w.to(x.device)
    got = linear(wide_x[::2, 16:146], wide_w[::2, 32:162], config=blocks_for(rows))
    assert torch.equal(got, linear(x, weight, config=blocks_for(rows)))
    residual = randn(rows, 30)[:, 10:22]
    got = linear(x, weight, residual_MN=residual, config=blocks_for(rows))
    assert torch.equal(got, linear(x, weight, residual_MN=residual.contiguous(), config=blocks_for(rows)))


def test_no_rows_give_no_rows() -> None:
    """A launch over an empty grid is an error on a GPU."""
    assert linear(randn(0, 8), randn(6, 8), silu_mul=True).shape == (0, 3)


def test_every_share_of_the_columns_has_a_tile() -> None:
    """A split without columns reads past the end of W."""
    for inner in (1, 64, 300, 2048, 14336):
        for wanted in (1, 2, 3, 5, 16):
            splits, tiles = shares(inner, 64, wanted)
            assert splits <= wanted and (splits - 1) * tiles * 64 < inner <= splits * tiles * 64


def test_columns_are_split_only_where_that_pays() -> None:
    """Split-K at K = 2048 and N >= 7168 costs three to four times what it saves."""
    split = set()
    for shape in LLAMA_SHAPES:
        heads, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        for name, outputs, inner in (
            ("qkv", heads + 2 * kv, shape.hidden),
            ("o", shape.hidden, heads),
            ("gate_up", 2 * shape.intermediate, shape.hidden),
            ("down", shape.hidden, shape.intermediate),
        ):
            if default_config(1, outputs, inner)["SPLITS"] > 1:
                split.add(f"{shape.name} {name}")
    assert {name for name in split if name.startswith(("1B", "3B"))} == {"1B down", "3B down"}
    assert not any("gate_up" in name for name in split)


@pytest.mark.parametrize(
    "broken", ["rows", "columns", "dtype", "norm", "bias", "residual", "odd gate", "strides", "splits"]
)
def test_wrong_arguments_are_refused(broken: str) -> None:
    """Out-of-bounds reads in place of an error."""
    x, weight = inputs(2, 7, 64, torch.float32)
    options: dict[str, Any] = {}
    match broken:
        case "rows":
            x = randn(MAX_ROWS + 1, 64)
        case "columns":
            x = x[:, :63]
        case "dtype":
            weight = weight.bfloat16()
        case "norm":
            options["norm"] = Norm(randn(63), 1e-5)
        case "bias":
            options["bias_N"] = randn(8)
        case "residual":
            options["residual_MN"] = randn(2, 8)
        case "odd gate":
            options["silu_mul"] = True
        case "strides":
            weight = randn(64, 7).T
        case "splits":
            options["splits"] = 0
    with pytest.raises(ValueError):
        linear(x, weight, **options)
