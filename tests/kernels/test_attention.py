"""Paged attention, for decoding and for extends, and the attention signals."""

from __future__ import annotations

import math

import pytest
import torch
from kernel_checks import DTYPES, assert_close, assert_rejects_mutants, tolerance
from kernel_inputs import integers, moved_pages, output_tolerance, randn, random_pages
from torch import Tensor

from dodona.kernels.attention import MAX_SPLITS, _splits, attention_decode, attention_extend, attention_reference
from dodona.kernels.attention_signals import attention_signals, attention_signals_reference
from dodona.kernels.paged import PagedKV

# heads, kv_heads, head_dim, page_size, lengths: every ratio and size, lengths around the borders of pages and tiles
SHAPES = {
    "1:1": (2, 2, 64, 16, [0, 1, 15, 16, 17]),
    "3:1": (3, 1, 128, 16, [63, 64, 65]),
    "4:1": (8, 2, 64, 256, [255, 256, 257]),
    "8:1": (8, 1, 128, 64, [128, 1, 70]),
    "odd pages": (4, 2, 64, 24, [24, 49, 23]),
    "small heads": (6, 2, 24, 16, [33, 5]),  # head_dim no power of two
}

CASES = list(zip(SHAPES, DTYPES * 2, strict=True))


def size_of(pages: PagedKV) -> float:
    """The scale of attended values: what rounded attention weights are multiplied with."""
    return float(pages.v_PSKD.double().nan_to_num().abs().amax()) / 4


def inputs(shape: str, dtype: torch.dtype, queries: list[int] | None = None) -> tuple[Tensor, PagedKV, Tensor]:
    heads, kv_heads, head_dim, page_size, lengths = SHAPES[shape]
    pages = random_pages(lengths, kv_heads=kv_heads, head_dim=head_dim, page_size=page_size, dtype=dtype)
    rows = len(lengths) if queries is None else sum(queries)
    return randn(rows, heads, head_dim, dtype=dtype, seed=3), pages, integers(*lengths, dtype=torch.int32)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_decode_attends_to_the_live_keys(shape: str, dtype: torch.dtype, splits: int) -> None:
    """NaN behind the last live key, heads of the wrong group, a page border, an empty slot, an empty share of the
    keys."""
    q, pages, lengths = inputs(shape, dtype)
    want = attention_reference(q, pages, None, None, lengths).out_THD
    got = attention_decode(q, pages, lengths, splits=splits)
    assert got.heads is None
    assert_close(got.out_THD, want, output_tolerance(64, dtype, roundings=2), size_of(pages))
    assert not got.out_THD[lengths == 0].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_at_one_shape(dtype: torch.dtype) -> None:
    """The same numbers in each dtype, several tiles and splits, keys that are looked up by slot."""
    q, pages, lengths = inputs("8:1", dtype)
    slots = integers(2, 0, 1)
    want = attention_reference(q, pages, slots, None, lengths[slots]).out_THD
    got = attention_decode(q, pages, lengths[slots], slots, splits=4).out_THD
    assert_close(got, want, output_tolerance(64, dtype, roundings=2), size_of(pages))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_comparison_can_fail(dtype: torch.dtype) -> None:
    """Zeros, another head's output, or a tile of keys left out: attention is an average, so errors in it look small."""
    q, pages, lengths = inputs("8:1", dtype)
    want = attention_reference(q, pages, None, None, lengths).out_THD.flatten(1)

    def check(got: Tensor) -> None:
        assert_close(got, want, output_tolerance(64, dtype, roundings=2), size_of(pages))

    assert_rejects_mutants(check, attention_decode(q, pages, lengths, splits=2).out_THD.flatten(1))
    for missing in (lengths - 16, lengths - 1, lengths + 1):  # a tile; the newest key; a key that is not there
        with pytest.raises(AssertionError):
            wrong = attention_reference(q, pages, None, None, missing.clamp(min=1)).out_THD
            check(wrong.flatten(1))


# queries of each sequence: prefill from nothing, one token, a burst, none at all
EXTENDS = {
    "1:1": [0, 1, 15, 3, 17],
    "3:1": [63, 1, 22],
    "4:1": [1, 2, 20],
    "8:1": [5, 1, 20],
    "odd pages": [24, 1, 0],
    "small heads": [33, 1],
}


def starts_of(queries: list[int]) -> Tensor:
    return integers(0, *torch.tensor(queries).cumsum(0))


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_extend_attends_causally(shape: str, dtype: torch.dtype, splits: int) -> None:
    """A mask off by one, the wrong offset of a catch-up, rows of a block that belong to the next sequence."""
    queries = EXTENDS[shape]
    q, pages, lengths = inputs(shape, dtype, queries)
    starts = starts_of(queries)
    want = attention_reference(q, pages, None, starts, lengths).out_THD
    got = attention_extend(q, pages, starts, lengths, max_queries=max(queries), splits=splits)
    assert_close(got, want, output_tolerance(64, dtype, roundings=2), size_of(pages))


