"""The rows of a study's files: samples, prefixes and completions, and their ids, which stay the same across stages.

arith-0-8/appraise/strong-2        the third straight shot of the strong model that decides the problem's bin
arith-0-8/weak-3                   the weak model's fourth solution in search of wrong ones
arith-0-8/weak-3@0.7               that solution, wrong, cut after 70 % of its tokens: an off-policy prefix
arith-0-8/strong-1@0.7/edited      a right solution of the strong model, cut, with a number changed
arith-0-8/weak-3@0.7/right         a right solution of the same problem, cut after as many tokens
arith-0-8/weak-3@0.7/right#strong-0    what the strong model made of that
arith-0-8#weak-1                   a straight shot among the controls
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.eval.grading import Verdict
from dodona.eval.recover.settings import STRONG
from dodona.eval.recover.writer import SIGNALS, Written
from dodona.eval.rows import outcome_of
from dodona.eval.tasks.problem import Level, Problem, Task

Array = np.ndarray[Any, Any]

OFF: Final = "off-policy"  # a wrong solution of the weak model
ON: Final = "on-policy"  # a wrong solution of the strong model itself
EDITED: Final = "edited"  # a right solution of the strong model with a number changed
RIGHT: Final = "right"  # a right solution, as long as the prefix that it is the control of
SHOT: Final = "shot"  # no prefix at all
WRONG_KINDS: Final = (OFF, ON, EDITED)

CORRECT: Final = "correct"  # an outcome; the others: wrong, unparsed, truncated, failed


class Cost(NamedTuple):
    """What runs cost, by their ledgers."""

    runs: int = 0
    written: int = 0  # tokens
    read: int = 0  # tokens fed to the model
    shared: int = 0  # tokens not fed because another run's pages held them
    forwards: int = 0  # forwards in which a run took part, summed over the runs
    flops: float = 0.0  # as if no pages had been shared
    ms: float = 0.0  # of forwards

    def plus(self, other: Cost) -> Cost:
        """Both together."""
        return Cost._make(a + b for a, b in zip(self, other, strict=True))


@dataclass(frozen=True, slots=True)
class Sample:
    """A straight shot or a solution."""

    row_id: str
    problem_id: str
    role: str
    number: int  # which of this model's samples of the problem
    outcome: str
    answer: str | None
    ids: tuple[int, ...]  # an end token included
    ended: bool  # whether the last of them is one
    cost: Cost

    @property
    def correct(self) -> bool:
        """Whether it solves the problem."""
        return self.outcome == CORRECT

    @property
    def wrong(self) -> bool:
        """Whether it ended by itself on an answer that is not right; what has no answer or was cut off is not."""
        return self.outcome == "wrong"

    @property
    def body(self) -> tuple[int, ...]:
        """The ids without an end token."""
        return self.ids[:-1] if self.ended else self.ids


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of a solution."""

    row_id: str
    problem_id: str
    kind: str  # off-policy, on-policy, edited or right
    author: str  # strong or weak
    fraction: float
    ids: tuple[int, ...]
    text: str
    answered: bool  # whether it contains a boxed answer already, or the beginning of one
    answer: str | None  # that the wrong solution ended on
    of: str | None  # of a right one: the prefix that it is the control of
    edit: Mapping[str, Any] | None = None  # where, from what and to what


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model made of a prefix, or a straight shot among the controls."""

    row_id: str
    problem_id: str
    prefix: str | None  # its row id; None: a straight shot
    role: str
    number: int
    outcome: str
    answer: str | None
    repeats: bool  # whether it gives the wrong solution's own answer
    ids: tuple[int, ...]
    text: str
    signals: Mapping[str, Array]  # [tokens] float32 by name; none of straight shots and of the weak model
    cost: Cost

    @property
    def correct(self) -> bool:
        """Whether it ends on the right answer."""
        return self.outcome == CORRECT


def sample_id(problem_id: str, role: str, number: int, *, appraisal: bool) -> str:
    """The row id of a sample."""
    return f"{problem_id}/appraise/{role}-{number}" if appraisal else f"{problem_id}/{role}-{number}"


def completion_id(prefix: Prefix | str, role: str, number: int) -> str:
    """The row id of a completion of a prefix, or of a straight shot at a problem of this id."""
    return f"{prefix.row_id if isinstance(prefix, Prefix) else prefix}#{role}-{number}"


def judged(task: Task, problem: Problem, text: str) -> Verdict:
    """The checker's verdict; a gold answer that cannot be compared with anything makes everything wrong."""
    try:
        return task.judge(text, problem)
    except DodonaError as error:
        return Verdict(False, None, "", str(error))


