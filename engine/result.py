"""What a finished sequence gives back: text, segments by source, signals by position, ledger, and its JSON record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from dodona.engine.attention_stats import ATTENTION_SIGNALS
from dodona.engine.errors import DodonaError
from dodona.engine.ledger import Ledger
from dodona.engine.philox import uniforms
from dodona.engine.request import Request, plain
from dodona.engine.sequence import BASE, ORACLE, Sequence
from dodona.engine.signals import BASE_SIGNALS, ORACLE_SIGNALS
from dodona.engine.tokenizer import IncrementalDecoder, Tokenizer

Array = np.ndarray[Any, Any]


class Segment(NamedTuple):
    """A run of tokens of one source; every consult starts a segment of its own."""

    source: str  # "base" or "oracle"
    text: str  # the segments' texts concatenate to the result's text
    token_ids: list[int]


class Token(NamedTuple):
    """One generated token."""

    position: int  # generated-token index
    id: int
    text: str  # of this token alone; bytes that are no UTF-8 by themselves show as U+FFFD
    source: str  # "base" or "oracle"


@dataclass(frozen=True, eq=False, repr=False)  # arrays neither compare nor hash, and a notebook would show them all
class Result:
    """One finished request. Arrays have one entry a generated token."""

    request: Request
    prompt_ids: list[int]
    ids: list[int]  # generated, an end token included
    text: str
    segments: list[Segment]
    cheat_positions: list[int]  # generated-token index of each consult's first oracle token
    signals: Mapping[str, Array]  # float32 by name, the README's and base_top1; NaN where a model has not looked
    finish_reason: str  # eos, stop, length, cancelled or error
    error: str | None
    ledger: Ledger
    c: float  # the consult budget, the default resolved
    key: tuple[int, int]  # Philox key of its draws
    base_model_id: str
    oracle_model_id: str | None
    sources: Array  # uint8, 0 base, 1 oracle
    _tokenizer: Tokenizer

    def __repr__(self) -> str:
        return (
            f"Result(text={self.text!r}, finish_reason={self.finish_reason!r}, error={self.error!r}, "
            f"tokens={len(self.ids)}, consults={self.consults})"
        )

    @property
    def consults(self) -> int:
        """Consults that happened."""
        return len(self.cheat_positions)

    @property
    def token_ids(self) -> list[int]:
        """The generated ids, as segments call theirs."""
        return self.ids

    @property
    def oracle_share(self) -> float:
        """Share of the generated tokens that the oracle wrote; 0 for an empty text."""
        return float(self.sources.mean()) if len(self.sources) else 0.0

    @cached_property
    def draws(self) -> Array:
        """The trigger's uniform draw u at each position, float32, whether or not the trigger looked at it."""
        draws: Array = uniforms(self.key, np.arange(len(self.ids)))
        return draws

    @cached_property
    def tokens(self) -> list[Token]:
        """The generated tokens one by one."""
        names = (BASE, ORACLE)
        return [
            Token(position, token, self._tokenizer.token_text(token), names[source])
            for position, (token, source) in enumerate(zip(self.ids, self.sources, strict=True))
        ]

    def token_text(self, token_id: int) -> str:
        """The text of one token alone; bytes that are no UTF-8 by themselves show as U+FFFD."""
        return self._tokenizer.token_text(token_id)

    def raise_for_error(self) -> Result:
        """This result, unless it failed: then its reason as a DodonaError."""
        if self.error is not None:
            raise DodonaError(self.error)
        return self

    def record(self) -> dict[str, Any]:
        """The JSON object of this run, without the fields that need a gold answer."""
        request = self.request
        prompt = request.prompt
        return {
            "c": json_number(self.c),
            "k": json_number(request.k),
            "base_model_id": self.base_model_id,
            "oracle_model_id": self.oracle_model_id,
            "prompt": prompt if isinstance(prompt, str) else list(map(plain, prompt)),
            "result": self.text,
            "interleaved_outputs": [segment._asdict() for segment in self.segments],
            "cheat_positions": self.cheat_positions,
            "total_tokens_generated": len(self.ids),
            "problem_id": request.id,
            "seed": request.seed,
            "sample": request.sample,
            "trigger": request.parsed_trigger.text,
            "when": request.when,
            "finish_reason": self.finish_reason,
            "error": self.error,
            "max_new_tokens": request.max_new_tokens,
            "step_size": request.step_size,
            "ledger": self.ledger.as_dict(),
        }


