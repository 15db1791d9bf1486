"""Two sides, A and B, on the same problems: which arms belong together, how they differ, and on which problems."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dodona.engine.errors import DodonaError
from dodona.eval.compat.switches import NOT_VALID, is_variant
from dodona.eval.recorded import Asked, Experiment, RecordedArm
from dodona.eval.report.contrast import Contrast, contrast
from dodona.eval.rows import Level
from dodona.eval.summary import Rate, group_name, grouped


class Flip(NamedTuple):
    """A problem that one side alone solved."""

    problem_id: str
    level: Level
    subject: str | None
    solved_by: str  # A or B
    outcome_a: str
    answer_a: str | None
    outcome_b: str
    answer_b: str | None
    gold: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm of A, or several seeds of it, against one of B."""

    arm_a: str
    arm_b: str
    rate_a: Rate
    rate_b: Rate
    contrast: Contrast  # B less A
    levels: dict[Level, Contrast]
    flips: list[Flip]  # none where several seeds are compared

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "arm_a": self.arm_a,
            "arm_b": self.arm_b,
            "a": self.rate_a.as_dict(),
            "b": self.rate_b.as_dict(),
            **self.contrast.as_dict(),
            "levels": {group_name(level): part.as_dict() for level, part in self.levels.items()},
            "flips": [flip._asdict() for flip in self.flips],
        }


@dataclass(frozen=True, slots=True)
class Sides:
    """Two sides with the problems that both were asked.

    Raises:
        DodonaError: they measure different data sets, or share no problem.
    """

    a: Experiment
    b: Experiment

    def __post_init__(self) -> None:
        if self.a.dataset != self.b.dataset:
            raise DodonaError(
                f"A measures {self.a.dataset} and B {self.b.dataset}: only runs on the same problems can be compared"
            )
        if not self.problems:
            raise DodonaError("A and B have no problem in common, so there is nothing to compare")

    @property
    def problems(self) -> list[Asked]:
        """Those that both were asked, in A's order."""
        ids = {problem.problem_id for problem in self.b.problems}
        return [problem for problem in self.a.problems if problem.problem_id in ids]

    @property
    def only_a(self) -> list[str]:
        """Ids of the problems that A alone was asked."""
        return _missing_from(self.b, self.a)

    @property
    def only_b(self) -> list[str]:
        """Ids of the problems that B alone was asked."""
        return _missing_from(self.a, self.b)

    @property
    def other_gold(self) -> list[str]:
        """Ids of the problems whose gold answers differ between the sides."""
        a, b = self.a.gold, self.b.gold
        ids = (problem.problem_id for problem in self.problems)
        return [id for id in ids if id in a and id in b and a[id] != b[id]]

    def compare(self, arms_a: Sequence[RecordedArm], arms_b: Sequence[RecordedArm]) -> Comparison:
        """Arms that differ in their seed alone against others such; one against one has flips."""
        problems = self.problems
        counts_a, counts_b = _counts(self.a, arms_a, problems), _counts(self.b, arms_b, problems)
        samples = len(arms_a), len(arms_b)
        levels = {}
        for level, indices in grouped([problem.level for problem in problems]).items():
            parts = [[counts[index] for index in indices] for counts in (counts_a, counts_b)]
            levels[level] = contrast(parts[0], parts[1], *samples)
        return Comparison(
            arm_a=_name(arms_a),
            arm_b=_name(arms_b),
            rate_a=Rate.of(counts_a, samples[0]),
            rate_b=Rate.of(counts_b, samples[1]),
            contrast=contrast(counts_a, counts_b, *samples),
            levels=levels,
            flips=list(self._flips(arms_a[0], arms_b[0], problems)) if samples == (1, 1) else [],
        )

    def _flips(self, arm_a: RecordedArm, arm_b: RecordedArm, problems: Sequence[Asked]) -> Iterator[Flip]:
        rows_a, rows_b = self.a.rows.get(arm_a.name, {}), self.b.rows.get(arm_b.name, {})
        for problem_id, level, subject in problems:
            a, b = rows_a.get(problem_id), rows_b.get(problem_id)
            outcome_a, outcome_b = ("missing" if row is None else row.outcome for row in (a, b))
            if (outcome_a == "correct") == (outcome_b == "correct"):
                continue
            yield Flip(
                problem_id=problem_id,
                level=level,
                subject=subject,
                solved_by="A" if outcome_a == "correct" else "B",
                outcome_a=outcome_a,
                answer_a=None if a is None else a.answer,
                outcome_b=outcome_b,
                answer_b=None if b is None else b.answer,
                gold=self.a.gold.get(problem_id) or self.b.gold.get(problem_id, ""),
            )


