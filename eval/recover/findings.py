"""What a study's files hold, as counts by problem: straight shots, prefixes, completions and costs.

The denominator is what was asked for: a run without a record counts as wrong, and is counted apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from dodona.engine.errors import DodonaError
from dodona.eval.recover.files import Header, parsed_row, read_stage
from dodona.eval.recover.rates import Count, Weights, bin_edges, memberships
from dodona.eval.recover.rows import (
    OFF,
    RIGHT,
    WRONG_KINDS,
    Asked,
    Completion,
    Cost,
    Prefix,
    Sample,
    completion_id,
    read_completion,
    read_prefix,
    read_sample,
    sample_id,
)
from dodona.eval.recover.settings import APPRAISE, COMPLETE, PREFIXES, ROLES, STRONG, WEAK
from dodona.eval.recover.stages import FILES, SOLUTIONS

T = TypeVar("T")

BINS: Final = 5
NO_ERROR: Final = "no error yet"  # of a wrong prefix with which a right solution begins, too
ERROR: Final = "no right solution begins so"  # of the others; it may still be that none was drawn
_KINDS: Final = (*WRONG_KINDS, RIGHT)


class Group(NamedTuple):
    """Prefixes of one kind, cut at one fraction."""

    kind: str
    fraction: float

    @property
    def name(self) -> str:
        """``off-policy, 70 %``."""
        return f"{self.kind}, {100 * self.fraction:g} %"


class Missing(NamedTuple):
    """Runs of a stage that have no record."""

    stage: str
    missing: int
    asked: int


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that a report looks at. Problems, prefixes and completions are in a stable order.

    Args:
        headers: of the files, by name.
        appraised: straight shots that decide the bins, by role and problem.
        shots: straight shots among the controls, by role and problem.
        shot_rows: these, as far as they have a record.
        prefixes: by row id, those that are counted.
        completions: by prefix and role.
        solutions: what was drawn in search of wrong ones, by role.
        completions_asked: of each prefix.
        costs: by stage and role.
    """

    headers: Mapping[str, Header]
    problems: Sequence[Asked]
    samples: int
    completions_asked: int
    appraisal: Mapping[str, Sequence[Sample]]
    appraised: Mapping[str, Mapping[str, Count]]
    shot_rows: Mapping[str, Sequence[Completion]]
    shots: Mapping[str, Mapping[str, Count]]
    solutions: Mapping[str, Sequence[Sample]]
    prefixes: Mapping[str, Prefix]
    completions: Mapping[tuple[str, str], Sequence[Completion]]
    answered: int  # prefixes with an answer that are left out
    costs: Mapping[tuple[str, str], Cost]
    missing: Sequence[Missing]
    edges: Sequence[float]
    bins: Sequence[Weights]  # of each bin, the problems' shares
    controls: Mapping[str, str] = field(default_factory=dict)  # of each wrong prefix, the right one beside it
    harmless: frozenset[str] = frozenset()  # wrong prefixes with which a right solution begins, too: no error yet

    @property
    def config(self) -> Mapping[str, Any]:
        """What all completions depend on, or as much of it as there is yet."""
        return next(self.headers[name].config for name in reversed(FILES) if name in self.headers)

    @property
    def groups(self) -> list[Group]:
        """The kinds and fractions that there are, in the order of tables."""
        found = {Group(prefix.kind, prefix.fraction) for prefix in self.prefixes.values() if prefix.kind != RIGHT}
        return sorted(found, key=lambda group: (_KINDS.index(group.kind), group.fraction))

    @property
    def fractions(self) -> list[float]:
        """Where solutions were cut."""
        return sorted({group.fraction for group in self.groups})

    def of(self, group: Group) -> list[Prefix]:
        """A group's prefixes."""
        return [p for p in self.prefixes.values() if p.kind == group.kind and p.fraction == group.fraction]

    def right_of(self, prefixes: Iterable[Prefix]) -> list[Prefix]:
        """The right prefixes beside these, as far as there are any."""
        return [self.prefixes[self.controls[p.row_id]] for p in prefixes if p.row_id in self.controls]

    def runs(self, prefixes: Iterable[Prefix], role: str) -> list[Completion]:
        """What a model made of these, as far as it has a record."""
        return [run for prefix in prefixes for run in self.completions.get((prefix.row_id, role), ())]

    def tally(self, prefixes: Iterable[Prefix], role: str) -> dict[str, Count]:
        """Right and all completions of these by problem; one that is missing counts as wrong."""
        found: dict[str, Count] = {}
        for prefix in prefixes:
            runs = self.completions.get((prefix.row_id, role), ())
            right, n = found.get(prefix.problem_id, Count(0, 0))
            right += sum(run.correct for run in runs)
            found[prefix.problem_id] = Count(right, n + self.completions_asked)
        return found

    def sometimes(self) -> list[str]:
        """Problems that the strong model solved in some samples of the appraisal and not in others."""
        return [pid for pid, count in self.appraised[STRONG].items() if 0 < count.right < count.n]

    def never_wrong(self) -> list[str]:
        """Problems of which the weak model drew no wrong solution, which are left aside."""
        wrong = {sample.problem_id for sample in self.solutions[WEAK] if sample.wrong and len(sample.body) > 1}
        drawn = {sample.problem_id for sample in self.solutions[WEAK]}
        return [problem.problem_id for problem in self.problems if problem.problem_id in drawn - wrong]

    def always_solved(self) -> list[str]:
        """Those of them that it solved in every try."""
        failed = {sample.problem_id for sample in self.solutions[WEAK] if not sample.correct}
        return [problem_id for problem_id in self.never_wrong() if problem_id not in failed]