def json_number(value: float) -> float | str:
    """A budget as JSON can hold it: whole numbers as integers, infinity as the text ``inf``."""
    if math.isinf(value):
        return "inf"
    return int(value) if float(value).is_integer() else value


def make_result(sequence: Sequence, tokenizer: Tokenizer, base_model_id: str, oracle_model_id: str | None) -> Result:
    """The result of a finished sequence."""
    ids = sequence.ids[len(sequence.prompt) :]
    text = tokenizer.decode(ids)
    return Result(
        request=sequence.request,
        prompt_ids=list(sequence.prompt),
        ids=ids,
        text=text,
        segments=_segments(sequence, ids, text, tokenizer),
        cheat_positions=[start for start in sequence.consult_starts if start < len(ids)],
        signals=_signals(sequence, len(ids)),
        finish_reason=sequence.finish_reason or "cancelled",
        error=sequence.error,
        ledger=sequence.ledger,
        c=sequence.c,
        key=sequence.key,
        base_model_id=base_model_id,
        oracle_model_id=oracle_model_id,
        sources=np.frombuffer(bytes(sequence.sources), dtype=np.uint8),
        _tokenizer=tokenizer,
    )


def failed_result(
    item: object, reason: str, tokenizer: Tokenizer, base_model_id: str, oracle_model_id: str | None
) -> Result:
    """The result of something that never became a sequence: no tokens, and the reason."""
    request = item if isinstance(item, Request) else Request(prompt="")
    empty = np.zeros(0, dtype=np.float32)
    return Result(
        request=request,
        prompt_ids=[],
        ids=[],
        text="",
        segments=[],
        cheat_positions=[],
        signals={name: empty for name in (*BASE_SIGNALS, *ORACLE_SIGNALS, "base_top1")},
        finish_reason="error",
        error=reason,
        ledger=Ledger(),
        c=request.c or 0,
        key=(0, 0),
        base_model_id=base_model_id,
        oracle_model_id=oracle_model_id,
        sources=np.zeros(0, dtype=np.uint8),
        _tokenizer=tokenizer,
    )


def _segments(sequence: Sequence, ids: list[int], text: str, tokenizer: Tokenizer) -> list[Segment]:
    starts = set(sequence.consult_starts)
    runs: list[tuple[str, list[int]]] = []
    for position, (token, source) in enumerate(zip(ids, sequence.sources, strict=True)):
        name = ORACLE if source else BASE
        if not runs or runs[-1][0] != name or position in starts:
            runs.append((name, []))
        runs[-1][1].append(token)
    texts = [tokenizer.decode(run) for _, run in runs]
    if "".join(texts) != text:  # a character's bytes span a hand-off: it goes to the run that completes it
        decoder = IncrementalDecoder(tokenizer)
        texts = ["".join(decoder.push(token) for token in run) for _, run in runs]
        texts[-1] += decoder.flush()
    return [Segment(name, piece, run) for (name, run), piece in zip(runs, texts, strict=True)]


def _signals(sequence: Sequence, length: int) -> dict[str, Array]:
    # A device that ran ahead of the host may have looked at positions that nobody asked it for.
    seen = sequence.base.recorded
    base = _columns(sequence.base_rows[:seen], 5, length)
    oracle = _columns(sequence.oracle_rows[: sequence.oracle.recorded], 5, length)
    logprobs = _columns([(value,) for value in sequence.base_logprobs[:seen]], 1, length)
    agree = np.where(np.isnan(base[4]) | np.isnan(oracle[2]), np.nan, base[4] == oracle[2]).astype(np.float32)
    named = dict(zip(BASE_SIGNALS, (*base[:4], logprobs[0]), strict=True))
    named |= dict(zip(ORACLE_SIGNALS, (oracle[0], oracle[1], oracle[2], oracle[3], oracle[4], agree), strict=True))
    named["base_top1"] = base[4]
    if sequence.attention_layer is not None:
        named |= zip(ATTENTION_SIGNALS, _columns(sequence.attention_rows, 4, length), strict=True)
    if sequence.request.divergence:
        named |= zip(("kl", "js"), _columns(sequence.divergence, 2, length), strict=True)
    return named


def _columns(rows: Rows[Rows[float]], width: int, length: int) -> list[Array]:
    """Columns of float32, padded with NaN to one entry a generated token."""
    table = np.full((width, length), np.nan, dtype=np.float32)
    known = rows[:length]
    if known:
        table[:, : len(known)] = np.array(known, dtype=np.float64).T
    return list(table)
