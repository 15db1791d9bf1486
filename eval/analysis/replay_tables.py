"""Replays as tables for people, and as rows for CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dodona.engine.result import json_number
from dodona.eval.analysis.fit import Fit
from dodona.eval.analysis.resample import Estimate
from dodona.eval.analysis.tables import estimate, percentage
from dodona.eval.analysis.trials import Calibrated, Trial
from dodona.eval.report.table import Cell, Head, Table, count, scaled, share, words


def trial_tables(trials: Sequence[Trial]) -> list[Table]:
    """What each trial does and costs, and a table for each label."""
    if not trials:
        return []
    heads = [
        Head("trigger", "as tried, with its budget"),
        Head("consults", "over all runs"),
        Head("of the tokens", "consults / tokens"),
        Head("a run", "consults / runs"),
        Head("oracle fed", "tokens fed to the oracle: its syncs, and each burst's tokens but the last"),
        Head("oracle wrote", "tokens of the bursts"),
        Head("exact tokens", "before the first consult that differs from those that happened"),
        Head("exact runs", "in which no consult differs from those that happened"),
    ]
    rows = []
    for trial in trials:
        score = trial.score
        cells = [words(_name(trial)), count(score.consults), percentage(score.per_token), estimate(score.per_run, 2)]
        cells += [scaled(score.oracle_fed), scaled(score.burst_tokens)]
        cells += [
            share(score.exact_tokens / score.tokens),
            Cell(f"{score.exact_runs} of {score.runs}", score.exact_runs),
        ]
        rows.append(cells)
    tables = [Table("replay", heads, rows)]
    for place, hits in enumerate(trials[0].score.hits):
        heads = [
            Head("trigger", "as tried, with its budget"),
            Head("hits", "consults where the label is 1"),
            Head("precision", "hits / consults where the label is known"),
            Head("recall", "hits / positions where the label is 1"),
            Head("covered", "positions where the label is 1 that lie inside a burst"),
        ]
        rows = []
        for trial in trials:
            hits = trial.score.hits[place]
            cells = [words(_name(trial)), count(hits.hits)]
            rows.append([*cells, percentage(hits.precision), percentage(hits.recall), percentage(hits.covered)])
        tables.append(Table(f"against {hits.label} ({hits.positives} positions)", heads, rows))
    return tables


def fit_lines(fit: Fit) -> list[str]:
    """A fit in words."""
    lines = [
        f"fitted to {fit.label} on {fit.rows} rows, {fit.positives} of them positive, of {fit.problems} problems:",
        f"  {fit.logistic.expression} > 0",
        f"AUROC {_interval(fit.auroc)}, cross-validated over problems; alone, on the same rows: "
        + ", ".join(f"{name} {alone.value:.3f}" for name, alone in fit.alone.items()),
    ]
    return lines


def calibration_lines(one: Calibrated) -> list[str]:
    """A calibration in words."""
    unit = "of the tokens" if one.per == "token" else "consults a run"

    def shown(value: float) -> str:
        return f"{100 * value:.3g} %" if one.per == "token" else f"{value:.3g}"

    interval = one.achieved.interval
    between = "" if interval is None else f" [{shown(interval.low)}, {shown(interval.high)}]"
    return [
        f"{one.trial.trigger}",
        f"  asked for {shown(one.target)} {unit}; it spends",
        f"  {shown(one.found.rate)} on the {one.halves.fit_problems} problems where the threshold was found, and",
        f"  {shown(one.achieved.value)}{between} on the {one.halves.test_problems} others, which the tables below show",
    ]


def csv_rows(trials: Sequence[Trial]) -> Iterator[Mapping[str, Any]]:
    """One row a trial."""
    for trial in trials:
        fields = trial.as_dict()
        labels = fields.pop("labels")
        row: dict[str, Any] = {}
        for name, value in fields.items():
            row |= _flat(name, value) if isinstance(value, dict) else {name: value}
        for label, hits in labels.items():
            for name, value in hits.items():
                row |= _flat(f"{label}_{name}", value) if isinstance(value, dict) else {f"{label}_{name}": value}
        yield row


def _flat(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value["value"], f"{name}_low": value["low"], f"{name}_high": value["high"]}


def _name(trial: Trial) -> str:
    budget = trial.budget
    limits = {"c": budget.c, "k": budget.k, "max_oracle_tokens": budget.max_oracle_tokens}
    given = [f"{name}={json_number(value)}" for name, value in limits.items() if value is not None]
    given += [budget.when] if budget.when is not None else []
    return " ".join([trial.trigger or "each run's own trigger", *given])


def _interval(value: Estimate) -> str:
    return estimate(value).text