def run_record(
    written: Written, problem: Problem, role: str, number: int, model_id: str, verdict: Verdict
) -> dict[str, Any]:
    """What the records of all runs have in common, named as `dodona eval` names it."""
    whole = written.error is None and written.finish_reason not in ("length", "error", "cancelled")
    return {
        "row_id": written.row_id,
        "problem_id": problem.problem_id,
        "level": problem.level,
        "subject": problem.subject,
        "role": role,
        "model_id": model_id,
        "sample": number,
        "result": written.text,
        "token_ids": list(written.ids),
        "total_tokens_generated": len(written.ids),
        "finish_reason": written.finish_reason,
        "error": written.error,
        "ground_truth": problem.gold,
        "parsed_answer": verdict.extracted,
        "correct": whole and verdict.correct,
        "grade_method": verdict.method,
        "grade_reason": verdict.reason,
        "ledger": dict(written.ledger),
    }


def read_sample(record: Mapping[str, Any]) -> Sample:
    """The sample of a record."""
    return Sample(
        row_id=str(record["row_id"]),
        problem_id=str(record["problem_id"]),
        role=str(record["role"]),
        number=int(record["sample"]),
        outcome=outcome_of(record),
        answer=record["parsed_answer"],
        ids=_ids(record["token_ids"]),
        ended=record["finish_reason"] == "eos",
        cost=_cost(record),
    )


def prefix_record(prefix: Prefix, problem: Problem, solution: str, cut: int, length: int) -> dict[str, Any]:
    """A prefix as a record.

    Args:
        solution: row id of what was cut.
        cut, length: after how many of its tokens.
    """
    return {
        "row_id": prefix.row_id,
        "problem_id": prefix.problem_id,
        "level": problem.level,
        "subject": problem.subject,
        "kind": prefix.kind,
        "author": prefix.author,
        "solution": solution,
        "fraction": prefix.fraction,
        "cut": cut,
        "length": length,
        "token_ids": list(prefix.ids),
        "prefix": prefix.text,
        "answered": prefix.answered,
        "wrong_answer": prefix.answer,
        "control_of": prefix.of,
        "edit": None if prefix.edit is None else dict(prefix.edit),
    }


def read_prefix(record: Mapping[str, Any]) -> Prefix:
    """The prefix of a record."""
    return Prefix(
        row_id=str(record["row_id"]),
        problem_id=str(record["problem_id"]),
        kind=str(record["kind"]),
        author=str(record["author"]),
        fraction=float(record["fraction"]),
        ids=_ids(record["token_ids"]),
        text=str(record["prefix"]),
        answered=record["answered"] is True,
        answer=record["wrong_answer"],
        of=record["control_of"],
        edit=record["edit"],
    )


def completion_record(
    run: Mapping[str, Any], prefix: Prefix | None, repeats: bool, signals: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """A completion as a record: that of its run, and what it was a completion of."""
    return {
        **run,
        "prefix": None if prefix is None else prefix.row_id,
        "kind": SHOT if prefix is None else prefix.kind,
        "author": None if prefix is None else prefix.author,
        "fraction": None if prefix is None else prefix.fraction,
        "cut": 0 if prefix is None else len(prefix.ids),
        "answered": prefix is not None and prefix.answered,
        "repeats": repeats,
        "signals": {name: list(values) for name, values in signals.items()},
    }


def read_completion(record: Mapping[str, Any]) -> Completion:
    """The completion of a record."""
    signals = {
        name: np.array([np.nan if value is None else value for value in values], dtype=np.float32)
        for name, values in record["signals"].items()
        if name in SIGNALS
    }
    ids = _ids(record["token_ids"])
    if any(len(values) != len(ids) for values in signals.values()):
        raise ValueError("signals of another length than the tokens")
    return Completion(
        row_id=str(record["row_id"]),
        problem_id=str(record["problem_id"]),
        prefix=record["prefix"],
        role=str(record["role"]),
        number=int(record["sample"]),
        outcome=outcome_of(record),
        answer=record["parsed_answer"],
        repeats=record["repeats"] is True,
        ids=ids,
        text=str(record["result"]),
        signals=signals,
        cost=_cost(record),
    )


def keeps_signals(prefix: Prefix | None, role: str) -> bool:
    """Whether a completion's signals are written down: those of the strong model after a prefix."""
    return prefix is not None and role == STRONG


def _ids(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _cost(record: Mapping[str, Any]) -> Cost:
    ledger: dict[str, float] = {
        name: float(value) for name, value in record["ledger"].items() if isinstance(value, int | float)
    }

    def total(*names: str) -> float:
        return sum(ledger.get(name, 0.0) for name in names)

    return Cost(
        runs=1,
        written=int(record["total_tokens_generated"]),
        read=int(total("prefill_tokens", "base_steps", "catch_up_tokens", "sync_tokens", "oracle_steps")),
        shared=int(total("shared_tokens")),
        forwards=int(total("base_forwards", "oracle_forwards")),
        flops=total("base_flops", "oracle_flops", "shared_flops"),
        ms=total("base_ms", "oracle_ms"),
    )


class Asked(NamedTuple):
    """A problem as the header of a file has it."""

    problem_id: str
    level: Level | None
    subject: str | None
    digest: str
    question: str
    gold: str

    @classmethod
    def of(cls, problem: Problem) -> Asked:
        """The problem's entry."""
        return cls(problem.problem_id, problem.level, problem.subject, problem.digest, problem.question, problem.gold)
