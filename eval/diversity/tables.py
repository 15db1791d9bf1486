"""Findings as tables for people, and as rows for CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from dodona.eval.analysis.resample import Estimate
from dodona.eval.diversity.findings import CONTROLS, Findings, Line
from dodona.eval.diversity.measures import LABELS
from dodona.eval.diversity.pool import COVERAGE, LEXICAL, MAJORITY, RIGHT, SEMANTIC
from dodona.eval.diversity.pruning import RANDOM, WEIGHTED
from dodona.eval.report.table import NONE, Cell, Head, Table, count, number, words

Row = Mapping[str, Any]

_DEFINED: Final[Mapping[str, str]] = {
    RIGHT: "share of the samples that are right: what one sample gives",
    MAJORITY: "the answer with most votes among equal answers; a sample without an answer has no vote",
    SEMANTIC: "the sample with the highest mean cosine to the others of its subset",
    LEXICAL: "the sample with the highest mean symmetric sentence BLEU against the others of its subset",
    COVERAGE: "subsets that hold a right sample: pass@k",
    WEIGHTED: "majority where each kept sample has as many votes as samples lie nearest to it",
}


def defined(rule: str) -> str:
    """What a rule is, for the page."""
    if rule.startswith("best by "):
        return f"the sample of the highest reward ({rule.removeprefix('best by ')}); equal ones in turn"
    if rule.startswith("vote by "):
        return f"the answer whose votes weigh most; a vote weighs its sample's reward ({rule.removeprefix('vote by ')})"
    return _DEFINED.get(rule, "")


def study_tables(findings: Findings) -> list[Table]:
    """The tables of a report but for those of buckets."""
    tables = [_sizes(findings, temperature) for temperature in findings.temperatures]
    if findings.correlated:
        tables += [_correlations(findings, outcome) for outcome in _outcomes(findings)]
    tables += [_pruning(findings, temperature) for temperature in findings.temperatures if findings.pruned]
    return tables


def bucket_tables(findings: Findings) -> list[Table]:
    """A table for each measure; they are long, and stand on the page alone."""
    return [_buckets(findings, measure) for measure in dict.fromkeys(line.measure for line in findings.buckets)]


def at(temperature: float | None) -> str:
    """A temperature in a title."""
    return "" if temperature is None else f", temperature {temperature:g}"


def label(measure: str) -> str:
    """A measure's name for people."""
    return LABELS[measure][0]


def _percent(value: Estimate, *, interval: bool = True) -> Cell:
    if math.isnan(value.value):
        return Cell(NONE)
    text = f"{100 * value.value:.1f}"
    if interval and value.interval is not None:
        text += f" [{100 * value.interval.low:.1f}, {100 * value.interval.high:.1f}]"
    return Cell(text, value.value)


def _signed(value: Estimate, digits: int, scale: float = 1.0) -> Cell:
    if math.isnan(value.value):
        return Cell(NONE)
    shown = [value.value, *(value.interval or ())]
    first, *rest = (f"{round(scale * one, digits) + 0.0:+.{digits}f}" for one in shown)
    return Cell(f"{first} [{', '.join(rest)}]" if rest else first, value.value)


def _sizes(findings: Findings, temperature: float | None) -> Table:
    rules = findings.rules
    heads = [Head("samples", "k, the size of the subsets"), *(Head(rule, defined(rule)) for rule in rules)]
    rows = [
        [count(line.size), *(_percent(line.rules[rule]) for rule in rules)]
        for line in findings.lines
        if line.temperature == temperature
    ]
    return Table(f"Percent correct by sample size{at(temperature)}", heads, rows)


def _outcomes(findings: Findings) -> list[str]:
    return list(dict.fromkeys(one.outcome for one in findings.correlated))


def _correlations(findings: Findings, outcome: str) -> Table:
    given = [" and ".join("log-prob." if name == "logprob" else name for name in names) for names in findings.controls]
    heads = [
        Head("batch", "samples of a batch"),
        Head("measure", "what the batch's texts are like"),
        Head("batches", "a few subsets of each problem and temperature"),
        Head("Pearson", "linear correlation over batches, with its interval by bootstrap over problems"),
        Head("Spearman", "the same of the ranks"),
        *(Head(f"given {name}", f"partial (Pearson) correlation with {name} held fixed") for name in given),
    ]
    rows = []
    for one in findings.correlated:
        if one.outcome == outcome:
            found = one.found
            values = [found.pearson, found.spearman, *found.partial]
            rows.append(
                [
                    count(one.size),
                    words(label(one.measure)),
                    count(found.rows),
                    *(_signed(value, 2) for value in values),
                ]
            )
    names = {MAJORITY: "majority accuracy", COVERAGE: "coverage"}
    return Table(f"Correlation of each measure with {names.get(outcome, f'the {outcome} in a batch')}", heads, rows)


