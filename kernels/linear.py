"""Products of a few rows with a weight matrix, with what comes before and after in the same pass over the weights.

    h = x                                          or   RMSNorm(x) with weight g:  x / sqrt(mean(x^2) + eps) * g
    z = h W^T + bias
    y = z                                          or   SiLU(z[:, :N]) * z[:, N:]  where W has the 2N rows gate, up
    y = y + residual

At one row the weights are all the memory traffic there is, so a product is as fast as its weights stream; `stream`
has that part. With split-K (`splits` programs share the columns of a block) each program writes its float32 sums and
`_reduce_kernel` adds them in their order: no atomics, so the same bits in every run. Split-K pays for K >= 4096 with
K/N >= 0.6 and loses for short or wide matrices.

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
from dodona.kernels.stream import (
    MAX_ROWS,
    add_sums,
    default_config,
    first_tile,
    keep_sums,
    padded_rows,
    row_starts,
    shares,
    stream_sums,
)

REDUCE_BLOCK = 256  # sums of a program that adds splits


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
    """The row of W behind row r of the tiles: with ``SILU_MUL`` gate and up alternate, so that a pair is a pair of
    neighbours. Past the end it is the last row again, whose sums nobody stores."""
    if SILU_MUL:
        return tl.minimum(r // 2, N - 1) + (r % 2) * N
    else:
        return tl.minimum(r, N - 1)


@triton.jit
def output_places(m, live_m, residual_ptr, stride_rm, N: tl.constexpr, WIDTH: tl.constexpr):
    """Outputs n of the program, which of them are live, and their residual (0 where there is none)."""
    n = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)[None, :]
    live = live_m & (n < N)
    residual = tl.zeros([1, 1], tl.float32)
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + m * stride_rm + n, mask=live, other=0.0).to(tl.float32)
    return n, live, residual


@triton.jit
def finish(
    z, residual, m, n, live, r, bias_ptr, y_ptr, N: tl.constexpr, SILU_MUL: tl.constexpr, ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Bias, SiLU-mul and residual of finished sums ``z``, ``[ROWS, WIDTH]`` or twice as wide, and their store."""
    if bias_ptr is not None:
        z += tl.load(bias_ptr + weight_row(r, N, SILU_MUL)).to(tl.float32)[None, :]
    if SILU_MUL:
        gate, up = tl.split(tl.reshape(z, [ROWS, WIDTH, 2]))
        z = silu(gate) * up
    tl.store(y_ptr + m * N + n, (z + residual).to(y_ptr.dtype.element_ty), mask=live)


