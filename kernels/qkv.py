"""The first half of a decoder layer up to attention, for a few tokens, in one pass over the weights.

    z = RMSNorm(x) W^T + bias;    q, k, v = z;    q and k turned by their token's position;    k and v to their pages

This is `rms_norm`, `linear` and `rope_append` as one launch (two with split-K), which is what a decode step of a
small model needs: at batch 1 each launch costs about as much as the norm and the rotation together. The rows of W are
dealt so that elements d and d + D/2 of a head are neighbours in a program, which can then rotate them before they are
ever written.

Shape suffixes: M tokens, E hidden size, H query heads, K key/value heads, D head size, R = (H + 2K) * D rows of W (q,
then k, then v).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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
from dodona.kernels.linear import linear_reference
from dodona.kernels.norm import Norm
from dodona.kernels.paged import PagedKV
from dodona.kernels.rope import Rope, check_rope, place_of, rope_append_reference, rotate_and_store
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


def qkv_append_reference(
    x_ME: Tensor,
    weight_RE: Tensor,
    norm: Norm,
    rope: Rope,
    positions_M: Tensor,
    pages: PagedKV,
    slots_M: Tensor,
    *,
    heads: int,
    bias_R: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """q ``[M, H, D]`` in float64, and float64 copies of k's and v's pages with the tokens written."""
    z_MR = linear_reference(x_ME, weight_RE, norm=norm, bias_N=bias_R)
    return rope_append_reference(z_MR, rope, positions_M, pages, slots_M, heads=heads)


@triton.jit
def paired_row(r, HALF: tl.constexpr, R: tl.constexpr):
    """The row of W behind row r of the tiles: elements d and d + D/2 of a head alternate."""
    pair = tl.minimum(r // 2, R // 2 - 1)
    return (pair // HALF) * (2 * HALF) + pair % HALF + (r % 2) * HALF


@triton.jit
def append(
    z, m, live_m, r, bias_ptr, cos_ptr, sin_ptr, positions_ptr, slots_ptr, table_ptr, q_ptr, k_ptr, v_ptr,
    stride_rope_p, stride_table, stride_page, stride_place, stride_kv_head,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, PAGE_SIZE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Bias and rotation of finished sums ``z [ROWS, BLOCK_N]`` of tokens ``m [ROWS, 1]``, and their stores."""
    PAIRS: tl.constexpr = (HEADS + 2 * KV_HEADS) * HALF
    if bias_ptr is not None:
        z += tl.load(bias_ptr + paired_row(r, HALF, 2 * PAIRS)).to(tl.float32)[None, :]
    x1, x2 = tl.split(tl.reshape(z, [ROWS, BLOCK_N // 2, 2]))
    pair = tl.program_id(0) * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)[None, :]
    live = live_m & (pair < PAIRS)
    token = m.to(tl.int64)
    position = tl.load(positions_ptr + token, mask=live_m, other=0).to(tl.int64)
    slot = token
    if slots_ptr is not None:
        slot = tl.load(slots_ptr + token, mask=live_m, other=0).to(tl.int64)
    page, place = place_of(position, slot, table_ptr, stride_table, stride_page, stride_place, PAGE_SIZE, live_m)
    rotate_and_store(
        x1, x2, live, token, pair // HALF, pair % HALF, live, position, page, place, cos_ptr, sin_ptr, stride_rope_p,
        q_ptr, k_ptr, v_ptr, stride_kv_head, HEADS, KV_HEADS, HALF,
    )  # fmt: skip


@triton.jit
def _qkv_append_kernel(
    x_ptr, weight_ptr, norm_ptr, bias_ptr, cos_ptr, sin_ptr, positions_ptr, slots_ptr, table_ptr, q_ptr, k_ptr, v_ptr,
    part_ptr, square_ptr,
    M, stride_xm, stride_wn, stride_rope_p, stride_table, stride_page, stride_place, stride_kv_head, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, PAGE_SIZE: tl.constexpr, E: tl.constexpr,
    SPLITS: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    USE_PDL: tl.constexpr,
):  # fmt: skip
    R: tl.constexpr = (HEADS + 2 * KV_HEADS) * 2 * HALF
    split = tl.program_id(1)
    r = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    w_at = row_starts(weight_ptr, paired_row(r, HALF, R), stride_wn, ROWS)
    w = first_tile(w_at, split, E, SPLITS, TILES, ROWS, BLOCK_K, USE_PDL)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    z, squares = stream_sums(
        w, w_at, x_ptr, norm_ptr, M, stride_xm, split, E, SPLITS, TILES, ROWS, BLOCK_N, BLOCK_K, USE_PDL
    )
    if SPLITS == 1:
        m = tl.arange(0, ROWS)[:, None]
        append(
            z * tl.rsqrt(squares / E + eps), m, m < M, r, bias_ptr, cos_ptr, sin_ptr, positions_ptr, slots_ptr,
            table_ptr, q_ptr, k_ptr, v_ptr, stride_rope_p, stride_table, stride_page, stride_place, stride_kv_head,
            HEADS, KV_HEADS, HALF, PAGE_SIZE, ROWS, BLOCK_N,
        )  # fmt: skip
    else:
        keep_sums(z, squares, r, split, M, part_ptr, square_ptr, R, ROWS)


@triton.jit
def _reduce_kernel(
    part_ptr, square_ptr, bias_ptr, cos_ptr, sin_ptr, positions_ptr, slots_ptr, table_ptr, q_ptr, k_ptr, v_ptr,
    M, stride_rope_p, stride_table, stride_page, stride_place, stride_kv_head, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr, PAGE_SIZE: tl.constexpr, E: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK_N: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    R: tl.constexpr = (HEADS + 2 * KV_HEADS) * 2 * HALF
    m = tl.program_id(1) + tl.zeros([1, 1], tl.int32)
    r = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    append(
        add_sums(part_ptr, square_ptr, m, r, M, eps, E, R, SPLITS, BLOCK_N), m, m < M, r, bias_ptr, cos_ptr, sin_ptr,
        positions_ptr, slots_ptr, table_ptr, q_ptr, k_ptr, v_ptr, stride_rope_p, stride_table, stride_page,
        stride_place, stride_kv_head, HEADS, KV_HEADS, HALF, PAGE_SIZE, 1, BLOCK_N,
    )  # fmt: skip


def qkv_append(
    x_ME: Tensor,
    weight_RE: Tensor,
    norm: Norm,
    rope: Rope,
    positions_M: Tensor,
    pages: PagedKV,
    slots_M: Tensor | None = None,
    *,
    heads: int,
    bias_R: Tensor | None = None,
    splits: int | None = None,
    config: Mapping[str, int] | None = None,
) -> Tensor:
    """Norm, QKV product, rotation and append to the pages, for few tokens; one launch, two with split-K.

    Args:
        x_ME: ``[M, E]``, up to ``MAX_ROWS`` tokens, bfloat16, float16 or float32; rows may be strided.
        weight_RE: ``[R, E]`` of x's dtype, rows may be strided.
        norm: the RMSNorm before it, weight ``[E]``.
        rope: tables of any float dtype.
        positions_M: ``[M]`` int, each token's position; its place must exist, which is not checked.
        pages: the layer's pages, of x's dtype; written in place.
        slots_M: ``[M]`` int, each token's row of the page table; None where token m has row m.
        heads: H.
        bias_R: ``[R]``.
        splits: programs that share the columns of a block of rows of W, 1 to 16; None: by the shape.
        config: block sizes in place of the tuning table's.

    Returns:
        The rotated q, ``[M, H, D]`` in x's dtype.

    Raises:
        ValueError: other shapes, dtypes, strides or devices, or more than ``MAX_ROWS`` tokens.
    """
    check_float("x", x_ME, (None, None))
    tokens, hidden = x_ME.shape
    pages.check(like=x_ME)
    kv_heads, head_dim = pages.k_PSKD.shape[2:]
    if tokens > MAX_ROWS or not hidden or head_dim % 2:
        raise ValueError(f"at most {MAX_ROWS} rows, a column and an even head_dim, not {list(x_ME.shape)}, {head_dim}")
    w_rows = (heads + 2 * kv_heads) * head_dim
    check_float("weight", weight_RE, (w_rows, hidden), like=x_ME)
    check_float("norm weight", norm.weight_E, (hidden,))
    check_rope(rope, head_dim)
    check_integer("positions", positions_M, (tokens,))
    if bias_R is not None:
        check_float("bias", bias_R, (w_rows,))
    if slots_M is not None:
        check_integer("slots", slots_M, (tokens,))
    elif pages.table.shape[0] < tokens:
        raise ValueError(f"without slots, {tokens} tokens need as many rows of the page table, not {len(pages.table)}")
    device = check_device(
        x=x_ME, weight=weight_RE, norm=norm.weight_E, bias=bias_R, cos=rope.cos_PD, sin=rope.sin_PD,
        positions=positions_M, slots=slots_M, k=pages.k_PSKD, v=pages.v_PSKD, table=pages.table,
    )  # fmt: skip
    q_MHD = torch.empty((tokens, heads, head_dim), dtype=x_ME.dtype, device=device)
    if tokens == 0:
        return q_MHD

    key = (padded_rows(tokens), w_rows, hidden)
    default = default_config(tokens, w_rows, hidden, x_ME.dtype.itemsize)
    blocks = config or config_for("qkv_append", key, device, default)
    splits, share = shares(hidden, blocks["BLOCK_K"], blocks["SPLITS"] if splits is None else splits)
    part = squares = None
    if splits > 1:
        part = torch.empty((splits, tokens, w_rows), dtype=torch.float32, device=device)
        squares = torch.empty((splits, tokens), dtype=torch.float32, device=device)
    use_pdl = pdl_supported(device)
    after = (
        bias_R, rope.cos_PD, rope.sin_PD, positions_M, slots_M, pages.table, q_MHD, pages.k_PSKD, pages.v_PSKD,
    )  # fmt: skip
    strides = (rope.cos_PD.stride(0), pages.table.stride(0), *pages.k_PSKD.stride()[:3])
    sizes = {
        "HEADS": heads, "KV_HEADS": kv_heads, "HALF": head_dim // 2, "PAGE_SIZE": pages.page_size, "E": hidden,
        "SPLITS": splits, "USE_PDL": use_pdl,
    }  # fmt: skip
    _qkv_append_kernel[(triton.cdiv(w_rows, blocks["BLOCK_N"]), splits)](
        x_ME, weight_RE, norm.weight_E, *after, part, squares,
        tokens, x_ME.stride(0), weight_RE.stride(0), *strides, norm.eps,
        **sizes, TILES=share, ROWS=padded_rows(tokens), BLOCK_N=blocks["BLOCK_N"], BLOCK_K=blocks["BLOCK_K"],
        num_warps=blocks["num_warps"], num_stages=blocks["num_stages"], **pdl_options(use_pdl),
    )  # fmt: skip
    if splits > 1:
        _reduce_kernel[(triton.cdiv(w_rows, REDUCE_BLOCK), tokens)](
            part, squares, *after, tokens, *strides, norm.eps,
            **sizes, BLOCK_N=REDUCE_BLOCK, num_warps=4, **pdl_options(use_pdl),
        )  # fmt: skip
    return q_MHD


def compile_cases() -> Iterator[CompileCase]:
    """Every model at 1, 2 and 16 tokens, with pages of 256."""
    bf16, f32, i64, page_size = torch.bfloat16, torch.float32, torch.int64, 256
    for shape in LLAMA_SHAPES:
        row = shape.kv_heads * shape.head_dim
        w_rows = shape.heads * shape.head_dim + 2 * row
        for tokens in (1, 2, 16):
            config = default_config(tokens, w_rows, shape.hidden)
            splits = config["SPLITS"]
            sums = f32 if splits > 1 else None
            after = {
                "part_ptr": sums, "square_ptr": sums, "bias_ptr": None, "cos_ptr": bf16, "sin_ptr": bf16,
                "positions_ptr": i64, "slots_ptr": i64, "table_ptr": i64, "q_ptr": bf16, "k_ptr": bf16, "v_ptr": bf16,
                "M": tokens, "stride_rope_p": shape.head_dim, "stride_table": 64, "stride_page": page_size * row,
                "stride_place": row, "stride_kv_head": shape.head_dim, "eps": 1e-5,
            }  # fmt: skip
            sizes = {
                "HEADS": shape.heads, "KV_HEADS": shape.kv_heads, "HALF": shape.head_dim // 2,
                "PAGE_SIZE": page_size, "E": shape.hidden, "SPLITS": splits,
            }  # fmt: skip
            yield CompileCase(
                name=f"qkv_append {shape.name} [{tokens}, {shape.hidden}] to {w_rows} bf16",
                fn=_qkv_append_kernel,
                signature=signature_of(
                    x_ptr=bf16, weight_ptr=bf16, norm_ptr=bf16, stride_xm=shape.hidden, stride_wn=shape.hidden, **after
                ),
                constexprs={
                    **sizes,
                    "TILES": shares(shape.hidden, config["BLOCK_K"], splits)[1],
                    "ROWS": padded_rows(tokens),
                    "BLOCK_N": config["BLOCK_N"],
                    "BLOCK_K": config["BLOCK_K"],
                },
                num_warps=config["num_warps"],
                num_stages=config["num_stages"],
            )
            if splits > 1:
                yield CompileCase(
                    name=f"qkv_append {shape.name} [{tokens}, {shape.hidden}] to {w_rows}, sum of {splits} splits",
                    fn=_reduce_kernel,
                    signature=signature_of(**after),
                    constexprs={**sizes, "BLOCK_N": REDUCE_BLOCK},
                    num_warps=4,
                    num_stages=3,
                )
