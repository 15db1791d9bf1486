"""An analysis as tables for people, and as rows for CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from dodona.eval.analysis.disagreement import DisagreementMap
from dodona.eval.analysis.resample import Estimate
from dodona.eval.analysis.signal_table import RATES, SignalTable
from dodona.eval.analysis.study import Study
from dodona.eval.report.table import NONE, Cell, Head, Table, count, words


def study_tables(study: Study) -> list[Table]:
    """All tables of a study."""
    tables = [_signals(table, "rows") for table in study.tables]
    if study.problem_table is not None:
        tables.append(_signals(study.problem_table, "problems"))
    if study.disagreements is not None:
        tables += _disagreements(study.disagreements)
    return tables


def estimate(value: Estimate, digits: int = 3) -> Cell:
    """A statistic with its interval."""
    if math.isnan(value.value):
        return Cell(NONE)
    text = f"{value.value:.{digits}f}"
    if value.interval is not None:
        low, high = value.interval
        text += f" [{low:.{digits}f}, {high:.{digits}f}]"
    return Cell(text, value.value)


def percentage(value: Estimate) -> Cell:
    """A share in percent with its interval."""
    if math.isnan(value.value):
        return Cell(NONE)
    text = f"{100 * value.value:.1f} %"
    if value.interval is not None:
        low, high = value.interval
        text += f" [{100 * low:.1f}, {100 * high:.1f}]"
    return Cell(text, value.value)


def _signals(table: SignalTable, unit: str) -> Table:
    share = f", {table.positives / table.rows:.2%} of them positive" if table.rows else ""
    title = f"{table.label.name}: {table.label.definition} ({table.rows} {unit}{share}, {table.problems} problems)"
    heads = [
        Head("signal", "the base's signal that ranks the rows; its direction was fixed before any data"),
        Head("consult where", "whether a high or a low value says consult"),
        Head("AUROC", "chance that a positive ranks above a negative; 0.5 says nothing, below it is the other way"),
        Head(f"less {table.control}", f"AUROC less the one of {table.control} alone, on the same resamples"),
        Head("AP", "average precision: the mean precision over the positives; a random ranking has their share"),
    ]
    heads += [
        Head(f"recall at {rate:.0%}", f"share of the positives among the {rate:.0%} of the rows ranked highest")
        for rate in RATES
    ]
    rows = []
    for row in table.signals:
        cells = [words(row.signal), words("high" if row.direction > 0 else "low")]
        if row.ranking is None:
            cells += [words(f"undefined: {row.undefined}"), *[Cell(NONE)] * (2 + len(RATES))]
        else:
            cells.append(estimate(row.ranking.auroc))
            cells.append(Cell(NONE) if row.over_control is None else _signed(row.over_control))
            cells.append(estimate(row.ranking.average_precision))
            cells += map(percentage, row.ranking.recalls)
        rows.append(cells)
    return Table(title, heads, rows)


def _signed(value: Estimate) -> Cell:
    if math.isnan(value.value):
        return Cell(NONE)
    text = f"{value.value:+.3f}"
    if value.interval is not None:
        text += f" [{value.interval.low:+.3f}, {value.interval.high:+.3f}]"
    return Cell(text, value.value)


def _disagreements(found: DisagreementMap) -> list[Table]:
    below = f"{found.threshold:g} nats"
    heads = [
        Head("entropy", "the base's entropy, nats"),
        Head("rows", "positions"),
        Head("differ", "positions where the two models' first choices differ"),
        Head("share", "a part of a whole, with its 95 % interval"),
    ]
    rows = [
        [Cell(_range(one.low, one.high), one.low), count(one.rows), count(one.differ), percentage(one.share)]
        for one in found.bins
    ]
    summary_heads = [
        Head("confident mistakes", f"entropy below {below} where the two models' first choices differ"),
        Head("of how many", "the rows that are the whole"),
        heads[-1],
    ]
    summary = [
        [
            words(f"of the disagreements, those with entropy below {below}"),
            count(found.differ),
            percentage(found.mistakes),
        ],
        [
            words(f"of the positions with entropy below {below}, those that differ"),
            count(found.confident),
            percentage(found.missed),
        ],
    ]
    return [
        Table("entropy x disagreement", heads, rows),
        Table(f"confident mistakes: {found.confident_differ} of {found.rows} rows", summary_heads, summary),
    ]


def _range(low: float, high: float) -> str:
    return f"from {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"


def csv_rows(studies: Iterable[Study]) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Rows of the tables ``signals`` and ``disagreement``."""
    signals: list[Mapping[str, Any]] = []
    bins: list[Mapping[str, Any]] = []
    for study in studies:
        own = {
            "config_hash": study.config_hash,
            "base_model_id": study.models[0],
            "oracle_model_id": study.models[1],
        }
        for table in [*study.tables, *([study.problem_table] if study.problem_table is not None else [])]:
            signals += [{**own, **row} for row in _signal_rows(table)]
        if study.disagreements is not None:
            for one in study.disagreements.bins:
                edges = {"low": one.low, "high": one.high, "rows": one.rows, "differ": one.differ}
                bins.append({**own, **edges, **_flat("share", one.share)})
    return {"signals": signals, "disagreement": bins}


def _signal_rows(table: SignalTable) -> Iterator[Mapping[str, Any]]:
    for row in table.signals:
        fields: dict[str, Any] = {
            "label": table.label.name,
            "signal": row.signal,
            "consult_where": "high" if row.direction > 0 else "low",
            "undefined": row.undefined,
        }
        if (ranking := row.ranking) is not None:
            fields |= {"rows": ranking.rows, "positives": ranking.positives}
            fields |= _flat("auroc", ranking.auroc) | _flat("average_precision", ranking.average_precision)
            for rate, recall in zip(RATES, ranking.recalls, strict=True):
                fields |= _flat(f"recall_at_{rate:g}", recall)
            if row.over_control is not None:
                fields |= _flat("auroc_over_control", row.over_control)
        yield fields


def _flat(name: str, value: Estimate) -> dict[str, Any]:
    fields = value.as_dict()
    return {name: fields["value"], f"{name}_low": fields["low"], f"{name}_high": fields["high"]}
