"""Triggers and budgets tried on a recording: each with its score."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.engine.presets import AFTER_SIGNALS, OFFLINE_SIGNALS
from dodona.engine.recording import Recording
from dodona.engine.replay import Budget, Replayer
from dodona.engine.result import json_number
from dodona.engine.trigger_parser import parse_trigger
from dodona.eval.analysis.labels import Label
from dodona.eval.analysis.score import Score, Scorer
from dodona.eval.analysis.thresholds import Calibration, calibrate, filled

Array = np.ndarray[Any, Any]


class Trial(NamedTuple):
    """One trigger under one budget, and what it does."""

    trigger: str | None  # None: each run's own
    threshold: float | None  # that was filled in
    budget: Budget
    score: Score

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        limits = {name: getattr(self.budget, name) for name in ("c", "k", "max_oracle_tokens")}
        budget = {name: None if value is None else json_number(value) for name, value in limits.items()}
        names = {"trigger": self.trigger, "threshold": self.threshold, "when": self.budget.when}
        return names | budget | self.score.as_dict()


@dataclass(frozen=True, slots=True)
class Halves:
    """Problems in two halves: one to find a threshold on, and one to see what it spends."""

    fit: Array  # [S] bool
    test: Array  # [S] bool
    fit_problems: int
    test_problems: int


class Calibrated(NamedTuple):
    """A threshold found on one half of the problems, and what it does on the other."""

    target: float
    per: str  # token or problem
    found: Calibration
    halves: Halves
    trial: Trial  # on the other half

    @property
    def achieved(self) -> Any:
        """The rate on the other half, an Estimate."""
        return self.trial.score.per_token if self.per == "token" else self.trial.score.per_run

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "target": self.target,
            "per": self.per,
            "threshold": self.found.threshold,
            "trigger": self.trial.trigger,
            "rate_where_found": self.found.rate,
            "problems_where_found": self.halves.fit_problems,
            "rate_held_out": self.achieved.as_dict(),
            "problems_held_out": self.halves.test_problems,
            "held_out": self.trial.as_dict(),
        }


def budgets(
    recording: Recording,
    c: Sequence[float],
    k: Sequence[float],
    max_oracle_tokens: float | None,
    when: str | None,
) -> list[Budget]:
    """Every pair of these, or the runs' own where none is given.

    Runs of the base alone have no budget of their own: c=inf and k=1, a consult wherever the trigger fires.
    """
    alone = (recording.settings["c"] == 0) | (recording.settings["k"] == 0)
    if alone.all():
        c, k = c or [math.inf], k or [1]
    own: Sequence[float | None] = [None]
    return [Budget(one_c, one_k, max_oracle_tokens, when) for one_c, one_k in itertools.product(c or own, k or own)]


def trials(
    recording: Recording,
    labels: Mapping[str, Label],
    budgets: Sequence[Budget],
    triggers: Iterable[tuple[str | None, float | None]],
    *,
    resamples: int,
    seed: int,
) -> Iterator[Trial]:
    """Every trigger under every budget, in that order.

    Args:
        triggers: each with the threshold that was filled in; None stands for the runs' own.

    Raises:
        DodonaError: a trigger that cannot be read, or needs what was not recorded.
    """
    scorer = Scorer(recording, labels, resamples=resamples, seed=seed)
    triggers = list(triggers)
    for budget in budgets:
        replayer = Replayer(recording, budget)
        for text, threshold in triggers:
            consults = replayer.own_consults() if text is None else replayer.consults(text)
            yield Trial(text, threshold, budget, scorer.score(consults))


def halves(recording: Recording, seed: int) -> Halves:
    """The problems in two halves, drawn by ``seed`` from their sorted names.

    Raises:
        DodonaError: there is one problem only.
    """
    names, number = recording.problems
    if len(names) < 2:
        raise DodonaError("--calibrate needs two problems or more: it finds on one half what it tries on the other")
    order = np.argsort(np.array(names), kind="stable")[np.random.default_rng(seed).permutation(len(names))]
    chosen = np.zeros(len(names), dtype=bool)
    chosen[order[: len(names) // 2]] = True
    fit = chosen[number]
    return Halves(fit, ~fit, int(chosen.sum()), int((~chosen).sum()))


def calibrated(
    recording: Recording,
    labels: Mapping[str, Label],
    budget: Budget,
    template: str,
    target: float,
    per: str,
    split: Halves,
    *,
    resamples: int,
    seed: int,
) -> Calibrated:
    """The threshold that spends ``target`` consults a token or a problem on one half, tried on the other.

    Raises:
        DodonaError: as ``trials`` and ``thresholds.calibrate``.
    """
    part = recording.select(split.fit)
    replayer = Replayer(part, budget)
    whole = part.tokens if per == "token" else len(part.runs)
    found = calibrate(lambda value: len(replayer.consults(filled(template, value)).start) / whole, target)
    other = recording.select(split.test)
    there = {
        name: dataclasses.replace(label, values=label.values[np.repeat(split.test, recording.lengths)])
        for name, label in labels.items()
    }
    chosen = [(filled(template, found.threshold), found.threshold)]
    (trial,) = trials(other, there, [budget], chosen, resamples=resamples, seed=seed)
    return Calibrated(target, per, found, split, trial)


def offline_columns(text: str) -> list[str]:
    """Columns of a trigger that no running trigger has: with them it is a bound, and no trigger.

    Raises:
        DodonaError: it cannot be read.
    """
    return sorted(parse_trigger(text, offline=True).names & OFFLINE_SIGNALS.keys())


def after_columns(text: str) -> list[str]:
    """Columns of a trigger that a running one has only after the commit.

    Raises:
        DodonaError: it cannot be read.
    """
    return sorted(parse_trigger(text, offline=True).names & AFTER_SIGNALS.keys())
