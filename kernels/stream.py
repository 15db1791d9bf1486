"""Streaming a weight matrix past a few rows of x: the inner part that `linear` and `qkv` share.

A program has BLOCK_N rows of W and a share of their K columns, and makes z = h W^T of that share in float32, where h is
x, or x times the weight g of a norm; and with a norm also the share's sum of x^2, from which the norm's factor
1 / sqrt(mean(x^2) + eps) is made. That factor is one number a row of x, so it is applied to the finished sum.

A kernel asks for its `first_tile` of weights, waits for its producers, and goes on with `stream_sums`: under
programmatic dependent launch the tile is on its way while the kernel before it still runs. So weights, unlike
activations, must not come from the kernel right before. Nothing that another kernel writes is touched before the
wait.

One or two rows (`gemv_sums`): a thread multiplies its own piece of W and adds over threads once, at the end. Three to
sixteen rows (`dot_sums`): tensor cores, the rows padded to sixteen.

Shape suffixes: M rows, K columns of x and W, N outputs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from dodona.kernels.portable import dot

MAX_ROWS = 16
MAX_SPLITS = 16
GEMV_ROWS = 2  # up to so many rows the tensor cores would multiply mostly padding


@triton.jit
def load_tile(at, tile, more, K: tl.constexpr, BLOCK_K: tl.constexpr, EVEN: tl.constexpr, STREAM: tl.constexpr):
    """Tile number `tile` along K of the rows whose starts are `at`, or zeros where there are no `more`."""
    k = tile * BLOCK_K + tl.arange(0, BLOCK_K)
    policy: tl.constexpr = "evict_first" if STREAM else ""  # weights are used once, activations by every program
    if EVEN:
        return tl.load(at + k, mask=more, other=0.0, eviction_policy=policy)
    else:
        return tl.load(at + k, mask=more & (k < K), other=0.0, eviction_policy=policy)


@triton.jit
def row_starts(weight_ptr, w_row, stride_wn, ROWS: tl.constexpr):
    """Pointers to W's rows ``w_row [BLOCK_N]``, shaped as the sums of so many rows of x need them."""
    starts = weight_ptr + w_row.to(tl.int64) * stride_wn
    if ROWS <= 2:
        return starts[None, :, None]
    else:
        return starts[:, None]


