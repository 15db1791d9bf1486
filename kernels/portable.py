"""What the compiler and Triton's interpreter do not do alike, written once so that kernels run in both."""

from __future__ import annotations

import triton
import triton.language as tl

from dodona.kernels.launch import interpreting

INTERPRETING: tl.constexpr = tl.constexpr(interpreting())


@triton.jit
def loop_bound(scalar):
    """A bound of ``range`` from a number on the device. NumPy 2.4 refuses int() of an array of one element, which is
    what Triton 3.6's interpreter makes of such a bound; compiled code takes it as it is."""
    if INTERPRETING:
        return int(scalar.handle.data.reshape(()))
    else:
        return scalar


@triton.jit
def dot(a, b, acc):
    """a @ b + acc in float32. float32 inputs keep all their bits, where ``tl.dot`` would round them to TF32; bfloat16
    is widened for the interpreter, which multiplies its bit patterns as integers otherwise."""
    if a.dtype == tl.float32:
        return tl.dot(a, b, acc, input_precision="ieee")
    elif INTERPRETING:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    else:
        return tl.dot(a, b, acc)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """float32 rounded to the nearest of a dtype, ties to even. The interpreter cuts off what bfloat16 does not hold."""
    if INTERPRETING and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        x = tl.where(x == x, nearest, bits).to(tl.float32, bitcast=True)
    return x.to(dtype)
