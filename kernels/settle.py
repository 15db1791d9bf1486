"""What follows from one forward of one token a seat, in one launch: signals kept, trigger asked, token committed.

The rules are those of a guided step (docs/design.md, "One step of one sequence"); ``engine/step.py`` has them in plain
torch, for any number of tokens, and is this kernel's reference: some 250 operations on a few numbers each, whose
launches would cost a GPU as much as a small model's forward. Here a program is a seat. It loads the seat's numbers,
decides, and stores them.

Triggers are asked by ``kernels/trigger.py``.

Shape suffixes: S seats, M rows of one launch, L tokens of a sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from dodona.kernels.checks import check_float, check_integer
from dodona.kernels.launch import (
    LLAMA_SHAPES,
    CompileCase,
    check_device,
    let_dependents_start,
    pdl_options,
    pdl_supported,
    signature_of,
    wait_for_producers,
)
from dodona.kernels.trigger import Code, fires

# The seat's numbers by their column; engine/seats.py says what each is, and a test that the two agree.
NAMES: Final = (
    "PHASE", "FINISH", "LENGTH", "PROMPT", "LIMIT", "BASE_LENGTH", "ORACLE_LENGTH", "BASE_SLOT", "ORACLE_SLOT",
    "CONSULTS", "MAX_CONSULTS", "BURST", "BURST_LEFT", "LAST_CONSULT", "ORACLE_WRITTEN", "MAX_ORACLE", "BASE_RUN",
    "STEP_SIZE", "MAX_NEW", "AFTER", "BASE_TAIL", "ORACLE_TAIL", "TRIGGER", "KEY_0", "KEY_1", "ANY_EOS", "PENDING",
    "BROKEN", "BASE_TOP_K", "ORACLE_TOP_K", "BASE_FORWARDS", "PREFILL", "BASE_STEPS", "CATCH_UP", "ORACLE_FORWARDS",
    "SYNC", "ORACLE_STEPS", "WASTED",
)  # fmt: skip
PHASE, FINISH, LENGTH, PROMPT, LIMIT, BASE_LENGTH, ORACLE_LENGTH = (tl.constexpr(i) for i in range(7))
BASE_SLOT, ORACLE_SLOT, CONSULTS, MAX_CONSULTS, BURST, BURST_LEFT = (tl.constexpr(i) for i in range(7, 13))
LAST_CONSULT, ORACLE_WRITTEN, MAX_ORACLE, BASE_RUN, STEP_SIZE, MAX_NEW = (tl.constexpr(i) for i in range(13, 19))
AFTER, BASE_TAIL, ORACLE_TAIL, TRIGGER, KEY_0, KEY_1, ANY_EOS = (tl.constexpr(i) for i in range(19, 26))
PENDING, BROKEN, BASE_TOP_K, ORACLE_TOP_K, BASE_FORWARDS, PREFILL = (tl.constexpr(i) for i in range(26, 32))
BASE_STEPS, CATCH_UP, ORACLE_FORWARDS, SYNC, ORACLE_STEPS, WASTED = (tl.constexpr(i) for i in range(32, 38))
UNLIMITED = tl.constexpr(1 << 40)
NOT_FINISHED, BY_EOS, BY_LENGTH, BY_NAN = (tl.constexpr(i) for i in (0, 1, 2, 4))  # of the base; the oracle's is 5
NOBODY, FOR_BASE, FOR_ORACLE = (tl.constexpr(i) for i in range(3))
RECORD_COLUMNS: Final = 9  # phase, finish, length, base length, oracle length, broken, fed, token, consult

_BLOCK, _WARPS, _ROWS = 1024, 4, 32


class Seated(NamedTuple):
    """The tensors of all seats, as ``engine.seats.Seats`` holds them."""

    numbers: Tensor  # [S, len(NAMES)] int64
    ids: Tensor  # [S, L+1] int64, the last place for what nobody wants
    base: Tensor  # [S, L+1, 6] float32
    oracle: Tensor  # [S, L+1, 5] float32
    draws: Tensor  # [S, L+1] float32
    pending: Tensor  # [S, V] the model's dtype: the base's logits where a consult began
    pending_lse: Tensor  # [S] float32, nats
    eos: Tensor  # [3, V] bool


class Scored(NamedTuple):
    """What the model said of each row's next token; all ``[M]``."""

    lse: Tensor  # float32, NaN for a broken row
    entropy: Tensor  # float32
    varentropy: Tensor  # float32
    top_prob: Tensor  # float32
    margin: Tensor  # float32
    top1: Tensor  # int64
    token: Tensor  # int64, the model's choice
    token_logprob: Tensor  # float32
    given_logprob: Tensor  # float32, of the token that is written there already
    rank: Tensor | None  # float32, of the written token or the choice; the oracle's only


