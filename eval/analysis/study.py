"""Everything that `dodona analyze` says of one pair of models: signals against labels, and the disagreement map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.engine.presets import ATTENTION
from dodona.engine.recording import RecordedRun, Recording
from dodona.eval.analysis.disagreement import DisagreementMap, disagreement_map
from dodona.eval.analysis.labels import CONFIDENT, Label, Limits, base_rows, first_of_context, labels
from dodona.eval.analysis.outcomes import read_changes, recoverable_table
from dodona.eval.analysis.resample import FEW, RESAMPLES
from dodona.eval.analysis.signal_table import DIRECTIONS, LENGTH, POSITION, SignalTable, signal_table
from dodona.eval.compat.switches import is_variant
from dodona.eval.recorded import Experiment

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to analyse."""

    limits: Limits = field(default_factory=Limits)
    confident: float = CONFIDENT  # nats of entropy
    resamples: int = RESAMPLES
    seed: int = 0
    changes: str | None = None  # a file of outcome changes


@dataclass(frozen=True, slots=True)
class Study:
    """One configuration: which runs, and what they say."""

    title: str
    models: tuple[str | None, str | None]
    config_hash: str | None
    arms: Sequence[str]
    recording: Recording = field(repr=False)
    rows: Array = field(repr=False)  # [N] bool: the positions that count
    tables: Sequence[SignalTable]  # a label each
    problem_table: SignalTable | None  # signals averaged over a text, against the problem's outcome
    disagreements: DisagreementMap | None
    notes: Sequence[str]

    @property
    def problems(self) -> int:
        """How many there are."""
        return len(self.recording.problems[0])

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "title": self.title,
            "base_model_id": self.models[0],
            "oracle_model_id": self.models[1],
            "config_hash": self.config_hash,
            "arms": list(self.arms),
            "runs": len(self.recording.runs),
            "problems": self.problems,
            "tokens": self.recording.tokens,
            "rows": int(self.rows.sum()),
            "labels": [table.as_dict() for table in self.tables],
            "problem_outcome": None if self.problem_table is None else self.problem_table.as_dict(),
            "disagreement": None if self.disagreements is None else self.disagreements.as_dict(),
            "notes": list(self.notes),
        }


def studies(
    recording: Recording, experiments: Iterable[Experiment], settings: Settings, note: Callable[[str], None]
) -> list[Study]:
    """A study for each configuration among the runs, in the order of their first one.

    Args:
        recording: all runs.
        experiments: their records, as far as there are any.
        note: told what concerns no single study.

    Raises:
        DodonaError: the file of changes cannot be read.
    """
    if recording.duplicates:
        note(f"{recording.duplicates} runs are in the traces more than once; the first of each counts")
    changes: Array | None = None
    if settings.changes is not None:
        changes, unmatched = read_changes(settings.changes, recording)
        if unmatched:
            note(f"{unmatched} lines of {settings.changes} are of positions that no trace has")
    by_hash = {experiment.config_hash: experiment for experiment in experiments}
    groups: dict[tuple[str | None, ...], list[int]] = {}
    for place, run in enumerate(recording.runs):
        groups.setdefault((run.base_model_id, run.oracle_model_id, run.config_hash), []).append(place)
    titles = [_title(group) for group in groups]
    found = []
    for (group, places), title in zip(groups.items(), titles, strict=True):
        if titles.count(title) > 1:
            title = f"{title}, config {group[2] or 'not known'}"
        chosen = np.zeros(len(recording.runs), dtype=bool)
        chosen[places] = True
        own = None if changes is None else changes[np.repeat(chosen, recording.lengths)]
        part = recording if chosen.all() else recording.select(chosen)
        found.append(_study(title, part, by_hash.get(group[2] or ""), own, settings))
    return found


def choose_arms(recording: Recording, names: Sequence[str]) -> Recording:
    """The runs of these arms; where no name is given all of them, but for those that are no valid measure.

    Raises:
        DodonaError: an arm that no run is of.
    """
    if not names:
        valid = np.array([not is_variant(run.arm) for run in recording.runs], dtype=bool)
        return recording if valid.all() else recording.select(valid)
    there = list(dict.fromkeys(run.arm for run in recording.runs if run.arm is not None))
    for name in names:
        if name not in there:
            arms = ", ".join(map(repr, there)) or "none"
            raise DodonaError(f"--arm: no run is of the arm {name!r}; there are {arms}")
    return recording.select(np.array([run.arm in names for run in recording.runs], dtype=bool))


def arm_name(run: RecordedRun) -> str:
    """A run's arm, or what it was run by where it is of no experiment."""
    return run.arm if run.arm is not None else f"{run.trigger} {run.when}"


def _title(group: tuple[str | None, ...]) -> str:
    base, oracle, _ = group
    return f"{base or 'unknown base'} with {oracle}" if oracle else str(base or "unknown models")


def _study(
    title: str, recording: Recording, experiment: Experiment | None, changes: Array | None, settings: Settings
) -> Study:
    first = first_of_context(recording)
    looked = base_rows(recording)
    rows = looked & first
    found = labels(recording, settings.limits, changes)
    tables = [
        signal_table(
            recording, label, _rows_of(label, recording, first), resamples=settings.resamples, seed=settings.seed
        )
        for label in found.values()
    ]
    problem_table = None
    if experiment is not None:
        problem_table = recoverable_table(experiment, recording, resamples=settings.resamples, seed=settings.seed)
    disagreements = None
    if "differs" in found:
        disagreements = disagreement_map(
            recording, found["differs"], rows, settings.confident, resamples=settings.resamples, seed=settings.seed
        )
    run = recording.runs[0]
    return Study(
        title=title,
        models=(run.base_model_id, run.oracle_model_id),
        config_hash=run.config_hash,
        arms=list(dict.fromkeys(map(arm_name, recording.runs))),
        recording=recording,
        rows=rows,
        tables=tables,
        problem_table=problem_table,
        disagreements=disagreements,
        notes=list(_notes(recording, looked, first, found)),
    )


def _rows_of(label: Label, recording: Recording, first: Array) -> Array:
    """Which positions count for a label: what a counterfactual run has tried, the oracle need not have looked at."""
    rows: Array = (~recording.oracle if label.name == "helps" else base_rows(recording)) & first
    return rows


def _notes(recording: Recording, looked: Array, first: Array, found: dict[str, Label]) -> Iterable[str]:
    if (problems := len(recording.problems[0])) < FEW:
        yield f"the intervals are too narrow: {problems} problems are few to draw from"
    base = int((~recording.oracle).sum())
    unseen = base - int(looked.sum())
    if unseen:
        yield (
            f"the oracle has not looked at {unseen} of {base} base tokens (those after the last consult), and they are "
            "left out: run with --oracle-tail to have all of them"
        )
    if shared := int((looked & ~first).sum()):
        yield f"{shared} tokens are of contexts that another run has, too; each context counts once"
    if consults := int(recording.starts.sum()):
        yield (
            f"the {consults} positions where a consult happened are not rows, as the oracle wrote there: what a "
            "trigger picked is missing from the tables; the base alone with --oracle-tail has every position"
        )
    missing = [name for name in DIRECTIONS if name not in (POSITION, LENGTH) and name not in recording.columns]
    if missing:
        attention = " (--attention-layer -1 records the attention's)" if ATTENTION.intersection(missing) else ""
        yield f"not recorded: {', '.join(missing)}{attention}"
    if "js" not in found:
        yield "no label js: the divergence of the two models was not recorded (--divergence records it)"
