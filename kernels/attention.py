"""Paged, grouped-query, split-KV attention: one kernel for decoding and for ragged extends.

For query i of a sequence that now has n keys and was given m queries (they are its last m positions), over the keys
j < n - m + i + 1, with x_j = q.k_j / sqrt(D):

    a_j = e^(x_j - max x) / sum e^(x - max x),      out = sum_j a_j v_j

A program holds the G = H/K query heads of one key/value head for a block of queries (row r of a block is head r % G
of query r // G), so keys and values are read once a block. The keys are dealt in whole tiles to `splits` programs,
which keep the online softmax of their share (Milakov and Gimelshein 2018, arXiv:1805.02867) as m = max x, s = sum
e^(x - m) and sum e^(x - m) v; a second kernel merges them in the order of the keys (split-KV: flash-decoding, Dao et
al. 2023). The number of splits follows from shapes, the share of each from the length on the device, and a share may
be empty.

With statistics the pass also keeps t = sum e^(x - m) (x - m) and sum |x|, which merge like s: with d = m_new - m,
t' = e^-d (t - d s). Then lse = m + ln s, entropy = ln s - t/s. Exponents are in base 2 inside.

A row's result depends on its own keys, its place in its block and `splits`, so with `splits` given it does not depend
on its batch mates. Keys at or past a length are never read into a sum: what lies there (NaN included) does not
matter.

Shape suffixes: B sequences, T queries of all sequences, H query heads, K key/value heads, G = H/K, D head size, P
pages, S page size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dodona.kernels.checks import check_float, check_integer
from dodona.kernels.launch import (
    LLAMA_SHAPES,
    CompileCase,
    LlamaShape,
    check_device,
    config_for,
    let_dependents_start,
    num_sms,
    pdl_options,
    pdl_supported,
    signature_of,
    wait_for_producers,
)
from dodona.kernels.paged import PagedKV, place_offsets
from dodona.kernels.portable import dot, loop_bound

MAX_SPLITS = 64
LOG2E: tl.constexpr = tl.constexpr(math.log2(math.e))
LN2: tl.constexpr = tl.constexpr(math.log(2))


class HeadStatistics(NamedTuple):
    """Of each query's attention over its live keys; all 0 for a query without keys, lse -inf."""

    lse: Tensor  # [T, H] float32, nats: ln sum_j e^x_j
    entropy: Tensor  # [T, H] float32, nats: -sum_j a_j ln a_j
    strength: Tensor  # [T, H] float32: mean over live keys of |x_j|


class AttentionOutput(NamedTuple):
    """Attended values, and statistics where they were asked for."""

    out_THD: Tensor  # [T, H, D] q's dtype
    heads: HeadStatistics | None


