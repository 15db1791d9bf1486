"""The attention signals of one decode step of one layer, from the head statistics of `attention_decode`.

With a_hj the attention of head h to live key j, of n live keys:

    attn_entropy          mean_h H_h,   H_h = -sum_j a_hj ln a_hj        nats
    attn_varentropy       mean_h (H_h - mean_h H_h)^2                    nats^2, over all heads: no -1
    interaction_strength  mean_h mean_j |q_h.k_j / sqrt(D)|
    agreement             mean_h mean_j |a_hj - mean_h a_hj|             by its history the name; falls as 1/n

The first three need nothing but the head statistics. Agreement compares heads key by key and needs every head's lse
before the first key can be compared: a second pass reads the keys of the layer again (no values), makes a_hj =
e^(x_hj - lse_h) of a tile for all heads, and again for their distance from the mean. That is one more read of K at
most, for one layer, and no memory; kept scores would be H floats a key instead, for every slot up to its capacity.

Shape suffixes: B sequences, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dodona.kernels.attention import LOG2E, HeadStatistics, scaled_scores
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
from dodona.kernels.paged import PagedKV, place_offsets
from dodona.kernels.portable import loop_bound

_DEFAULT = {"BLOCK_C": 64, "SHARES": 16, "num_warps": 4, "num_stages": 3}


class AttentionSignals(NamedTuple):
    """Signals of one position each; all 0 for a row without live keys."""

    attn_entropy: Tensor  # [B] float32, nats
    attn_varentropy: Tensor  # [B] float32, nats^2
    agreement: Tensor  # [B] float32
    interaction_strength: Tensor  # [B] float32


def attention_signals_reference(
    q_BHD: Tensor, pages: PagedKV, lengths_B: Tensor, slots_B: Tensor | None = None
) -> AttentionSignals:
    """The same in float64, from the queries and keys alone."""
    heads, head_dim = q_BHD.shape[1:]
    signals = torch.zeros(4, len(q_BHD), dtype=torch.float64, device=q_BHD.device)
    for b, q_HD in enumerate(q_BHD.double()):
        keys = int(lengths_B[b])
        if keys == 0:
            continue
        used = pages.table[b if slots_B is None else int(slots_B[b])].long()[: -(-keys // pages.page_size)]
        k_CKD = pages.k_PSKD[used].flatten(0, 1)[:keys].double()
        k_CHD = k_CKD.repeat_interleave(heads // k_CKD.shape[1], 1)
        x_HC = torch.einsum("hd,chd->hc", q_HD, k_CHD) / math.sqrt(head_dim)
        log_a_HC = x_HC.log_softmax(-1)
        a_HC = log_a_HC.exp()
        entropy_H = -(a_HC * log_a_HC).sum(-1)
        distance_HC = (a_HC - a_HC.mean(0)).abs()
        parts = (entropy_H.mean(), entropy_H.var(correction=0), distance_HC.mean(), x_HC.abs().mean())
        signals[:, b] = torch.stack(parts)
    return AttentionSignals(*signals.unbind())


@triton.jit
def _attention_of_tile(
    q_ptr, k_ptr, lse_ptr, places, live_key, kv_head, scale_log2, stride_qh, stride_kv_head,
    GROUP: tl.constexpr, D: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """a ``[BLOCK_G, BLOCK_C]`` of one key/value head's query heads over a tile of keys; 0 where either is padding."""
    g = tl.arange(0, BLOCK_G)
    d = tl.arange(0, BLOCK_D)
    head = kv_head * GROUP + g
    live_g, live_d = g < GROUP, (d < D)[None, :]
    q = tl.load(q_ptr + (head * stride_qh)[:, None] + d[None, :], mask=live_g[:, None] & live_d, other=0.0)
    at = (places + kv_head * stride_kv_head)[:, None] + d[None, :]
    k = tl.load(k_ptr + at, mask=live_key[:, None] & live_d, other=0.0)
    lse_log2 = tl.load(lse_ptr + head, mask=live_g, other=0.0) * LOG2E
    x = scaled_scores(q, k, scale_log2)
    both = live_g[:, None] & live_key[None, :]
    return tl.where(both, tl.exp2(x - lse_log2[:, None]), 0.0), both


