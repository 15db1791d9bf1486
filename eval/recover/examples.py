"""Completions to read: prefix, completion and verdict, as data for the page."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from dodona.eval.recover.findings import Findings
from dodona.eval.recover.rates import solve_rate
from dodona.eval.recover.rows import Asked, Completion, Prefix
from dodona.eval.recover.settings import ROLES, STRONG

MOST: Final = 2000


class Examples(NamedTuple):
    """What the page shows."""

    rows: Sequence[Mapping[str, Any]]
    of: int  # completions that there are


def examples(findings: Findings, most: int = MOST) -> Examples:
    """The completions of prefixes in a stable order; of more than ``most`` those whose ids have the smallest hashes.

    So the examples that are chosen stay the same when others are added, and a smaller choice is part of a larger one.
    """
    asked = {problem.problem_id: problem for problem in findings.problems}
    pairs = [
        (prefix, run)
        for prefix in findings.prefixes.values()
        for role in ROLES
        for run in findings.completions.get((prefix.row_id, role), ())
    ]
    chosen = {run.row_id for _, run in sorted(pairs, key=lambda pair: _hash(pair[1].row_id))[:most]}
    rows = [_row(findings, asked[prefix.problem_id], prefix, run) for prefix, run in pairs if run.row_id in chosen]
    return Examples(rows, len(pairs))


def _row(findings: Findings, problem: Asked, prefix: Prefix, run: Completion) -> dict[str, Any]:
    count = findings.appraised[STRONG][problem.problem_id]
    return {
        "id": run.row_id,
        "problem": problem.problem_id,
        "level": problem.level,
        "question": problem.question,
        "gold": problem.gold,
        "kind": prefix.kind,
        "author": prefix.author,
        "fraction": prefix.fraction,
        "tokens": len(prefix.ids),
        "answered": prefix.answered,
        "harmless": prefix.row_id in findings.harmless,
        "edit": None if prefix.edit is None else dict(prefix.edit),
        "writer": run.role,
        "prefix": prefix.text,
        "completion": run.text,
        "outcome": run.outcome,
        "correct": run.correct,
        "answer": run.answer,
        "wrong": prefix.answer,
        "repeats": run.repeats,
        "rate": round(solve_rate(count)[0], 4),
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
