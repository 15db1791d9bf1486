"""A grid (see grid.py) that attends by flash-attn's ``flash_attn_with_kvcache``: paged, appending in place, split-KV.

flash-attn 3 is taken where it can be imported (``flash_attn_interface``), else flash-attn 2 (``flash_attn``). Both want
bfloat16 or float16 on CUDA; version 2 wants pages of a multiple of 256 tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dodona.engine.cache import PagedCache, rotated
from dodona.engine.errors import RequestError

_PAGE = 256


class Flash(NamedTuple):
    """The function, and what it calls its page table."""

    attend: Callable[..., Any]
    table_name: str


def find_flash() -> Flash:
    """flash-attn 3, or 2.

    Raises:
        RequestError: neither can be imported; the message has the reasons and how to install it.
    """
    reasons = []
    for module, table_name in (("flash_attn_interface", "page_table"), ("flash_attn", "block_table")):
        try:
            return Flash(import_module(module).flash_attn_with_kvcache, table_name)
        except Exception as error:  # a build for another torch fails with whatever its loader raises
            reason = (str(error).splitlines() or [""])[0]
            reasons.append(f"{module}: {type(error).__name__}: {reason}")
    raise RequestError(
        "attention='flash' needs flash-attn, which cannot be imported "
        f"({'; '.join(reasons)}): `pip install flash-attn --no-build-isolation`, or leave attention='own'"
    )


def check_flash(device: torch.device, dtype: torch.dtype, page_size: int) -> None:
    """Refuse what flash-attn cannot do.

    Raises:
        RequestError: a device, dtype or page size that it does not take.
    """
    if device.type != "cuda":
        raise RequestError(f"attention='flash' needs a CUDA device, not {device.type}")
    if dtype == torch.float32:
        raise RequestError("attention='flash' needs dtype bfloat16 or float16, not float32")
    if page_size % _PAGE:
        raise RequestError(f"attention='flash' needs a page_size that is a multiple of {_PAGE}, not {page_size}")


class FlashGrid:
    """M slots of n tokens each; shape suffixes as in grid.py."""

    def __init__(self, flash: Flash, cache: PagedCache, slots_M: Tensor, starts_M: Tensor, queries: int) -> None:
        self.cache, self.queries, self._flash = cache, queries, flash
        self._table_MW = cache.page_table[slots_M].int()
        self._starts_M = starts_M.int()
        self._positions_T = (starts_M.unsqueeze(1) + torch.arange(queries, device=cache.device)).flatten()

    def rotate_by(self, cos_PD: Tensor, sin_PD: Tensor) -> None:
        """Take the rotary tables; padding past the last position rotates as the last does."""
        positions_T = self._positions_T.clamp(max=len(cos_PD) - 1)
        self._cos_T1D, self._sin_T1D = cos_PD[positions_T].unsqueeze(1), sin_PD[positions_T].unsqueeze(1)

    def attend(self, layer: int, qkv_TR: Tensor) -> Tensor:
        """Rotate q and k, append keys and values, attend over the live keys; returns ``[T, H*D]``."""
        config, n = self.cache.config, self.queries
        heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
        qk_THD, v_TKD = rotated(qkv_TR, config, self._cos_T1D, self._sin_T1D)
        k_PSKD, v_PSKD = self.cache.paged[layer]
        out = self._flash.attend(
            qk_THD[:, :heads].reshape(-1, n, heads, dim),
            k_PSKD,
            v_PSKD,
            qk_THD[:, heads:].reshape(-1, n, kv_heads, dim),
            v_TKD.reshape(-1, n, kv_heads, dim),
            cache_seqlens=self._starts_M,
            causal=True,
            **{self._flash.table_name: self._table_MW},
        )
        attended: Tensor = (out[0] if isinstance(out, tuple) else out).reshape(-1, heads * dim)
        return attended
