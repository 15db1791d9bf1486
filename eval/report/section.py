"""One experiment of a report: its lines, their differences from the base alone, and what the reader should know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from dodona.eval.compat.ladder import Ladder, ladders, ladders_as_dict
from dodona.eval.compat.switches import NOT_VALID
from dodona.eval.recorded import Experiment, RecordedArm, titles
from dodona.eval.report.contrast import Contrast, contrast
from dodona.eval.report.correlations import CorrelationLine, correlations
from dodona.eval.report.official import Official, official_scores
from dodona.eval.stats.multiple import holm
from dodona.eval.summary import ArmSummary, errors, summarise_line


@dataclass(frozen=True, slots=True)
class Line:
    """An arm, or all arms that differ in their seed alone."""

    arms: tuple[RecordedArm, ...]
    summary: ArmSummary
    whole: bool  # whether there are no more seeds of it
    begun: bool  # whether there is any record of it
    contrast: Contrast | None = None  # it less the base alone
    p_holm: float | None = None  # the contrast's p-value, corrected for all guided arms

    @property
    def arm(self) -> RecordedArm:
        """The first of the arms."""
        return self.arms[0]

    @property
    def seeds(self) -> list[int]:
        """Which seeds it has."""
        return [arm.seed for arm in self.arms]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        against = None if self.contrast is None else self.contrast.as_dict() | {"p_holm": self.p_holm}
        return self.summary.as_dict() | {"against_base": against}


@dataclass(frozen=True)
class Section:
    """Everything that a report says of one experiment."""

    experiment: Experiment
    title: str
    lines: list[Line]  # in the order of tables: each arm, and after those of one family all of its seeds
    correlations: list[CorrelationLine]
    errors: Mapping[str, int]  # runs that failed, by reason
    official: Sequence[Official]
    notes: list[str]
    ladders: Sequence[Ladder] = ()  # the first experiments' way of counting, where it was asked for

    @cached_property
    def families(self) -> list[Line]:
        """One line for all seeds of an arm, of the arms that were begun."""
        return [line for line in self.lines if line.whole and line.begun]

    @cached_property
    def base(self) -> Line | None:
        """The base alone."""
        return next((line for line in self.families if line.arm.base_alone), None)

    @cached_property
    def oracle(self) -> Line | None:
        """The oracle alone."""
        return next((line for line in self.families if self.experiment.is_oracle_alone(line.arm)), None)

    @cached_property
    def guided(self) -> list[Line]:
        """The lines between them."""
        return [line for line in self.families if line is not self.base and line is not self.oracle]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        experiment, base, oracle = self.experiment, self.base, self.oracle
        return {
            "title": self.title,
            "config_hash": experiment.config_hash,
            "config": dict(experiment.config),
            "dodona": experiment.dodona,
            "versions": experiment.versions,
            "git_commits": experiment.commits,
            "files": experiment.files,
            "problems": len(experiment.problems),
            "records": experiment.records,
            "duplicates": experiment.duplicates,
            "base": None if base is None else base.summary.name,
            "oracle": None if oracle is None else oracle.summary.name,
            "arms": [line.as_dict() for line in self.lines],
            "correlations": [line.as_dict() for line in self.correlations],
            "errors": dict(self.errors),
            "official": [score._asdict() for score in self.official],
            "notes": self.notes,
        } | ({"compat": ladders_as_dict(self.ladders)} if self.ladders else {})


def sections(experiments: Sequence[Experiment], *, common: bool = False) -> list[Section]:
    """A section for each experiment; ``common``: on the problems alone that all of its arms have a record of."""
    named = zip(experiments, titles(experiments), strict=True)
    if not common:
        return [make_section(experiment, title) for experiment, title in named]
    return [make_section(experiment.common(), title, len(experiment.problems)) for experiment, title in named]


def make_section(experiment: Experiment, title: str, asked: int | None = None) -> Section:
    """The section of an experiment; ``asked``: the problems asked for, where it was restricted to some of them."""
    lines = _with_contrasts(experiment, _lines(experiment))
    return Section(
        experiment=experiment,
        title=title,
        lines=lines,
        correlations=correlations(experiment),
        errors=errors(row for rows in experiment.rows.values() for row in rows.values()),
        official=official_scores(experiment.config),
        notes=_notes(experiment, lines, asked),
        ladders=ladders(
            experiment.arms, experiment.problems, experiment.rows | experiment.compat_rows, experiment.compat
        ),
    )


def _lines(experiment: Experiment) -> list[Line]:
    families: dict[str, list[RecordedArm]] = {}
    for arm in experiment.arms:
        families.setdefault(arm.family, []).append(arm)
    lines = []
    for family in families.values():
        groups = [(arm,) for arm in family] + ([tuple(family)] if len(family) > 1 else [])
        for arms in groups:
            summary = summarise_line(arms, experiment.problems, experiment.rows)
            begun = any(experiment.rows.get(arm.name) for arm in arms)
            lines.append(Line(arms, summary, len(arms) == len(family), begun))
    return lines


def _with_contrasts(experiment: Experiment, lines: Sequence[Line]) -> list[Line]:
    """The lines with their differences from the base alone, where there is one."""
    base = [line for line in lines if line.arm.base_alone]
    if not base:
        return list(lines)
    compared = []
    for line in lines:
        if not line.arm.base_alone:
            a, b = _base_of(line, base).summary.rate, line.summary.rate
            line = replace(line, contrast=contrast(a.counts, b.counts, a.samples, b.samples))
        compared.append(line)
    tested = [
        index
        for index, line in enumerate(compared)
        if line.contrast is not None and line.whole and not experiment.is_oracle_alone(line.arm)
    ]
    p_values = [paired.p for index in tested if (paired := compared[index].contrast) is not None]
    for index, p in zip(tested, holm(p_values), strict=True):
        compared[index] = replace(compared[index], p_holm=p)
    return compared


def _base_of(line: Line, base: Sequence[Line]) -> Line:
    """The base alone with the same seeds; without such, with all of its seeds for several and its first for one."""
    same = (other for other in base if other.seeds == line.seeds)
    return next(same, base[-1] if len(line.seeds) > 1 else base[0])


def _notes(experiment: Experiment, lines: Sequence[Line], asked: int | None) -> list[str]:
    notes = []
    if asked is not None:
        notes.append(f"only the {len(experiment.problems)} of {asked} problems that every arm has a record of")
    single = [line.summary for line in lines if len(line.arms) == 1]
    missing, runs = sum(line.missing for line in single), sum(line.rate.n for line in single)
    if missing:
        notes.append(f"{missing} of {runs} runs have no record; they count as wrong")
    if not experiment.listed:
        notes.append("the files do not say which problems were asked for: only those with a record are counted")
    if experiment.duplicates:
        notes.append(f"{experiment.duplicates} records are of runs that had one already; the first counts")
    if not any(line.arm.base_alone for line in lines):
        notes.append("no arm is the base alone (c=0), so there is nothing to compare the others with")
    if others := sum(map(len, experiment.compat_rows.values())):
        begun = any(experiment.rows.values())
        where = "in the table of that name and nowhere else"
        where = where if begun else "shown beside honest ones, which are not here"
        notes.append(f"{others} more records are {NOT_VALID}; they are {where}")
    for name, values in (("versions of dodona", experiment.dodona), ("commits", experiment.commits)):
        if len(values) > 1:
            notes.append(f"written by several {name}: {', '.join(values)}")
    return notes
