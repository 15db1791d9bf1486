"""One sequence while it is being generated: ids, two views of them, consult state, and what both models said.

A view is one model's side of the sequence: the cache slot that holds a prefix of ``ids``, and how many generated
positions the model's distribution is known for. Everything else (lags, phases, counts) is derived.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from dodona.engine.attention_stats import ATTENTION_SIGNALS
from dodona.engine.ledger import Ledger
from dodona.engine.philox import request_key, uniforms
from dodona.engine.request import Request
from dodona.engine.tokenizer import Tokenizer
from dodona.engine.trigger import ema_column, ema_step

BASE, ORACLE = "base", "oracle"
_DRAWS = 64  # trigger draws made at a time


@dataclass(slots=True)
class View:
    """One model's side of a sequence."""

    slot: int | None = None  # of the model's cache; None: nothing cached (yet, or since a preemption)
    recorded: int = 0  # generated positions whose distribution is known
    shared: int = 0  # tokens that came with another sequence's pages
    high: int = 0  # the longest prefix ever fed, to tell recomputed tokens from new ones


class PromptIds(tuple[int, ...]):
    """A prompt's ids as a key of dictionaries, which is looked up at every tick: hashed once."""

    _hash: int

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            self._hash = super().__hash__()
            return self._hash


class Sequence:
    """Mutable state of one request. The engine feeds it; only ``commit`` appends tokens."""

    def __init__(
        self,
        request: Request,
        prompt_ids: list[int],
        *,
        c: float,
        limit: int,
        eos_ids: frozenset[int],
        tokenizer: Tokenizer,
    ) -> None:
        self.request = request
        self.trigger = request.parsed_trigger
        self.prompt = PromptIds(prompt_ids)
        self.ids = list(prompt_ids)
        self.c = c
        self.samplings = {BASE: request.base_sampling, ORACLE: request.oracle_sampling}
        self.limit = limit  # generated tokens at the most: max_new_tokens, or less where the context ends before
        self.key = derive_key(request, prompt_ids)
        self.step_size = self.trigger.step_size or request.step_size
        self.base, self.oracle = View(), View()
        self.sources = bytearray()  # 0 base, 1 oracle, one a generated token
        self.consult_starts: list[int] = []  # generated-token index of each consult's first oracle token
        self.burst_left = 0
        self.base_run = 0  # base tokens since the start or the last burst
        self.finish_reason: str | None = None
        self.error: str | None = None
        self.ledger = Ledger()
        self.base_rows: list[tuple[float, ...]] = []  # entropy, varentropy, top_prob, margin, top1 by position
        self.base_logprobs: list[float] = []
        self.oracle_rows: list[tuple[float, ...]] = []  # logprob, rank, top1, entropy, margin by position
        self.attention_layer = request.attention_layer
        if self.attention_layer is None and self.trigger.attention and c > 0:
            self.attention_layer = -1
        self.attention_rows: list[list[float]] = []  # the attention signals by position, where they are wanted
        self.hidden: dict[str, list[Tensor]] = {BASE: [], ORACLE: []}  # by model and position, for the divergence
        self.divergence: list[list[float]] = []  # kl, js by position
        self.pending: tuple[Tensor, float] | None = None  # the base's logits [V] and lse where the oracle took over
        self.emas = {(signal, decay): np.float32(np.nan) for signal, decay in self.trigger.emas}
        self._eos_ids, self._tokenizer = eos_ids, tokenizer
        self._stop_window = max((len(text.encode()) for text in request.stop), default=0)
        self._spelled: list[int] = []  # generated ids that have a text, kept where there are stop strings
        self._draws: np.ndarray[Any, Any] | None = None

    # --- derived ---

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return len(self.ids) - len(self.prompt)

    @property
    def finished(self) -> bool:
        """Whether no more tokens will be written."""
        return self.finish_reason is not None

    @property
    def consults(self) -> int:
        """Consults that happened."""
        return len(self.consult_starts)

    @property
    def oracle_written(self) -> int:
        """Tokens that the oracle wrote."""
        return self.ledger.burst_tokens

    @property
    def wants_base(self) -> bool:
        """Whether the base should read on: to write the next token, or to complete its signals of a last burst."""
        if self.finished:
            return self.error is None and self.request.base_tail and self.base.recorded < self.generated
        return self.burst_left == 0

    @property
    def wants_oracle(self) -> bool:
        """Whether the oracle should read on: to write a burst, or for its opinion of the tail where that was asked."""
        if self.finished:
            return self.error is None and self.request.oracle_tail and self.oracle.recorded < self.generated
        return self.burst_left > 0

    @property
    def done(self) -> bool:
        """Whether the sequence can leave the engine."""
        return self.finished and not self.wants_base and not self.wants_oracle

    @property
    def target(self) -> int:
        """How many ids a model should have read: all, or all but the last where nothing follows it."""
        return len(self.ids) - int(self.finished)

    def first_wanted(self, view: View) -> int:
        """Index of the first id after which this model's distribution is not known yet."""
        return len(self.prompt) + view.recorded - 1

    @property
    def burst_room(self) -> int:
        """Tokens that a consult here may write."""
        room = float(min(self.request.k, self.limit - self.generated))
        if self.request.max_oracle_tokens is not None:
            room = min(room, self.request.max_oracle_tokens - self.oracle_written)
        return max(0, int(room))

    @property
    def can_consult(self) -> bool:
        """Whether the budgets allow a consult now."""
        return self.consults < self.c and self.burst_room > 0

    def counters(self, written: int = 0) -> dict[str, float]:
        """The trigger's counters at the next position, or at the one ``written`` base tokens before it."""
        position, base_run = self.generated - written, self.base_run - written
        return {
            "position": position,
            "max_new_tokens": self.request.max_new_tokens,
            "since_consult": position - self.consult_starts[-1] if self.consult_starts else math.inf,
            "consults": self.consults,
            "c": self.c,
            "boundary": base_run % self.step_size == 0,
            "base_run": base_run,
        }

    def draw(self, position: int) -> float:
        """The trigger's uniform draw at a position; made in blocks, each a function of seed, key and position alone."""
        if self._draws is None or position >= len(self._draws):
            self._draws = uniforms(self.key, np.arange((position // _DRAWS + 1) * 2 * _DRAWS))
        return float(self._draws[position])

    # --- events ---

    def record_base(self, row: tuple[float, ...], attention: tuple[float, ...] = ()) -> None:
        """Note the base's distribution of the next position: (entropy, varentropy, top_prob, margin, top1).

        ``attention`` holds the attention signals, where they are wanted.
        """
        self.base.recorded += 1
        self.base_rows.append(row)
        if attention:
            self.attention_rows.append(list(attention))
        if self.emas:
            names = ("entropy", "varentropy", "top_prob", "margin", "top1", *ATTENTION_SIGNALS)
            self._average(dict(zip(names, (*row, *attention), strict=False)))

    def record_logprob(self, value: float) -> None:
        """Note what the base thought of the token that was written at the next position without one."""
        self.base_logprobs.append(value)
        if self.emas:
            self._average({"logprob": value})

    def _average(self, named: dict[str, float]) -> None:
        for signal, decay in self.emas:
            if signal in named:
                previous = self.emas[signal, decay]
                self.emas[signal, decay] = ema_step(previous, np.float32(named[signal]), decay)

    def ema_columns(self) -> dict[str, float]:
        """The moving averages that the trigger uses, by column name."""
        return {ema_column(signal, decay): float(value) for (signal, decay), value in self.emas.items()}

    def begin_consult(self) -> None:
        """Hand the next ``burst_room`` positions to the oracle."""
        self.burst_left = self.burst_room
        self.consult_starts.append(self.generated)
        self.ledger.consults += 1

    def commit(self, token: int, source: str) -> None:
        """Append one token, and finish where it ends the text."""
        self.ids.append(token)
        if source == ORACLE:
            self.sources.append(1)
            self.base_run = 0
            self.burst_left -= 1
            self.ledger.burst_tokens += 1
        else:
            self.sources.append(0)
            self.base_run += 1
            self.ledger.base_tokens += 1
        if token in self._eos_ids:
            self.finish("eos")
        elif self._stop_window and self._stopped():
            self.finish("stop")
        elif self.generated >= self.limit:
            self.finish("length")

    def _stopped(self) -> bool:
        token, tokenizer = self.ids[-1], self._tokenizer
        if token in tokenizer.special_ids or tokenizer.token(token) is None:
            return False  # adds no text
        self._spelled.append(token)
        # The whole text only where its end has one: an end that begins inside a character is not read as the text is.
        for ids in (self._spelled[-(self._stop_window + 8) :], self._spelled):
            text = tokenizer.decode(ids)
            if not any(stop in text for stop in self.request.stop):
                return False
        return True

    def finish(self, reason: str, error: str | None = None) -> None:
        """End the sequence: eos, stop, length, cancelled or error."""
        self.finish_reason, self.error = reason, error
        self.burst_left = 0


def derive_key(request: Request, prompt_ids: list[int]) -> tuple[int, int]:
    """Philox key of a request: its seed, its key (or a hash of its prompt's ids) and its sample number."""
    key = request.key
    if key is None:
        key = ",".join(map(str, prompt_ids))
    return request_key(request.seed, f"{key}#{request.sample}")
