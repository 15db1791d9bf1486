"""From records to a table: accuracy with intervals, what the oracle did, and every run that counts as wrong unread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dodona.engine.result import json_number
from dodona.eval.arms import Arm
from dodona.eval.stats import Interval, wilson
from dodona.eval.tasks import Problem


class Row(NamedTuple):
    """What a table needs of one record."""

    arm: str
    problem_id: str
    level: int
    outcome: str  # correct, wrong, unparsed, truncated or failed
    consults: int  # that happened
    tokens: int  # generated
    oracle_tokens: int  # of them
    error: str | None = None  # why it failed


def row_of(record: Mapping[str, Any]) -> Row:
    """The row of a record that `dodona eval` wrote."""
    return Row(
        arm=record["arm"],
        problem_id=record["problem_id"],
        level=record["level"],
        outcome=_outcome(record),
        consults=len(record["cheat_positions"]),
        tokens=record["total_tokens_generated"],
        oracle_tokens=record["ledger"]["burst_tokens"],
        error=record["error"],
    )


def _outcome(record: Mapping[str, Any]) -> str:
    if record["error"] is not None:
        return "failed"
    if record["finish_reason"] == "length":
        return "truncated"
    if record["parsed_answer"] is None:
        return "unparsed"
    return "correct" if record["correct"] else "wrong"


@dataclass(frozen=True, slots=True)
class Rate:
    """So many correct of so many asked for."""

    correct: int
    n: int

    @property
    def accuracy(self) -> float:
        """The share; 0 of nothing is 0."""
        return self.correct / self.n if self.n else 0.0

    @property
    def interval(self) -> Interval:
        """Wilson's 95 % interval."""
        return wilson(self.correct, self.n)

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        low, high = self.interval
        return {"accuracy": self.accuracy, "low": low, "high": high, "correct": self.correct, "n": self.n}


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One line of the table. ``n`` is every problem asked for; what is missing counts as failed."""

    arm: Arm
    rate: Rate
    levels: Mapping[int, Rate]
    unparsed: int
    truncated: int
    failed: int
    consults: float  # that happened, a problem
    oracle_share: float  # of all generated tokens
    tokens: float  # a problem

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        arm = self.arm
        return {
            "arm": arm.name,
            "c": json_number(arm.c),
            "k": json_number(arm.k),
            "trigger": arm.trigger,
            "when": arm.when,
            "seed": arm.seed,
            **self.rate.as_dict(),
            "unparsed": self.unparsed,
            "truncated": self.truncated,
            "failed": self.failed,
            "consults": self.consults,
            "oracle_share": self.oracle_share,
            "tokens": self.tokens,
            "levels": {str(level): rate.as_dict() for level, rate in self.levels.items()},
        }


def summarise(arms: Sequence[Arm], problems: Sequence[Problem], rows: Iterable[Row]) -> list[ArmSummary]:
    """One summary an arm, in their order, each over all of the problems."""
    by_arm: dict[str, dict[str, Row]] = {arm.name: {} for arm in arms}
    for row in rows:
        if row.arm in by_arm:
            by_arm[row.arm].setdefault(row.problem_id, row)
    return [_summarise(arm, problems, by_arm[arm.name]) for arm in arms]


def _summarise(arm: Arm, problems: Sequence[Problem], by_problem: Mapping[str, Row]) -> ArmSummary:
    rows = [by_problem[problem.problem_id] for problem in problems if problem.problem_id in by_problem]
    solved = {row.problem_id for row in rows if row.outcome == "correct"}
    levels = {}
    for level in sorted({problem.level for problem in problems}):
        ids = [problem.problem_id for problem in problems if problem.level == level]
        levels[level] = Rate(sum(problem_id in solved for problem_id in ids), len(ids))
    tokens = sum(row.tokens for row in rows)
    return ArmSummary(
        arm=arm,
        rate=Rate(len(solved), len(problems)),
        levels=levels,
        unparsed=sum(row.outcome == "unparsed" for row in rows),
        truncated=sum(row.outcome == "truncated" for row in rows),
        failed=sum(row.outcome == "failed" for row in rows) + len(problems) - len(rows),
        consults=sum(row.consults for row in rows) / max(1, len(rows)),
        oracle_share=sum(row.oracle_tokens for row in rows) / max(1, tokens),
        tokens=tokens / max(1, len(rows)),
    )


def errors(rows: Iterable[Row]) -> dict[str, int]:
    """How many runs failed for each reason, the most frequent first."""
    return dict(Counter(row.error for row in rows if row.error is not None).most_common())


def percent(rate: Rate) -> str:
    """``41.0 % [31.9, 50.8]``."""
    low, high = rate.interval
    return f"{100 * rate.accuracy:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def table_lines(summaries: Sequence[ArmSummary]) -> list[str]:
    """The table of all arms, and below it the accuracy by level."""
    heads = ["arm", "accuracy [95 %]", "n", "unparsed", "truncated", "failed", "consults", "oracle", "tokens"]
    rows = [
        [
            s.arm.name,
            percent(s.rate),
            str(s.rate.n),
            str(s.unparsed),
            str(s.truncated),
            str(s.failed),
            f"{s.consults:.2f}",
            f"{100 * s.oracle_share:.1f} %",
            f"{s.tokens:.1f}",
        ]
        for s in summaries
    ]
    lines = aligned([heads, *rows])
    levels = list(summaries[0].levels) if summaries else []
    if len(levels) > 1:
        heads = ["arm", *(f"level {level}" for level in levels)]
        lines += ["", *aligned([heads, *([s.arm.name, *(percent(s.levels[lv]) for lv in levels)] for s in summaries)])]
    return lines


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of text, the first column to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *rest = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([f"{row[0]:<{widths[0]}}", *rest]).rstrip() if first else "")
    return lines
