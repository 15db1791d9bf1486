"""The gate of Llama's feed-forward layer: SiLU(gate) times up (Shazeer 2020, arXiv:2002.05202).

    y = gate * sigmoid(gate) * up,      gate = x[:, :F],  up = x[:, F:]

For one to sixteen rows `linear(..., silu_mul=True)` does this in the product's own epilogue; this kernel serves the
larger forwards, whose products are cuBLAS's.

Shape suffixes: T rows (tokens), F intermediate size, 2F the fused gate and up.
"""

from __future__ import annotations

from collections.abc import Iterator

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

_DEFAULT = {"BLOCK": 1024, "num_warps": 4}


def silu_mul_reference(gate_up_T2F: Tensor) -> Tensor:
    """The same in float64."""
    gate, up = gate_up_T2F.double().chunk(2, -1)
    return gate * gate.sigmoid() * up


@triton.jit
def silu(x):
    """x * sigmoid(x) in float32; large negative x gives -0, not NaN."""
    return x / (1.0 + tl.exp(-x))


@triton.jit
def _silu_mul_kernel(gate_up_ptr, y_ptr, stride_t, F: tl.constexpr, BLOCK: tl.constexpr, USE_PDL: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = f < F
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    gate = tl.load(gate_up_ptr + row * stride_t + f, mask=live, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + row * stride_t + F + f, mask=live, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * F + f, (silu(gate) * up).to(y_ptr.dtype.element_ty), mask=live)


def silu_mul(gate_up_T2F: Tensor) -> Tensor:
    """SiLU of the first half of each row times the second half, ``[T, F]`` in the input's dtype; one launch.

    Args:
        gate_up_T2F: ``[T, 2F]`` bfloat16, float16 or float32; rows may be strided.

    Raises:
        ValueError: other shapes, dtypes, strides or devices.
    """
    check_float("gate_up", gate_up_T2F, (None, None))
    tokens, width = gate_up_T2F.shape
    if width == 0 or width % 2:
        raise ValueError(f"gate_up must have an even number of columns, not {width}")
    device, inner = check_device(gate_up=gate_up_T2F), width // 2
    y_TF = torch.empty((tokens, inner), dtype=gate_up_T2F.dtype, device=device)
    if tokens:
        use_pdl = pdl_supported(device)
        config = config_for("silu_mul", (inner,), device, _DEFAULT)
        _silu_mul_kernel[(tokens, triton.cdiv(inner, config["BLOCK"]))](
            gate_up_T2F, y_TF, gate_up_T2F.stride(0), F=inner, USE_PDL=use_pdl, **config, **pdl_options(use_pdl)
        )
    return y_TF


def compile_cases() -> Iterator[CompileCase]:
    """Every model's intermediate size."""
    for shape in LLAMA_SHAPES:
        yield CompileCase(
            name=f"silu_mul {shape.name} [1, 2*{shape.intermediate}] bf16",
            fn=_silu_mul_kernel,
            signature=signature_of(gate_up_ptr=torch.bfloat16, y_ptr=torch.bfloat16, stride_t=2 * shape.intermediate),
            constexprs={"F": shape.intermediate, "BLOCK": _DEFAULT["BLOCK"]},
            num_warps=_DEFAULT["num_warps"],
            num_stages=3,
        )