def read_findings(folder: Path, *, exclude_answered: bool = False, bins: int = BINS) -> Findings:
    """Read a study's files.

    Args:
        exclude_answered: leave out prefixes that contain an answer, and what they are compared with.
        bins: of the solve rate.

    Raises:
        DodonaError: there is no appraisal, a file cannot be read, or two files belong to different studies.
    """
    headers: dict[str, Header] = {}
    appraisal = _read(folder, APPRAISE, read_sample, headers)
    if APPRAISE not in headers:
        raise DodonaError(f"{folder} holds no study of `dodona recover`: {folder / FILES[APPRAISE]} is not there")
    solutions = _read(folder, SOLUTIONS, read_sample, headers)
    prefixes = _read(folder, PREFIXES, read_prefix, headers)
    completions = _read(folder, COMPLETE, read_completion, headers)
    _check_same(folder, headers)
    problems = list(headers[APPRAISE].problems.values())
    place = {problem.problem_id: index for index, problem in enumerate(problems)}
    samples = int(headers[APPRAISE].config["samples"])
    asked = headers[COMPLETE].asked if COMPLETE in headers else {}
    # A fraction's place in its row id is that of its digits, so rows of one solution follow each other in its order.
    listed = sorted(
        (prefix for prefix in prefixes.values() if prefix.problem_id in place),
        key=lambda prefix: (place[prefix.problem_id], _KINDS.index(prefix.kind), prefix.row_id),
    )
    without = exclude_answered or not asked.get("answered", True)
    out = {prefix.row_id for prefix in listed if prefix.answered} if without else set()
    kept = {prefix.row_id: prefix for prefix in listed if prefix.row_id not in out and prefix.of not in out}
    by_prefix: dict[tuple[str, str], list[Completion]] = {}
    for run in completions.values():
        if run.prefix is not None and run.prefix in kept:
            by_prefix.setdefault((run.prefix, run.role), []).append(run)
    for runs in by_prefix.values():
        runs.sort(key=lambda run: run.number)
    shots = {role: [run for run in completions.values() if run.prefix is None and run.role == role] for role in ROLES}
    edges = bin_edges(bins)
    appraised = {role: _solved(problems, appraisal, role, samples, appraisal_of=True) for role in ROLES}
    shares = {pid: memberships(count, edges) for pid, count in appraised[STRONG].items()}
    m = int(asked.get("completions", 0))
    return Findings(
        headers=headers,
        problems=problems,
        samples=samples,
        completions_asked=m,
        appraisal={role: _of_role(appraisal, role, place) for role in ROLES},
        appraised=appraised,
        shot_rows={role: sorted(shots[role], key=lambda run: (place[run.problem_id], run.number)) for role in ROLES},
        shots={
            role: _solved(problems, completions, role, samples, appraisal_of=False) if COMPLETE in headers else {}
            for role in ROLES
        },
        solutions={role: _of_role(solutions, role, place) for role in ROLES},
        prefixes=kept,
        completions=by_prefix,
        answered=sum(1 for row_id in out if prefixes[row_id].kind != RIGHT),
        costs=_costs({APPRAISE: appraisal, PREFIXES: solutions, COMPLETE: completions}),
        missing=_missing(problems, samples, m, appraisal, kept, completions),
        edges=edges,
        bins=[{pid: share[index] for pid, share in shares.items() if share[index] > 0} for index in range(bins)],
        controls={prefix.of: row_id for row_id, prefix in kept.items() if prefix.of is not None},
        harmless=_harmless(kept.values(), [*appraisal.values(), *solutions.values(), *shots[STRONG], *shots[WEAK]]),
    )


