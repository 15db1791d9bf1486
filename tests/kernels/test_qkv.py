"""Norm, QKV product, rotation and append to the pages in one launch."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import assert_close, assert_rejects_mutants
from kernel_inputs import integers, output_tolerance, randn, random_pages, rope_tables
from torch import Tensor

from dodona.kernels.linear import linear
from dodona.kernels.norm import Norm
from dodona.kernels.paged import PagedKV
from dodona.kernels.qkv import qkv_append, qkv_append_reference
from dodona.kernels.rope import rope_append
from dodona.kernels.stream import MAX_ROWS

BLOCKS = {"BLOCK_N": 16, "BLOCK_K": 64, "SPLITS": 1, "num_warps": 4, "num_stages": 1}
POSITIONS, SLOTS = (15, 0, 16, 33), (0, 1, 0, 0)  # the last place of a page, the first of the next, a page not yet used


def inputs(
    tokens: int, heads: int, kv_heads: int, head_dim: int, hidden: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Norm, PagedKV]:
    rows = (heads + 2 * kv_heads) * head_dim
    pages = random_pages([30, 20], kv_heads=kv_heads, head_dim=head_dim, page_size=16, dtype=dtype)
    norm = Norm(randn(hidden, dtype=dtype, seed=2), 1e-5)
    weight = randn(rows, hidden, dtype=dtype, seed=1, scale=hidden**-0.5)
    return randn(tokens, hidden, dtype=dtype), weight, norm, pages


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize(
    ("tokens", "heads", "kv_heads", "head_dim", "dtype"),
    [
        (1, 4, 1, 64, torch.float32),
        (2, 3, 1, 24, torch.bfloat16),
        (3, 3, 1, 128, torch.float32),
        (4, 2, 2, 64, torch.float16),
    ],
)
def test_tokens_are_projected_turned_and_appended(
    tokens: int, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, splits: int
) -> None:
    """Pairs of rows of W mixed up, a bias of the wrong row, a norm of a share of the columns, a token in another's
    place."""
    x, weight, norm, pages = inputs(tokens, heads, kv_heads, head_dim, 96, dtype)
    positions, slots = integers(*POSITIONS[:tokens]), integers(*SLOTS[:tokens], dtype=torch.int32)
    rope, bias = rope_tables(64, head_dim), randn(weight.shape[0], dtype=dtype, seed=3)
    want, k_PSKD, v_PSKD = qkv_append_reference(
        x, weight, norm, rope, positions, pages, slots, heads=heads, bias_R=bias
    )
    got = qkv_append(
        x, weight, norm, rope, positions, pages, slots, heads=heads, bias_R=bias, splits=splits, config=BLOCKS
    )
    relative = output_tolerance(96, dtype, roundings=2)
    assert_close(got, want, relative, 2.0)
    assert_close(pages.k_PSKD, k_PSKD, relative, 2.0)
    assert_close(pages.v_PSKD, v_PSKD, relative, 2.0)
    untouched = k_PSKD.isnan()
    assert pages.k_PSKD[untouched].isnan().all()


def test_the_comparison_can_fail() -> None:
    """A tolerance that lets zeros or another head's numbers through, in the least precise of the dtypes."""
    x, weight, norm, pages = inputs(3, 2, 1, 64, 96, torch.bfloat16)
    where = (norm, rope_tables(64, 64), integers(*POSITIONS[:3]), pages, integers(*SLOTS[:3]))
    want, _, _ = qkv_append_reference(x, weight, *where, heads=2)
    got = qkv_append(x, weight, *where, heads=2, config=BLOCKS)
    relative = output_tolerance(96, torch.bfloat16, roundings=2)
    assert_rejects_mutants(lambda q: assert_close(q, want.flatten(1), relative, 2.0), got.flatten(1))


@pytest.mark.parametrize("tokens", [2, 3])
def test_it_does_what_the_two_kernels_do(tokens: int) -> None:
    """A fused step that drifts from the parts which tests and prefill use."""
    x, weight, norm, pages = inputs(tokens, 1, 1, 64, 256, torch.float32)
    rope, positions, slots = rope_tables(64, 64), integers(*POSITIONS[:tokens]), integers(*SLOTS[:tokens])
    fused = PagedKV(pages.k_PSKD.clone(), pages.v_PSKD.clone(), pages.table)
    apart = rope_append(linear(x, weight, norm=norm), rope, positions, pages, slots, heads=1)
    together = qkv_append(x, weight, norm, rope, positions, fused, slots, heads=1)
    assert_close(together, apart.double(), output_tolerance(256, torch.float32), 1.0)
    assert_close(fused.k_PSKD, pages.k_PSKD.double(), output_tolerance(256, torch.float32), 1.0)
    assert_close(fused.v_PSKD, pages.v_PSKD.double(), output_tolerance(256, torch.float32), 1.0)


def test_no_tokens_change_nothing() -> None:
    """A launch over an empty grid is an error on a GPU."""
    x, weight, norm, pages = inputs(0, 2, 1, 64, 32, torch.float32)
    assert qkv_append(x, weight, norm, rope_tables(8, 64), integers(), pages, heads=2).shape == (0, 2, 64)


@pytest.mark.parametrize("broken", ["tokens", "weight", "norm", "rope", "positions", "slots", "bias", "heads", "dtype"])
def test_wrong_arguments_are_refused(broken: str) -> None:
    """Out-of-bounds writes in place of an error."""
    x, weight, norm, pages = inputs(2, 2, 1, 64, 32, torch.float32)
    rope, positions, slots, heads, bias = rope_tables(64, 64), integers(1, 2), integers(0, 1), 2, None
    match broken:
        case "tokens":
            x = randn(MAX_ROWS + 1, 32)
        case "weight":
            weight = weight[:-1]
        case "norm":
            norm = Norm(randn(31), 1e-5)
        case "rope":
            rope = rope_tables(64, 32)
        case "positions":
            positions = integers(1)
        case "slots":
            slots = slots.float()
        case "bias":
            bias = randn(7)
        case "heads":
            heads = 3
        case "dtype":
            x = x.half()
    with pytest.raises(ValueError):
        qkv_append(x, weight, norm, rope, positions, pages, slots, heads=heads, bias_R=bias)
