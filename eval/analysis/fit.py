"""From a recording to a fitted trigger: which rows, which signals, and what the fit is worth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.engine.presets import BOOLEAN
from dodona.engine.replay import STATEFUL, Replayer
from dodona.engine.trigger import ema_column
from dodona.engine.trigger_parser import parse_trigger
from dodona.eval.analysis.labels import Label, base_rows, first_of_context
from dodona.eval.analysis.logistic import RIDGE, Logistic, cross_validated, fit_logistic
from dodona.eval.analysis.resample import Estimate, problem_weights, rank
from dodona.eval.analysis.signal_table import DIRECTIONS, one_class
from dodona.eval.analysis.thresholds import WORD

Array = np.ndarray[Any, Any]


class Fit(NamedTuple):
    """A fitted trigger."""

    label: str
    rows: int
    positives: int
    problems: int
    logistic: Logistic
    auroc: Estimate  # cross-validated over problems
    alone: dict[str, Estimate]  # AUROC of each signal by itself on the same rows; a single signal needs no fit

    @property
    def template(self) -> str:
        """The trigger with the word `threshold` in it; a threshold of 0 is a chance of one half."""
        return f"{self.logistic.expression} > {WORD}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        coefficients = dict(zip(self.logistic.names, map(float, self.logistic.coefficients), strict=True))
        return {
            "label": self.label,
            "rows": self.rows,
            "positives": self.positives,
            "problems": self.problems,
            "expression": self.logistic.expression,
            "coefficients": coefficients,
            "intercept": self.logistic.intercept,
            "cross_validated_auroc": self.auroc.as_dict(),
            "auroc_alone": {name: estimate.as_dict() for name, estimate in self.alone.items()},
        }


def read_signals(text: str, *, after: bool) -> list[str]:
    """Names of signals, and moving averages of them as ``ema(entropy, 0.9)``, with commas between them.

    Raises:
        DodonaError: not a signal that a trigger can use while it runs.
    """
    names = [part.strip() for part in re.split(r",(?![^()]*\))", text)]
    for name in names:
        program = parse_trigger(f"{name} > 0", when="after" if after else "before") if name else None
        usable = program is not None and not program.names & (STATEFUL | BOOLEAN | {"c"})
        if not usable or not re.fullmatch(r"\w+|ema\(.*\)", name):
            raise DodonaError(
                f"--fit takes signals with commas between them, such as entropy,margin,ema(entropy, 0.9); not {name!r}"
            )
    return list(dict.fromkeys(names))


def fit_trigger(
    replayer: Replayer,
    label: Label,
    names: Sequence[str],
    *,
    resamples: int,
    seed: int,
    ridge: float = RIDGE,
) -> Fit:
    """Fit a logistic trigger to a label over the positions that the base wrote and the oracle looked at.

    A context that several runs share counts once.

    Raises:
        DodonaError: a signal that was not recorded, or a label with one value only.
    """
    recording = replayer.recording
    rows = ~np.isnan(label.values) & first_of_context(recording)
    rows &= ~recording.oracle if label.name == "helps" else base_rows(recording)
    values = {name: replayer.column(_column(name)) for name in names}
    for name, column in values.items():
        if np.isinf(column[rows]).any():
            raise DodonaError(f"--fit: {name} is infinite at some positions")
        rows &= ~np.isnan(column)
    if reason := one_class(label.values[rows] == 1):
        raise DodonaError(f"--fit: {reason}: there is nothing to tell apart by {label.name}")
    features = np.column_stack([column[rows] for column in values.values()]).astype(np.float64)
    positive = label.values[rows] == 1
    _, number = recording.problems
    found, problem = np.unique(np.repeat(number, recording.lengths)[rows], return_inverse=True)
    weights = problem_weights(len(found), resamples, seed)
    alone = {}
    for name, column in values.items():
        direction = DIRECTIONS.get(name.removeprefix("ema(").split(",")[0].strip(), 1)
        alone[name] = rank(direction * column[rows], positive, problem, weights).auroc
    return Fit(
        label=label.name,
        rows=int(rows.sum()),
        positives=int(positive.sum()),
        problems=len(found),
        logistic=fit_logistic(names, features, positive, ridge),
        auroc=cross_validated(names, features, positive, problem, resamples=resamples, seed=seed),
        alone=alone,
    )


def _column(name: str) -> str:
    """The name under which a replay knows it."""
    program = parse_trigger(f"{name} > 0", offline=True)
    if not program.emas:
        return name
    ((signal, decay),) = program.emas
    return ema_column(signal, decay)
