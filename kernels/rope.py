"""Rotary position embedding of q and k, written with v straight into the pages (Su et al. 2021, arXiv:2104.09864).

In the half-split convention of the Hugging Face checkpoints, for one head at position p and d < D/2:

    y[d]       = x[d]       * cos[p, d]       + x[d + D/2] * sin[p, d]
    y[d + D/2] = x[d + D/2] * cos[p, d + D/2] + x[d]       * sin[p, d + D/2]

that is ``x * cos + roll(x, D/2) * sin`` with tables whose sine has its first half negated. q goes to an output of its
own, k to place p of its sequence, v there too, unchanged.

Shape suffixes: T tokens, H query heads, K key/value heads, D head size, R = (H + 2K) * D rows of the fused product
(q, then k, then v), P positions of the tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dodona.kernels.checks import check_float, check_integer
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
from dodona.kernels.paged import PagedKV

_DEFAULT = {"BLOCK_HEADS": 8, "num_warps": 4}


class Rope(NamedTuple):
    """The rotation's tables."""

    cos_PD: Tensor  # [P, D] float
    sin_PD: Tensor  # [P, D] of cos's dtype, the first half of each row negated


def rope_reference(x_THD: Tensor, rope: Rope, positions_T: Tensor) -> Tensor:
    """The rotation in float64."""
    cos_T1D, sin_T1D = (table.double()[positions_T.long()].unsqueeze(1) for table in rope)
    x = x_THD.double()
    return x * cos_T1D + x.roll(x.shape[-1] // 2, -1) * sin_T1D


def rope_append_reference(
    qkv_TR: Tensor, rope: Rope, positions_T: Tensor, pages: PagedKV, slots_T: Tensor, *, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """q ``[T, H, D]`` in float64, and float64 copies of k's and v's pages with the tokens written."""
    k_PSKD, v_PSKD = pages.k_PSKD.double(), pages.v_PSKD.double()
    kv_heads, head_dim = k_PSKD.shape[2:]
    q, k, v = qkv_TR.view(qkv_TR.shape[0], -1, head_dim).split((heads, kv_heads, kv_heads), 1)
    page_T = pages.table[slots_T.long(), positions_T.long() // pages.page_size].long()
    place_T = positions_T.long() % pages.page_size
    k_PSKD[page_T, place_T] = rope_reference(k, rope, positions_T)
    v_PSKD[page_T, place_T] = v.double()
    return rope_reference(q, rope, positions_T), k_PSKD, v_PSKD


@triton.jit
def place_of(position, slot, table_ptr, stride_table, stride_page, stride_place, PAGE_SIZE: tl.constexpr, live):
    """Page of a position of a slot, 0 where the token is not live, and the position's offset (int64) in k or v."""
    page = tl.load(table_ptr + slot * stride_table + position // PAGE_SIZE, mask=live, other=0).to(tl.int64)
    return page, page * stride_page + (position % PAGE_SIZE) * stride_place


@triton.jit
def rotate_and_store(
    x1, x2, live, token, head, d, live_d, position, page, place, cos_ptr, sin_ptr, stride_rope_p,
    q_ptr, k_ptr, v_ptr, stride_kv_head, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Rotate elements d and d + HALF of fused heads (q, then k, then v, which is not turned) and store them.

    x1, x2 and `live` are tiles; token, head, d, live_d, position, page and place broadcast to them.
    """
    cos_at, sin_at = cos_ptr + position * stride_rope_p + d, sin_ptr + position * stride_rope_p + d
    cos1 = tl.load(cos_at, mask=live_d, other=0.0).to(tl.float32)
    cos2 = tl.load(cos_at + HALF, mask=live_d, other=0.0).to(tl.float32)
    sin1 = tl.load(sin_at, mask=live_d, other=0.0).to(tl.float32)
    sin2 = tl.load(sin_at + HALF, mask=live_d, other=0.0).to(tl.float32)
    is_q = live & (head < HEADS)
    is_k = live & (head >= HEADS) & (head < HEADS + KV_HEADS)
    is_v = live & (head >= HEADS + KV_HEADS)
    owned = page + 0 * head > 0  # a tile, as the interpreter does not join a scalar to one
    y1 = tl.where(is_v, x1, x1 * cos1 + x2 * sin1).to(q_ptr.dtype.element_ty)
    y2 = tl.where(is_v, x2, x2 * cos2 + x1 * sin2).to(q_ptr.dtype.element_ty)
    q_at = q_ptr + (token * HEADS + head) * (2 * HALF) + d
    tl.store(q_at, y1, mask=is_q)
    tl.store(q_at + HALF, y2, mask=is_q)
    k_at = k_ptr + place + (head - HEADS) * stride_kv_head + d
    tl.store(k_at, y1, mask=is_k & owned)
    tl.store(k_at + HALF, y2, mask=is_k & owned)
    v_at = v_ptr + place + (head - HEADS - KV_HEADS) * stride_kv_head + d
    tl.store(v_at, y1, mask=is_v & owned)
    tl.store(v_at + HALF, y2, mask=is_v & owned)


@triton.jit
def _rope_append_kernel(
    qkv_ptr, cos_ptr, sin_ptr, positions_ptr, slots_ptr, table_ptr, q_ptr, k_ptr, v_ptr,
    stride_qkv_t, stride_rope_p, stride_table, stride_page, stride_place, stride_kv_head,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, PAGE_SIZE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)[:, None]
    d = tl.arange(0, BLOCK_HALF)[None, :]
    live = (head < HEADS + 2 * KV_HEADS) & (d < HALF)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)

    position = tl.load(positions_ptr + token).to(tl.int64)
    slot = token if slots_ptr is None else tl.load(slots_ptr + token).to(tl.int64)
    page, place = place_of(position, slot, table_ptr, stride_table, stride_page, stride_place, PAGE_SIZE, True)
    at = qkv_ptr + token * stride_qkv_t + head * (2 * HALF) + d
    x1 = tl.load(at, mask=live, other=0.0).to(tl.float32)
    x2 = tl.load(at + HALF, mask=live, other=0.0).to(tl.float32)
    rotate_and_store(
        x1, x2, live, token, head, d, d < HALF, position, page, place, cos_ptr, sin_ptr, stride_rope_p,
        q_ptr, k_ptr, v_ptr, stride_kv_head, HEADS, KV_HEADS, HALF,
    )  # fmt: skip


def rope_append(
    qkv_TR: Tensor, rope: Rope, positions_T: Tensor, pages: PagedKV, slots_T: Tensor | None = None, *, heads: int
) -> Tensor:
    """Rotate q and k, and write k and v of each token to its place in the pages; one launch.

    Args:
        qkv_TR: ``[T, (H + 2K) * D]`` bfloat16, float16 or float32; rows may be strided.
        rope: tables ``[P, D]`` of any float dtype.
        positions_T: ``[T]`` int, each token's position in its sequence, below P. The places must exist: that is not
            checked, since it would need values from the device.
        pages: the layer's pages, of qkv's dtype; written in place.
        slots_T: ``[T]`` int, each token's row of the page table; None where token t has row t.
        heads: H.

    Returns:
        The rotated q, ``[T, H, D]`` in qkv's dtype.

    Raises:
        ValueError: other shapes, dtypes, strides or devices.
    """
    check_float("qkv", qkv_TR, (None, None))
    pages.check(like=qkv_TR)
    tokens, (kv_heads, head_dim) = qkv_TR.shape[0], pages.k_PSKD.shape[2:]
    if head_dim % 2:
        raise ValueError(f"head_dim must be even, not {head_dim}")
    check_float("qkv", qkv_TR, (None, (heads + 2 * kv_heads) * head_dim))
    check_rope(rope, head_dim)
    check_integer("positions", positions_T, (tokens,))
    if slots_T is not None:
        check_integer("slots", slots_T, (tokens,))
    elif pages.table.shape[0] < tokens:
        raise ValueError(f"without slots, {tokens} tokens need as many rows of the page table, not {len(pages.table)}")
    device = check_device(
        qkv=qkv_TR, cos=rope.cos_PD, sin=rope.sin_PD, positions=positions_T, slots=slots_T, k=pages.k_PSKD,
        v=pages.v_PSKD, table=pages.table,
    )  # fmt: skip
    q_THD = torch.empty((tokens, heads, head_dim), dtype=qkv_TR.dtype, device=device)
    if tokens:
        use_pdl = pdl_supported(device)
        config = config_for("rope_append", (heads, kv_heads, head_dim), device, _DEFAULT)
        _rope_append_kernel[(tokens, triton.cdiv(heads + 2 * kv_heads, config["BLOCK_HEADS"]))](
            qkv_TR, rope.cos_PD, rope.sin_PD, positions_T, slots_T, pages.table, q_THD, pages.k_PSKD, pages.v_PSKD,
            qkv_TR.stride(0), rope.cos_PD.stride(0), pages.table.stride(0), *pages.k_PSKD.stride()[:3], HEADS=heads,
            KV_HEADS=kv_heads, HALF=head_dim // 2, PAGE_SIZE=pages.page_size,
            BLOCK_HALF=triton.next_power_of_2(head_dim // 2), USE_PDL=use_pdl, **config, **pdl_options(use_pdl),
        )  # fmt: skip
    return q_THD


def check_rope(rope: Rope, head_dim: int) -> None:
    """Shapes, dtypes and strides of the tables.

    Raises:
        ValueError: they do not fit together or to the head size.
    """
    check_float("cos", rope.cos_PD, (None, head_dim))
    check_float("sin", rope.sin_PD, tuple(rope.cos_PD.shape), like=rope.cos_PD)
    if rope.cos_PD.stride() != rope.sin_PD.stride():
        raise ValueError(f"cos and sin differ in strides: {rope.cos_PD.stride()} and {rope.sin_PD.stride()}")


def compile_cases() -> Iterator[CompileCase]:
    """Every model's heads, with pages of 256."""
    bf16, page_size = torch.bfloat16, 256
    for shape in LLAMA_SHAPES:
        row = shape.kv_heads * shape.head_dim
        yield CompileCase(
            name=f"rope_append {shape.name} {shape.heads}+2*{shape.kv_heads} heads of {shape.head_dim} bf16",
            fn=_rope_append_kernel,
            signature=signature_of(
                qkv_ptr=bf16,
                cos_ptr=bf16,
                sin_ptr=bf16,
                positions_ptr=torch.int64,
                slots_ptr=torch.int64,
                table_ptr=torch.int64,
                q_ptr=bf16,
                k_ptr=bf16,
                v_ptr=bf16,
                stride_qkv_t=(shape.heads + 2 * shape.kv_heads) * shape.head_dim,
                stride_rope_p=shape.head_dim,
                stride_table=64,
                stride_page=page_size * row,
                stride_place=row,
                stride_kv_head=shape.head_dim,
            ),
            constexprs={
                "HEADS": shape.heads,
                "KV_HEADS": shape.kv_heads,
                "HALF": shape.head_dim // 2,
                "PAGE_SIZE": page_size,
                "BLOCK_HEADS": _DEFAULT["BLOCK_HEADS"],
                "BLOCK_HALF": shape.head_dim // 2,
            },
            num_warps=_DEFAULT["num_warps"],
            num_stages=3,
        )
