"""Two models' views of the same positions: statistics and ranks of given ids under both, KL and JS divergence.

With p, q the softmaxes of a base row x and an oracle row y, a = ln p - ln q:

    KL(p || q) = sum p a                             nats
    JS(p, q)   = [KL(p || r) + KL(q || r)] / 2       nats, r = (p + q) / 2; at most ln 2
    rank       = 1 + how many logits of the row are strictly larger than the given id's

Written so that every term is non-negative, because sums of terms of both signs cancel for distributions that agree:

    KL = sum p (a - 1 + e^-a)                        the added sum q - sum p is 0
    JS = sum (p + q) j(t) / 2,   t = (p - q) / (p + q) = tanh(a / 2),
         j(t) = [(1 + t) ln(1 + t) + (1 - t) ln(1 - t)] / 2

and for small a and t by their series. A token with p = 0 adds q to the first sum; one with q = 0 < p makes KL infinite.

Both need both normalisers first, so there are two passes: statistics (see `uncertainty`), then divergences and ranks.
Either from logits, or from hidden states and output matrices (see `lm_head`): then a tile of logits of both models
lives in registers in both passes and is never stored, at the price of computing it twice.

Shape suffixes: N rows, V vocabulary, E hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dodona.kernels.checks import check_integer
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
from dodona.kernels.lm_head import check_product, product_case, product_statistics, product_tile
from dodona.kernels.parts import cut
from dodona.kernels.portable import loop_bound
from dodona.kernels.uncertainty import (
    Results,
    Uncertainty,
    check_logits,
    uncertainty_reference,
    uncertainty_results,
)

CONFIG = {"BLOCK": 2048, "num_warps": 4, "programs_per_sm": 2}
PRODUCT_CONFIG = {"BLOCK_V": 128, "BLOCK_K": 64, "BLOCK_N": 32, "num_warps": 8, "num_stages": 3}
PRODUCT_FLOAT32_CONFIG = PRODUCT_CONFIG | {"BLOCK_K": 16}  # where one of the two is float32


class Pair(NamedTuple):
    """Two models at the same rows. A row that is broken in either model has NaN divergences and rank 0."""

    base: Uncertainty  # logprob is that of the given ids
    oracle: Uncertainty  # likewise
    base_rank: Tensor  # [N] int32, 1 is the most likely; 0 without ids
    oracle_rank: Tensor  # [N] int32
    kl: Tensor  # [N] float32, nats, KL(base || oracle)
    js: Tensor  # [N] float32, nats


def pair_reference(base_NV: Tensor, oracle_NV: Tensor, ids_N: Tensor) -> Pair:
    """The definitions in float64, plain torch; ids in [0, V)."""
    x, y = base_NV.double(), oracle_NV.double()
    base, oracle = uncertainty_reference(x, ids_N), uncertainty_reference(y, ids_N)
    log_p, log_q = x.log_softmax(-1), y.log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    kl = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)
    middle = ((p + q) / 2).log()
    first = torch.where(p > 0, p * (log_p - middle), 0.0).sum(-1)
    js = (first + torch.where(q > 0, q * (log_q - middle), 0.0).sum(-1)) / 2
    broken = (base.error != 0) | (oracle.error != 0)

    def rank(logits_NV: Tensor) -> Tensor:
        larger = (logits_NV > logits_NV.gather(1, ids_N.long().unsqueeze(1))).sum(-1) + 1
        return larger.int().masked_fill(broken, 0)

    return Pair(base, oracle, rank(x), rank(y), kl.masked_fill(broken, torch.nan), js.masked_fill(broken, torch.nan))


@triton.jit
def divergence_terms(log_p, log_q):
    """What one token adds to KL and to JS; series below 1/4, whose first left-out terms are under 1e-7 of the sum."""
    p = tl.exp(tl.maximum(log_p, -200.0))
    q = tl.exp(tl.maximum(log_q, -200.0))
    a = tl.where(log_p == log_q, 0.0, log_p - log_q)  # also where both are -inf
    b = tl.where(tl.abs(a) < 0.25, a, 0.0)
    tail = 1 / 120.0 - b * (1 / 720.0 - b * (1 / 5040.0 - b * (1 / 40320.0)))
    near = b * b * (0.5 - b * (1 / 6.0 - b * (1 / 24.0 - b * tail)))
    far = tl.where(p > 0, p * a, 0.0) - p + q
    kl = tl.where(tl.abs(a) < 0.25, p * near, far)
    total = p + q
    t = (p - q) / tl.where(total == 0, 1.0, total)
    square = tl.where(tl.abs(t) < 0.25, t * t, 0.0)
    close = square * (0.5 + square * (1 / 12.0 + square * (1 / 30.0 + square * (1 / 56.0 + square * (1 / 90.0)))))
    up = 1.0 + t
    down = 1.0 - t
    apart = 0.5 * (up * tl.log(tl.maximum(up, 1e-30)) + down * tl.log(tl.maximum(down, 1e-30)))
    js = 0.5 * total * tl.where(tl.abs(t) < 0.25, close, apart)
    return kl, js


@triton.jit
def log_normaliser(floats, row, B, live):
    """m and ln s of rows from their packed statistics: (x - m) - ln s is ln p to the last bits, also for rows of large
    numbers, where x - lse is not."""
    m = tl.load(floats + 3 * B + row, mask=live, other=0.0)
    return m, -tl.log(tl.load(floats + 4 * B + row, mask=live, other=1.0))


@triton.jit
def _pair_kernel(
    base, oracle, ids, base_floats, oracle_floats, sums, ranks, base_stride, oracle_stride, B, V, chunk, SPLITS,
    BLOCK: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    split = tl.program_id(1)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    base_line = base + row.to(tl.int64) * base_stride
    oracle_line = oracle + row.to(tl.int64) * oracle_stride
    base_m, base_log_s = log_normaliser(base_floats, row, B, row >= 0)
    oracle_m, oracle_log_s = log_normaliser(oracle_floats, row, B, row >= 0)
    given = tl.load(ids + row).to(tl.int32)
    known = (given >= 0) & (given < V)
    base_given = tl.load(base_line + given, mask=known, other=0.0).to(tl.float32)
    oracle_given = tl.load(oracle_line + given, mask=known, other=0.0).to(tl.float32)
    kl = tl.zeros([BLOCK], tl.float32)
    js = tl.zeros([BLOCK], tl.float32)
    base_larger = tl.zeros([BLOCK], tl.int32)
    oracle_larger = tl.zeros([BLOCK], tl.int32)
    start = split * chunk
    stop = tl.minimum(start + chunk, V)
    for tile in range(loop_bound(start), loop_bound(stop), BLOCK):
        token = tile + tl.arange(0, BLOCK)
        x = tl.load(base_line + token, mask=token < stop, other=float("-inf")).to(tl.float32)
        y = tl.load(oracle_line + token, mask=token < stop, other=float("-inf")).to(tl.float32)
        tile_kl, tile_js = divergence_terms((x - base_m) - base_log_s, (y - oracle_m) - oracle_log_s)
        kl += tile_kl
        js += tile_js
        base_larger += (x > base_given).to(tl.int32)
        oracle_larger += (y > oracle_given).to(tl.int32)
    line = row.to(tl.int64)
    tl.store(sums + line * SPLITS + split, tl.sum(kl, 0))
    tl.store(sums + (line + B) * SPLITS + split, tl.sum(js, 0))
    tl.store(ranks + line * SPLITS + split, tl.sum(base_larger, 0))
    tl.store(ranks + (line + B) * SPLITS + split, tl.sum(oracle_larger, 0))


@triton.jit
def _pair_product_kernel(
    base_hidden, base_weight, oracle_hidden, oracle_weight, ids, base_floats, oracle_floats, base_givens, oracle_givens,
    sums, ranks, base_hidden_stride, base_weight_stride, oracle_hidden_stride, oracle_weight_stride, B, V, PARTS,
    BASE_E: tl.constexpr, ORACLE_E: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
    USE_PDL: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(1)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    column = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    live = column < B
    row = column.to(tl.int64)
    token = part * BLOCK_V + tl.arange(0, BLOCK_V)
    inside = token < V
    x = product_tile(
        base_hidden, None, base_weight, row, live, token, inside, None, base_hidden_stride, base_weight_stride,
        BASE_E, BLOCK_V, BLOCK_K, BLOCK_N,
    )  # fmt: skip
    y = product_tile(
        oracle_hidden, None, oracle_weight, row, live, token, inside, None, oracle_hidden_stride, oracle_weight_stride,
        ORACLE_E, BLOCK_V, BLOCK_K, BLOCK_N,
    )  # fmt: skip
    base_m, base_log_s = log_normaliser(base_floats, row, B, live)
    oracle_m, oracle_log_s = log_normaliser(oracle_floats, row, B, live)
    given = tl.load(ids + row, mask=live, other=-1).to(tl.int32)
    known = live & (given >= 0) & (given < V)
    base_given = tl.load(base_givens + row, mask=known, other=0.0)
    oracle_given = tl.load(oracle_givens + row, mask=known, other=0.0)
    other = token[:, None] != given[None, :]
    base_larger = tl.sum((other & (x > base_given[None, :])).to(tl.int32), 0)
    oracle_larger = tl.sum((other & (y > oracle_given[None, :])).to(tl.int32), 0)
    kl, js = divergence_terms(
        (x - base_m[None, :]) - base_log_s[None, :], (y - oracle_m[None, :]) - oracle_log_s[None, :]
    )
    tl.store(sums + row * PARTS + part, tl.sum(kl, 0), mask=live)
    tl.store(sums + (row + B) * PARTS + part, tl.sum(js, 0), mask=live)
    tl.store(ranks + row * PARTS + part, base_larger, mask=live)
    tl.store(ranks + (row + B) * PARTS + part, oracle_larger, mask=live)


@triton.jit
def _pair_finish_kernel(
    sums, ranks, ids, base_error, oracle_error, divergences, both_ranks, B, V, PARTS,
    BLOCK: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    part = tl.arange(0, BLOCK)
    mask = part < PARTS
    line = row.to(tl.int64)
    kl = tl.sum(tl.load(sums + line * PARTS + part, mask=mask, other=0.0), 0)
    js = tl.sum(tl.load(sums + (line + B) * PARTS + part, mask=mask, other=0.0), 0)
    base_larger = tl.sum(tl.load(ranks + line * PARTS + part, mask=mask, other=0), 0)
    oracle_larger = tl.sum(tl.load(ranks + (line + B) * PARTS + part, mask=mask, other=0), 0)
    fine = (tl.load(base_error + row) == 0) & (tl.load(oracle_error + row) == 0)
    given = tl.load(ids + row)
    known = fine & (given >= 0) & (given < V)
    tl.store(divergences + row, tl.where(fine, kl, float("nan")))
    tl.store(divergences + B + row, tl.where(fine, js, float("nan")))
    tl.store(both_ranks + row, tl.where(known, base_larger + 1, 0))
    tl.store(both_ranks + B + row, tl.where(known, oracle_larger + 1, 0))


class _Scratch(NamedTuple):
    """Sums of the pieces of each row."""

    sums: Tensor  # [2, N, parts] float32: KL, JS
    ranks: Tensor  # [2, N, parts] int32: larger logits of base, of oracle

    @classmethod
    def empty(cls, rows: int, parts: int, device: torch.device) -> _Scratch:
        return cls(
            torch.empty(2, rows, parts, dtype=torch.float32, device=device),
            torch.empty(2, rows, parts, dtype=torch.int32, device=device),
        )


def _finish(scratch: _Scratch, ids_N: Tensor, base: Results, oracle: Results, vocab: int) -> Pair:
    """Add up the pieces."""
    _, rows, parts = scratch.sums.shape
    device = ids_N.device
    divergences = torch.empty(2, rows, dtype=torch.float32, device=device)
    ranks = torch.empty(2, rows, dtype=torch.int32, device=device)
    use_pdl = pdl_supported(device)
    if rows:
        _pair_finish_kernel[(rows,)](
            *scratch, ids_N, base.error, oracle.error, divergences, ranks, rows, vocab, parts,
            BLOCK=triton.next_power_of_2(parts), USE_PDL=use_pdl, num_warps=4, **pdl_options(use_pdl),
        )  # fmt: skip
    return Pair(base.view(), oracle.view(), *ranks.unbind(0), *divergences.unbind(0))


def pair(
    base_NV: Tensor,
    oracle_NV: Tensor,
    ids_N: Tensor,
    *,
    splits: int | None = None,
    config: Mapping[str, int] | None = None,
) -> Pair:
    """Compare two models' logits at the same positions; each is read twice.

    Args:
        base_NV: raw logits, bfloat16, float16 or float32; any row stride, dense within a row.
        oracle_NV: likewise, of the same shape; the dtypes may differ.
        ids_N: int64 or int32, the token of each row to look up; outside [0, V): NaN and rank 0.
        splits: programs a row, in place of the number that shape and device give.
        config: block sizes in place of the tuning table's.

    Returns:
        See `Pair`.

    Raises:
        ValueError: a wrong shape, stride, dtype or device.
    """
    rows, vocab = check_logits("base logits", base_NV)
    if check_logits("oracle logits", oracle_NV) != (rows, vocab):
        raise ValueError(f"logits of base and oracle differ in shape: {base_NV.shape} and {oracle_NV.shape}")
    check_integer("ids", ids_N, (rows,))
    device = check_device(base=base_NV, oracle=oracle_NV, ids=ids_N)
    base, oracle = uncertainty_results(base_NV, ids_N), uncertainty_results(oracle_NV, ids_N)
    if rows == 0:
        return _finish(_Scratch.empty(0, 1, device), ids_N, base, oracle, vocab)
    blocks = config or config_for("pair", (triton.next_power_of_2(rows), vocab), device, CONFIG)
    block = blocks["BLOCK"]
    pieces = cut(rows, vocab, device, block, blocks["programs_per_sm"], splits)
    scratch = _Scratch.empty(rows, pieces.splits, device)
    use_pdl = pdl_supported(device)
    _pair_kernel[(rows, pieces.splits)](
        base_NV, oracle_NV, ids_N, base.floats, oracle.floats, *scratch,
        base_NV.stride(0), oracle_NV.stride(0), rows, vocab, pieces.size, pieces.splits,
        BLOCK=block, USE_PDL=use_pdl, num_warps=blocks["num_warps"], **pdl_options(use_pdl),
    )  # fmt: skip
    return _finish(scratch, ids_N, base, oracle, vocab)


def pair_of_products(
    base_NE: Tensor,
    base_weight_VE: Tensor,
    oracle_NE: Tensor,
    oracle_weight_VE: Tensor,
    ids_N: Tensor,
    *,
    config: Mapping[str, int] | None = None,
) -> Pair:
    """The same from normalised hidden states and output matrices: logits are rounded to the model's dtype, not stored.

    Args:
        base_NE: ``[N, base hidden size]``, bfloat16, float16 or float32, after the final norm; rows may be strided.
        base_weight_VE: the base's output matrix, of the same dtype.
        oracle_NE: ``[N, oracle hidden size]``, likewise.
        oracle_weight_VE: the oracle's output matrix.
        ids_N: as in `pair`.
        config: block sizes in place of the tuning table's.

    Returns:
        See `Pair`.

    Raises:
        ValueError: a wrong shape, stride, dtype or device.
    """
    rows, vocab, base_size = check_product("base ", base_NE, base_weight_VE)
    oracle_rows, oracle_vocab, oracle_size = check_product("oracle ", oracle_NE, oracle_weight_VE)
    if (rows, vocab) != (oracle_rows, oracle_vocab):
        raise ValueError(f"base has {rows} rows of {vocab} tokens, oracle {oracle_rows} of {oracle_vocab}")
    check_integer("ids", ids_N, (rows,))
    device = check_device(
        base=base_NE, base_weight=base_weight_VE, oracle=oracle_NE, oracle_weight=oracle_weight_VE, ids=ids_N
    )
    if rows == 0:
        nothing = Results.empty(0, device)
        return _finish(_Scratch.empty(0, 1, device), ids_N, nothing, nothing, vocab)
    default, op = PRODUCT_CONFIG, "pair_of_products"
    if torch.float32 in (base_NE.dtype, oracle_NE.dtype):
        default, op = PRODUCT_FLOAT32_CONFIG, "pair_of_products_float32"
    blocks = config or config_for(op, (vocab, base_size, oracle_size), device, default)
    givens = torch.empty(2, rows, dtype=torch.float32, device=device)
    base, _ = product_statistics(
        base_NE, base_weight_VE, blocks=blocks, block_rows=blocks["BLOCK_N"], ids_B=ids_N, givens_B=givens[0]
    )
    oracle, _ = product_statistics(
        oracle_NE, oracle_weight_VE, blocks=blocks, block_rows=blocks["BLOCK_N"], ids_B=ids_N, givens_B=givens[1]
    )
    parts = triton.cdiv(vocab, blocks["BLOCK_V"])
    scratch = _Scratch.empty(rows, parts, device)
    use_pdl = pdl_supported(device)
    _pair_product_kernel[(triton.cdiv(rows, blocks["BLOCK_N"]), parts)](
        base_NE, base_weight_VE, oracle_NE, oracle_weight_VE, ids_N, base.floats, oracle.floats, *givens.unbind(0),
        *scratch, base_NE.stride(0), base_weight_VE.stride(0), oracle_NE.stride(0), oracle_weight_VE.stride(0),
        rows, vocab, parts, BASE_E=base_size, ORACLE_E=oracle_size,
        BLOCK_V=blocks["BLOCK_V"], BLOCK_K=blocks["BLOCK_K"], BLOCK_N=blocks["BLOCK_N"], USE_PDL=use_pdl,
        num_warps=blocks["num_warps"], num_stages=blocks["num_stages"], **pdl_options(use_pdl),
    )  # fmt: skip
    return _finish(scratch, ids_N, base, oracle, vocab)


def _statistics_case(name: str, size: int, dtype: torch.dtype, blocks: Mapping[str, int], parts: int) -> CompileCase:
    rows, vocab = 180, LLAMA_SHAPES[0].vocab
    return product_case(name, size, vocab, rows, dtype, blocks["BLOCK_N"], blocks, norm=False, draw=False, count=parts)


def _product_case(
    name: str, base: int, oracle: int, dtype: torch.dtype, blocks: Mapping[str, int], parts: int
) -> CompileCase:
    f32, i32, i64 = torch.float32, torch.int32, torch.int64
    signature = signature_of(
        base_hidden=dtype, base_weight=dtype, oracle_hidden=dtype, oracle_weight=dtype, ids=i64, base_floats=f32,
        oracle_floats=f32, base_givens=f32, oracle_givens=f32, sums=f32, ranks=i32, base_hidden_stride=base,
        base_weight_stride=base, oracle_hidden_stride=oracle, oracle_weight_stride=oracle, B=180,
        V=LLAMA_SHAPES[0].vocab, PARTS=parts,
    )  # fmt: skip
    constexprs = {"BASE_E": base, "ORACLE_E": oracle}
    constexprs |= {key: blocks[key] for key in ("BLOCK_V", "BLOCK_K", "BLOCK_N")}
    return CompileCase(name, _pair_product_kernel, signature, constexprs, blocks["num_warps"], blocks["num_stages"])


def compile_cases() -> Iterator[CompileCase]:
    """From logits, and for every pair of a smaller and a larger model from hidden states."""
    f32, i32, i64 = torch.float32, torch.int32, torch.int64
    vocab = LLAMA_SHAPES[0].vocab
    for rows, dtype in ((1, torch.bfloat16), (180, torch.bfloat16), (180, torch.float16), (180, torch.float32)):
        splits = triton.cdiv(vocab, CONFIG["BLOCK"]) if rows == 1 else 1
        signature = signature_of(
            base=dtype, oracle=dtype, ids=i64, base_floats=f32, oracle_floats=f32, sums=f32, ranks=i32,
            base_stride=vocab, oracle_stride=vocab, B=rows, V=vocab, chunk=CONFIG["BLOCK"], SPLITS=splits,
        )  # fmt: skip
        name = f"pair [{rows}, {vocab}] {dtype}".replace("torch.", "")
        yield CompileCase(name, _pair_kernel, signature, {"BLOCK": CONFIG["BLOCK"]}, CONFIG["num_warps"], 1)
    parts = triton.cdiv(vocab, PRODUCT_CONFIG["BLOCK_V"])
    for shape in LLAMA_SHAPES:
        name = f"pair statistics {shape.name} [180, {shape.hidden}]"
        yield _statistics_case(name, shape.hidden, torch.bfloat16, PRODUCT_CONFIG, parts)
    name = f"pair statistics {LLAMA_SHAPES[0].name} [180, {LLAMA_SHAPES[0].hidden}] float32"
    yield _statistics_case(name, LLAMA_SHAPES[0].hidden, torch.float32, PRODUCT_FLOAT32_CONFIG, parts)
    for small, large in combinations(LLAMA_SHAPES, 2):
        name = f"pair {small.name} and {large.name}, 180 rows"
        yield _product_case(name, small.hidden, large.hidden, torch.bfloat16, PRODUCT_CONFIG, parts)
    small, large = LLAMA_SHAPES[:2]
    name = f"pair {small.name} and {large.name}, 180 rows float32"
    yield _product_case(name, small.hidden, large.hidden, torch.float32, PRODUCT_FLOAT32_CONFIG, parts)
    signature = signature_of(
        sums=f32, ranks=i32, ids=i64, base_error=i32, oracle_error=i32, divergences=f32, both_ranks=i32, B=180,
        V=vocab, PARTS=parts,
    )  # fmt: skip
    constexprs = {"BLOCK": triton.next_power_of_2(parts)}
    yield CompileCase("pair finish", _pair_finish_kernel, signature, constexprs, 4, 1)
