"""From records to a table: accuracy with intervals, what the oracle did, and every run that counts as wrong unread."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from dodona.eval.rows import Cost, Level, Row
from dodona.eval.stats.intervals import Interval, cluster_error, clustered, wilson

_NO_ANSWER: Final = ("unparsed", "truncated", "failed", "missing")  # outcomes that count as wrong unread


class ArmLike(Protocol):
    """What a table needs of an arm."""

    @property
    def name(self) -> str: ...
    @property
    def c(self) -> float: ...
    @property
    def k(self) -> float: ...
    @property
    def trigger(self) -> str: ...
    @property
    def when(self) -> str: ...
    @property
    def seed(self) -> int: ...


class ProblemLike(Protocol):
    """What a table needs of a problem."""

    @property
    def problem_id(self) -> str: ...
    @property
    def level(self) -> Level: ...
    @property
    def subject(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Rate:
    """So many right of so many runs asked for, ``samples`` of each problem.

    ``counts`` has the right runs of each problem; without it every problem was run once.
    """

    correct: int
    n: int
    samples: int = 1
    counts: Sequence[int] = field(default=(), repr=False)

    @classmethod
    def of(cls, counts: Sequence[int], samples: int) -> Rate:
        """The rate of problems with so many right runs each."""
        return cls(sum(counts), len(counts) * samples, samples, counts)

    @property
    def accuracy(self) -> float:
        """The share; NaN of nothing."""
        return self.correct / self.n if self.n else math.nan

    @property
    def interval(self) -> Interval:
        """The 95 % interval: Wilson's, or where problems were run several times the one clustered by problem."""
        return wilson(self.correct, self.n) if self.samples == 1 else clustered(self.counts, self.samples)

    @property
    def error(self) -> float:
        """The standard error, clustered by problem; NaN for fewer than two problems."""
        counts = self.counts or [1] * self.correct + [0] * (self.n - self.correct)
        return cluster_error(counts, self.samples)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; ``low`` and ``high`` are ``interval``."""
        low, high = self.interval
        return {
            "accuracy": _json(self.accuracy),
            "low": low,
            "high": high,
            "interval": "wilson" if self.samples == 1 else "clustered",
            "standard_error": _json(self.error),
            "correct": self.correct,
            "n": self.n,
        }


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One line of the table: an arm, or several that differ in their seed alone.

    Every problem asked for is in ``rate``; what is missing, failed, was cut off or has no answer counts as wrong. The
    means are over the runs that did not fail; NaN where there is none.
    """

    arms: tuple[ArmLike, ...]
    rate: Rate
    levels: Mapping[Level, Rate]
    subjects: Mapping[str | None, Rate]
    wrong: int  # read, and not right
    unparsed: int
    truncated: int
    failed: int
    missing: int  # no record of it
    consults: float  # that happened, a run
    budget_share: float  # of the consults allowed; NaN where c is infinite or 0
    oracle_share: float  # of all generated tokens
    tokens: float  # a run
    cost: Cost

    @property
    def arm(self) -> ArmLike:
        """The arm; the first one of several."""
        return self.arms[0]

    @property
    def name(self) -> str:
        """The arm's name; of several without the seed and with their number."""
        if len(self.arms) == 1:
            return self.arm.name
        return f"{self.arm.name.removesuffix(f' seed={self.arm.seed}')} [{len(self.arms)} seeds]"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        arm, seeds = self.arm, [arm.seed for arm in self.arms]
        costs = {name: _json(value) for name, value in self.cost._asdict().items()}
        return {
            "arm": self.name,
            "c": _json(arm.c),
            "k": _json(arm.k),
            "trigger": arm.trigger,
            "when": arm.when,
            **({"seed": arm.seed} if len(seeds) == 1 else {"seeds": seeds}),
            **self.rate.as_dict(),
            "wrong": self.wrong,
            "unparsed": self.unparsed,
            "truncated": self.truncated,
            "failed": self.failed,
            "missing": self.missing,
            "consults": _json(self.consults),
            "budget_share": _json(self.budget_share),
            "oracle_share": _json(self.oracle_share),
            "tokens": _json(self.tokens),
            **costs,
            "flops": _json(self.cost.flops),
            "ms": _json(self.cost.ms),
            "levels": {group_name(level): rate.as_dict() for level, rate in self.levels.items()},
            "subjects": {group_name(subject): rate.as_dict() for subject, rate in self.subjects.items()},
        }


def summarise(arms: Sequence[ArmLike], problems: Sequence[ProblemLike], rows: Iterable[Row]) -> list[ArmSummary]:
    """One summary an arm, in their order, each over all of the problems."""
    by_arm: dict[str, dict[str, Row]] = {arm.name: {} for arm in arms}
    for row in rows:
        if row.arm in by_arm:
            by_arm[row.arm].setdefault(row.problem_id, row)
    return [summarise_line([arm], problems, by_arm) for arm in arms]


