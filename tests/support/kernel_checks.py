"""How a kernel's output is compared with its float64 reference, and how a comparison is shown to be able to fail.

Without a CUDA device kernels run in Triton's interpreter (tests/conftest.py sees to it), with one they run on it: the
tests are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

VOCABULARIES = (1, 7, 4097, 128256)  # one token; less than any tile; a ragged tail; Llama 3
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Half the distance between neighbours, relative: what one rounding to the dtype may cost.
ROUNDING = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12, torch.float64: 2.0**-53}


def tolerance(terms: int = 1, *, dtype: torch.dtype = torch.float32, rounded: torch.dtype | None = None) -> float:
    """Relative error that a sum of so many terms may have.

    8 roundings for what is done to each term and 4 for each doubling of their number, as tiles are added up in a tree;
    and two to the dtype of an output that is ``rounded``. ``dtype`` is what sums are kept in.

    Inputs count as exact, because references start from the same rounded inputs.
    """
    error = ROUNDING[dtype] * (8 + 4 * math.log2(terms))
    return error + (0.0 if rounded is None else 2 * ROUNDING[rounded])


def assert_close(got: Tensor, want: Tensor, relative: float, scale: float | Tensor = 0.0) -> None:
    """|got - want| <= relative * max(|want|, scale) everywhere; NaN only where NaN is wanted, infinities likewise.

    Args:
        got: the kernel's output.
        want: the reference's, float64.
        relative: from `tolerance`.
        scale: the size of the numbers that were added up, where they cancel in the result.
    """
    assert got.shape == want.shape, f"shape {tuple(got.shape)}, wanted {tuple(want.shape)}"
    got, want = got.double().cpu(), want.double().cpu()
    bound = relative * torch.maximum(want.abs(), torch.as_tensor(scale, dtype=torch.float64).cpu())
    fine = ((got - want).abs() <= bound) | (got == want) | (got.isnan() & want.isnan())
    if not fine.all():
        at = tuple(int(i) for i in (~fine).nonzero()[0])
        raise AssertionError(f"{int((~fine).sum())} wrong, first at {at}: {got[at]}, wanted {want[at]} +- {bound[at]}")


def mutants(output: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What broken kernels give instead: zeros, the wrong order, and a last quarter that was never written."""
    yield "zeros", torch.zeros_like(output)
    yield (
        "reversed rows" if output.ndim == 1 else "transposed",
        (output.flip(0) if output.ndim == 1 else output.T.reshape(output.shape)),
    )
    tail = output.clone()
    tail.view(-1)[-max(1, output.numel() // 4) :] = 0
    yield "dropped tail", tail


def assert_rejects_mutants(check: Callable[[Tensor], None], output: Tensor) -> None:
    """The check accepts the output and none of its mutants: a tolerance that lets zeros pass tests nothing.

    The output must differ from row to row.
    """
    check(output)
    for name, mutant in mutants(output):
        with pytest.raises(AssertionError):
            check(mutant)
            pytest.fail(f"{name} passed")  # pytest.fail is no AssertionError, so it goes through `raises`