def test_an_extend_of_one_token_is_a_decode() -> None:
    """Two kernels for one thing, of which one is wrong."""
    q, pages, lengths = inputs("4:1", torch.float32)
    decoded = attention_decode(q, pages, lengths, splits=2).out_THD
    extended = attention_extend(q, pages, integers(0, 1, 2, 3), lengths, max_queries=1, splits=2)
    assert torch.equal(decoded, extended)


def test_a_row_does_not_depend_on_its_batch_mates() -> None:
    """A share of the keys that follows the longest row's length: batches then differ from their members in the last
    bits."""
    q, pages, lengths = inputs("8:1", torch.float32)
    together = attention_decode(q, pages, lengths, splits=4).out_THD
    for slot in range(3):
        row = slice(slot, slot + 1)
        alone = attention_decode(q[row], pages, lengths[row], integers(slot), splits=4).out_THD
        assert torch.equal(alone, together[row])


def test_the_place_of_pages_does_not_matter() -> None:
    """A kernel that ignores the page table passes as long as pages happen to be in order."""
    q, pages, lengths = inputs("3:1", torch.float32)
    moved = moved_pages(pages, seed=1)
    assert not torch.equal(moved.table, pages.table)
    first, second = (attention_decode(q, where, lengths, splits=2).out_THD for where in (pages, moved))
    assert torch.equal(first, second)


def test_more_room_in_the_page_table_changes_nothing() -> None:
    """The engine's table is as wide as the longest slot ever was, with 0 or old pages behind a slot's own."""
    q, pages, lengths = inputs("odd pages", torch.float32)
    wide = torch.cat((pages.table, torch.full((3, 40), len(pages.k_PSKD) - 1).to(pages.table)), 1)
    first, second = (
        attention_decode(q, pages._replace(table=table), lengths, splits=3).out_THD for table in (pages.table, wide)
    )
    assert torch.equal(first, second)


def test_interleaved_layers_and_strided_queries_are_read_where_they_are() -> None:
    """The cache is [layers, 2, pages, ...], and q may be a slice of the fused product."""
    q, pages, lengths = inputs("4:1", torch.float32)
    cache = torch.stack((pages.k_PSKD, pages.v_PSKD), 2)  # [P, S, 2, K, D]
    strided = PagedKV(cache[:, :, 0], cache[:, :, 1], pages.table.int())
    fused = torch.cat((q, torch.full_like(q, torch.nan)), 1)
    first = attention_decode(q, pages, lengths, splits=1).out_THD
    second = attention_decode(fused[:, :8], strided, lengths.long(), splits=1).out_THD
    assert torch.equal(first, second)


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")
@pytest.mark.parametrize("splits", [1, 2])
def test_a_query_without_a_number_has_no_answer(splits: int) -> None:
    """All scores of a broken query are NaN, which a maximum passes over: a share of none, and zeros in its place."""
    pages = random_pages([40], kv_heads=1, head_dim=16, page_size=16, dtype=torch.float32)
    q_BHD = randn(1, 2, 16)
    q_BHD[0, 1] = torch.nan
    out_HD = attention_decode(q_BHD, pages, integers(40), integers(0), splits=splits).out_THD[0]
    assert out_HD[0].isfinite().all() and out_HD[1].isnan().all()


def test_large_scores_do_not_overflow() -> None:
    """exp of a raw score of 500 is infinite: the maximum has to come off first, in the merge of splits too."""
    q, pages, lengths = inputs("8:1", torch.float32)
    q = q * 80
    want = attention_reference(q, pages, None, None, lengths)
    assert want.heads is not None and float(want.heads.lse.max()) > 200
    got = attention_decode(q, pages, lengths, splits=3, statistics=True)
    # Scores of some hundreds have errors of some 1e-5, and exp makes them relative ones.
    assert_close(got.out_THD, want.out_THD, 1e-3, 1.0)
    assert got.heads is not None
    assert_close(got.heads.lse, want.heads.lse, tolerance(128))
    assert_close(got.heads.entropy, want.heads.entropy, 1e-3, 1.0)


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_statistics_and_signals_are_those_of_the_live_keys(shape: str, dtype: torch.dtype, splits: int) -> None:
    """Padding counted as keys, a second softmax, bits for nats, a variance over an axis of length one."""
    q, pages, lengths = inputs(shape, dtype)
    want = attention_reference(q, pages, None, None, lengths)
    got = attention_decode(q, pages, lengths, splits=splits, statistics=True)
    assert_close(got.out_THD, want.out_THD, output_tolerance(64, dtype, roundings=2), size_of(pages))
    assert got.heads is not None and want.heads is not None
    relative = 4 * tolerance(q.shape[2])
    assert_close(got.heads.lse, want.heads.lse, relative, 4.0)
    assert_close(got.heads.entropy, want.heads.entropy, relative, 4.0)
    assert_close(got.heads.strength, want.heads.strength, relative, 1.0)

    signals = attention_signals(q, pages, got.heads, lengths)
    expected = attention_signals_reference(q, pages, lengths)
    for name, value, reference in zip(signals._fields, signals, expected, strict=True):
        # Entropies of some nats with an error of 1e-5 have that much error in their variance.
        assert_close(value, reference, relative, 0.1 if name == "agreement" else 4.0)
        assert value.shape == lengths.shape and not value[lengths == 0].any()