@triton.jit
def _linear_kernel(
    x_ptr, weight_ptr, norm_ptr, bias_ptr, residual_ptr, y_ptr, part_ptr, square_ptr,
    M, stride_xm, stride_wn, stride_rm, eps,
    N: tl.constexpr, K: tl.constexpr, SILU_MUL: tl.constexpr, SPLITS: tl.constexpr, TILES: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    WIDTH: tl.constexpr = BLOCK_N // 2 if SILU_MUL else BLOCK_N
    split = tl.program_id(1)
    m = tl.arange(0, ROWS)[:, None]
    r = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    w_at = row_starts(weight_ptr, weight_row(r, N, SILU_MUL), stride_wn, ROWS)
    w = first_tile(w_at, split, K, SPLITS, TILES, ROWS, BLOCK_K, USE_PDL)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    if SPLITS == 1:  # asked for now, so that it is there when the sums are
        n, live, residual = output_places(m, m < M, residual_ptr, stride_rm, N, WIDTH)
    z, squares = stream_sums(
        w, w_at, x_ptr, norm_ptr, M, stride_xm, split, K, SPLITS, TILES, ROWS, BLOCK_N, BLOCK_K, USE_PDL
    )
    if SPLITS == 1:
        if norm_ptr is not None:
            z *= tl.rsqrt(squares / K + eps)
        finish(z, residual, m, n, live, r, bias_ptr, y_ptr, N, SILU_MUL, ROWS, WIDTH)
    else:
        keep_sums(z, squares, r, split, M, part_ptr, square_ptr, 2 * N if SILU_MUL else N, ROWS)


@triton.jit
def _reduce_kernel(
    part_ptr, square_ptr, bias_ptr, residual_ptr, y_ptr,
    M, stride_rm, eps,
    N: tl.constexpr, K: tl.constexpr, SILU_MUL: tl.constexpr, SPLITS: tl.constexpr, BLOCK_N: tl.constexpr,
    USE_PDL: tl.constexpr,
):  # fmt: skip
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    m = tl.program_id(1) + tl.zeros([1, 1], tl.int32)
    r = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    WIDTH: tl.constexpr = BLOCK_N // 2 if SILU_MUL else BLOCK_N
    n, live, residual = output_places(m, m < M, residual_ptr, stride_rm, N, WIDTH)
    z = add_sums(part_ptr, square_ptr, m, r, M, eps, K, 2 * N if SILU_MUL else N, SPLITS, BLOCK_N)
    finish(z, residual, m, n, live, r, bias_ptr, y_ptr, N, SILU_MUL, 1, WIDTH)


def linear(
    x_MK: Tensor,
    weight_NK: Tensor,
    *,
    norm: Norm | None = None,
    bias_N: Tensor | None = None,
    residual_MN: Tensor | None = None,
    silu_mul: bool = False,
    splits: int | None = None,
    config: Mapping[str, int] | None = None,
) -> Tensor:
    """x times W transposed for few rows; one launch, two with split-K.

    Args:
        x_MK: ``[M, K]``, up to ``MAX_ROWS`` rows, bfloat16, float16 or float32; rows may be strided.
        weight_NK: ``[N, K]`` of x's dtype, rows may be strided; ``[2N, K]``, gate rows then up rows, with ``silu_mul``.
        norm: normalise x first, with a weight ``[K]``.
        bias_N: ``[N]`` (``[2N]``), added to the product.
        residual_MN: ``[M, N]`` of x's dtype, added last.
        silu_mul: SiLU of the gate's outputs times the up's.
        splits: programs that share the columns of a block of rows of W, 1 to ``MAX_SPLITS``; None: by the shape.
        config: block sizes in place of the tuning table's.

    Returns:
        ``[M, N]`` in x's dtype. Sums are in float32 and rounded once, at the end.

    Raises:
        ValueError: other shapes, dtypes, strides or devices, or more than ``MAX_ROWS`` rows.
    """
    check_float("x", x_MK, (None, None))
    rows, inner = x_MK.shape
    if rows > MAX_ROWS or not inner:
        raise ValueError(f"x must have at most {MAX_ROWS} rows and at least one column, not {list(x_MK.shape)}")
    check_float("weight", weight_NK, (None, inner), like=x_MK)
    w_rows = weight_NK.shape[0]
    if w_rows == 0 or (silu_mul and w_rows % 2):
        raise ValueError(f"weight cannot have {w_rows} rows{' of gate and up' if silu_mul else ''}")
    outputs = w_rows // 2 if silu_mul else w_rows
    if norm is not None:
        check_float("norm weight", norm.weight_E, (inner,))
    if bias_N is not None:
        check_float("bias", bias_N, (w_rows,))
    if residual_MN is not None:
        check_float("residual", residual_MN, (rows, outputs), like=x_MK)
    norm_K = None if norm is None else norm.weight_E
    device = check_device(x=x_MK, weight=weight_NK, norm=norm_K, bias=bias_N, residual=residual_MN)
    y_MN = torch.empty((rows, outputs), dtype=x_MK.dtype, device=device)
    if rows == 0:
        return y_MN

    name = "linear_silu_mul" if silu_mul else "linear"
    default = default_config(rows, w_rows, inner, x_MK.dtype.itemsize)
    blocks = config or config_for(name, (padded_rows(rows), outputs, inner), device, default)
    splits, share = shares(inner, blocks["BLOCK_K"], blocks["SPLITS"] if splits is None else splits)
    part = squares = None
    if splits > 1:
        part = torch.empty((splits, rows, w_rows), dtype=torch.float32, device=device)
        squares = None if norm is None else torch.empty((splits, rows), dtype=torch.float32, device=device)
    use_pdl = pdl_supported(device)
    stride_rm = 0 if residual_MN is None else residual_MN.stride(0)
    eps = 0.0 if norm is None else norm.eps
    _linear_kernel[(triton.cdiv(w_rows, blocks["BLOCK_N"]), splits)](
        x_MK, weight_NK, norm_K, bias_N, residual_MN, y_MN, part, squares,
        rows, x_MK.stride(0), weight_NK.stride(0), stride_rm, eps,
        N=outputs, K=inner, SILU_MUL=silu_mul, SPLITS=splits, TILES=share, ROWS=padded_rows(rows),
        BLOCK_N=blocks["BLOCK_N"], BLOCK_K=blocks["BLOCK_K"], USE_PDL=use_pdl,
        num_warps=blocks["num_warps"], num_stages=blocks["num_stages"], **pdl_options(use_pdl),
    )  # fmt: skip
    if splits > 1:
        _reduce_kernel[(triton.cdiv(w_rows, REDUCE_BLOCK), rows)](
            part, squares, bias_N, residual_MN, y_MN, rows, stride_rm, eps,
            N=outputs, K=inner, SILU_MUL=silu_mul, SPLITS=splits, BLOCK_N=REDUCE_BLOCK, USE_PDL=use_pdl,
            num_warps=4, **pdl_options(use_pdl),
        )  # fmt: skip
    return y_MN


def compile_cases() -> Iterator[CompileCase]:
    """Every product of every model at 1, 2 and 16 rows, as the decode step uses it."""
    for shape in LLAMA_SHAPES:
        heads_width = shape.heads * shape.head_dim
        qkv_width = heads_width + 2 * shape.kv_heads * shape.head_dim
        for rows in (1, 2, 16):
            for name, outputs, inner, norm, residual, silu_mul in (
                ("qkv", qkv_width, shape.hidden, True, False, False),
                ("o", shape.hidden, heads_width, False, True, False),
                ("gate_up", shape.intermediate, shape.hidden, True, False, True),
                ("down", shape.hidden, shape.intermediate, False, True, False),
                ("head", shape.vocab, shape.hidden, True, False, False),
            ):
                title = f"{name} {shape.name} [{rows}, {inner}] to {outputs} bf16"
                yield from _compile_cases_of(title, rows, outputs, inner, norm, residual, silu_mul)


def _compile_cases_of(
    title: str, rows: int, outputs: int, inner: int, norm: bool, residual: bool, silu_mul: bool
) -> Iterator[CompileCase]:
    config = default_config(rows, 2 * outputs if silu_mul else outputs, inner)
    bf16, splits = torch.bfloat16, config["SPLITS"]
    sums = torch.float32 if splits > 1 else None
    arguments = {
        "bias_ptr": None,
        "residual_ptr": bf16 if residual else None,
        "y_ptr": bf16,
        "part_ptr": sums,
        "square_ptr": sums if norm else None,
        "M": rows,
        "stride_rm": outputs if residual else 0,
        "eps": 1e-5,
    }
    constants = {"N": outputs, "K": inner, "SILU_MUL": silu_mul, "SPLITS": splits}
    yield CompileCase(
        name=title,
        fn=_linear_kernel,
        signature=signature_of(
            x_ptr=bf16, weight_ptr=bf16, norm_ptr=bf16 if norm else None, stride_xm=inner, stride_wn=inner, **arguments
        ),
        constexprs={
            **constants,
            "TILES": triton.cdiv(triton.cdiv(inner, config["BLOCK_K"]), splits),
            "ROWS": padded_rows(rows),
            "BLOCK_N": config["BLOCK_N"],
            "BLOCK_K": config["BLOCK_K"],
        },
        num_warps=config["num_warps"],
        num_stages=config["num_stages"],
    )
    if splits > 1:
        yield CompileCase(
            name=f"{title}, sum of {splits} splits",
            fn=_reduce_kernel,
            signature=signature_of(**arguments),
            constexprs={**constants, "BLOCK_N": REDUCE_BLOCK},
            num_warps=4,
            num_stages=3,
        )