def _buckets(findings: Findings, measure: str) -> Table:
    lines = [line for line in findings.buckets if line.measure == measure]
    rules = list(lines[0].rules)
    heads = [
        Head("bucket", "of equal width, or of about equal count by rank; equal values are never divided"),
        Head("min", "the least value in it"),
        Head("max", "the largest value in it"),
        Head("mean", "of the values in it"),
        Head("count", "batches in it"),
        *(Head(rule, defined(rule)) for rule in rules),
    ]
    rows = []
    places: dict[str, int] = {}
    for line in lines:
        places[line.kind] = places.get(line.kind, 0) + 1
        bucket = line.bucket
        digits = 1 if measure == "self-bleu" else 3
        rows.append(
            [
                words(f"{line.kind} {places[line.kind]}"),
                *(number(value, digits) for value in (bucket.least, bucket.most, bucket.mean)),
                count(len(bucket.rows)),
                *(_percent(line.rules[rule], interval=False) for rule in rules),
            ]
        )
    return Table(f"Batches of {findings.batch} by {label(measure)}, percent correct", heads, rows)


def _pruning(findings: Findings, temperature: float | None) -> Table:
    lines = [line for line in findings.pruned if line.temperature == temperature]
    heads = [
        Head("kept", "samples that are kept of each problem"),
        Head("method", "random: the mean of all subsets; likelihood: the highest mean log-probability; else medoids"),
        Head(MAJORITY, defined(MAJORITY)),
        Head("share kept", "of the majority's accuracy with all samples"),
        Head("against random", "difference of the majority's accuracy from random subsets, percentage points"),
        Head(WEIGHTED, defined(WEIGHTED)),
        Head(COVERAGE, defined(COVERAGE)),
        Head("coverage kept", "of the coverage of all samples"),
    ]
    order = {method: place for place, method in enumerate(dict.fromkeys([RANDOM, *(one.method for one in lines)]))}
    rows = []
    for one in sorted(lines, key=lambda line: (line.size, order[line.method])):
        rows.append(
            [
                count(one.size),
                words(one.method),
                _percent(one.outcomes[MAJORITY]),
                _percent(one.kept[MAJORITY], interval=False),
                _signed(one.against_random[MAJORITY], 1, 100.0) if one.method != RANDOM else Cell(NONE),
                _percent(one.outcomes[WEIGHTED]),
                _percent(one.outcomes[COVERAGE]),
                _percent(one.kept[COVERAGE], interval=False),
            ]
        )
    return Table(f"{findings.n} samples pruned{at(temperature)}, percent correct", heads, rows)


# --- rows for CSV: one value a cell, nothing rounded, empty where there is none ---


def csv_tables(findings: Findings) -> dict[str, list[Row]]:
    """Rows by the name of their table."""
    return {
        "sizes": [row for line in findings.lines for row in _size_rows(line)],
        "correlations": list(_correlation_rows(findings)),
        "batches": list(_batch_rows(findings)),
        "buckets": list(_bucket_rows(findings)),
        "pruning": list(_pruning_rows(findings)),
    }


def _value(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _estimate(name: str, value: Estimate) -> dict[str, float | None]:
    low, high = (None, None) if value.interval is None else value.interval
    return {name: _value(value.value), f"{name}_low": low, f"{name}_high": high}


def _size_rows(line: Line) -> Iterator[Row]:
    for rule, value in line.rules.items():
        yield {"temperature": line.temperature, "samples": line.size, "rule": rule} | _estimate("accuracy", value)


def _correlation_rows(findings: Findings) -> Iterator[Row]:
    names = ["_and_".join(names) for names in CONTROLS]
    shown = {"_and_".join(names): place for place, names in enumerate(findings.controls)}
    for one in findings.correlated:
        row: dict[str, Any] = {"batch": one.size, "measure": one.measure, "outcome": one.outcome}
        row |= {"batches": one.found.rows} | _estimate("pearson", one.found.pearson)
        row |= _estimate("spearman", one.found.spearman)
        for name in names:
            if name in shown:
                row |= _estimate(f"given_{name}", one.found.partial[shown[name]])
        yield row


def _batch_rows(findings: Findings) -> Iterator[Row]:
    for frame in findings.frames:
        for place, problem in enumerate(frame.problem):
            row: dict[str, Any] = {"problem_id": findings.problems[problem], "batch": frame.size}
            row["temperature"] = _value(float(frame.temperature[place]))
            row |= {name: _value(float(values[place])) for name, values in frame.measures.items()}
            yield row | {name: _value(float(values[place])) for name, values in frame.rules.items()}


def _bucket_rows(findings: Findings) -> Iterator[Row]:
    for line in findings.buckets:
        bucket = line.bucket
        row: dict[str, Any] = {"measure": line.measure, "kind": line.kind, "batch": findings.batch}
        row |= {"low": bucket.low, "high": bucket.high, "count": len(bucket.rows)}
        row |= {"min": _value(bucket.least), "max": _value(bucket.most), "mean": _value(bucket.mean)}
        for rule, value in line.rules.items():
            row |= _estimate(rule, value)
        yield row


def _pruning_rows(findings: Findings) -> Iterator[Row]:
    for one in findings.pruned:
        row: dict[str, Any] = {"temperature": one.temperature, "kept": one.size, "method": one.method}
        for name, values in (("", one.outcomes), ("_kept", one.kept), ("_against_random", one.against_random)):
            for outcome, value in values.items():
                row |= _estimate(f"{outcome.replace(' ', '_')}{name}", value)
        yield row