@triton.jit
def first_tile(
    w_at, split, K: tl.constexpr, SPLITS: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """The weights that `stream_sums` starts with, to be asked for before the wait. Without a wait to fill, the tensor
    cores' loop does better to load all its tiles itself."""
    if ROWS <= 2 or USE_PDL:
        return load_tile(w_at, split * TILES, True, K, BLOCK_K, SPLITS * TILES * BLOCK_K == K, True)
    else:
        return 0


@triton.jit
def gemv_sums(
    w, w_at, x_ptr, norm_ptr, stride_xm, first,
    K: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Sums ``[ROWS, BLOCK_N]`` and squares ``[ROWS, 1]`` on the plain cores, for exactly ROWS rows."""
    x_at = x_ptr + (tl.arange(0, ROWS) * stride_xm)[:, None, None]
    g_at = tl.zeros([1, 1, 1], tl.int32)
    acc = tl.zeros([ROWS, BLOCK_N, BLOCK_K], tl.float32)
    square = tl.zeros([ROWS, 1, BLOCK_K], tl.float32)
    for i in range(TILES):
        w_next = load_tile(w_at, first + i + 1, i + 1 < TILES, K, BLOCK_K, EVEN, True)
        x = load_tile(x_at, first + i, True, K, BLOCK_K, EVEN, False).to(tl.float32)
        if norm_ptr is not None:
            square += x * x
            x *= load_tile(norm_ptr + g_at, first + i, True, K, BLOCK_K, EVEN, False).to(tl.float32)
        acc += w.to(tl.float32) * x
        w = w_next
    return tl.sum(acc, axis=2), tl.sum(square, axis=2)


@triton.jit
def load_rows(x_at, norm_ptr, tile, live, square, K: tl.constexpr, BLOCK_K: tl.constexpr, EVEN: tl.constexpr):
    """A tile of h in x's dtype, and the running sum of x^2."""
    x = load_tile(x_at, tile, live, K, BLOCK_K, EVEN, False)
    if norm_ptr is not None:
        wide = x.to(tl.float32)
        square += wide * wide
        g_at = norm_ptr + tl.zeros([1, 1], tl.int32)
        x = (wide * load_tile(g_at, tile, True, K, BLOCK_K, EVEN, False).to(tl.float32)).to(x.dtype)
    return x, square


@triton.jit
def dot_sums(
    w, w_at, x_ptr, norm_ptr, M, stride_xm, first,
    K: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Sums ``[ROWS, BLOCK_N]`` and squares ``[ROWS, 1]`` on the tensor cores, for M rows padded to ROWS."""
    m = tl.arange(0, ROWS)[:, None]
    x_at = x_ptr + m * stride_xm
    acc = tl.zeros([ROWS, BLOCK_N], tl.float32)
    square = tl.zeros([ROWS, BLOCK_K], tl.float32)
    done: tl.constexpr = 1 if USE_PDL else 0
    if USE_PDL:
        x, square = load_rows(x_at, norm_ptr, first, m < M, square, K, BLOCK_K, EVEN)
        acc = dot(x, tl.trans(w), acc)
    for i in range(done, TILES):
        w_now = load_tile(w_at, first + i, True, K, BLOCK_K, EVEN, True)
        x, square = load_rows(x_at, norm_ptr, first + i, m < M, square, K, BLOCK_K, EVEN)
        acc = dot(x, tl.trans(w_now), acc)
    return acc, tl.sum(square, axis=1, keep_dims=True)


@triton.jit
def stream_sums(
    w, w_at, x_ptr, norm_ptr, M, stride_xm, split,
    K: tl.constexpr, SPLITS: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    """Sums and squares over the split'th share of the columns, starting with the tile ``w`` of `first_tile`."""
    EVEN: tl.constexpr = SPLITS * TILES * BLOCK_K == K
    first = split * TILES
    if ROWS <= 2:
        return gemv_sums(w, w_at, x_ptr, norm_ptr, stride_xm, first, K, TILES, ROWS, BLOCK_N, BLOCK_K, EVEN)
    else:
        return dot_sums(w, w_at, x_ptr, norm_ptr, M, stride_xm, first, K, TILES, ROWS, BLOCK_N, BLOCK_K, EVEN, USE_PDL)


@triton.jit
def keep_sums(z, squares, r, split, M, part_ptr, square_ptr, W_ROWS: tl.constexpr, ROWS: tl.constexpr):
    """Write a share's sums (and, once a split, its squares) for the kernel that adds the shares."""
    m = tl.arange(0, ROWS)[:, None]
    row = split * M + m
    tl.store(part_ptr + row * W_ROWS + r[None, :], z, mask=(m < M) & (r < W_ROWS)[None, :])
    if square_ptr is not None:  # noqa: SIM102 - decided when it is compiled, unlike the next
        if tl.program_id(0) == 0:
            tl.store(square_ptr + row, squares, mask=m < M)


@triton.jit
def add_sums(
    part_ptr, square_ptr, m, r, M, eps, K: tl.constexpr, W_ROWS: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The shares of row m, ``[1, BLOCK_N]``, added in the order of the columns, and the norm's factor applied."""
    at = tl.minimum(r, W_ROWS - 1)[None, :]
    z = tl.zeros([1, BLOCK_N], tl.float32)
    squares = tl.zeros([1, 1], tl.float32)
    for split in tl.static_range(SPLITS):
        z += tl.load(part_ptr + (split * M + m) * W_ROWS + at)
        if square_ptr is not None:
            squares += tl.load(square_ptr + split * M + m)
    if square_ptr is not None:
        z *= tl.rsqrt(squares / K + eps)
    return z


def padded_rows(rows: int) -> int:
    """Rows that a program works on: as many as there are, or the tensor cores' sixteen."""
    return rows if rows <= GEMV_ROWS else MAX_ROWS


def default_config(rows: int, outputs: int, inner: int, itemsize: int = 2) -> dict[str, int]:
    """Block sizes where the tuning table has none, for W with `outputs` rows of `inner` columns of so many bytes each.

    ``SPLITS`` is above 1 where W is high and narrow: there too few programs would each walk far along K.
    """
    splits = 1
    if inner >= 4096 and inner >= 0.6 * outputs:
        splits = 4 if inner >= 2 * outputs else 2
    if rows <= GEMV_ROWS:
        # 256 columns a warp: its 32 threads load 16 bytes each, and no layout changes between loads and products.
        wide = inner % 2048 == 0
        block_k = min(2048 if wide else 1024, max(16, triton.next_power_of_2(inner)))
        block_n, num_warps = (4, 8) if wide else (4 // rows, 4)
        return {"BLOCK_N": block_n, "BLOCK_K": block_k, "SPLITS": splits, "num_warps": num_warps, "num_stages": 1}
    block_k = min(256 // itemsize, max(16, triton.next_power_of_2(inner)))
    block_n, num_warps = (16, 2) if outputs <= 4096 else (32, 4)  # narrow blocks where wide ones would be too few
    return {"BLOCK_N": block_n, "BLOCK_K": block_k, "SPLITS": splits, "num_warps": num_warps, "num_stages": 5}


def shares(inner: int, block_k: int, splits: int) -> tuple[int, int]:
    """Splits that all have a tile, and the tiles of each.

    Raises:
        ValueError: splits is not 1 to ``MAX_SPLITS``.
    """
    if not 1 <= splits <= MAX_SPLITS:
        raise ValueError(f"splits must be 1 to {MAX_SPLITS}, not {splits}")
    tiles = triton.cdiv(inner, block_k)
    share = triton.cdiv(tiles, min(splits, tiles))
    return triton.cdiv(tiles, share), share