@triton.jit
def _burst_room(burst, limit, generated, most, written):
    """Tokens that a consult here may write."""
    return tl.maximum(tl.minimum(tl.minimum(burst, limit - generated), most - written), 0)


@triton.jit
def _settle_kernel(
    numbers_ptr, ids_ptr, base_ptr, oracle_ptr, draws_ptr, pending_ptr, pending_lse_ptr, eos_ptr, rows_ptr, logits_ptr,
    lse_ptr, entropy_ptr, varentropy_ptr, top_prob_ptr, margin_ptr, top1_ptr, token_ptr, token_logprob_ptr,
    given_logprob_ptr, rank_ptr, record_ptr, stride_numbers, stride_ids, stride_draws, stride_logits, L,
    V: tl.constexpr, IS_BASE: tl.constexpr, CODE: tl.constexpr, COUNT: tl.constexpr, BLOCK: tl.constexpr,
    USE_PDL: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64)
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    row = tl.load(rows_ptr + m)
    at = numbers_ptr + row * stride_numbers
    phase, finish = tl.load(at + PHASE), tl.load(at + FINISH)
    length, prompt = tl.load(at + LENGTH), tl.load(at + PROMPT)
    base_length, oracle_length = tl.load(at + BASE_LENGTH), tl.load(at + ORACLE_LENGTH)
    consults, burst_left = tl.load(at + CONSULTS), tl.load(at + BURST_LEFT)
    last_consult, oracle_written = tl.load(at + LAST_CONSULT), tl.load(at + ORACLE_WRITTEN)
    run, pending, broken_at = tl.load(at + BASE_RUN), tl.load(at + PENDING), tl.load(at + BROKEN)
    limit = tl.load(at + LIMIT)
    generated = length - prompt

    active = phase == (FOR_BASE if IS_BASE else FOR_ORACLE)
    start = base_length if IS_BASE else oracle_length
    lag = length - (finish != NOT_FINISHED).to(tl.int64) - start
    fed = tl.where(active, tl.minimum(tl.maximum(lag, 0), 1), 0)
    stop = start + fed
    position = stop - prompt  # the generated position that the forward predicts
    if IS_BASE:
        base_length = stop
        of_prompt = tl.maximum(tl.minimum(prompt, stop) - start, 0)
        tl.store(at + BASE_FORWARDS, tl.load(at + BASE_FORWARDS) + fed)
        tl.store(at + PREFILL, tl.load(at + PREFILL) + of_prompt)
        tl.store(at + BASE_STEPS, tl.load(at + BASE_STEPS) + fed - of_prompt)
    else:
        oracle_length = stop
        step = tl.where((finish == NOT_FINISHED) & (generated > last_consult), fed, 0)
        tl.store(at + ORACLE_FORWARDS, tl.load(at + ORACLE_FORWARDS) + fed)
        tl.store(at + ORACLE_STEPS, tl.load(at + ORACLE_STEPS) + step)
        tl.store(at + SYNC, tl.load(at + SYNC) + fed - step)

    wanted = (fed > 0) & (position >= 0)
    due = wanted & (finish == NOT_FINISHED) & (stop == length)
    known = wanted & ((finish != NOT_FINISHED) | (stop != length))
    lse = tl.load(lse_ptr + m)
    broken = wanted & (lse != lse)
    broken_at = tl.where(broken, position, broken_at)
    finish = tl.where(broken, BY_NAN if IS_BASE else BY_NAN + 1, finish)
    due = due & (lse == lse)

    entropy, varentropy = tl.load(entropy_ptr + m), tl.load(varentropy_ptr + m)
    top_prob, margin = tl.load(top_prob_ptr + m), tl.load(margin_ptr + m)
    top1 = tl.load(top1_ptr + m).to(tl.float32)
    token = tl.load(token_ptr + m)
    logprob = tl.where(due, tl.load(token_logprob_ptr + m), tl.load(given_logprob_ptr + m))
    place = tl.where(due | known, position, L)
    burst, most = tl.load(at + BURST), tl.load(at + MAX_ORACLE)
    budget = tl.load(at + MAX_CONSULTS)
    room = _burst_room(burst, limit, generated, most, oracle_written)
    writes = due
    consult = due & (due != due)
    if IS_BASE:
        after = tl.load(at + AFTER) > 0
        if COUNT > 0:
            step_size = tl.maximum(tl.load(at + STEP_SIZE), 1)
            since = tl.where(last_consult < 0, float("inf"), (generated - last_consult).to(tl.float32))
            whole = tl.where(budget >= UNLIMITED, float("inf"), budget.to(tl.float32))
            fired = fires(
                tl.load(at + TRIGGER), entropy, varentropy, top_prob, margin, logprob, generated.to(tl.float32),
                tl.load(at + MAX_NEW).to(tl.float32), since, consults.to(tl.float32), whole,
                (run % step_size == 0).to(tl.float32), run.to(tl.float32),
                tl.load(draws_ptr + row * stride_draws + tl.minimum(tl.maximum(generated, 0), L)), CODE, COUNT,
            )  # fmt: skip
            allowed = consults < budget
            consult = due & fired & allowed & (room > 0) & (after == 0)
            writes = due & (consult == 0)
            pending = tl.where(consult, 1, pending)
            tl.store(at + WASTED, tl.load(at + WASTED) + consult.to(tl.int64))
            if consult:
                tl.store(pending_lse_ptr + row, lse)
                for first in range(0, V, BLOCK):
                    v = first + tl.arange(0, BLOCK)
                    kept = tl.load(logits_ptr + m * stride_logits + v, mask=v < V, other=0.0)
                    tl.store(pending_ptr + row * V + v, kept, mask=v < V)
        out = base_ptr + (row * (L + 1) + place) * 6
        tl.store(out, entropy)
        tl.store(out + 1, varentropy)
        tl.store(out + 2, top_prob)
        tl.store(out + 3, margin)
        tl.store(out + 4, top1)
        tl.store(out + 5, tl.where(known | writes, logprob, float("nan")))
    else:
        out = oracle_ptr + (row * (L + 1) + place) * 5
        tl.store(out, logprob)
        tl.store(out + 1, tl.load(rank_ptr + m))
        tl.store(out + 2, top1)
        tl.store(out + 3, entropy)
        tl.store(out + 4, margin)
        # What the base thought of the token that took its place
        lost = tl.load(pending_ptr + row * V + token).to(tl.float32) - tl.load(pending_lse_ptr + row)
        lost_place = tl.where(due & (pending > 0), position, L)
        tl.store(base_ptr + (row * (L + 1) + lost_place) * 6 + 5, lost)
        pending = tl.where(due, 0, pending)

    # Commit
    tl.store(ids_ptr + row * stride_ids + tl.where(writes, length, L), token)
    one = writes.to(tl.int64)
    length += one
    generated += one
    if IS_BASE:
        run += one
    else:
        run = tl.where(writes, 0, run)
        oracle_written += one
        burst_left -= one
    finish = tl.where(writes & (generated >= limit), BY_LENGTH, finish)
    ends = tl.load(eos_ptr + tl.load(at + ANY_EOS) * V + token).to(tl.int1)
    finish = tl.where(writes & ends, BY_EOS, finish)
    burst_left = tl.where(finish != NOT_FINISHED, 0, burst_left)
    if IS_BASE:  # noqa: SIM102 - `and` would join two values of the device
        if COUNT > 0:
            room = _burst_room(burst, limit, generated, most, oracle_written)
            consult = consult | (writes & fired & allowed & (room > 0) & after & (finish == NOT_FINISHED))
            last_consult = tl.where(consult, generated, last_consult)
            burst_left = tl.where(consult, room, burst_left)
            consults += consult.to(tl.int64)

    # Whom the seat waits for now
    behind_base = (tl.load(at + BASE_TAIL) > 0) & (tl.maximum(base_length - prompt + 1, 0) < generated)
    behind_oracle = (tl.load(at + ORACLE_TAIL) > 0) & (tl.maximum(oracle_length - prompt + 1, 0) < generated)
    tail = tl.where(behind_base, FOR_BASE, tl.where(behind_oracle, FOR_ORACLE, NOBODY))
    going = tl.where(burst_left > 0, FOR_ORACLE, FOR_BASE)
    next_phase = tl.where(finish == NOT_FINISHED, going, tl.where(finish >= BY_NAN, NOBODY, tail))
    phase = tl.where(active, next_phase.to(tl.int64), phase)

    tl.debug_barrier()  # one thread stores: not before every other has loaded, or they decide on numbers of both times
    tl.store(at + PHASE, phase)
    tl.store(at + FINISH, finish)
    tl.store(at + LENGTH, length)
    tl.store(at + (BASE_LENGTH if IS_BASE else ORACLE_LENGTH), stop)
    tl.store(at + CONSULTS, consults)
    tl.store(at + BURST_LEFT, burst_left)
    tl.store(at + LAST_CONSULT, last_consult)
    tl.store(at + ORACLE_WRITTEN, oracle_written)
    tl.store(at + BASE_RUN, run)
    tl.store(at + PENDING, pending)
    tl.store(at + BROKEN, broken_at)
    out = record_ptr + m * 9
    tl.store(out, phase)
    tl.store(out + 1, finish)
    tl.store(out + 2, length)
    tl.store(out + 3, base_length)
    tl.store(out + 4, oracle_length)
    tl.store(out + 5, broken_at)
    tl.store(out + 6, fed)
    tl.store(out + 7, tl.where(writes, token, -1))
    tl.store(out + 8, consult.to(tl.int64))


