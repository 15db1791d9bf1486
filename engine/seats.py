"""The state of every running sequence on the device: one row ("seat") of a few tensors, written by the step programs.

The host writes a seat when a sequence takes it, when a stop string cuts its text, and when it leaves; in between only
the step programs (step.py) change it, and the host follows by their records. One seat more than the batch has, the
last, is always empty: programs of a fixed size are padded with it.

Shape suffixes: S seats, M rows of one program, L tokens of a sequence, A moving averages, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dodona.engine.philox import uniforms
from dodona.engine.sampling import Sampling
from dodona.engine.sequence import Sequence

UNLIMITED = 1 << 40  # stands for an infinite budget
BASE_COLUMNS = ("entropy", "varentropy", "top_prob", "margin", "top1", "logprob")
ORACLE_COLUMNS = ("logprob", "rank", "top1", "entropy", "margin")


class Phase(IntEnum):
    """Which model a seat waits for."""

    NOBODY = 0  # empty, or its sequence is done
    BASE = 1
    ORACLE = 2


class Finish(IntEnum):
    """Why a seat's text ended."""

    NOT = 0
    EOS = 1
    LENGTH = 2
    HOST = 3  # the host ended it: a stop string
    NAN_BASE = 4
    NAN_ORACLE = 5
    TRIGGER = 6  # its trigger raised an error


class Column(IntEnum):
    """Whole numbers of a seat, by their column in ``Seats.numbers``."""

    PHASE = 0
    FINISH = 1
    LENGTH = 2  # ids, the prompt's included
    PROMPT = 3
    LIMIT = 4  # generated tokens at the most
    BASE_LENGTH = 5  # ids in the base's cache
    ORACLE_LENGTH = 6
    BASE_SLOT = 7
    ORACLE_SLOT = 8
    CONSULTS = 9
    MAX_CONSULTS = 10  # c
    BURST = 11  # k
    BURST_LEFT = 12
    LAST_CONSULT = 13  # generated-token index of the last consult's first token; -1: none yet
    ORACLE_WRITTEN = 14
    MAX_ORACLE = 15
    BASE_RUN = 16  # base tokens since the start or the last burst
    STEP_SIZE = 17
    MAX_NEW = 18
    AFTER = 19  # 1: the trigger decides after the base's token is committed
    BASE_TAIL = 20
    ORACLE_TAIL = 21
    TRIGGER = 22  # its number among the triggers in use; -1: none can fire
    KEY_0 = 23  # Philox key
    KEY_1 = 24
    ANY_EOS = 25  # whose end tokens end the text: 0 the base's, 1 either model's, 2 none
    PENDING = 26  # 1: the base's distribution waits for the oracle's token of this position
    BROKEN = 27  # generated position of NaN logits
    BASE_TOP_K = 28
    ORACLE_TOP_K = 29
    # the ledger's counts
    BASE_FORWARDS = 30
    PREFILL = 31
    BASE_STEPS = 32
    CATCH_UP = 33
    ORACLE_FORWARDS = 34
    SYNC = 35
    ORACLE_STEPS = 36
    WASTED = 37


LEDGER: Mapping[str, Column] = {
    "base_forwards": Column.BASE_FORWARDS,
    "prefill_tokens": Column.PREFILL,
    "base_steps": Column.BASE_STEPS,
    "catch_up_tokens": Column.CATCH_UP,
    "oracle_forwards": Column.ORACLE_FORWARDS,
    "sync_tokens": Column.SYNC,
    "oracle_steps": Column.ORACLE_STEPS,
    "wasted_steps": Column.WASTED,
}


