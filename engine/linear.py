"""Products with a weight in the layout that the device multiplies fastest.

On the CPU a weight ``[rows, columns]`` is packed once for oneDNN, through the operators that torch's own compiler uses:
on two cores and shapes of a 135M Llama, one row times a packed weight took 0.5 (bfloat16) to 0.8 (float32) of
``F.linear``'s time, and more rows were never slower. A weight that stays in the processor's cache gains nothing and
would pay the call's 12 us, so small ones are left alone. Elsewhere, and where torch was built without oneDNN, it is
``F.linear`` itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Product = Callable[[Tensor], Tensor]

_SMALL = 1 << 18  # elements

_log = logging.getLogger(__name__)


def product(weight: Tensor, bias: Tensor | None) -> Product:
    """The function ``x [T, columns] -> x weight^T + bias [T, rows]``."""
    if weight.device.type != "cpu" or weight.dtype == torch.float16 or weight.numel() < _SMALL:
        return lambda x: F.linear(x, weight, bias)
    if not torch.backends.mkldnn.is_available():
        _log.info("torch has no oneDNN here: products on the CPU run unpacked")
        return lambda x: F.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 1)
    multiply = torch.ops.mkldnn._linear_pointwise.default

    def packed_product(x: Tensor) -> Tensor:
        result: Tensor = multiply(x, packed, bias, "none", [], "")
        return result

    return packed_product
