"""Products of a few rows with a weight matrix, with what comes before and after in the same pass over the weights.

    h = x                                          or   RMSNorm(x) with weight g:  x / sqrt(mean(x^2) + eps) * g
    z = h W^T + bias
    y = z                                          or   SiLU(z[:, :N]) * z[:, N:]  where W has the 2N rows gate, up
    y = y + residual

At one row the weights are all the memory traffic there is, so a product is as fast as its weights stream. The norm costs no
pass of its own: its factor 1/sqrt(...) is one number a row, applied to the finished sum, while sum x^2 is collected along
with the products. The tile of weights that a program starts with is asked for before `wait_for_producers`: under programmatic
dependent launch it is on its way while the kernel before this one still runs.

One or two rows (`_gemv_kernel`): a thread multiplies its own piece of W and adds over threads once, at the end. Three to
sixteen rows (`_dot_kernel`): tensor cores, the rows padded to sixteen. With split-K (`splits` programs share the columns of a
block) each program writes its float32 sums, and `_reduce_kernel` adds them in their order: no atomics, so the same bits
in every run. Split-K pays for K >= 4096 with K/N >= 0.6 and loses for short or wide matrices.

Shape suffixes: M rows, K columns of x and W, N outputs; W has N rows, or 2N (gate, up) with ``silu_mul``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from dodona.kernels.checks import check_float
from dodona.kernels.launch import (
    LLAMA_SHAPES,
    CompileCase,
    check_device,
    config_for,
    let_dependents_start,
    pdl_options,
    pdl_supported,
    signature_of,
    wait_for_producers,
)
from dodona.kernels.mlp import silu, silu_mul_reference
from dodona.kernels.norm import Norm, rms_norm_reference
from dodona.kernels.portable import dot

MAX_ROWS = 16
MAX_SPLITS = 16
GEMV_ROWS = 2  # up to so many rows the tensor cores would multiply mostly padding


def linear_reference(
    x_MK: Tensor,
    weight_NK: Tensor,
    *,
    norm: Norm | None = None,
    bias_N: Tensor | None = None,
    residual_MN: Tensor | None = None,
    silu_mul: bool = False,
) -> Tensor:
    """The same in float64."""
    h_MK = x_MK.double() if norm is None else rms_norm_reference(x_MK, norm).hidden_TE
    z_MN = h_MK @ weight_NK.double().T
    if bias_N is not None:
        z_MN = z_MN + bias_N.double()
    y_MN = silu_mul_reference(z_MN) if silu_mul else z_MN
    return y_MN if residual_MN is None else y_MN + residual_MN.double()


@triton.jit
def load_weights(weight_ptr, row, rows, tile, more, stride_wn, K: tl.constexpr, BLOCK_K: tl.constexpr, EVEN: tl.constexpr):
    """Tile number `tile` along K of W's rows `row`, if there are `more`; a row past the last repeats the last."""
    k = tile * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    at = weight_ptr + tl.minimum(row, rows - 1).to(tl.int64)[:, None] * stride_wn + k
    if EVEN:
        return tl.load(at, mask=more, other=0.0, eviction_policy="evict_first")
    else:
        return tl.load(at, mask=more & (k < K), other=0.0, eviction_policy="evict_first")


@triton.jit
def load_row(x_ptr, tile, K: tl.constexpr, BLOCK_K: tl.constexpr, EVEN: tl.constexpr):
    """Tile number `tile` of one row of x, or of the norm's weight, in float32."""
    k = tile * BLOCK_K + tl.arange(0, BLOCK_K)
    if EVEN:
        return tl.load(x_ptr + k).to(tl.float32)
    else:
        return tl.load(x_ptr + k, mask=k < K, other=0.0).to(tl.float32)


@triton.jit
def finish(gate, up, n, live, bias_ptr, residual_ptr, residual_at, y_ptr, y_at, N: tl.constexpr):
    """Bias, SiLU-mul and residual of finished sums, and their store. ``up`` None: a plain product."""
    z = gate
    if bias_ptr is not None:
        z += tl.load(bias_ptr + n, mask=live, other=0.0).to(tl.float32)
    if up is not None:
        if bias_ptr is not None:
            up += tl.load(bias_ptr + N + n, mask=live, other=0.0).to(tl.float32)
        z = silu(z) * up
    if residual_ptr is not None:
        z += tl.load(residual_ptr + residual_at, mask=live, other=0.0).to(tl.float32)
    tl.store(y_ptr + y_at, z.to(y_ptr.dtype.element_ty), mask=live)


@triton.jit
def _gemv_kernel(
    x_ptr, weight_ptr, norm_ptr, bias_ptr, residual_ptr, y_ptr, part_ptr, square_ptr,
    stride_xm, stride_wn, stride_rm, eps,
    N: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, SILU_MUL: tl.constexpr, SPLITS: tl.constexpr,
    TILES: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    EVEN: tl.constexpr = SPLITS * TILES * BLOCK_K == K
    W_ROWS: tl.constexpr = 2 * N if SILU_MUL else N
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
    first = split * TILES
    w = load_weights(weight_ptr, n, N, first, True, stride_wn, K, BLOCK_K, EVEN)
    if SILU_MUL:
        w_up = load_weights(weight_ptr + N * stride_wn.to(tl.int64), n, N, first, True, stride_wn, K, BLOCK_K, EVEN)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)

    gate0 = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    gate1 = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    up0 = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    up1 = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    square0 = tl.zeros([BLOCK_K], tl.float32)
    square1 = tl.zeros([BLOCK_K], tl.float32)
    for i in range(TILES):
        tile = first + i
        more = i + 1 < TILES
        w_next = load_weights(weight_ptr, n, N, tile + 1, more, stride_wn, K, BLOCK_K, EVEN)
        wide = w.to(tl.float32)
        x0 = load_row(x_ptr, tile, K, BLOCK_K, EVEN)
        if ROWS == 2:
            x1 = load_row(x_ptr + stride_xm, tile, K, BLOCK_K, EVEN)
        if norm_ptr is not None:
            g = load_row(norm_ptr, tile, K, BLOCK_K, EVEN)
            square0 += x0 * x0
            x0 *= g
            if ROWS == 2:
                square1 += x1 * x1
                x1 *= g
        gate0 += wide * x0[None, :]
        if ROWS == 2:
            gate1 += wide * x1[None, :]
        if SILU_MUL:
            up_next = load_weights(
                weight_ptr + N * stride_wn.to(tl.int64), n, N, tile + 1, more, stride_wn, K, BLOCK_K, EVEN
            )
            wide_up = w_up.to(tl.float32)
            up0 += wide_up * x0[None, :]
            if ROWS == 2:
                up1 += wide_up * x1[None, :]
            w_up = up_next
        w = w_next
