"""Rotary embedding, and keys and values written to their pages."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import DTYPES, assert_close, assert_rejects_mutants
from kernel_inputs import integers, moved_pages, output_tolerance, randn, random_pages, rope_tables

from dodona.engine.config import LlamaConfig
from dodona.engine.llama import Llama
from dodona.kernels.paged import PagedKV
from dodona.kernels.rope import Rope, rope_append, rope_append_reference, rope_reference

PAGE = 16


def pages_for(kv_heads: int, head_dim: int, dtype: torch.dtype) -> PagedKV:
    return random_pages([40, 20], kv_heads=kv_heads, head_dim=head_dim, page_size=PAGE, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(2, 2, 64), (3, 1, 128), (8, 2, 64), (8, 1, 128), (3, 1, 24)]
)
def test_q_is_rotated_and_k_and_v_go_to_their_places(
    dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int
) -> None:
    """Heads of q, k and v that share a block and end up in each other's tensors; places around page borders."""
    pages = pages_for(kv_heads, head_dim, dtype)
    positions = integers(15, 16, 0, 47, 31)  # the last place of a page, the first of the next, a page not yet used
    slots = integers(0, 0, 1, 0, 1, dtype=torch.int32)
    qkv = randn(5, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    rope = rope_tables(64, head_dim)
    q, k_PSKD, v_PSKD = rope_append_reference(qkv, rope, positions, pages, slots, heads=heads)
    got = rope_append(qkv, rope, positions, pages, slots, heads=heads)
    relative = output_tolerance(2, dtype)
    assert_close(got, q, relative, 1.0)
    assert_close(pages.k_PSKD, k_PSKD, relative, 1.0)
    assert_close(pages.v_PSKD, v_PSKD, 0.0)  # copied, and nothing else in the pages has changed


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_comparison_can_fail(dtype: torch.dtype) -> None:
    """A tolerance that lets zeros, another head's numbers or an unturned q through."""
    pages, rope = pages_for(1, 64, dtype), rope_tables(64, 64)
    qkv = randn(3, 4 * 64, dtype=dtype)
    positions, slots = integers(3, 11, 7), integers(0, 0, 1)
    want, _, _ = rope_append_reference(qkv, rope, positions, pages, slots, heads=2)
    got = rope_append(qkv, rope, positions, pages, slots, heads=2)

    def check(q: torch.Tensor) -> None:
        assert_close(q, want.flatten(1), output_tolerance(2, dtype), 1.0)

    assert_rejects_mutants(check, got.flatten(1))
    unturned = rope_reference(qkv.view(3, 4, 64)[:, :2], rope, positions - 1)
    with pytest.raises(AssertionError):
        check(unturned.flatten(1))


def test_it_turns_as_the_engine_does() -> None:
    """The two conventions of rotary embeddings give equally fluent, different models."""
    config = LlamaConfig(
        vocab_size=8, hidden_size=48, intermediate_size=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=24,
        max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None, tie_word_embeddings=True,
        attention_bias=False, mlp_bias=False, bos_token_id=None, eos_token_ids=(),
    )  # fmt: skip
    cos_PD, sin_PD = (table.to(randn(1).device) for table in Llama(config).rope_tables())
    qkv, positions = randn(4, 4 * 24), integers(0, 5, 17, 63)
    pages = random_pages([64], kv_heads=1, head_dim=24, page_size=PAGE, dtype=torch.float32)
    got = rope_append(qkv, Rope(cos_PD, sin_PD), positions, pages, integers(0, 0, 0, 0), heads=2)
    q = qkv.view(4, 4, 24)[:, :2]
    cos, sin = cos_PD[positions].unsqueeze(1), sin_PD[positions].unsqueeze(1)
    torch.testing.assert_close(got, torch.addcmul(q * cos, q.roll(12, -1), sin))


def test_the_places_follow_the_page_table() -> None:
    """A kernel that ignores the table passes as long as pages happen to be in order."""
    pages, rope = pages_for(1, 64, torch.float32), rope_tables(64, 64)
    moved = moved_pages(pages, seed=5)
    assert not torch.equal(moved.table, pages.table)
    qkv, positions, slots = randn(2, 3 * 64), integers(20, 33), integers(1, 0)
    for where in (pages, moved):
        rope_append(qkv, rope, positions, where, slots, heads=1)
        k = rope_reference(qkv.view(2, 3, 64)[:, 1:2], rope, positions)
        pages_of = where.table[slots, positions // PAGE]
        assert_close(where.k_PSKD[pages_of, positions % PAGE], k, output_tolerance(2, torch.float32), 1.0)


@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply:RuntimeWarning")  # of the turned v, not used
def test_infinities_in_v_stay_where_they_are() -> None:
    """v put through the rotation with cosine 1 and sine 0: 0 * inf is NaN in the other half."""
    pages, qkv = pages_for(1, 64, torch.float32), randn(1, 3 * 64)
    qkv[0, 128] = torch.inf
    rope_append(qkv, rope_tables(64, 64), integers(0), pages, integers(0), heads=1)
    assert torch.equal(pages.v_PSKD[pages.table[0, 0], 0, 0], qkv[0, 128:])


def test_what_has_no_page_is_written_nowhere() -> None:
    """Padding of a broken sequence that leaves NaN in page 0, which other padding's masked keys read as 0 * NaN."""
    pages, qkv = pages_for(1, 64, torch.float32), randn(2, 3 * 64) * torch.nan
    pages.k_PSKD[0], pages.v_PSKD[0] = 0, 0
    pages.table[1] = 0
    rope_append(qkv, rope_tables(64, 64), integers(3, 20), pages, integers(1, 1), heads=1)
    assert (pages.k_PSKD[0] == 0).all() and (pages.v_PSKD[0] == 0).all()


def test_without_slots_token_t_has_row_t() -> None:
    """The decode step's form: one token a slot."""
    rope, qkv, positions = rope_tables(64, 64), randn(2, 3 * 64), integers(30, 10)
    first, second = pages_for(1, 64, torch.float32), pages_for(1, 64, torch.float32)
    rope_append(qkv, rope, positions, first, heads=1)
    rope_append(qkv, rope, positions, second, integers(0, 1), heads=1)
    assert_close(first.k_PSKD, second.k_PSKD.double(), 0.0)


def test_no_tokens_change_nothing() -> None:
    """A launch over an empty grid is an error on a GPU."""
    pages = pages_for(1, 64, torch.float32)
    assert rope_append(randn(0, 192), rope_tables(8, 64), integers(), pages, integers(), heads=1).shape == (0, 1, 64)


@pytest.mark.parametrize("broken", ["qkv", "heads", "cos", "positions", "positions dtype", "slots", "strides", "dtype"])
def test_wrong_arguments_are_refused(broken: str) -> None:
    """Out-of-bounds writes in place of an error."""
    pages, rope = pages_for(1, 64, torch.float32), rope_tables(64, 64)
    qkv, positions, slots, heads = randn(2, 3 * 64), integers(1, 2), integers(0, 1), 1
    match broken:
        case "qkv":
            qkv = qkv[:, :128]
        case "heads":
            heads = 2
        case "cos":
            rope = rope_tables(64, 32)
        case "positions":
            positions = integers(1, 2, 3)
        case "positions dtype":
            positions = positions.float()
        case "slots":
            slots = integers(0)
        case "strides":
            pages = pages._replace(v_PSKD=pages.v_PSKD.transpose(0, 1).contiguous().transpose(0, 1))
        case "dtype":
            qkv = qkv.half()
    with pytest.raises(ValueError):
        rope_append(qkv, rope, positions, pages, slots, heads=heads)
