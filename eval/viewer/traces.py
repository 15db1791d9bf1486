"""Traces and the runs they belong to; a trace without records makes runs of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.engine.trace import read_metadata, read_traces
from dodona.eval.arms import Arm
from dodona.eval.viewer.runs import ORACLE, ArmKey, Collection, Piece, Run, ShownArm, ShownProblem, Trace, settings_of
from dodona.eval.viewer.sources import Source

_NEEDED: Final = ("position", "token_id", "source", "consult")


class _Found(NamedTuple):
    """One sequence of a trace file."""

    problem: str | None
    arm_name: str | None  # None: the file does not say
    settings: tuple[Any, ...]
    columns: Trace

    @property
    def ids(self) -> list[int]:
        return [int(i) for i in self.columns["token_id"]]


def attach(collection: Collection, note: Callable[[str], None]) -> None:
    """Give each run its trace: the one of the same problem and settings, if it has the same tokens.

    A trace that was named itself and belongs to no record here makes runs of its own. ``note`` is told of sequences
    that match no record, and of files that are no traces.

    Raises:
        DodonaError: a trace that was named itself and cannot be read.
    """
    waiting: dict[tuple[Any, ...], list[Run]] = {}
    for run in collection.runs.values():
        waiting.setdefault(run.settings, []).append(run)
    for number, source in enumerate(collection.sources):
        for path in source.traces:
            _attach_file(collection, number, source, path, waiting, note)


def _attach_file(
    collection: Collection,
    number: int,
    source: Source,
    path: Path,
    waiting: Mapping[tuple[Any, ...], list[Run]],
    note: Callable[[str], None],
) -> None:
    try:
        metadata = read_metadata(path)
    except DodonaError as error:
        if source.is_trace:
            raise
        note(f"passed over: {error}")
        return
    found = _sequences(path)
    lone = [sequence for sequence in found if not _match(sequence, waiting, source=None if source.is_trace else number)]
    if not lone:
        return
    if len(lone) == len(found) and (source.is_trace or not source.records):
        _make_runs(collection, number, path, metadata, lone, note)
        return
    names = sorted({sequence.problem for sequence in lone if sequence.problem is not None})
    first = f" (the first: {names[0]})" if names else ""
    note(
        f"{path}: {len(lone)} of its {len(found)} sequences have no record with these settings and tokens, and are not "
        f"shown{first}"
    )


def _match(sequence: _Found, waiting: Mapping[tuple[Any, ...], list[Run]], *, source: int | None) -> bool:
    """Give the sequence to the first run without a trace that it fits."""
    for run in waiting.get(sequence.settings, ()):
        if source is not None and run.arm.source != source:
            continue
        if sequence.arm_name is not None and run.arm.name != sequence.arm_name:
            continue
        if run.trace is None and _same_text(run, sequence):
            run.trace = sequence.columns
            return True
    return False


def _same_text(run: Run, sequence: _Found) -> bool:
    return run.ids == sequence.ids and run.starts == _starts(sequence.columns)


def _sequences(path: Path) -> list[_Found]:
    """The sequences of a trace file, rows in the order of their positions.

    Raises:
        DodonaError: no trace, one that lacks a column, or one whose positions are not those of whole texts.
    """
    found = []
    for columns in read_traces(path):
        if missing := [name for name in _NEEDED if name not in columns]:
            raise DodonaError(f"the trace {path} has no column {missing[0]}")
        if not np.array_equal(columns["position"], np.arange(len(columns["position"]))):
            raise DodonaError(f"the trace {path} does not hold whole texts: positions are missing, or out of order")
        problem, arm_name = _names(_first(columns, "problem_id"), _first(columns, "arm"))
        settings = settings_of(problem, int(_first(columns, "sample") or 0), _arm(columns))
        found.append(_Found(problem, arm_name, settings, columns))
    return found


def _names(problem: str | None, arm: str | None) -> tuple[str | None, str | None]:
    """Problem and arm; a request may carry both in its id, as ``["arm", "problem"]``."""
    if problem is None or not problem.startswith('["'):
        return problem, arm
    try:
        both = json.loads(problem)
    except ValueError:
        return problem, arm
    if isinstance(both, list) and len(both) == 2 and all(isinstance(part, str) for part in both):
        return both[1], both[0]
    return problem, arm


def _first(columns: Trace, name: str) -> Any:
    """The value that a whole sequence shares; None: there is none."""
    if name not in columns or len(columns[name]) == 0:
        return None
    value = columns[name][0]
    return None if value is None or value != value else value


def _arm(columns: Trace) -> Arm | None:
    c, k, trigger, when, seed = (_first(columns, name) for name in ("c", "k", "trigger", "when", "seed"))
    if c is None or k is None or trigger is None or when is None or seed is None:
        return None
    return Arm(float(c), float(k), str(trigger), when, int(seed))


def _starts(columns: Trace) -> list[int]:
    """Where each consult begins: its first oracle token."""
    oracle = columns["source"] == ORACLE
    consult = np.where(oracle, _numbers(columns["consult"]), -1)
    return [int(i) for i in np.flatnonzero(oracle & (np.diff(consult, prepend=-1) != 0))]


def _numbers(column: Any) -> Any:
    return np.asarray(column, dtype=np.float64)


def _make_runs(
    collection: Collection,
    number: int,
    path: Path,
    metadata: Mapping[str, str],
    sequences: list[_Found],
    note: Callable[[str], None],
) -> None:
    duplicates = 0
    models = metadata.get("base_model_id"), metadata.get("oracle_model_id")
    for ordinal, sequence in enumerate(sequences):
        arm = _arm(sequence.columns)
        name = sequence.arm_name or (arm.name if arm is not None else path.stem)
        sample = int(_first(sequence.columns, "sample") or 0)
        if sequence.problem is not None and sample:
            name += f" sample={sample}"
        key = ArmKey(number, "", name)
        collection.arms.setdefault(key, ShownArm(key, path, arm, *models))
        problem = sequence.problem if sequence.problem is not None else f"sequence {ordinal}"
        collection.problems.setdefault(problem, ShownProblem(problem, problem))
        reason = _first(sequence.columns, "finish_reason")
        duplicates += not collection.add(
            Run(
                arm=key,
                problem=problem,
                pieces=_pieces(sequence),
                starts=_starts(sequence.columns),
                outcome="failed" if reason == "error" else "ungraded",
                finish_reason=reason,
                settings=sequence.settings,
                trace=sequence.columns,
            )
        )
    if duplicates:
        note(f"{path} has {duplicates} more sequences of runs that it has already; the first ones are shown")


def _pieces(sequence: _Found) -> list[Piece]:
    """Stretches of one author, a consult each; their texts come from the tokenizer."""
    sources, ids = sequence.columns["source"], sequence.ids
    cuts = {0, *_starts(sequence.columns), *(int(i) + 1 for i in np.flatnonzero(sources[1:] != sources[:-1]))}
    edges = [*sorted(cut for cut in cuts if cut < len(ids)), len(ids)]
    return [Piece(str(sources[start]), "", tuple(ids[start:stop])) for start, stop in pairwise(edges)]