def _read(folder: Path, name: str, read: Callable[[Mapping[str, Any]], T], headers: dict[str, Header]) -> dict[str, T]:
    """A file's rows by their ids, the first of each, and its header; none where there is no file."""
    path = folder / FILES[name]
    rows: dict[str, T] = {}
    for line in read_stage(path, name) if path.exists() else ():
        if isinstance(line, Header):
            headers[name] = line
        else:
            rows.setdefault(str(line.get("row_id")), parsed_row(read, line, path))
    return rows


def _check_same(folder: Path, headers: Mapping[str, Header]) -> None:
    """Each stage's configuration must go on from that of the one before it."""
    before: Header | None = None
    for name in FILES:
        if name in headers:
            if before is not None and not before.config.items() <= headers[name].config.items():
                raise DodonaError(f"{folder}: {FILES[name]} and {FILES[before.stage]} belong to different studies")
            before = headers[name]


def _solved(
    problems: Sequence[Asked], rows: Mapping[str, Any], role: str, samples: int, *, appraisal_of: bool
) -> dict[str, Count]:
    """Of every problem, how many straight shots were right of those that were asked for."""
    found = {}
    for problem in problems:
        right = 0
        for number in range(samples):
            pid = problem.problem_id
            row_id = sample_id(pid, role, number, appraisal=True) if appraisal_of else completion_id(pid, role, number)
            right += row_id in rows and rows[row_id].correct
        found[problem.problem_id] = Count(right, samples)
    return found


def _of_role(samples: Mapping[str, Sample], role: str, place: Mapping[str, int]) -> list[Sample]:
    chosen = [sample for sample in samples.values() if sample.role == role and sample.problem_id in place]
    return sorted(chosen, key=lambda sample: (place[sample.problem_id], sample.number))


def _harmless(prefixes: Iterable[Prefix], samples: Iterable[Sample | Completion]) -> frozenset[str]:
    """The wrong prefixes with which some right one of these samples begins, token for token.

    Samples from the bare prompt, and no completion of a prefix: those would make every recovery its own witness.
    """
    right: dict[str, set[tuple[int, ...]]] = {}
    for sample in samples:
        if sample.correct:
            right.setdefault(sample.problem_id, set()).add(sample.ids)
    return frozenset(
        prefix.row_id
        for prefix in prefixes
        if prefix.kind != RIGHT
        and any(ids[: len(prefix.ids)] == prefix.ids for ids in right.get(prefix.problem_id, ()))
    )


def _costs(stages: Mapping[str, Mapping[str, Sample] | Mapping[str, Completion]]) -> dict[tuple[str, str], Cost]:
    found: dict[tuple[str, str], Cost] = {}
    for stage, rows in stages.items():
        for role in ROLES:
            total = Cost()
            for row in rows.values():
                if row.role == role:
                    total = total.plus(row.cost)
            found[stage, role] = total
    return found


def _missing(
    problems: Sequence[Asked],
    samples: int,
    completions: int,
    appraisal: Mapping[str, Sample],
    prefixes: Mapping[str, Prefix],
    rows: Mapping[str, Completion],
) -> list[Missing]:
    """What was asked for and has no record, where there is any."""
    ids = [problem.problem_id for problem in problems]
    shots = {sample_id(pid, role, number, appraisal=True) for pid in ids for role in ROLES for number in range(samples)}
    found = [Missing(APPRAISE, len(shots - appraisal.keys()), len(shots))]
    wanted = {completion_id(pid, role, number) for pid in ids for role in ROLES for number in range(samples)}
    for prefix in prefixes.values():
        for role in (STRONG, WEAK) if prefix.kind == OFF else (STRONG,):
            wanted |= {completion_id(prefix, role, number) for number in range(completions)}
    found.append(Missing(COMPLETE, len(wanted - rows.keys()), len(wanted)))
    return [one for one in found if one.missing]


def outcomes(runs: Iterable[Sample | Completion]) -> Counter[str]:
    """How many runs ended in which way."""
    return Counter(run.outcome for run in runs)