def matched(
    a: Experiment, b: Experiment, arm_a: str | None, arm_b: str | None
) -> list[tuple[list[RecordedArm], list[RecordedArm]]]:
    """Which arms to compare: those named; else all whose name is in both; else the only one of each.

    Arms that differ in their seed alone come once more together after them, if there are several in both.

    Raises:
        DodonaError: an arm that is not there, or no way to tell which arms are meant.
    """
    there_a, there_b = _begun(a), _begun(b)
    if arm_a is not None or arm_b is not None:
        return [([_named(there_a, arm_a, "A", "--arm-a")], [_named(there_b, arm_b, "B", "--arm-b")])]
    names = {arm.name for arm in there_b}
    both = [arm for arm in there_a if arm.name in names]
    if a is b:  # one path
        if len(there_a) != 2:
            raise DodonaError(f"of one path, --arm-a and --arm-b name two arms to compare; it has {_listed(there_a)}")
        return [([there_a[0]], [there_a[1]])]
    if both:
        of_b = {arm.name: arm for arm in there_b}
        return [(group, [of_b[arm.name] for arm in group]) for group in _with_pooled(both)]
    if len(there_a) == len(there_b) == 1:
        return [(there_a, there_b)]
    raise DodonaError(
        f"no arm is in both: A has {_listed(there_a)}; B has {_listed(there_b)}; "
        "name one of each with --arm-a and --arm-b"
    )


def _with_pooled(arms: Sequence[RecordedArm]) -> Iterator[list[RecordedArm]]:
    families: dict[str, list[RecordedArm]] = {}
    for arm in arms:
        families.setdefault(arm.family, []).append(arm)
    for family in families.values():
        yield from ([arm] for arm in family)
        if len(family) > 1:
            yield family


def _begun(experiment: Experiment) -> list[RecordedArm]:
    found = [arm for arm in experiment.arms if experiment.rows.get(arm.name)]
    if not found and experiment.compat_rows:
        raise DodonaError(f"the records of {experiment.files[0]} are {NOT_VALID}, and are not compared")
    return found


def _named(arms: Sequence[RecordedArm], name: str | None, side: str, option: str) -> RecordedArm:
    if name is None:
        if len(arms) != 1:
            raise DodonaError(f"{side} has {_listed(arms)}: name one of these arms with {option}")
        return arms[0]
    if is_variant(name):
        raise DodonaError(f"{side} has no arm {name!r} to compare: it is no valid measure")
    wanted = "".join(name.split())
    for arm in arms:
        if "".join(arm.name.split()) == wanted:
            return arm
    near = difflib.get_close_matches(name, [arm.name for arm in arms], n=1, cutoff=0.3)
    hint = f"did you mean {near[0]!r}?" if near else f"there is {_listed(arms)}"
    raise DodonaError(f"{side} has no arm {name!r} with records: {hint}")


def _listed(arms: Collection[RecordedArm], most: int = 6) -> str:
    names = [repr(arm.name) for arm in arms]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more arms" if len(names) > most else "")


def _name(arms: Sequence[RecordedArm]) -> str:
    return arms[0].name if len(arms) == 1 else f"{arms[0].family} [{len(arms)} seeds]"


def _missing_from(there: Experiment, here: Experiment) -> list[str]:
    ids = {problem.problem_id for problem in there.problems}
    return [problem.problem_id for problem in here.problems if problem.problem_id not in ids]


def _counts(experiment: Experiment, arms: Sequence[RecordedArm], problems: Sequence[Asked]) -> list[int]:
    """How many of the arms solved each problem."""
    rows = [experiment.rows.get(arm.name, {}) for arm in arms]
    return [
        sum((row := of_arm.get(problem.problem_id)) is not None and row.outcome == "correct" for of_arm in rows)
        for problem in problems
    ]