def summarise_line(
    arms: Sequence[ArmLike], problems: Sequence[ProblemLike], by_arm: Mapping[str, Mapping[str, Row]]
) -> ArmSummary:
    """One line over arms that differ in their seed alone, from their rows by problem."""
    outcomes: Counter[str] = Counter()
    solved = [0] * len(problems)
    ran = consults = tokens = oracle_tokens = 0
    costs = [0.0] * len(Cost._fields)
    for arm in arms:
        rows = by_arm.get(arm.name, {})
        for index, problem in enumerate(problems):
            row = rows.get(problem.problem_id)
            outcome = "missing" if row is None else row.outcome
            outcomes[outcome] += 1
            if row is None or outcome == "failed":
                continue
            solved[index] += outcome == "correct"
            ran += 1
            consults += row.consults
            tokens += row.tokens
            oracle_tokens += row.oracle_tokens
            for place, value in enumerate(row.cost):
                costs[place] += value
    budget = arms[0].c
    mean = _ratio(consults, ran)
    return ArmSummary(
        arms=tuple(arms),
        rate=Rate.of(solved, len(arms)),
        levels=_by(problems, solved, len(arms), lambda problem: problem.level),
        subjects=_by(problems, solved, len(arms), lambda problem: problem.subject),
        wrong=outcomes["wrong"],
        unparsed=outcomes["unparsed"],
        truncated=outcomes["truncated"],
        failed=outcomes["failed"],
        missing=outcomes["missing"],
        consults=mean,
        budget_share=mean / budget if 0 < budget < math.inf else math.nan,
        oracle_share=_ratio(oracle_tokens, tokens),
        tokens=_ratio(tokens, ran),
        cost=Cost(*(_ratio(total, ran) for total in costs)),
    )


def _by(
    problems: Sequence[ProblemLike], solved: Sequence[int], samples: int, key: Callable[[ProblemLike], Any]
) -> dict[Any, Rate]:
    """The rate of each group of problems."""
    groups = grouped([key(problem) for problem in problems])
    return {name: Rate.of([solved[index] for index in indices], samples) for name, indices in groups.items()}


def grouped(names: Sequence[Level]) -> dict[Level, list[int]]:
    """The indices of each name: numbers in their order, then texts, then what has none."""
    groups: dict[Level, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(name, []).append(index)
    return {name: groups[name] for name in sorted(groups, key=_group_order)}


def group_name(name: Level) -> str:
    """A level or a subject as tables and JSON name it."""
    return "(none)" if name is None else str(name)


def _group_order(name: Level) -> tuple[int, float, str]:
    return (2, 0, "") if name is None else (1, 0, name) if isinstance(name, str) else (0, name, "")


def errors(rows: Iterable[Row]) -> dict[str, int]:
    """How many runs failed for each reason, the most frequent first."""
    return dict(Counter(row.error for row in rows if row.error is not None).most_common())


def percent(rate: Rate) -> str:
    """``41.0 % [31.9, 50.8]``."""
    low, high = rate.interval
    return f"{100 * rate.accuracy:.1f} % [{100 * low:.1f}, {100 * high:.1f}]" if rate.n else "-"


def table_lines(summaries: Sequence[ArmSummary]) -> list[str]:
    """The table of all arms, and below it the accuracy by level."""
    heads = ["arm", "accuracy [95 %]", "n", *_NO_ANSWER, "consults", "oracle", "tokens"]
    rows = [
        [
            s.name,
            percent(s.rate),
            str(s.rate.n),
            str(s.unparsed),
            str(s.truncated),
            str(s.failed),
            str(s.missing),
            f"{s.consults:.2f}",
            f"{100 * s.oracle_share:.1f} %",
            f"{s.tokens:.1f}",
        ]
        for s in summaries
    ]
    lines = aligned([heads, *rows])
    levels = list(summaries[0].levels) if summaries else []
    if len(levels) > 1:
        heads = ["arm", *(f"level {group_name(level)}" for level in levels)]
        lines += ["", *aligned([heads, *([s.name, *(percent(s.levels[lv]) for lv in levels)] for s in summaries)])]
    return lines


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of text, the first column to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *rest = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([f"{row[0]:<{widths[0]}}", *rest]).rstrip() if first else "")
    return lines


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _json(value: float) -> float | str | None:
    """A number as JSON can hold it: NaN is null, infinity the text ``inf``."""
    return None if math.isnan(value) else "inf" if math.isinf(value) else value
