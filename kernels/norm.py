"""RMSNorm, with the residual addition that precedes it in a decoder layer (Zhang and Sennrich 2019, arXiv:1910.07467).

    r = x + residual                    (r = x where there is no residual)
    y = r / sqrt(mean(r^2) + eps) * w

Sums and the square root are in float32 whatever the inputs are. r is rounded to the input's dtype before it is
normalised, because the next layer reads it rounded: both then start from the same numbers.

Shape suffixes: T rows (tokens), E hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

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

MAX_HIDDEN = 32768  # one program holds one row in registers


class Norm(NamedTuple):
    """The parameters of one RMSNorm."""

    weight_E: Tensor  # [E]
    eps: float


class Normed(NamedTuple):
    """What a norm gives to the two branches that follow it."""

    hidden_TE: Tensor  # [T, E] the input's dtype: normalised
    residual_TE: Tensor  # [T, E] the input's dtype: x + residual, or x itself where there was none


def rms_norm_reference(x_TE: Tensor, norm: Norm, *, residual_TE: Tensor | None = None) -> Normed:
    """The same in float64."""
    r_TE = x_TE.double() if residual_TE is None else x_TE.double() + residual_TE.double()
    scale_T1 = (r_TE.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    return Normed(r_TE * scale_T1 * norm.weight_E.double(), r_TE)


@triton.jit
def _rms_norm_kernel(
    x_ptr, weight_ptr, residual_ptr, hidden_ptr, sum_ptr,
    stride_xt, stride_rt, eps,
    E: tl.constexpr, BLOCK_E: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    e = tl.arange(0, BLOCK_E)
    live = e < E
    weight = tl.load(weight_ptr + e, mask=live, other=0.0).to(tl.float32)  # nobody writes weights: no wait is needed
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    x = tl.load(x_ptr + row * stride_xt + e, mask=live, other=0.0)
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + row * stride_rt + e, mask=live, other=0.0)
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(x.dtype)
        tl.store(sum_ptr + row * E + e, x, mask=live)
    r = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(r * r, axis=0) / E + eps)
    tl.store(hidden_ptr + row * E + e, (r * scale * weight).to(hidden_ptr.dtype.element_ty), mask=live)


def rms_norm(x_TE: Tensor, norm: Norm, *, residual_TE: Tensor | None = None) -> Normed:
    """Add the residual, if there is one, and normalise each row; one launch.

    Args:
        x_TE: ``[T, E]`` bfloat16, float16 or float32; rows may be strided.
        norm: weight ``[E]`` and eps.
        residual_TE: ``[T, E]`` of x's dtype, added to x first.

    Raises:
        ValueError: other shapes, dtypes, strides or devices, or a hidden size above ``MAX_HIDDEN``.
    """
    check_float("x", x_TE, (None, None))
    tokens, hidden = x_TE.shape
    check_float("norm weight", norm.weight_E, (hidden,))
    if residual_TE is not None:
        check_float("residual", residual_TE, (tokens, hidden), like=x_TE)
    if not 0 < hidden <= MAX_HIDDEN:
        raise ValueError(f"hidden size must be 1 to {MAX_HIDDEN}, not {hidden}")
    device = check_device(x=x_TE, weight=norm.weight_E, residual=residual_TE)
    hidden_TE = torch.empty((tokens, hidden), dtype=x_TE.dtype, device=device)
    sum_TE = x_TE if residual_TE is None else torch.empty_like(hidden_TE)
    if tokens:
        use_pdl = pdl_supported(device)
        _rms_norm_kernel[(tokens,)](
            x_TE, norm.weight_E, residual_TE, hidden_TE, None if residual_TE is None else sum_TE, x_TE.stride(0), 0 if
            residual_TE is None else residual_TE.stride(0), norm.eps, E=hidden,
            BLOCK_E=triton.next_power_of_2(hidden), USE_PDL=use_pdl, **config_for("rms_norm", (hidden,), device,
            _default_config(hidden)), **pdl_options(use_pdl),
        )  # fmt: skip
    return Normed(hidden_TE, sum_TE)


def _default_config(hidden: int) -> dict[str, int]:
    return {"num_warps": 4 if hidden <= 2048 else 8 if hidden <= 8192 else 16}


def compile_cases() -> Iterator[CompileCase]:
    """Every model's hidden size, with and without a residual."""
    bf16 = torch.bfloat16
    for shape in LLAMA_SHAPES:
        for residual in (None, bf16):
            yield CompileCase(
                name=f"rms_norm {shape.name} [1, {shape.hidden}]{' + residual' if residual else ''} bf16",
                fn=_rms_norm_kernel,
                signature=signature_of(
                    x_ptr=bf16,
                    weight_ptr=bf16,
                    residual_ptr=residual,
                    hidden_ptr=bf16,
                    sum_ptr=residual,
                    stride_xt=shape.hidden,
                    stride_rt=shape.hidden if residual else 0,
                    eps=1e-5,
                ),
                constexprs={"E": shape.hidden, "BLOCK_E": triton.next_power_of_2(shape.hidden)},
                num_stages=3,
                **_default_config(shape.hidden),
            )
