"""One model that keeps the text of its last call in its KV cache: what a completions server does with a prefix cache.

It runs the engine's own loop (scheduler, forward, statistics, sampling), so that a server around it differs from the
engine by the hop alone. A call reads only the ids after the longest prefix that the last call left behind.
"""

from __future__ import annotations

from collections.abc import Generator
from collections.abc import Sequence as Items
from typing import Any, NamedTuple

from dodona.engine.engine import Engine
from dodona.engine.errors import RequestError
from dodona.engine.request import Request
from dodona.engine.sequence import Sequence

_NO_ENDS: frozenset[int] = frozenset()


class Piece(NamedTuple):
    """One token that was written."""

    token: int
    ends: bool  # it is an end token


def common_prefix(first: Items[int], second: Items[int]) -> int:
    """How many ids two lists begin with alike."""
    shorter = min(len(first), len(second))
    return next((index for index in range(shorter) if first[index] != second[index]), shorter)


class Kept:
    """A model without an oracle, and the ids that its cache still holds.

    Args:
        engine: made without an oracle; nobody else may use it.

    Raises:
        ValueError: an engine whose loop is not the host's, because only that one can be stopped after each token.
    """

    def __init__(self, engine: Engine) -> None:
        if engine.backend.loop != "host" or engine.oracle is not None:
            raise ValueError("it takes an engine of one model, with loop='host'")
        self.engine = engine
        self._pool = engine.base.cache.pool
        self._slot: int | None = None
        self._held: list[int] = []
        self.fed = 0  # ids that the model has read in the last call

    def forget(self) -> None:
        """Give the kept pages back, as a server's prefix cache is emptied."""
        if self._slot is not None:
            self._pool.close(self._slot)
        self._slot, self._held = None, []

    def complete(
        self, ids: Items[int], max_tokens: int, *, ignore_eos: bool = False, **options: Any
    ) -> Generator[Piece, None, None]:
        """Write up to ``max_tokens`` tokens after ``ids``; an end token is the last.

        Args:
            ids: the prompt.
            max_tokens: tokens at the most; fewer where the context ends.
            ignore_eos: go on after end tokens.
            **options: sampling fields of Request (temperature, top_p, seed, ...).

        Raises:
            RequestError: a prompt that leaves no room to write, or an option out of range.
        """
        request = Request(prompt=list(ids), c=0, max_new_tokens=max_tokens, **options)
        most = min(self.engine.context, self._pool.capacity)
        tokens = min(max_tokens, most - len(ids))
        if not ids or tokens < 1:
            raise RequestError(f"the prompt has {len(ids)} tokens; it must have 1 to {most - 1}")
        ends = _NO_ENDS if ignore_eos else frozenset(self.engine.tokenizer.eos_ids)
        # It never finishes by itself, because a sequence that does gives its pages back, and these are to be kept.
        sequence = Sequence(
            request, list(ids), c=0, limit=tokens + 1, eos_ids=_NO_ENDS, tokenizer=self.engine.tokenizer
        )
        held = min(common_prefix(self._held, ids), len(ids) - 1)
        if self._slot is not None:
            self._pool.truncate(self._slot, held)
        sequence.base.slot, sequence.base.high = self._slot, held
        self._slot, self._held = None, []
        self.engine.scheduler.add(sequence)
        sound = True  # whether the cache holds what it should
        try:
            for written in range(tokens):
                sound = False
                while sequence.generated == written and sequence.error is None:
                    self.engine.loop.tick()
                sound = sequence.error is None
                if sequence.error is not None:
                    raise RequestError(sequence.error)
                token = sequence.ids[-1]
                yield Piece(token, token in ends)
                if token in ends:
                    return
        finally:
            self.fed = sequence.ledger.base_fed
            slot = sequence.base.slot
            if sound and slot is not None:
                self._slot, sequence.base.slot = slot, None
                self._held = sequence.ids[: self._pool.length(slot)]
            self.engine.scheduler.remove(sequence, poisoned=not sound)