def attention_reference(
    q_THD: Tensor, pages: PagedKV, slots_B: Tensor | None, starts: Tensor | None, lengths_B: Tensor
) -> AttentionOutput:
    """The same in float64, one query at a time, with statistics. ``starts`` None: one query a sequence."""
    tokens, heads, head_dim = q_THD.shape
    group = heads // pages.k_PSKD.shape[2]
    out_THD = torch.zeros_like(q_THD, dtype=torch.float64)
    lse, entropy, strength = torch.zeros(3, tokens, heads, dtype=torch.float64, device=q_THD.device)
    lse -= math.inf
    for b in range(lengths_B.shape[0]):
        first, stop = (b, b + 1) if starts is None else (int(starts[b]), int(starts[b + 1]))
        row = pages.table[b if slots_B is None else int(slots_B[b])].long()
        for token in range(first, stop):
            keys = int(lengths_B[b]) - (stop - 1 - token)
            if keys <= 0:
                continue
            used = row[: -(-keys // pages.page_size)]
            k_CHD, v_CHD = (
                x[used].flatten(0, 1)[:keys].double().repeat_interleave(group, 1) for x in (pages.k_PSKD, pages.v_PSKD)
            )
            x_HC = torch.einsum("hd,chd->hc", q_THD[token].double(), k_CHD) / math.sqrt(head_dim)
            log_a_HC = x_HC.log_softmax(-1)
            a_HC = log_a_HC.exp()
            out_THD[token] = torch.einsum("hc,chd->hd", a_HC, v_CHD)
            lse[token] = x_HC.logsumexp(-1)
            entropy[token] = -(a_HC * log_a_HC).sum(-1)
            strength[token] = x_HC.abs().mean(-1)
    return AttentionOutput(out_THD, HeadStatistics(lse, entropy, strength))


@triton.jit
def scaled_scores(q, k, scale_log2):
    """q.k / sqrt(d) * log2(e), ``[rows, keys]`` float32, of a block of queries and a tile of keys."""
    zeros = tl.zeros([q.shape[0], k.shape[0]], tl.float32)
    return dot(q, tl.trans(k), zeros) * scale_log2


@triton.jit
def _attend_kernel(
    q_ptr, k_ptr, v_ptr, table_ptr, slots_ptr, starts_ptr, lengths_ptr, out_ptr, part_ptr, meta_ptr,
    scale_log2, stride_qt, stride_qh, stride_page, stride_place, stride_kv_head, stride_table, plane,
    GROUP: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, PAGE_SIZE: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr, STATS: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0) // SPLITS
    split = tl.program_id(0) % SPLITS
    kv_head = tl.program_id(1)
    b = tl.program_id(2)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)

    start = b
    queries = 1
    if starts_ptr is not None:
        start = tl.load(starts_ptr + b).to(tl.int32)
        queries = tl.load(starts_ptr + b + 1).to(tl.int32) - start
    if block * BLOCK_M >= queries * GROUP:
        return
    length = tl.load(lengths_ptr + b).to(tl.int32)
    slot = b.to(tl.int64) if slots_ptr is None else tl.load(slots_ptr + b).to(tl.int64)
    row_ptr = table_ptr + slot * stride_table

    row = block * BLOCK_M + tl.arange(0, BLOCK_M)
    live_row = row < queries * GROUP
    token = (start + row // GROUP).to(tl.int64)
    head = kv_head * GROUP + row % GROUP
    keys_of_row = tl.where(live_row, length - queries + row // GROUP + 1, 0)
    last_row = tl.minimum(queries * GROUP, (block + 1) * BLOCK_M) - 1
    keys = length - queries + last_row // GROUP + 1
    d = tl.arange(0, BLOCK_D)
    live_d = (d < D)[None, :]
    q_at = q_ptr + (token * stride_qt + head * stride_qh)[:, None] + d[None, :]
    q = tl.load(q_at, mask=live_row[:, None] & live_d, other=0.0)

    tiles = tl.cdiv(tl.maximum(keys, 0), BLOCK_C)
    share = tl.cdiv(tiles, SPLITS)
    first_tile = split * share
    stop_tile = tl.minimum(first_tile + share, tiles)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    moment = tl.zeros([BLOCK_M], tl.float32)
    size = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for tile in range(loop_bound(first_tile), loop_bound(stop_tile)):
        key = tile * BLOCK_C + tl.arange(0, BLOCK_C)
        places = place_offsets(row_ptr, tile * BLOCK_C, keys, stride_page, stride_place, PAGE_SIZE, BLOCK_C)
        at = (places + kv_head * stride_kv_head)[:, None] + d[None, :]
        live_key = (key < keys)[:, None] & live_d
        k = tl.load(k_ptr + at, mask=live_key, other=0.0)
        x = scaled_scores(q, k, scale_log2)
        seen = key[None, :] < keys_of_row[:, None]
        x = tl.where(seen, x, float("-inf"))
        new_top = tl.maximum(top, tl.max(x, axis=1))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)  # a row that has seen no key yet
        fade = tl.exp2(top - base)
        p = tl.exp2(x - base[:, None])
        if STATS:
            drop = tl.where(top == float("-inf"), 0.0, base - top)
            below = tl.where(seen, x - base[:, None], 0.0)
            moment = fade * (moment - drop * total) + tl.sum(p * below, axis=1)
            size += tl.sum(tl.where(seen, tl.abs(x), 0.0), axis=1)
        total = fade * total + tl.sum(p, axis=1)
        v = tl.load(v_ptr + at, mask=live_key, other=0.0)
        acc = dot(p.to(v.dtype), v, acc * fade[:, None])
        top = new_top

    out_row = token * HEADS + head
    if SPLITS == 1 and not STATS:
        acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
        out_at = out_ptr + out_row[:, None] * D + d[None, :]
        tl.store(out_at, acc.to(out_ptr.dtype.element_ty), mask=live_row[:, None] & live_d)
    else:
        meta_at = meta_ptr + out_row * SPLITS + split
        tl.store(meta_at, top, mask=live_row)
        tl.store(meta_at + plane, total, mask=live_row)
        if STATS:
            tl.store(meta_at + 2 * plane, moment, mask=live_row)
            tl.store(meta_at + 3 * plane, size, mask=live_row)
        if first_tile < stop_tile:  # the combine step does not look at the sums of an empty share
            part_at = part_ptr + ((out_row * SPLITS + split) * D)[:, None] + d[None, :]
            tl.store(part_at, acc, mask=live_row[:, None] & live_d)


@triton.jit
def _combine_kernel(
    part_ptr, meta_ptr, keys_ptr, out_ptr, heads_ptr,
    plane, rows,
    HEADS: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
    STATS: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    split = tl.arange(0, BLOCK_S)
    d = tl.arange(0, BLOCK_D)
    meta_at = meta_ptr + row * SPLITS + split
    top = tl.load(meta_at, mask=split < SPLITS, other=float("-inf"))
    full = top > float("-inf")
    total = tl.load(meta_at + plane, mask=split < SPLITS, other=0.0)  # NaN where all scores are, whose maximum is -inf
    highest = tl.max(top, axis=0)
    base = tl.where(highest == float("-inf"), 0.0, highest)
    weight = tl.exp2(top - base)
    sum_all = tl.sum(weight * total, axis=0)
    divisor = tl.where(sum_all == 0.0, 1.0, sum_all)
    part_at = part_ptr + ((row * SPLITS + split) * D)[:, None] + d[None, :]
    part = tl.load(part_at, mask=full[:, None] & (d < D)[None, :], other=0.0)
    out = tl.sum(part * weight[:, None], axis=0) / divisor
    tl.store(out_ptr + row * D + d, out.to(out_ptr.dtype.element_ty), mask=d < D)
    if STATS:
        moment = tl.load(meta_at + 2 * plane, mask=full, other=0.0)
        size = tl.load(meta_at + 3 * plane, mask=full, other=0.0)
        drop = tl.where(full, top - base, 0.0)
        moment_all = tl.sum(weight * (moment + drop * total), axis=0)
        keys = tl.maximum(tl.load(keys_ptr + row // HEADS), 1).to(tl.float32)
        tl.store(heads_ptr + row, (highest + tl.log2(divisor)) * LN2)
        tl.store(heads_ptr + rows + row, (tl.log2(divisor) - moment_all / divisor) * LN2)
        tl.store(heads_ptr + 2 * rows + row, tl.sum(size, axis=0) * LN2 / keys)


def attention_decode(
    q_BHD: Tensor,
    pages: PagedKV,
    lengths_B: Tensor,
    slots_B: Tensor | None = None,
    *,
    splits: int | None = None,
    statistics: bool = False,
) -> AttentionOutput:
    """Attend with one query a sequence, the last of its live keys; two launches, one where ``splits`` is 1.

    Args:
        q_BHD: ``[B, H, D]`` bfloat16, float16 or float32; any strides but a contiguous last dimension.
        pages: the layer's keys and values of q's dtype, this query's own already written.
        lengths_B: ``[B]`` int, live keys of each row. 0 (a frozen slot) gives an output of zeros.
        slots_B: ``[B]`` int, each row's row of the page table; None where row b has row b.
        splits: programs that share a row's keys, 1 to ``MAX_SPLITS``; None: by the shapes and the device's size.
        statistics: also give each head's entropy, strength and lse (``attention_signals`` turns them into signals).

    Raises:
        ValueError: other shapes, dtypes, strides or devices.
    """
    return _attend(q_BHD, pages, slots_B, None, lengths_B, max_queries=1, splits=splits, statistics=statistics)


def attention_extend(
    q_THD: Tensor,
    pages: PagedKV,
    starts: Tensor,
    lengths_B: Tensor,
    slots_B: Tensor | None = None,
    *,
    max_queries: int,
    splits: int | None = None,
) -> Tensor:
    """Attend with many queries a sequence, causally: the form of prefill, sync, catch-up and verification.

    Sequence b has the queries ``starts[b]`` to ``starts[b+1]`` and ``lengths[b]`` live keys, of which its last query
    sees all, the one before it one less, and so on. One launch, two where ``splits`` is above 1.

    Args:
        q_THD: ``[T, H, D]`` bfloat16, float16 or float32; any strides but a contiguous last dimension.
        pages: the layer's keys and values of q's dtype, the queries' own already written.
        starts: ``[B+1]`` int, ascending from 0 to T. Rows of q outside every sequence leave their output undefined.
        lengths_B: ``[B]`` int, live keys of each sequence, its queries' own among them.
        slots_B: ``[B]`` int, each sequence's row of the page table; None where sequence b has row b.
        max_queries: no sequence has more queries than this; those past it would not be computed.
        splits: programs that share a block's keys, 1 to ``MAX_SPLITS``; None: by the shapes and the device's size.

    Returns:
        ``[T, H, D]`` in q's dtype.

    Raises:
        ValueError: other shapes, dtypes, strides or devices, or max_queries below 1.
    """
    return _attend(
        q_THD, pages, slots_B, starts, lengths_B, max_queries=max_queries, splits=splits, statistics=False
    ).out_THD


def _attend(
    q_THD: Tensor,
    pages: PagedKV,
    slots_B: Tensor | None,
    starts: Tensor | None,
    lengths_B: Tensor,
    *,
    max_queries: int,
    splits: int | None,
    statistics: bool,
) -> AttentionOutput:
    check_float("q", q_THD, (None, None, None))
    pages.check(like=q_THD)
    tokens, heads, head_dim = q_THD.shape
    kv_heads = pages.k_PSKD.shape[2]
    check_integer("lengths", lengths_B, (None,))
    batch = lengths_B.shape[0]
    if heads % kv_heads or pages.k_PSKD.shape[3] != head_dim:
        raise ValueError(f"q {list(q_THD.shape)} does not fit keys {list(pages.k_PSKD.shape)}")
    if starts is None:
        check_integer("lengths", lengths_B, (tokens,))
    else:
        check_integer("starts", starts, (batch + 1,))
    if slots_B is not None:
        check_integer("slots", slots_B, (batch,))
    elif pages.table.shape[0] < batch:
        raise ValueError(f"without slots, {batch} rows need as many rows of the page table, not {len(pages.table)}")
    if max_queries < 1:
        raise ValueError(f"max_queries must be at least 1, not {max_queries}")
    device = check_device(
        q=q_THD, k=pages.k_PSKD, v=pages.v_PSKD, table=pages.table, slots=slots_B, starts=starts, lengths=lengths_B
    )
    group = heads // kv_heads
    rows = _block_rows(max_queries * group, q_THD.dtype)
    key = (head_dim, rows, q_THD.dtype.itemsize)
    config = dict(config_for("attention", key, device, _default_config(head_dim, q_THD.dtype)))
    programs = config.pop("programs_per_sm") * num_sms(device)
    blocks = triton.cdiv(max_queries * group, rows)
    if splits is None:
        splits = _splits(programs // max(batch * kv_heads * blocks, 1), triton.cdiv(pages.capacity, config["BLOCK_C"]))
    if not 1 <= splits <= MAX_SPLITS:
        raise ValueError(f"splits must be 1 to {MAX_SPLITS}, not {splits}")

    out_THD = torch.empty((tokens, heads, head_dim), dtype=q_THD.dtype, device=device)
    part = meta = heads_3TH = None
    if combined := splits > 1 or statistics:
        part = torch.empty((tokens, heads, splits, head_dim), dtype=torch.float32, device=device)
        meta = torch.empty((4 if statistics else 2, tokens, heads, splits), dtype=torch.float32, device=device)
    if statistics:
        heads_3TH = torch.empty((3, tokens, heads), dtype=torch.float32, device=device)
    if tokens and batch:
        block_d, plane = max(16, triton.next_power_of_2(head_dim)), tokens * heads * splits
        use_pdl = pdl_supported(device)
        launch = pdl_options(use_pdl)
        _attend_kernel[(blocks * splits, kv_heads, batch)](
            q_THD, pages.k_PSKD, pages.v_PSKD, pages.table, slots_B, starts, lengths_B, out_THD, part, meta,
            math.log2(math.e) / math.sqrt(head_dim), q_THD.stride(0), q_THD.stride(1), *pages.k_PSKD.stride()[:3],
            pages.table.stride(0), plane, GROUP=group, HEADS=heads, D=head_dim, PAGE_SIZE=pages.page_size,
            SPLITS=splits, BLOCK_M=rows, BLOCK_D=block_d, STATS=statistics, USE_PDL=use_pdl, **config, **launch,
        )  # fmt: skip
        if combined:
            _combine_kernel[(tokens * heads,)](
                part, meta, lengths_B, out_THD, heads_3TH, plane, tokens * heads, HEADS=heads, D=head_dim,
                SPLITS=splits, BLOCK_S=triton.next_power_of_2(splits), BLOCK_D=block_d, STATS=statistics,
                USE_PDL=use_pdl, num_warps=4, **launch,
            )  # fmt: skip
    return AttentionOutput(out_THD, None if heads_3TH is None else HeadStatistics(*heads_3TH.unbind()))


def _block_rows(rows: int, dtype: torch.dtype) -> int:
    """Rows of a block: a tensor core's 16 at least, and few in float32, whose products run on the plain cores."""
    return max(16, min(16 if dtype == torch.float32 else 64, triton.next_power_of_2(rows)))


def _default_config(head_dim: int, dtype: torch.dtype) -> Mapping[str, int]:
    """``programs_per_sm`` is how many programs a multiprocessor should have: fewer blocks than that are split."""
    if dtype == torch.float32:
        return {"BLOCK_C": 32 if head_dim <= 64 else 16, "num_warps": 4, "num_stages": 2, "programs_per_sm": 2}
    # The page is looked up two stages before its keys arrive, so five stages keep two tiles of keys in flight.
    return {"BLOCK_C": 64, "num_warps": 4, "num_stages": 5, "programs_per_sm": 2}


def _splits(wanted: int, tiles: int) -> int:
    """As many as wanted or as there can be tiles of keys, down to a power of two, so that few kernels are compiled."""
    return 1 << (max(1, min(MAX_SPLITS, wanted, tiles)).bit_length() - 1)


def compile_cases() -> Iterator[CompileCase]:
    """Decoding with and without statistics, extends of a burst and of a prompt, and the merging of splits."""
    for shape in LLAMA_SHAPES:
        for name, max_queries, splits, statistics in (
            ("decode", 1, 32, False),
            ("decode + statistics", 1, 32, True),
            ("decode unsplit", 1, 1, False),
            ("extend 4", 4, 32, False),
            ("extend 2048", 2048, 1, False),
        ):
            yield _attend_case(shape, name, max_queries, splits, statistics)
            if splits > 1:
                yield _combine_case(shape, name, splits, statistics)


def _attend_case(shape: LlamaShape, name: str, max_queries: int, splits: int, statistics: bool) -> CompileCase:
    bf16, page_size, group = torch.bfloat16, 256, shape.heads // shape.kv_heads
    rows = _block_rows(max_queries * group, bf16)
    config = dict(_default_config(shape.head_dim, bf16))
    sums = torch.float32 if splits > 1 else None
    return CompileCase(
        name=f"attention {name} {shape.name} {shape.heads}/{shape.kv_heads} heads of {shape.head_dim} bf16",
        fn=_attend_kernel,
        signature=signature_of(
            q_ptr=bf16,
            k_ptr=bf16,
            v_ptr=bf16,
            table_ptr=torch.int64,
            slots_ptr=torch.int64,
            starts_ptr=None if max_queries == 1 else torch.int64,
            lengths_ptr=torch.int64,
            out_ptr=bf16,
            part_ptr=sums,
            meta_ptr=sums,
            scale_log2=0.1,
            stride_qt=shape.heads * shape.head_dim,
            stride_qh=shape.head_dim,
            stride_page=page_size * shape.kv_heads * shape.head_dim,
            stride_place=shape.kv_heads * shape.head_dim,
            stride_kv_head=shape.head_dim,
            stride_table=64,
            plane=max_queries * shape.heads * splits,
        ),
        constexprs={
            "GROUP": group,
            "HEADS": shape.heads,
            "D": shape.head_dim,
            "PAGE_SIZE": page_size,
            "SPLITS": splits,
            "BLOCK_M": rows,
            "BLOCK_C": config["BLOCK_C"],
            "BLOCK_D": shape.head_dim,
            "STATS": statistics,
        },
        num_warps=config["num_warps"],
        num_stages=config["num_stages"],
    )


def _combine_case(shape: LlamaShape, name: str, splits: int, statistics: bool) -> CompileCase:
    return CompileCase(
        name=f"attention merge of {name} {shape.name} {splits} splits of {shape.head_dim}",
        fn=_combine_kernel,
        signature=signature_of(
            part_ptr=torch.float32,
            meta_ptr=torch.float32,
            keys_ptr=torch.int64,
            out_ptr=torch.bfloat16,
            heads_ptr=torch.float32 if statistics else None,
            plane=shape.heads * splits,
            rows=shape.heads,
        ),
        constexprs={
            "HEADS": shape.heads,
            "D": shape.head_dim,
            "SPLITS": splits,
            "BLOCK_S": splits,
            "BLOCK_D": shape.head_dim,
            "STATS": statistics,
        },
        num_warps=4,
        num_stages=3,
    )