def test_the_comparison_of_signals_can_fail() -> None:
    """A signal of the wrong keys or the wrong heads is close to the right one: entropies differ by hundredths."""
    q, pages, lengths = inputs("8:1", torch.float32)
    heads = attention_decode(q, pages, lengths, splits=2, statistics=True).heads
    assert heads is not None
    signals = attention_signals(q, pages, heads, lengths)
    for wrong_q, wrong_lengths in ((q, lengths.clamp(max=127)), (q.flip(1) * 1.001, lengths)):
        wrong = attention_signals_reference(wrong_q, pages, wrong_lengths)
        for name, value, reference in zip(signals._fields, signals, wrong, strict=True):
            with pytest.raises(AssertionError):
                assert_close(value, reference, 4 * tolerance(128), 0.1 if name == "agreement" else 4.0)
    want = attention_reference(q, pages, None, None, lengths).heads
    assert want is not None
    for value, reference in zip(heads, want, strict=True):
        assert_rejects_mutants(lambda got, ref=reference: assert_close(got, ref, 4 * tolerance(128), 1.0), value)


def test_flat_and_peaked_attention_have_the_entropies_of_the_book() -> None:
    """Equal scores: ln n, and heads that agree. One key far above the others: 0."""
    _, pages, lengths = inputs("4:1", torch.float32)
    q = randn(3, 8, 64) * 0
    heads = attention_decode(q, pages, lengths, splits=2, statistics=True).heads
    assert heads is not None
    logs = torch.tensor([math.log(n) for n in (255, 256, 257)], dtype=torch.float64)
    assert_close(heads.entropy, logs.unsqueeze(1).expand(3, 8), tolerance(257))
    signals = attention_signals(q, pages, heads, lengths)
    assert_close(signals.attn_entropy, logs, tolerance(257))
    for signal in (signals.attn_varentropy, signals.agreement, signals.interaction_strength):
        assert float(signal.abs().max()) < 1e-9

    one_key = pages.k_PSKD[pages.table[1, 0], 5].repeat_interleave(4, 0)  # each head's own key at position 5
    heads = attention_decode((one_key * 100)[None].expand(3, 8, 64), pages, lengths, splits=2, statistics=True).heads
    assert heads is not None
    assert float(heads.entropy[1].abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("wanted", "tiles", "splits"), [(0, 100, 1), (33, 100, 32), (33, 3, 2), (1000, 1000, MAX_SPLITS), (5, 0, 1)]
)
def test_keys_are_split_no_further_than_their_tiles(wanted: int, tiles: int, splits: int) -> None:
    """No split for a full batch, and programs without keys for a short page table."""
    assert _splits(wanted, tiles) == splits


@pytest.mark.parametrize("rows", ["decode", "extend", "signals"])
def test_no_rows_give_no_rows(rows: str) -> None:
    """A launch over an empty grid is an error on a GPU."""
    q, pages, lengths = inputs("1:1", torch.float32)
    if rows == "extend":
        out = attention_extend(q[:0], pages, integers(0), integers(), max_queries=1)
        out = torch.cat((out, attention_extend(q[:0], pages, integers(0, 0), lengths[:1], max_queries=4)))
    else:
        out, heads = attention_decode(q[:0], pages, lengths[:0], statistics=rows == "signals")
        if heads is not None:
            assert attention_signals(q[:0], pages, heads, lengths[:0]).agreement.shape == (0,)
    assert out.shape == (0, 2, 64)


@pytest.mark.parametrize(
    "broken", ["q dims", "head_dim", "heads", "dtype", "lengths", "lengths dtype", "slots", "table rows", "splits", "v"]
)
def test_wrong_arguments_are_refused(broken: str) -> None:
    """Out-of-bounds reads in place of an error."""
    q, pages, lengths = inputs("4:1", torch.float32)
    slots, splits = None, 1
    match broken:
        case "q dims":
            q = q.flatten(1)
        case "head_dim":
            q = q[:, :, :32].contiguous()
        case "heads":
            q = q[:, :7]
        case "dtype":
            q = q.half()
        case "lengths":
            lengths = lengths[:2]
        case "lengths dtype":
            lengths = lengths.float()
        case "slots":
            slots = integers(0, 1)
        case "table rows":
            pages = pages._replace(table=pages.table[:2])
        case "splits":
            splits = 65
        case "v":
            pages = pages._replace(v_PSKD=pages.v_PSKD[:, :, :1])
    with pytest.raises(ValueError):
        attention_decode(q, pages, lengths, slots, splits=splits)


def test_wrong_starts_are_refused() -> None:
    """One start too few, or a bound of 0 queries that would compute nothing."""
    q, pages, lengths = inputs("4:1", torch.float32)
    with pytest.raises(ValueError):
        attention_extend(q, pages, integers(0, 1, 2), lengths, max_queries=1)
    with pytest.raises(ValueError):
        attention_extend(q, pages, integers(0, 1, 2, 3), lengths, max_queries=0)