@triton.jit
def _feed_kernel(
    numbers_ptr, ids_ptr, rows_ptr, token_ptr, given_ptr, start_ptr, slot_ptr, position_ptr, keys_ptr, stride_numbers,
    stride_ids, L, M, IS_BASE: tl.constexpr, BLOCK: tl.constexpr, USE_PDL: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = m < M
    wait_for_producers(USE_PDL)
    let_dependents_start(USE_PDL)
    row = tl.load(rows_ptr + m, mask=live, other=0)
    at = numbers_ptr + row * stride_numbers
    length = tl.load(at + LENGTH, mask=live, other=0)
    start = tl.load(at + (BASE_LENGTH if IS_BASE else ORACLE_LENGTH), mask=live, other=0)
    phase, finish = tl.load(at + PHASE, mask=live, other=0), tl.load(at + FINISH, mask=live, other=0)
    lag = length - (finish != NOT_FINISHED).to(tl.int64) - start
    reads = live & (phase == (FOR_BASE if IS_BASE else FOR_ORACLE)) & (lag > 0)
    token = tl.load(ids_ptr + row * stride_ids + tl.minimum(start, L), mask=reads, other=0)
    given = tl.load(ids_ptr + row * stride_ids + tl.minimum(start + 1, L), mask=live, other=0)
    tl.store(token_ptr + m, token, mask=live)
    tl.store(given_ptr + m, given, mask=live)
    tl.store(start_ptr + m, start, mask=live)
    tl.store(slot_ptr + m, tl.load(at + (BASE_SLOT if IS_BASE else ORACLE_SLOT), mask=live, other=0), mask=live)
    tl.store(position_ptr + m, length - tl.load(at + PROMPT, mask=live, other=0), mask=live)
    tl.store(keys_ptr + 2 * m, tl.load(at + KEY_0, mask=live, other=0), mask=live)
    tl.store(keys_ptr + 2 * m + 1, tl.load(at + KEY_1, mask=live, other=0), mask=live)


class Fed(NamedTuple):
    """What a forward of one token a seat starts from; all int64."""

    token_M: Tensor  # the id to read; 0 for a seat that reads none
    given_M: Tensor  # the id after it, where one is written
    start_M: Tensor  # ids that the model's cache holds
    slot_M: Tensor
    position_M: Tensor  # tokens generated so far
    keys_M2: Tensor  # Philox keys


def feed(numbers: Tensor, ids: Tensor, rows_M: Tensor, *, is_base: bool) -> Fed:
    """Gather what the seats ``rows_M`` read next; one launch. ``numbers`` and ``ids`` are those of ``Seated``.

    Raises:
        ValueError: other shapes, dtypes, strides or devices.
    """
    rows, device = len(rows_M), check_device(numbers=numbers, ids=ids, rows=rows_M)
    check_integer("rows", rows_M, (rows,))
    if numbers.shape[1:] != (len(NAMES),) or not numbers.is_contiguous() or not ids.is_contiguous():
        raise ValueError(f"numbers must be a contiguous [seats, {len(NAMES)}] and ids contiguous")
    columns = torch.empty(5, rows, dtype=torch.int64, device=device)
    keys_M2 = torch.empty(rows, 2, dtype=torch.int64, device=device)
    if rows:
        use_pdl = pdl_supported(device)
        _feed_kernel[(triton.cdiv(rows, _ROWS),)](
            numbers, ids, rows_M, *columns, keys_M2, numbers.stride(0), ids.stride(0), ids.shape[1] - 1, rows,
            IS_BASE=is_base, BLOCK=_ROWS, USE_PDL=use_pdl, num_warps=1, **pdl_options(use_pdl),
        )  # fmt: skip
    token_M, given_M, start_M, slot_M, position_M = columns
    return Fed(token_M, given_M, start_M, slot_M, position_M, keys_M2)


def settle(
    seated: Seated, rows_M: Tensor, scored: Scored, logits_MV: Tensor | None, code: Code, *, is_base: bool
) -> Tensor:
    """Settle one forward of one token each for the seats ``rows_M``; writes all of ``seated`` but eos and draws.

    Args:
        rows_M: int64, contiguous. A seat may stand there once, but for an empty one, which nothing happens to.
        scored: of the forward's rows.
        logits_MV: of the same rows, kept where a consult begins; needed where ``code`` is not empty.
        code: of the triggers in use, by ``code_of``; empty: nobody consults.
        is_base: whose forward it was.

    Returns:
        The record, ``[M, 9]`` int64: phase, finish, length, base's and oracle's length, broken, fed, token or -1,
        consult.

    Raises:
        ValueError: other shapes, dtypes, strides or devices.
    """
    rows, (seats, width), vocab = len(rows_M), seated.ids.shape, seated.pending.shape[1]
    check_integer("rows", rows_M, (rows,))
    for name, tensor, shape in (
        ("numbers", seated.numbers, (seats, len(NAMES))),
        ("ids", seated.ids, (seats, width)),
        ("eos", seated.eos, (3, vocab)),
    ):
        if tuple(tensor.shape) != shape or not tensor.is_contiguous():
            raise ValueError(f"{name} must be a contiguous {list(shape)}, not {list(tensor.shape)}")
    for name, tensor, columns in (("base", seated.base, 6), ("oracle", seated.oracle, 5)):
        if tuple(tensor.shape) != (seats, width, columns) or not tensor.is_contiguous():
            raise ValueError(f"{name} must be a contiguous {[seats, width, columns]}, not {list(tensor.shape)}")
    if scored.rank is None and not is_base:
        raise ValueError("the oracle's forward needs the ranks of its tokens")
    if code and (logits_MV is None or not is_base):
        raise ValueError("triggers are asked after a forward of the base, with its logits")
    check_float("pending", seated.pending, (seats, vocab))
    given = {name: tensor for name, tensor in scored._asdict().items() if tensor is not None}
    for name, tensor in given.items():
        if tuple(tensor.shape) != (rows,) or (rows > 1 and tensor.stride(0) != 1):
            raise ValueError(f"{name} must be a dense [{rows}], not {list(tensor.shape)}")
    device = check_device(rows=rows_M, logits=logits_MV, **seated._asdict(), **given)
    record_M9 = torch.empty(rows, RECORD_COLUMNS, dtype=torch.int64, device=device)
    if rows == 0:
        return record_M9
    use_pdl = pdl_supported(device)
    _settle_kernel[(rows,)](
        seated.numbers, seated.ids, seated.base, seated.oracle, seated.draws, seated.pending, seated.pending_lse,
        seated.eos.view(torch.uint8), rows_M, logits_MV, scored.lse, scored.entropy, scored.varentropy,
        scored.top_prob, scored.margin, scored.top1, scored.token, scored.token_logprob, scored.given_logprob,
        scored.rank, record_M9, seated.numbers.stride(0), width, seated.draws.stride(0),
        0 if logits_MV is None else logits_MV.stride(0), width - 1, V=vocab, IS_BASE=is_base, CODE=code,
        COUNT=len(code) // 3, BLOCK=_BLOCK, USE_PDL=use_pdl, num_warps=_WARPS, enable_fp_fusion=False,
        **pdl_options(use_pdl),
    )  # fmt: skip
    return record_M9


def compile_cases() -> Iterator[CompileCase]:
    """Both models' kernels, with a trigger that has every operation, at the one vocabulary."""
    shape = LLAMA_SHAPES[0]
    tensors: dict[str, Any] = {"numbers_ptr": torch.int64, "ids_ptr": torch.int64, "base_ptr": torch.float32}
    tensors |= dict.fromkeys(("oracle_ptr", "draws_ptr", "pending_lse_ptr"), torch.float32)
    tensors |= {"pending_ptr": torch.bfloat16}
    tensors |= {"eos_ptr": torch.uint8, "rows_ptr": torch.int64, "logits_ptr": torch.bfloat16, "lse_ptr": torch.float32}
    tensors |= dict.fromkeys(("entropy_ptr", "varentropy_ptr", "top_prob_ptr", "margin_ptr"), torch.float32)
    tensors |= {"top1_ptr": torch.int64, "token_ptr": torch.int64, "token_logprob_ptr": torch.float32}
    tensors |= {"given_logprob_ptr": torch.float32, "rank_ptr": torch.float32, "record_ptr": torch.int64}
    numbers: dict[str, Any] = {"stride_numbers": len(NAMES), "stride_ids": 8193, "stride_draws": 8193}
    numbers |= {"stride_logits": shape.vocab, "L": 8192}
    code = (0, 0, 0, 1, 1, 2.0, 10, 0, 0, 0, 1, 5, 19, 1, 3.0, 14, 0, 0, 22, 0, 0)
    feeds: dict[str, Any] = dict.fromkeys(
        ("numbers_ptr", "ids_ptr", "rows_ptr", "token_ptr", "given_ptr", "start_ptr"), torch.int64
    )
    feeds |= dict.fromkeys(("slot_ptr", "position_ptr", "keys_ptr"), torch.int64)
    feeds |= {"stride_numbers": len(NAMES), "stride_ids": 8193, "L": 8192, "M": 64}
    for name, is_base, given in (("base", True, code), ("oracle", False, ())):
        yield CompileCase(
            name=f"feed {name}",
            fn=_feed_kernel,
            signature=signature_of(**feeds),
            constexprs={"IS_BASE": is_base, "BLOCK": _ROWS},
            num_warps=1,
            num_stages=1,
        )
        yield CompileCase(
            name=f"settle {name}",
            fn=_settle_kernel,
            signature=signature_of(**tensors, **numbers),
            constexprs={"V": shape.vocab, "IS_BASE": is_base, "CODE": given, "COUNT": len(given) // 3, "BLOCK": _BLOCK},
            num_warps=_WARPS,
            num_stages=1,
        )
