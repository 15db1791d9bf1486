"""What a consult changes in the outcome: measured at single positions by counterfactual runs, or by problem.

A file of changes is JSON lines, one a position that was tried both ways from the same text before it:

    {"problem_id": "arith-0-8", "position": 17, "change": 1}

``change`` is 1 where the consult turns a wrong answer into a right one, -1 where it does the opposite, 0 where it
changes nothing. ``arm`` and ``sample`` may be given, too; without an arm a line holds for every arm of the problem,
which is right where all of its traces are of one. Other fields, and lines with a ``header``, are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.engine.recording import Recording
from dodona.engine.records import read_records
from dodona.eval.analysis.labels import Label, base_rows
from dodona.eval.analysis.signal_table import DIRECTIONS, LENGTH, SignalTable, signal_table
from dodona.eval.recorded import Experiment

Array = np.ndarray[Any, Any]


class Change(NamedTuple):
    """What a consult at one position changes."""

    problem_id: str
    position: int  # generated-token index
    change: int
    arm: str | None
    sample: int


def read_changes(path: str | Path, recording: Recording) -> tuple[Array, int]:
    """[N] float32: the change at each token, NaN where none is known; and how many lines match no token.

    Raises:
        DodonaError: the file cannot be read, or a line is no change.
    """
    places: dict[tuple[str, str | None, int], list[int]] = {}
    for place, run in enumerate(recording.runs):
        if run.problem_id is not None:
            for arm in dict.fromkeys((run.arm, None)):
                places.setdefault((run.problem_id, arm, run.sample), []).append(place)
    changes = np.full(recording.tokens, np.nan, dtype=np.float32)
    lengths = recording.lengths
    unmatched = 0
    for number, line in enumerate(read_records(path), 1):
        if "header" in line:
            continue
        try:
            change = _change(line)
        except (KeyError, ValueError) as error:
            raise DodonaError(
                f'{path}, line {number}: a line is {{"problem_id": text, "position": number, "change": -1, 0 or 1}}'
            ) from error
        runs = places.get((change.problem_id, change.arm, change.sample), ())
        inside = [place for place in runs if change.position < lengths[place]]
        unmatched += not inside
        for place in inside:
            changes[recording.edges[place] + change.position] = change.change
    return changes, unmatched


def _change(line: Mapping[str, Any]) -> Change:
    """The change that a line says.

    Raises:
        KeyError, ValueError: it says something else.
    """
    change = Change(line["problem_id"], line["position"], line["change"], line.get("arm"), line.get("sample", 0))
    numbers = (change.position, change.change, change.sample)
    names = (change.problem_id, *([] if change.arm is None else [change.arm]))
    if any(type(value) is not int for value in numbers) or any(type(value) is not str for value in names):
        raise ValueError(line)
    if change.position < 0 or change.sample < 0 or change.change not in (-1, 0, 1):
        raise ValueError(line)
    return change


def recoverable_table(experiment: Experiment, recording: Recording, *, resamples: int, seed: int) -> SignalTable | None:
    """Signals averaged over a problem's text against the problem's own outcome: base wrong and oracle right.

    A row is a problem that both the base alone and the oracle alone have a record of, with the means over the base's
    tokens. None where an experiment has no such arms, or no trace of the base alone.
    """
    base = next((arm for arm in experiment.arms if arm.base_alone), None)
    oracle = next((arm for arm in experiment.arms if experiment.is_oracle_alone(arm)), None)
    if base is None or oracle is None:
        return None
    solved = [
        {problem: row.outcome == "correct" for problem, row in experiment.rows.get(arm.name, {}).items()}
        for arm in (base, oracle)
    ]
    names = [run.problem_id for run in recording.runs]
    kept = np.array(
        [
            run.arm == base.name and run.sample == 0 and all(run.problem_id in right for right in solved)
            for run in recording.runs
        ],
        dtype=bool,
    )
    if not kept.any():
        return None
    label = Label(
        "recoverable",
        "the base alone has the problem wrong and the oracle alone right; signals are means over the base's text",
        np.array([_recoverable(name, solved) if keep else np.nan for name, keep in zip(names, kept, strict=True)])[
            kept
        ].astype(np.float32),
    )
    base_texts = recording.select(kept)
    control = (LENGTH, base_texts.lengths.astype(np.float32))
    rows = np.ones(len(base_texts.runs), dtype=bool)
    return signal_table(_means(base_texts), label, rows, control=control, resamples=resamples, seed=seed)


def _recoverable(problem: str | None, solved: Sequence[dict[str, bool]]) -> float:
    assert problem is not None
    return float(not solved[0][problem] and solved[1][problem])


def _means(recording: Recording) -> Recording:
    """A recording with one token a sequence, whose columns are the means over the base's tokens."""
    rows = base_rows(recording) if "agree" in recording.columns else ~recording.oracle
    sequence = recording.sequence
    count = len(recording.runs)
    columns = {}
    for name in DIRECTIONS:
        if name in recording.columns:
            values = recording.columns[name]
            known = rows & ~np.isnan(values)
            total = np.bincount(sequence[known], weights=values[known], minlength=count)
            with np.errstate(invalid="ignore"):
                columns[name] = (total / np.bincount(sequence[known], minlength=count)).astype(np.float32)
    return Recording(
        runs=recording.runs,
        edges=np.arange(count + 1),
        columns=columns,
        token_id=np.zeros(count, dtype=np.int32),
        oracle=np.zeros(count, dtype=bool),
        starts=np.zeros(count, dtype=bool),
        settings=recording.settings,
    )
