"""Final norm, product with the output matrix, statistics and the next token, without a second pass over the logits.

    h = hidden / sqrt(mean(hidden^2) + eps) * g        rounded to the model's dtype, as a norm of its own would
    x = h W^T                                          [B, V], rounded likewise; kept in registers
    statistics of x as in `uncertainty`; draw from x as in `sample`

Each program takes BLOCK_V rows of W and ends with x for so many tokens and all B rows in registers. What it writes is
a part (see `parts`): m, s, mean, spread, the two largest logits; and for the draw its best score + noise and its
mass at temperature T, sum e^((x - m) / T) about its own maximum m. A second kernel merges the parts. So a step costs
one pass over W and ten numbers a program and row; logits are written only where they are asked for. (Merging in the
program, over several tiles, would leave fewer parts, but its running state takes more registers than a thread has.)

Rounding x to the model's dtype before anything is computed from it makes the token the same that would be chosen from
stored logits. Rows are padded to sixteen whatever their number, so a row's results do not depend on its batch mates.

Shape suffixes: B rows, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dodona.kernels.checks import FLOATS, check_float, check_integer
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
from dodona.kernels.noise import STREAM_SAMPLE, gumbel, philox_words
from dodona.kernels.norm import Norm, rms_norm_reference
from dodona.kernels.parts import Parts, below, finite_or_zero, load_merged, store_part
from dodona.kernels.portable import dot, rounded
from dodona.kernels.sample import Filters, Sample, check_sampling, sample, store_draw
from dodona.kernels.threshold import COLD
from dodona.kernels.uncertainty import Results, Uncertainty, merge, merge_case, store_row, uncertainty_reference

MAX_ROWS = 16

CONFIG = {"BLOCK_V": 128, "BLOCK_K": 64, "num_warps": 4, "num_stages": 4}
FLOAT32_CONFIG = {"BLOCK_V": 128, "BLOCK_K": 32, "num_warps": 8, "num_stages": 3}  # its products take no tensor cores


class LmHead(NamedTuple):
    """What one pass over the output matrix gives."""

    statistics: Uncertainty
    drawn: Sample | None  # where a temperature was given
    logits_BV: Tensor | None  # [B, V] the model's dtype, where asked for


class Draw(NamedTuple):
    """How each row's token is drawn."""

    temperature_B: Tensor  # [B] float32, 0: greedy
    keys_B2: Tensor  # [B, 2] int64, the words of each row's Philox key
    positions_B: Tensor  # [B] int64 or int32, generated-token index
    filters: Filters = Filters()
    stream: int = STREAM_SAMPLE


def lm_head_reference(
    hidden_BE: Tensor, weight_VE: Tensor, norm: Norm | None = None, ids_B: Tensor | None = None
) -> LmHead:
    """Logits and statistics in float64, without rounding in between; for draws see `sample_reference`."""
    hidden = hidden_BE.double() if norm is None else rms_norm_reference(hidden_BE, norm).hidden_TE
    logits = hidden @ weight_VE.double().T
    return LmHead(uncertainty_reference(logits, ids_B), None, logits)


