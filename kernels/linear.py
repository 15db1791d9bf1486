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
def weight_row(r, N: tl.constexpr, SILU_MUL: tl.constexpr):
    """The row of W behind row r of the program's tiles: with ``SILU_MUL`` gate and up alternate, so that a pair is a pair of
    neighbours. Past the end it is the last row again, whose sums nobody stores."""
    if SILU_MUL:
        return tl.minimum(r // 2, N - 1) + (r % 2) * N
    else:
        return tl.minimum(r, N - 1)


@triton.jit
def load_tile(at, tile, more, K: tl.constexpr, BLOCK_K: tl.constexpr, EVEN: tl.constexpr, STREAM: tl.constexpr):
    """Tile number `tile` along K of the rows whose starts are `at`, or zeros where there are no `more`."""
    k = tile * BLOCK_K + tl.arange(0, BLOCK_K)
    policy: tl.constexpr = "evict_first" if STREAM else ""  # weights are used once, activations by every program
    if EVEN:
        return tl.load(at + k, mask=more, other=0.0, eviction_policy=policy)
    else:
        return tl.load(at + k, mask=more & (k < K), other=0.0, eviction_policy=policy)


@triton.jit
def finish(
    z, m, live_m, r, bias_ptr, residual_ptr, stride_rm, y_ptr,
    N: tl.constexpr, SILU_MUL: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Bias, SiLU-mul and residual of finished sums ``z [ROWS, BLOCK_N]``, and their store."""
    if bias_ptr is not None:
        z += tl.load(bias_ptr + weight_row(r, N, SILU_MUL)).to(tl.float32)[None, :]
    n = r
    if SILU_MUL:
        gate, up = tl.split(tl.reshape(z, [ROWS, BLOCK_N // 2, 2]))
        z = silu(gate) * up
        n = tl.min(tl.reshape(r // 2, [BLOCK_N // 2, 2]), axis=1)
    live = live_m & (n < N)[None, :]
    if residual_ptr is not None:
        z += tl.load(residual_ptr + m * stride_rm + n[None, :], mask=live, other=0.0).to(tl.float32)
    tl.store(y_ptr + m * N + n[None, :], z.to(y_ptr.dtype.element_ty), mask=live)


@triton.jit
def finish_or_keep(
    z, squares, m, live_m, r, split, M, bias_ptr, residual_ptr, stride_rm, y_ptr, part_ptr, square_ptr, eps,
    N: tl.constexpr, K: tl.constexpr, NORM: tl.constexpr, SILU_MUL: tl.constexpr, SPLITS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The end of a program that has its sums ``z [ROWS, BLOCK_N]`` and those of x^2, ``squares [ROWS, 1]``."""
    if SPLITS == 1:
        if NORM:
            z *= tl.rsqrt(squares / K + eps)
        finish(z, m, live_m, r, bias_ptr, residual_ptr, stride_rm, y_ptr, N, SILU_MUL, ROWS, BLOCK_N)
    else:
        W_ROWS: tl.constexpr = 2 * N if SILU_MUL else N
        row = split * M + m
        tl.store(part_ptr + row * W_ROWS + r[None, :], z, mask=live_m & (r < W_ROWS)[None, :])
        if NORM:
            tl.store(square_ptr + row, squares, mask=live_m & (tl.program_id(0) == 0))


@triton.jit
def _gemv_kernel(
    x_ptr, weight_ptr, norm_ptr, bias_ptr, residual_ptr, y_ptr, part_ptr, square_ptr,
    M, stride_xm, stride_wn, stride_rm, eps,
    N: tl.constexpr, K: tl.constexpr, SILU_MUL: tl.constexpr, SPLITS: tl.constexpr, TILES: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    EVEN: tl.constexpr = SPLITS * TILES * BLOCK_K == K
    NORM: tl.constexpr = norm_ptr is not None
    split = tl.program_id(1)
    first = split * TILES
    m = tl.arange(0, ROWS)[:, None]
    r = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    w_at = weight_ptr + weight_row(r, N, SILU_MUL).to(tl.int64)[None, :, None] * stride_wn
    x_at = x_ptr + (tl.minimum(m, M - 1) * stride_xm)[:, :, None]
    w = load_tile(w_at, first, True, K, BLOCK_K, EVEN, True)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    acc = tl.zeros([ROWS, BLOCK_N, BLOCK_K], tl.float32)
    square = tl.zeros([ROWS, 1, BLOCK_K], tl.float32)
    for i in range(TILES):
        w_next = load_tile(w_at, first + i + 1, i + 1 < TILES, K, BLOCK_K, EVEN, True)
        x = load_tile(x_at, first + i, True, K, BLOCK_K, EVEN, False).to(tl.float32)
        if NORM:
            g_at = norm_ptr + tl.zeros([1, 1, 1], tl.int32)
            square += x * x
            x *= load_tile(g_at, first + i, True, K, BLOCK_K, EVEN, False).to(tl.float32)
        acc += w.to(tl.float32) * x
        w = w_next
    finish_or_keep(
        tl.sum(acc, axis=2), tl.sum(square, axis=2), m, m < M, r, split, M, bias_ptr, residual_ptr, stride_rm, y_ptr,
        part_ptr, square_ptr, eps, N, K, NORM, SILU_MUL, SPLITS, ROWS, BLOCK_N,
    )  # fmt: skip


@triton.jit
def load_rows(x_at, norm_ptr, tile, live_m, square, K: tl.constexpr, BLOCK_K: tl.constexpr, EVEN: tl.constexpr):
    """A tile of x times the norm's weight, in x's dtype, and the running sum of x^2."""
    x = load_tile(x_at, tile, live_m, K, BLOCK_K, EVEN, False)
    if norm_ptr is not None:
        wide = x.to(tl.float32)
        square += wide * wide
        g_at = norm_ptr + tl.zeros([1, 1], tl.int32)
        x = (wide * load_tile(g_at, tile, True, K, BLOCK_K, EVEN, False).to(tl.float32)).to(x.dtype)
    return x, square


@triton.jit
def _dot_kernel(
    x_ptr, weight_ptr, norm_ptr, bias_ptr, residual_ptr, y_ptr, part_ptr, square_ptr,
    M, stride_xm, stride_wn, stride_rm, eps,
    N: tl.constexpr, K: tl.constexpr, SILU_MUL: tl.constexpr, SPLITS: tl.constexpr, TILES: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    EVEN: tl.constexpr = SPLITS * TILES * BLOCK_K == K
    NORM: tl.constexpr = norm_ptr is not None
    split = tl.program_id(1)
    first = split * TILES
    m = tl.arange(0, ROWS)[:, None]
    live_m = m < M
    r = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    w_at = weight_ptr + weight_row(r, N, SILU_MUL).to(tl.int64)[:, None] * stride_wn
    x_at = x_ptr + m * stride_xm
    acc = tl.zeros([ROWS, BLOCK_N], tl.float32)
    square = tl.zeros([ROWS, BLOCK_K], tl.float32)
    done: tl.constexpr = 1 if USE_PDL else 0
    if USE_PDL:  # one tile of weights by hand: the loop's own loads cannot start before the wait
        w = load_tile(w_at, first, True, K, BLOCK_K, EVEN, True)
        wait_for_producers(USE_PDL)
        let_dependents_start(USE_PDL)
        x, square = load_rows(x_at, norm_ptr, first, live_m, square, K, BLOCK_K, EVEN)
        acc = dot(x, tl.trans(w), acc)
    for i in range(done, TILES):
        w = load_tile(w_at, first + i, True, K, BLOCK_K, EVEN, True)
        x, square = load_rows(x_at, norm_ptr, first + i, live_m, square, K, BLOCK_K, EVEN)
        acc = dot(x, tl.trans(w), acc)
    finish_or_keep(
        acc, tl.sum(square, axis=1, keep_dims=True), m, live_m, r, split, M, bias_ptr, residual_ptr, stride_rm, y_ptr,
        part_ptr, square_ptr, eps, N, K, NORM, SILU_MUL, SPLITS, ROWS, BLOCK_N,
    )  # fmt: skip


@triton.jit
def _reduce_kernel(
    part_ptr, square_ptr, bias_ptr, residual_ptr, y_ptr, M, stride_rm, eps,
    N: tl.constexpr, K: tl.constexpr, SILU_MUL: tl.constexpr, SPLITS: tl.constexpr, BLOCK_N: tl.constexpr,
    USE_PDL: tl.constexpr,
):  # fmt: skip
    W_ROWS: tl.constexpr = 2 * N if SILU_MUL else N
    m = tl.program_id(1) + tl.zeros([1, 1], tl.int32)
    r = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    at = weight_row(r, N, SILU_MUL)[None, :]
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    z = tl.zeros([1, BLOCK_N], tl.float32)
    squares = tl.zeros([1, 1], tl.float32)
    for split in tl.static_range(SPLITS):
        z += tl.load(part_ptr + (split * M + m) * W_ROWS + at)
        if square_ptr is not None:
            squares += tl.load(square_ptr + split * M + m)
    if square_ptr is not None:
        z *= tl.rsqrt(squares / K + eps)
    finish(z, m, m < M, r, bias_ptr, residual_ptr, stride_rm, y_ptr, N, SILU_MUL, 1, BLOCK_N)
