"""First wrong tokens as lines of a file: the token, what both models thought of it, and what stands around it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from dodona.engine.tokenizer import Tokenizer
from dodona.eval.causal.forks import Fork, Outcome
from dodona.eval.causal.texts import Text
from dodona.eval.causal.views import View
from dodona.eval.causal.wrong import Search, Wrong, entropy_rank

WINDOW: Final = 12  # tokens shown on either side
NEAR: Final = 4  # tokens on either side with their signals
_SHOWN: Final = 24  # tokens of the oracle's own text


def lines(found: Search, tokenizer: Tokenizer, forks: Mapping[Fork, Outcome]) -> Iterator[dict[str, Any]]:
    """One JSON object for each wrong text that the oracle alone gets right, in the order of the problems."""
    for case in found.found:
        text, view, what = case.text, case.view, case.found
        assert what.causal is not None
        first = [int(p) for p in view.diverging[:1]]
        wrote, answer = _takeover(found, case, forks)
        yield {
            "row_id": text.problem_id,
            "problem_id": text.problem_id,
            "level": text.problem.level,
            "arm": found.arm.name,
            "config_hash": found.origin.config_hash,
            "ground_truth": text.problem.gold,
            "answer": text.row.answer,
            "outcome": text.row.outcome,
            "tokens": len(text.ids),
            "position": what.causal,
            "causal": about(text, view, what.causal, tokenizer)
            | {"oracle_wrote": tokenizer.decode(wrote[:_SHOWN]), "oracle_answer": answer},
            "first_diverging": about(text, view, first[0], tokenizer) if first else None,
            "diverging": [int(p) for p in view.diverging],
            "takeovers": {str(p): case.takeovers[p] for p in sorted(case.takeovers)},
            "verified": what.verified,
            "monotone": what.monotone,
            "exhaustive": what.exhaustive,
            "fatal": list(what.fatal),
            "healing": list(what.healing),
            "first_fatal": what.first_fatal,
        }


def _takeover(found: Search, case: Wrong, forks: Mapping[Fork, Outcome]) -> tuple[Sequence[int], str | None]:
    """What the oracle wrote that took over just before the causal token, and its answer."""
    name, causal = case.text.problem_id, case.found.causal
    assert causal is not None
    if (own := forks.get(Fork(name, causal, math.inf))) is not None:
        return own.ids, own.answer
    alone = found.origin.oracle_alone
    if causal == 0 and alone is not None and (text := found.origin.texts(alone).get(name)) is not None:
        return text.ids, text.row.answer
    return (), None


def about(text: Text, view: View, position: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """A token of the base: what both models thought of it, and what stands around it."""
    before = text.ids[max(0, position - WINDOW) : position]
    after = text.ids[position + 1 : position + 1 + WINDOW]
    values = {name: float(column[position]) for name, column in view.columns.items()}
    near = range(max(0, position - NEAR), min(len(text.ids), position + NEAR + 1))
    return {
        **_token(text, view, position, tokenizer),
        "varentropy": values["varentropy"],
        "top_prob": values["top_prob"],
        "margin": values["margin"],
        "entropy_rank": entropy_rank(view, position),
        "oracle_token_id": int(values["oracle_top1"]),
        "oracle_rank": int(values["oracle_rank"]),
        "oracle_entropy": values["oracle_entropy"],
        **{name: values[name] for name in ("js", "kl") if name in values},
        "before": tokenizer.decode(before, skip_special=False),
        "after": tokenizer.decode(after, skip_special=False),
        "neighbours": [_token(text, view, place, tokenizer) for place in near if place != position],
    }


def _token(text: Text, view: View, position: int, tokenizer: Tokenizer) -> dict[str, Any]:
    columns = view.columns
    return {
        "position": position,
        "token_id": text.ids[position],
        "token": tokenizer.token_text(text.ids[position]),
        "probability": math.exp(float(columns["logprob"][position])),
        "entropy": float(columns["entropy"][position]),
        "oracle_token": tokenizer.token_text(int(columns["oracle_top1"][position])),
        "probability_under_oracle": math.exp(float(columns["oracle_logprob"][position])),
        "diverges": bool(np.isin(position, view.diverging)),
    }


def csv_rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The lines with one value a cell: lists joined by spaces, tokens' own fields with their name in front."""
    for row in rows:
        flat: dict[str, Any] = {}
        for name, value in row.items():
            if name in ("causal", "first_diverging"):
                flat |= {f"{name}_{key}": part for key, part in (value or {}).items() if key != "neighbours"}
            elif name == "takeovers":
                flat[name] = " ".join(f"{place}:{int(right)}" for place, right in value.items())
            else:
                flat[name] = " ".join(map(str, value)) if isinstance(value, list) else value
        yield flat