class Seats:
    """The tensors. ``epoch`` counts how often they were made anew, larger: what was captured before is worthless."""

    def __init__(self, seats: int, vocab: int, dtype: torch.dtype, device: torch.device) -> None:
        self.spare, self.device = seats, device
        count = seats + 1
        self.epoch = 0
        self.length, self.averages = 0, 0
        self.numbers = torch.zeros(count, len(Column), dtype=torch.int64, device=device)  # [S, columns]
        # [S, base and oracle, temperature and top-p and min-p]
        self.sampling = torch.ones(count, 2, 3, dtype=torch.float32, device=device)
        self.pending = torch.zeros(count, vocab, dtype=dtype, device=device)  # [S, V] the base's logits of a consult
        self.pending_lse = torch.zeros(count, dtype=torch.float32, device=device)  # [S]
        self.reserve(1, 0)

    def reserve(self, tokens: int, averages: int) -> None:
        """Make room for sequences of so many tokens, and so many moving averages each; what is there is kept."""
        if tokens <= self.length and averages <= self.averages:
            return
        old = self._tables() if self.epoch else ()
        self.length = max(self.length, 1 << max(8, (tokens - 1).bit_length()))
        self.averages = max(self.averages, averages)
        count, width = self.spare + 1, self.length + 1  # one place more, where what nobody wants is written

        def nothing(*shape: int) -> Tensor:
            return torch.full(shape, math.nan, dtype=torch.float32, device=self.device)

        self.ids = torch.zeros(count, width, dtype=torch.int64, device=self.device)  # [S, L]
        self.base = nothing(count, width, len(BASE_COLUMNS))  # by generated position
        self.oracle = nothing(count, width, len(ORACLE_COLUMNS))  # by generated position
        self.draws = nothing(count, width)  # [S, L] the trigger's uniform draws
        self.emas = nothing(count, self.averages)  # [S, A]
        for before, after in zip(old, self._tables(), strict=False):
            after[:, : before.shape[1]] = before
        self.epoch += 1

    def _tables(self) -> tuple[Tensor, ...]:
        return self.ids, self.base, self.oracle, self.draws, self.emas

    def take(self, seat: int, sequence: Sequence, *, trigger: int, base_slot: int, base_length: int) -> None:
        """Write a sequence that has generated nothing yet into a seat.

        Args:
            trigger: the number of its trigger.
            base_slot: its slot of the base's cache, which holds ``base_length`` of its ids.
        """
        request, prompt = sequence.request, sequence.prompt
        values = {
            Column.PHASE: Phase.BASE,
            Column.LENGTH: len(prompt),
            Column.PROMPT: len(prompt),
            Column.LIMIT: sequence.limit,
            Column.BASE_LENGTH: base_length,
            Column.BASE_SLOT: base_slot,
            Column.MAX_CONSULTS: _whole(sequence.c),
            Column.BURST: _whole(request.k),
            Column.LAST_CONSULT: -1,
            Column.MAX_ORACLE: UNLIMITED if request.max_oracle_tokens is None else request.max_oracle_tokens,
            Column.STEP_SIZE: sequence.step_size,
            Column.MAX_NEW: request.max_new_tokens,
            Column.AFTER: request.when == "after",
            Column.BASE_TAIL: request.base_tail,
            Column.ORACLE_TAIL: request.oracle_tail,
            Column.TRIGGER: trigger,
            Column.KEY_0: sequence.key[0],
            Column.KEY_1: sequence.key[1],
            Column.ANY_EOS: 2 if request.ignore_eos else sequence.c > 0,
            Column.BASE_TOP_K: request.base_sampling.top_k,
            Column.ORACLE_TOP_K: request.oracle_sampling.top_k,
        }
        self.set(seat, dict.fromkeys(Column, 0) | values)
        settings = [_floats(request.base_sampling), _floats(request.oracle_sampling)]
        self.sampling[seat] = self._send(settings, torch.float32)
        self.ids[seat, : len(prompt)] = self._send(list(prompt), torch.int64)
        self.base[seat], self.oracle[seat] = math.nan, math.nan
        if self.averages:
            self.emas[seat] = math.nan
        if "u" in sequence.trigger.names:
            draws: Any = uniforms(sequence.key, np.arange(sequence.limit))
            self.draws[seat, : sequence.limit] = self._send(draws, torch.float32)

    def set(self, seat: int, values: Mapping[Column, int]) -> None:
        """Write some numbers of a seat."""
        columns = self._send([int(column) for column in values], torch.int64)
        self.numbers[seat, columns] = self._send([int(value) for value in values.values()], torch.int64)

    def _send(self, values: Any, dtype: torch.dtype) -> Tensor:
        """To the device without waiting for it: from memory that it can read by itself."""
        tensor = torch.as_tensor(values, dtype=dtype, device="cpu")
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def _whole(budget: float) -> int:
    return UNLIMITED if math.isinf(budget) else int(budget)


def _floats(sampling: Sampling) -> tuple[float, float, float]:
    return sampling.temperature, sampling.top_p, sampling.min_p
