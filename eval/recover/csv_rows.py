"""A study's numbers as rows for CSV: one value a cell, nothing rounded, empty where there is none."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from dodona.eval.analysis.resample import Estimate
from dodona.eval.recover.findings import ERROR, NO_ERROR, Findings
from dodona.eval.recover.partings import at_cut, at_partings, partings
from dodona.eval.recover.rates import against, pooled, solve_rate
from dodona.eval.recover.rows import OFF, RIGHT
from dodona.eval.recover.series import prefix_series, straight_series
from dodona.eval.recover.settings import APPRAISE, COMPLETE, PREFIXES, ROLES, STRONG, WEAK
from dodona.eval.recover.side_tables import asides

Row = Mapping[str, Any]


def csv_tables(findings: Findings) -> dict[str, list[Row]]:
    """Rows by the name of their table."""
    ready = bool(findings.completions_asked)
    return {
        "problems": list(_problems(findings)),
        "recovery": list(_recovery(findings)) if ready else [],
        "bins": list(_bins(findings)) if ready else [],
        "prefixes": list(_prefixes(findings)),
        "signals": list(_signals(findings)) if ready else [],
        "partings": list(_partings(findings)) if ready else [],
        "aside": [{"what": name, "count": count} for name, count, _ in asides(findings)],
        "costs": list(_costs(findings)),
    }


def _problems(findings: Findings) -> Iterator[Row]:
    """A line a problem: its straight shots, and how far it belongs to each bin."""
    for problem in findings.problems:
        row: dict[str, Any] = {"problem_id": problem.problem_id, "level": problem.level, "subject": problem.subject}
        for role in ROLES:
            count = findings.appraised[role][problem.problem_id]
            rate, (low, high) = solve_rate(count)
            row |= {f"{role}_right": count.right, f"{role}_n": count.n, f"{role}_rate": rate}
            row |= {f"{role}_low": low, f"{role}_high": high}
            if (anew := findings.shots[role].get(problem.problem_id)) is not None:
                row |= {f"{role}_control_right": anew.right, f"{role}_control_n": anew.n}
        for (low, high), weights in zip(pairwise(findings.edges), findings.bins, strict=True):
            row[f"bin_{low:g}_{high:g}"] = weights.get(problem.problem_id, 0.0)
        yield row


def _recovery(findings: Findings) -> Iterator[Row]:
    """A line a kind, fraction and series: rate, and differences from the controls."""
    for group in findings.groups:
        prefixes = findings.of(group)
        right = findings.tally(findings.right_of(prefixes), STRONG)
        series = [("recovery", findings.tally(prefixes, STRONG)), ("right prefix", right)]
        for name, harmless in ((f"recovery, {NO_ERROR}", True), (f"recovery, {ERROR}", False)):
            part = [prefix for prefix in prefixes if (prefix.row_id in findings.harmless) is harmless]
            series.append((name, findings.tally(part, STRONG)))
        series += [("weak, own wrong prefix", findings.tally(prefixes, WEAK))] if group.kind == OFF else []
        for name, tally in series:
            row = {"kind": group.kind, "fraction": group.fraction, "series": name, **pooled(tally).as_dict()}
            for label, other in (
                ("strong_straight_shot", findings.shots[STRONG]),
                ("weak_straight_shot", findings.shots[WEAK]),
                ("right_prefix", right),
            ):
                if label != "right_prefix" or name == "recovery":
                    found = against(tally, other).as_dict()
                    row |= {f"{label}_{key}": value for key, value in found.items()}
            yield row


def _bins(findings: Findings) -> Iterator[Row]:
    """A line a fraction, bin and series; straight shots have no fraction."""
    groups: list[tuple[float | None, Any]] = [(None, straight_series(findings))]
    groups += [(fraction, prefix_series(findings, fraction)) for fraction in findings.fractions]
    for fraction, series in groups:
        for (low, high), weights in zip(pairwise(findings.edges), findings.bins, strict=True):
            for one in series:
                place = {"bin_low": low, "bin_high": high, "fraction": fraction, "series": one.name}
                less = {} if one.straight else against(one.tally, findings.shots[STRONG], weights).as_dict()
                shot = {f"straight_shot_{key}": value for key, value in less.items()}
                yield place | pooled(one.tally, weights).as_dict() | shot


def _prefixes(findings: Findings) -> Iterator[Row]:
    """A line a prefix, with what became of it."""
    for prefix in findings.prefixes.values():
        row: dict[str, Any] = {
            "row_id": prefix.row_id,
            "problem_id": prefix.problem_id,
            "kind": prefix.kind,
            "author": prefix.author,
            "fraction": prefix.fraction,
            "tokens": len(prefix.ids),
            "answered": prefix.answered,
            "no_error_yet": None if prefix.kind == RIGHT else prefix.row_id in findings.harmless,
            "control_of": prefix.of,
        }
        for role in (STRONG, WEAK) if prefix.kind == OFF else (STRONG,):
            runs = findings.completions.get((prefix.row_id, role), ())
            row |= {f"{role}_right": sum(run.correct for run in runs), f"{role}_completions": len(runs)}
        yield row


def _signals(findings: Findings) -> Iterator[Row]:
    for group in findings.groups:
        where = {"kind": group.kind, "fraction": group.fraction}
        prefixes = findings.of(group)
        for one in at_cut(findings, prefixes):
            row: dict[str, Any] = {**where, "where": "cut", "signal": one.measure}
            row |= _estimate("recovered", one.recovered) | _estimate("lost", one.lost)
            yield row | ({} if one.auroc is None else _estimate("auroc", one.auroc))
        for other in at_partings(findings, partings(findings, prefixes)):
            row = {**where, "where": "parting", "signal": other.measure}
            yield row | _estimate("there", other.there) | _estimate("elsewhere", other.elsewhere)


def _estimate(name: str, value: Estimate) -> dict[str, float | None]:
    low, high = (None, None) if value.interval is None else value.interval
    return {name: None if math.isnan(value.value) else value.value, f"{name}_low": low, f"{name}_high": high}


def _partings(findings: Findings) -> Iterator[Row]:
    wrong = [prefix for prefix in findings.prefixes.values() if prefix.kind != RIGHT]
    for one in partings(findings, wrong):
        yield {
            "prefix": one.prefix,
            "problem_id": one.problem_id,
            "recovered": one.recovered,
            "lost": one.lost,
            "tokens_in_common": one.depth,
            "recovered_token": one.tokens[0],
            "lost_token": one.tokens[1],
            **{name: None if math.isnan(value) else value for name, value in one.signals.items()},
        }


def _costs(findings: Findings) -> Iterator[Row]:
    for stage in (APPRAISE, PREFIXES, COMPLETE):
        for role in ROLES:
            if (cost := findings.costs[stage, role]).runs:
                yield {"stage": stage, "role": role, **cost._asdict()}
