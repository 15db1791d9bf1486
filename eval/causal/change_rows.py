"""Consults that were tried as lines of a file, which people and `dodona analyze --changes` read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from dodona.engine.result import json_number
from dodona.engine.tokenizer import Tokenizer
from dodona.eval.causal.changes import Change, Changes
from dodona.eval.causal.forks import Fork, Outcome

WINDOW: Final = 12  # tokens shown on either side


def lines(found: Changes, tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    """One JSON object for each consult that was tried, in the order of the problems and positions."""
    for one in found.changes:
        text, position = one.text, one.position
        with_it, without = (_outcome(found, one, fork) for fork in one.branches)
        yield {
            "row_id": f"{text.problem_id}@{position}",
            "problem_id": text.problem_id,
            "level": text.problem.level,
            "arm": found.arm.name,
            "config_hash": found.origin.config_hash,
            "position": position,
            "change": one.change,
            "k": json_number(found.k),
            "number": one.number,
            "right_with": one.right_with,
            "right_without": one.right_without,
            "outcome_with": with_it.outcome,
            "outcome_without": without.outcome,
            "answer_with": with_it.answer,
            "answer_without": without.answer,
            "ground_truth": text.problem.gold,
            "differs": one.differs,
            "signals": dict(one.signals),
            "before": _shown(tokenizer, text.ids[max(0, position - WINDOW) : position]),
            "oracle_wrote": _shown(tokenizer, _rest(found, one, one.branches.with_consult)[: _burst(found.k)]),
            "with": _shown(tokenizer, _rest(found, one, one.branches.with_consult)[:WINDOW]),
            "without": _shown(tokenizer, _rest(found, one, one.branches.without)[:WINDOW]),
        }


def _outcome(found: Changes, change: Change, fork: Fork | None) -> Outcome:
    row = change.text.row
    return Outcome(row.outcome, row.answer, ()) if fork is None else found.outcomes[fork]


def _rest(found: Changes, change: Change, fork: Fork | None) -> tuple[int, ...]:
    """The ids from the position on."""
    own, position = change.text.ids, change.position
    return own[position:] if fork is None else own[position : fork.position] + found.outcomes[fork].ids


def _burst(k: float) -> int:
    return WINDOW if k > WINDOW else int(k)


def _shown(tokenizer: Tokenizer, ids: tuple[int, ...]) -> str:
    return tokenizer.decode(ids, skip_special=False)