@triton.jit
def prefetch(pointers):
    """Ask for lines of L2 without waiting for them: memory traffic while the kernel before this one still runs."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [pointers], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def mean_square(hidden, row, live, hidden_stride, E: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr):
    """Mean of squares of rows of hidden, ``[BLOCK_B]`` float32."""
    total = tl.zeros([BLOCK_B], tl.float32)
    for first in range(0, E, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        mask = live[None, :] & (k < E)[:, None]
        h = tl.load(hidden + row[None, :] * hidden_stride + k[:, None], mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(h * h, 0)
    return total / E


@triton.jit
def product_tile(
    hidden, norm, weight, row, live, token, inside, scale, hidden_stride, weight_stride,
    E: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Logits ``[BLOCK_V, BLOCK_B]``, rounded to the weight's dtype and back to float32; -inf past the vocabulary."""
    acc = tl.zeros([BLOCK_V, BLOCK_B], tl.float32)
    weight_rows = weight + tl.where(inside, token, 0).to(tl.int64)[:, None] * weight_stride
    hidden_rows = hidden + row[None, :] * hidden_stride
    for first in range(0, E, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        if E % BLOCK_K == 0:
            w = tl.load(weight_rows + k[None, :], eviction_policy="evict_first")
            h = tl.load(hidden_rows + k[:, None], mask=live[None, :], other=0.0)
        else:
            w = tl.load(weight_rows + k[None, :], mask=(k < E)[None, :], other=0.0)
            h = tl.load(hidden_rows + k[:, None], mask=live[None, :] & (k < E)[:, None], other=0.0)
        if norm is not None:
            g = tl.load(norm + k) if E % BLOCK_K == 0 else tl.load(norm + k, mask=k < E, other=0.0)
            h = rounded(h.to(tl.float32) * scale[None, :] * g.to(tl.float32)[:, None], w.dtype)
        acc = dot(w, h, acc)
    x = rounded(acc, weight.dtype.element_ty).to(tl.float32)
    return tl.where(inside[:, None], x, float("-inf"))


@triton.jit
def tile_statistics(x, token):
    """m, s, mean, spread, second and top_id of a tile ``[BLOCK_V, BLOCK_B]``, each ``[BLOCK_B]``."""
    m = tl.max(x, 0)
    d = below(x, finite_or_zero(m)[None, :])
    w = tl.exp(d)
    s = tl.sum(w, 0)
    mean = tl.sum(w * d, 0) / tl.where(s == 0, 1.0, s)
    gap = d - mean[None, :]
    spread = tl.sum(w * gap * gap, 0)
    top_id = tl.min(tl.where(x == m[None, :], token[:, None], 2**31 - 1), 0)
    second = tl.max(tl.where(token[:, None] == top_id[None, :], float("-inf"), x), 0)
    return m, s, mean, spread, second, top_id


@triton.jit
def _lm_head_kernel(
    hidden, norm, weight, logits, ids, givens, parts, part_ids,
    temperature, keys, positions, draws, draw_ids,
    eps, hidden_stride, weight_stride, logits_stride, B, V, PARTS,
    STREAM: tl.constexpr, E: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr,
    USE_PDL: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(1)
    no_id: tl.constexpr = 2**31 - 1
    token = part * BLOCK_V + tl.arange(0, BLOCK_V)
    inside = token < V
    if USE_PDL:  # nobody writes weights: the first of them may come before the wait
        early = tl.minimum(token, V - 1).to(tl.int64)[:, None] * weight_stride
        LINE: tl.constexpr = 1024 // weight.dtype.element_ty.primitive_bitwidth  # elements of 128 bytes
        prefetch(weight + early + (tl.arange(0, 8) * LINE % E)[None, :])
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    column = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    live = column < B
    row = column.to(tl.int64)
    scale = tl.full([BLOCK_B], 1.0, tl.float32)
    if norm is not None:
        scale = tl.rsqrt(mean_square(hidden, row, live, hidden_stride, E, BLOCK_K, BLOCK_B) + eps)
    x = product_tile(
        hidden, norm, weight, row, live, token, inside, scale, hidden_stride, weight_stride,
        E, BLOCK_V, BLOCK_K, BLOCK_B,
    )  # fmt: skip
    if logits is not None:
        at = logits + row[None, :] * logits_stride + token[:, None]
        tl.store(at, x.to(logits.dtype.element_ty), mask=inside[:, None] & live[None, :])
    if ids is not None:
        given_id = tl.load(ids + row, mask=live, other=-1).to(tl.int32)
        here = (token[:, None] == given_id[None, :]) & inside[:, None]
        found = tl.sum(tl.where(here, x, 0.0), 0)
        tl.store(givens + row, found, mask=live & (tl.sum(here.to(tl.int32), 0) > 0))
    m, s, mean, spread, second, top_id = tile_statistics(x, token)
    store_part(parts, part_ids, row, live, part, B, PARTS, m, s, mean, spread, second, top_id)
    if temperature is not None:
        t = tl.load(temperature + row, mask=live, other=0.0)
        greedy = t < COLD
        t = tl.where(greedy, 1.0, t)
        key0 = tl.load(keys + 2 * row, mask=live, other=0).to(tl.uint32)
        key1 = tl.load(keys + 2 * row + 1, mask=live, other=0).to(tl.uint32)
        position = tl.load(positions + row, mask=live, other=0).to(tl.uint32)
        word0, word1, word2, word3 = philox_words(
            (token // 4).to(tl.uint32)[:, None], position[None, :], STREAM, key0[None, :], key1[None, :]
        )
        lane = (token % 4)[:, None]
        word = tl.where(lane < 2, tl.where(lane == 0, word0, word1), tl.where(lane == 2, word2, word3))
        noise = tl.where(greedy[None, :], 0.0, gumbel(word))
        value = tl.div_rn(x, t[None, :]) + noise
        best = tl.max(value, 0)
        best_id = tl.min(tl.where(value == best[None, :], token[:, None], no_id), 0)
        best_x = tl.max(tl.where(token[:, None] == best_id[None, :], x, float("-inf")), 0)
        weights = tl.exp(tl.maximum((x - finite_or_zero(m)[None, :]) * (1.0 / t)[None, :], -200.0))
        tl.store(draws + row * PARTS + part, best, mask=live)
        tl.store(draws + (row + B) * PARTS + part, best_x, mask=live)
        tl.store(draws + (row + 2 * B) * PARTS + part, tl.sum(weights, 0), mask=live)
        tl.store(draw_ids + row * PARTS + part, best_id, mask=live)


@triton.jit
def _lm_head_finish_kernel(
    parts, part_ids, ids, givens, floats, top1, error, temperature, draws, draw_ids, drawn, logprobs, B, V, PARTS,
    BLOCK: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """One program a row: merge its statistics and its draw."""
    row = tl.program_id(0)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    m, s, mean, spread, second, top_id = load_merged(parts, part_ids, row, B, PARTS, BLOCK)
    given_id = tl.load(ids + row).to(tl.int32) if ids is not None else -1
    given = tl.load(givens + row, mask=(given_id >= 0) & (given_id < V), other=0.0) if ids is not None else 0.0
    code = store_row(floats, top1, error, row, B, V, m, s, mean, spread, second, top_id, given, given_id)
    part = tl.arange(0, BLOCK)
    mask = part < PARTS
    line = row.to(tl.int64)
    t = tl.load(temperature + row)
    inverse_t = 1.0 / tl.where(t < COLD, 1.0, t)
    value = tl.load(draws + line * PARTS + part, mask=mask, other=float("-inf"))
    value_x = tl.load(draws + (line + B) * PARTS + part, mask=mask, other=float("-inf"))
    part_mass = tl.load(draws + (line + 2 * B) * PARTS + part, mask=mask, other=0.0)
    part_m = tl.load(parts + line * PARTS + part, mask=mask, other=float("-inf"))
    value_id = tl.load(draw_ids + line * PARTS + part, mask=mask, other=2**31 - 1)
    token = tl.min(tl.where(value == tl.max(value, 0), value_id, 2**31 - 1), 0)
    x = tl.max(tl.where(value_id == token, value_x, float("-inf")), 0)
    mass = tl.sum(part_mass * tl.exp(tl.maximum((part_m - finite_or_zero(m)) * inverse_t, -200.0)), 0)
    store_draw(drawn, logprobs, row, B, code, token, x, m, tl.log(s), t, mass)


class _DrawParts(NamedTuple):
    """Each part's best token, beside `Parts`."""

    floats: Tensor  # [3, B, parts] float32: best score + noise, its logit, mass at temperature T
    ids: Tensor  # [B, parts] int32


def check_product(name: str, hidden_BE: Tensor, weight_VE: Tensor, norm: Norm | None = None) -> tuple[int, int, int]:
    """Rows, vocabulary and hidden size of hidden states, output matrix and norm that fit together.

    Raises:
        ValueError: a wrong shape, stride or dtype, or an empty vocabulary or hidden size.
    """
    check_float(f"{name}hidden", hidden_BE, (None, None))
    rows, size = hidden_BE.shape
    check_float(f"{name}weight", weight_VE, (None, size), like=hidden_BE)
    vocab = weight_VE.shape[0]
    if norm is not None:
        check_float(f"{name}norm", norm.weight_E, (size,), like=hidden_BE)
    if not 0 < vocab < 2**22 or size < 1:
        raise ValueError(f"{name}weight must have 1 to 2^22 - 1 rows and a column, not {tuple(weight_VE.shape)}")
    return rows, vocab, size


def product_statistics(
    hidden_BE: Tensor,
    weight_VE: Tensor,
    *,
    blocks: Mapping[str, int],
    block_rows: int,
    norm: Norm | None = None,
    ids_B: Tensor | None = None,
    givens_B: Tensor | None = None,
    draw: Draw | None = None,
    logits_BV: Tensor | None = None,
) -> tuple[Results, Sample | None]:
    """Launch the product and the merge of its parts; arguments have been checked, and there is a row.

    The logits of the given ids are written to ``givens_B`` ``[B]`` float32.
    """
    rows, size = hidden_BE.shape
    vocab, device = weight_VE.shape[0], hidden_BE.device
    count = triton.cdiv(vocab, blocks["BLOCK_V"])
    results, parts = Results.empty(rows, device), Parts.empty(rows, count, device)
    draw_parts = None
    if draw is not None:
        draw_parts = _DrawParts(
            torch.empty(3, rows, count, dtype=torch.float32, device=device),
            torch.empty(rows, count, dtype=torch.int32, device=device),
        )
    use_pdl = pdl_supported(device)
    launch = {"USE_PDL": use_pdl, **pdl_options(use_pdl)}
    _lm_head_kernel[(triton.cdiv(rows, block_rows), count)](
        hidden_BE, None if norm is None else norm.weight_E, weight_VE, logits_BV, ids_B, givens_B, *parts,
        *(draw[:3] if draw else (None,) * 3), *(draw_parts or (None, None)),
        0.0 if norm is None else norm.eps,
        hidden_BE.stride(0), weight_VE.stride(0), 0 if logits_BV is None else logits_BV.stride(0),
        rows, vocab, count, STREAM=draw.stream if draw else 0, E=size,
        BLOCK_V=blocks["BLOCK_V"], BLOCK_K=blocks["BLOCK_K"], BLOCK_B=block_rows,
        num_warps=blocks["num_warps"], num_stages=blocks["num_stages"], **launch,
    )  # fmt: skip
    if draw is None:
        merge(parts, results, vocab, ids_B, givens_B, 1, given_at_id=False)
        return results, None
    assert draw_parts is not None
    ids = torch.empty(rows, dtype=torch.int64, device=device)
    logprobs = torch.empty(2, rows, dtype=torch.float32, device=device)
    _lm_head_finish_kernel[(rows,)](
        *parts, ids_B, givens_B, *results, draw.temperature_B, *draw_parts, ids, logprobs, rows, vocab, count,
        BLOCK=triton.next_power_of_2(count), num_warps=4, **launch,
    )  # fmt: skip
    return results, Sample(ids, *logprobs.unbind(0))


def lm_head(
    hidden_BE: Tensor,
    weight_VE: Tensor,
    *,
    norm: Norm | None = None,
    ids_B: Tensor | None = None,
    draw: Draw | None = None,
    want_logits: bool = False,
    config: Mapping[str, int] | None = None,
) -> LmHead:
    """Final norm, product, statistics and next token of at most sixteen rows: two launches, W read once.

    With top-k, top-p or min-p the logits are written, and `sample` looks at them again.

    Args:
        hidden_BE: the last layer's output, bfloat16, float16 or float32; rows may be strided.
        weight_VE: the output matrix, of the same dtype; rows may be strided.
        norm: the final RMSNorm; None where hidden states are normalised already.
        ids_B: int64 or int32, the token of each row whose log-probability is wanted; outside [0, V) gives NaN.
        draw: temperatures, keys, positions and filters; None for statistics alone.
        want_logits: write the logits, in the model's dtype.
        config: block sizes in place of the tuning table's.

    Returns:
        See `LmHead`.

    Raises:
        ValueError: a wrong shape, stride, dtype or device, or more than sixteen rows.
    """
    rows, vocab, size = check_product("", hidden_BE, weight_VE, norm)
    if rows > MAX_ROWS:
        raise ValueError(f"lm_head takes at most {MAX_ROWS} rows, not {rows}: use linear, uncertainty and sample")
    if ids_B is not None:
        check_integer("ids", ids_B, (rows,))
    if draw is not None:
        check_sampling(rows, draw.temperature_B, draw.keys_B2, draw.positions_B, draw.filters, draw.stream)
    device = check_device(hidden=hidden_BE, weight=weight_VE, norm=None if norm is None else norm.weight_E, ids=ids_B)
    if draw is not None:
        check_device(hidden=hidden_BE, temperature=draw.temperature_B, keys=draw.keys_B2, positions=draw.positions_B)
    default, op = (FLOAT32_CONFIG, "lm_head_float32") if weight_VE.dtype == torch.float32 else (CONFIG, "lm_head")
    filtered = draw is not None and any(value is not None for value in draw.filters)
    logits = None
    if want_logits or filtered:
        logits = torch.empty(rows, vocab, dtype=weight_VE.dtype, device=device)
    if rows == 0:
        nobody = torch.empty(2, 0, dtype=torch.float32, device=device)
        drawn = None if draw is None else Sample(torch.empty(0, dtype=torch.int64, device=device), *nobody.unbind(0))
        return LmHead(Results.empty(0, device).view(), drawn, logits)
    givens = None if ids_B is None else torch.empty(rows, dtype=torch.float32, device=device)
    results, drawn = product_statistics(
        hidden_BE, weight_VE, norm=norm, ids_B=ids_B, givens_B=givens, draw=None if filtered else draw,
        logits_BV=logits, blocks=config or config_for(op, (vocab, size), device, default), block_rows=MAX_ROWS,
    )  # fmt: skip
    statistics = results.view()
    if filtered:
        assert draw is not None and logits is not None
        drawn = sample(
            logits, *draw[:3], top_k_B=draw.filters.top_k, top_p_B=draw.filters.top_p, min_p_B=draw.filters.min_p,
            stream=draw.stream, statistics=statistics,
        )  # fmt: skip
    return LmHead(statistics, drawn, logits if want_logits else None)


def product_case(
    name: str, size: int, vocab: int, rows: int, dtype: torch.dtype, block_rows: int, blocks: Mapping[str, int],
    *, norm: bool, draw: bool, count: int, logits: bool = False,
) -> CompileCase:  # fmt: skip
    """`_lm_head_kernel` as `product_statistics` launches it, with given ids."""
    f32, i32, i64 = torch.float32, torch.int32, torch.int64
    signature = signature_of(
        hidden=dtype, norm=dtype if norm else None, weight=dtype, logits=dtype if logits else None, ids=i64,
        givens=f32, parts=f32, part_ids=i32, temperature=f32 if draw else None, keys=i64 if draw else None,
        positions=i64 if draw else None, draws=f32 if draw else None, draw_ids=i32 if draw else None, eps=1e-5,
        hidden_stride=size, weight_stride=size, logits_stride=vocab if logits else 0, B=rows, V=vocab, PARTS=count,
    )  # fmt: skip
    constexprs = {"STREAM": STREAM_SAMPLE, "E": size, "BLOCK_B": block_rows}
    constexprs |= {key: blocks[key] for key in ("BLOCK_V", "BLOCK_K")}
    return CompileCase(name, _lm_head_kernel, signature, constexprs, blocks["num_warps"], blocks["num_stages"])


def compile_cases() -> Iterator[CompileCase]:
    """The kernels of this file at every model's output matrix."""
    f32, i32, i64 = torch.float32, torch.int32, torch.int64
    count = triton.cdiv(LLAMA_SHAPES[0].vocab, CONFIG["BLOCK_V"])
    for shape in LLAMA_SHAPES:
        for dtype in FLOATS if shape == LLAMA_SHAPES[0] else FLOATS[:1]:
            for rows, draw, logits in ((1, True, False), (16, True, False), (16, False, False), (16, True, True)):
                kind = "with draw" if draw else "statistics"
                kind += " and logits" if logits else ""
                name = f"lm_head {shape.name} [{rows}, {shape.hidden}] {dtype}, {kind}".replace("torch.", "")
                blocks = FLOAT32_CONFIG if dtype == torch.float32 else CONFIG
                yield product_case(
                    name, shape.hidden, shape.vocab, rows, dtype, MAX_ROWS, blocks,
                    norm=True, draw=draw, count=count, logits=logits,
                )  # fmt: skip
    signature = signature_of(
        parts=f32, part_ids=i32, ids=i64, givens=f32, floats=f32, top1=i64, error=i32, temperature=f32, draws=f32,
        draw_ids=i32, drawn=i64, logprobs=f32, B=1, V=LLAMA_SHAPES[0].vocab, PARTS=count,
    )  # fmt: skip
    constexprs = {"BLOCK": triton.next_power_of_2(count)}
    yield CompileCase("lm_head finish with draw", _lm_head_finish_kernel, signature, constexprs, 4, 1)
    yield merge_case("lm_head finish, statistics", 1, LLAMA_SHAPES[0].vocab, count, f32, False)
