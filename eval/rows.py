"""What a table needs of one record: how the run ended, what the oracle did in it, and what it cost."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from dodona.eval.compat.switches import NO_END

Level: TypeAlias = int | str | None

_LONGEST_ANSWER: Final = 200  # characters kept of an answer that was read


class Cost(NamedTuple):
    """What a run cost by its ledger; of a table's line the means over its runs."""

    base_forwards: float = 0
    oracle_forwards: float = 0
    base_fed: float = 0  # tokens
    oracle_fed: float = 0
    base_flops: float = 0
    oracle_flops: float = 0
    base_ms: float = 0
    oracle_ms: float = 0
    shared_flops: float = 0  # that the tokens would have cost whose pages another run had

    @property
    def flops(self) -> float:
        """Of both models, as if this run had shared no pages with another."""
        return self.base_flops + self.oracle_flops + self.shared_flops

    @property
    def ms(self) -> float:
        """Of both models."""
        return self.base_ms + self.oracle_ms


class Row(NamedTuple):
    """What a table needs of one record; no texts but a short answer, so that many fit into memory."""

    arm: str
    problem_id: str
    level: Level
    outcome: str  # correct, wrong, unparsed, truncated or failed
    consults: int  # that happened
    tokens: int  # generated
    oracle_tokens: int  # of them
    error: str | None = None  # why it failed
    answer: str | None = None  # as it was read; cut after 200 characters
    cost: Cost = Cost()
    same_text: bool = False  # whether the answer is the gold answer character for character


def row_of(record: Mapping[str, Any]) -> Row:
    """The row of a record that `dodona eval` wrote.

    Raises:
        KeyError, TypeError, ValueError: something else wrote it.
    """
    outcome = outcome_of(record)
    ledger = record["ledger"]
    answer = record["parsed_answer"]
    cost = Cost(
        ledger["base_forwards"],
        ledger["oracle_forwards"],
        ledger["prefill_tokens"] + ledger["base_steps"] + ledger["catch_up_tokens"],
        ledger["sync_tokens"] + ledger["oracle_steps"],
        ledger["base_flops"],
        ledger["oracle_flops"],
        ledger["base_ms"],
        ledger["oracle_ms"],
        ledger.get("shared_flops", 0.0),
    )
    tokens, oracle_tokens = record["total_tokens_generated"], ledger["burst_tokens"]
    for number in (tokens, oracle_tokens, *cost):
        if not isinstance(number, int | float):
            raise TypeError(f"{number!r} where a number belongs")
    return Row(
        arm=sys.intern(record["arm"]),
        problem_id=sys.intern(str(record["problem_id"])),
        level=record["level"],
        outcome=outcome,
        consults=len(record["cheat_positions"]),
        tokens=tokens,
        oracle_tokens=oracle_tokens,
        error=sys.intern(str(record["error"] or record["finish_reason"])) if outcome == "failed" else None,
        answer=None if answer is None else shortened(str(answer), _LONGEST_ANSWER),
        cost=cost,
        same_text=answer is not None and answer == record.get("ground_truth"),
    )


def outcome_of(record: Mapping[str, Any]) -> str:
    """How tables count a run: correct, wrong, unparsed, truncated or failed."""
    if record["error"] is not None or record["finish_reason"] in ("error", "cancelled"):
        return "failed"
    if cut_off(record):
        return "truncated"
    if record["parsed_answer"] is None:
        return "unparsed"
    return "correct" if record["correct"] is True else "wrong"


def cut_off(record: Mapping[str, Any]) -> bool:
    """Whether the token limit ended a text that could have ended by itself."""
    return record.get("finish_reason") == "length" and NO_END not in record.get("compat", ())


def shortened(text: str, length: int) -> str:
    """The text, cut where it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"