@triton.jit
def _agreement_kernel(
    q_ptr, k_ptr, table_ptr, slots_ptr, lengths_ptr, lse_ptr, part_ptr,
    scale_log2, stride_qb, stride_qh, stride_page, stride_place, stride_kv_head, stride_table,
    GROUP: tl.constexpr, KV_HEADS: tl.constexpr, D: tl.constexpr, PAGE_SIZE: tl.constexpr, SHARES: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    length = tl.load(lengths_ptr + b).to(tl.int32)
    slot = b if slots_ptr is None else tl.load(slots_ptr + b).to(tl.int64)
    row_ptr = table_ptr + slot * stride_table
    q_ptr += b * stride_qb
    lse_ptr += b * KV_HEADS * GROUP
    tiles = tl.cdiv(length, BLOCK_C)
    share = tl.cdiv(tiles, SHARES)
    distance = tl.zeros([BLOCK_C], tl.float32)
    for tile in range(loop_bound(split * share), loop_bound(tl.minimum(split * share + share, tiles))):
        live_key = tile * BLOCK_C + tl.arange(0, BLOCK_C) < length
        places = place_offsets(row_ptr, tile * BLOCK_C, length, stride_page, stride_place, PAGE_SIZE, BLOCK_C)
        summed = tl.zeros([BLOCK_C], tl.float32)
        for kv_head in range(KV_HEADS):
            a, _ = _attention_of_tile(
                q_ptr, k_ptr, lse_ptr, places, live_key, kv_head, scale_log2, stride_qh, stride_kv_head,
                GROUP, D, BLOCK_G, BLOCK_D,
            )  # fmt: skip
            summed += tl.sum(a, axis=0)
        mean = summed / (KV_HEADS * GROUP)
        for kv_head in range(KV_HEADS):
            a, both = _attention_of_tile(
                q_ptr, k_ptr, lse_ptr, places, live_key, kv_head, scale_log2, stride_qh, stride_kv_head,
                GROUP, D, BLOCK_G, BLOCK_D,
            )  # fmt: skip
            distance += tl.sum(tl.where(both, tl.abs(a - mean[None, :]), 0.0), axis=0)
    tl.store(part_ptr + b * SHARES + split, tl.sum(distance, axis=0))


@triton.jit
def _signals_kernel(
    entropy_ptr, strength_ptr, part_ptr, lengths_ptr, signals_ptr,
    rows,
    HEADS: tl.constexpr, SHARES: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_S: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    h = tl.arange(0, BLOCK_H)
    share = tl.arange(0, BLOCK_S)
    entropy = tl.load(entropy_ptr + b * HEADS + h, mask=h < HEADS, other=0.0)
    strength = tl.load(strength_ptr + b * HEADS + h, mask=h < HEADS, other=0.0)
    part = tl.load(part_ptr + b * SHARES + share, mask=share < SHARES, other=0.0)
    keys = tl.maximum(tl.load(lengths_ptr + b), 1).to(tl.float32)
    mean = tl.sum(entropy, axis=0) / HEADS
    off = tl.where(h < HEADS, entropy - mean, 0.0)
    tl.store(signals_ptr + b, mean)
    tl.store(signals_ptr + rows + b, tl.sum(off * off, axis=0) / HEADS)
    tl.store(signals_ptr + 2 * rows + b, tl.sum(part, axis=0) / (keys * HEADS))
    tl.store(signals_ptr + 3 * rows + b, tl.sum(strength, axis=0) / HEADS)


def attention_signals(
    q_BHD: Tensor, pages: PagedKV, heads: HeadStatistics, lengths_B: Tensor, slots_B: Tensor | None = None
) -> AttentionSignals:
    """The four attention signals of a decode step; two launches.

    Args:
        q_BHD: ``[B, H, D]``, the queries that `attention_decode` was given.
        pages: its keys (the values are not read).
        heads: the statistics that it returned.
        lengths_B: ``[B]`` int, live keys.
        slots_B: ``[B]`` int, each row's row of the page table; None where row b has row b.

    Raises:
        ValueError: other shapes, dtypes, strides or devices.
    """
    check_float("q", q_BHD, (None, None, None))
    pages.check(like=q_BHD)
    batch, num_heads, head_dim = q_BHD.shape
    kv_heads = pages.k_PSKD.shape[2]
    if num_heads % kv_heads or pages.k_PSKD.shape[3] != head_dim:
        raise ValueError(f"q {list(q_BHD.shape)} does not fit keys {list(pages.k_PSKD.shape)}")
    for name, values in zip(heads._fields, heads, strict=True):
        check_float(name, values, (batch, num_heads))
        if values.dtype != torch.float32 or not values.is_contiguous():
            raise ValueError(f"{name} must be contiguous float32, as attention_decode returns it")
    check_integer("lengths", lengths_B, (batch,))
    if slots_B is not None:
        check_integer("slots", slots_B, (batch,))
    elif pages.table.shape[0] < batch:
        raise ValueError(f"without slots, {batch} rows need as many rows of the page table, not {len(pages.table)}")
    device = check_device(q=q_BHD, k=pages.k_PSKD, table=pages.table, lse=heads.lse, lengths=lengths_B, slots=slots_B)
    signals_4B = torch.empty((4, batch), dtype=torch.float32, device=device)
    if batch:
        config = dict(config_for("attention_signals", (num_heads, head_dim), device, _DEFAULT))
        shares, group, use_pdl = config["SHARES"], num_heads // kv_heads, pdl_supported(device)
        part = torch.empty((batch, shares), dtype=torch.float32, device=device)
        _agreement_kernel[(shares, batch)](
            q_BHD, pages.k_PSKD, pages.table, slots_B, lengths_B, heads.lse, part, math.log2(math.e) /
            math.sqrt(head_dim), q_BHD.stride(0), q_BHD.stride(1), *pages.k_PSKD.stride()[:3], pages.table.stride(0),
            GROUP=group, KV_HEADS=kv_heads, D=head_dim, PAGE_SIZE=pages.page_size, BLOCK_G=max(16,
            triton.next_power_of_2(group)), BLOCK_D=max(16, triton.next_power_of_2(head_dim)), USE_PDL=use_pdl,
            **config, **pdl_options(use_pdl),
        )  # fmt: skip
        _signals_kernel[(batch,)](
            heads.entropy, heads.strength, part, lengths_B, signals_4B, batch, HEADS=num_heads, SHARES=shares,
            BLOCK_H=triton.next_power_of_2(num_heads), BLOCK_S=triton.next_power_of_2(shares), USE_PDL=use_pdl,
            num_warps=1, **pdl_options(use_pdl),
        )  # fmt: skip
    return AttentionSignals(*signals_4B.unbind())


def compile_cases() -> Iterator[CompileCase]:
    """Both kernels for every model's heads, with pages of 256."""
    bf16, f32, i64, page_size = torch.bfloat16, torch.float32, torch.int64, 256
    shares = _DEFAULT["SHARES"]
    for shape in LLAMA_SHAPES:
        yield CompileCase(
            name=f"agreement {shape.name} {shape.heads}/{shape.kv_heads} heads of {shape.head_dim} bf16",
            fn=_agreement_kernel,
            signature=signature_of(
                q_ptr=bf16,
                k_ptr=bf16,
                table_ptr=i64,
                slots_ptr=i64,
                lengths_ptr=i64,
                lse_ptr=f32,
                part_ptr=f32,
                scale_log2=0.1,
                stride_qb=shape.heads * shape.head_dim,
                stride_qh=shape.head_dim,
                stride_page=page_size * shape.kv_heads * shape.head_dim,
                stride_place=shape.kv_heads * shape.head_dim,
                stride_kv_head=shape.head_dim,
                stride_table=64,
            ),
            constexprs={
                "GROUP": shape.heads // shape.kv_heads,
                "KV_HEADS": shape.kv_heads,
                "D": shape.head_dim,
                "PAGE_SIZE": page_size,
                "SHARES": shares,
                "BLOCK_G": 16,
                "BLOCK_C": _DEFAULT["BLOCK_C"],
                "BLOCK_D": shape.head_dim,
            },
            num_warps=_DEFAULT["num_warps"],
            num_stages=_DEFAULT["num_stages"],
        )
        yield CompileCase(
            name=f"attention signals {shape.name} {shape.heads} heads",
            fn=_signals_kernel,
            signature=signature_of(
                entropy_ptr=f32, strength_ptr=f32, part_ptr=f32, lengths_ptr=i64, signals_ptr=f32, rows=1
            ),
            constexprs={
                "HEADS": shape.heads,
                "SHARES": shares,
                "BLOCK_H": triton.next_power_of_2(shape.heads),
                "BLOCK_S": shares,
            },
            num_warps=1,
            num_stages=3,
        )
