"""Tables as CSV, for spreadsheets and data frames: one value a cell, no formatting, empty where there is none."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dodona.eval.compat.switches import NOT_VALID
from dodona.eval.report.comparison import Comparison
from dodona.eval.report.files import write_file
from dodona.eval.report.section import Section

Row = Mapping[str, Any]


def write_report(path: Path, sections: Sequence[Section]) -> list[Path]:
    """The arms to a file whose name ends in ``.csv``; anything else is a folder for arms, groups, correlations, errors.

    Raises:
        DodonaError: it cannot be written.
    """
    tables = {
        "arms": _arms(sections),
        "groups": _groups(sections),
        "correlations": _correlations(sections),
        "errors": _errors(sections),
    }
    if any(section.ladders for section in sections):
        tables["compat"] = _ladders(sections)
    return write_tables(path, tables, alone="arms")


def write_tables(path: Path, tables: Mapping[str, Iterable[Row]], *, alone: str) -> list[Path]:
    """Every table to ``path/NAME.csv``; if the path itself ends in ``.csv``, the one called ``alone`` to it.

    Raises:
        DodonaError: it cannot be written.
    """
    if path.suffix.lower() == ".csv":
        return [write_file(path, csv_text(tables[alone]))]
    return [write_file(path / f"{name}.csv", csv_text(rows)) for name, rows in tables.items()]


def csv_text(rows: Iterable[Row]) -> str:
    """Rows as CSV; the columns are all of theirs, in the order of their first appearance."""
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _experiment(section: Section) -> dict[str, Any]:
    config = section.experiment.config
    return {
        "config_hash": section.experiment.config_hash,
        "dataset": section.experiment.dataset,
        "base_model_id": config.get("base_model_id"),
        "oracle_model_id": config.get("oracle_model_id"),
    }


def _arms(sections: Sequence[Section]) -> Iterator[Row]:
    for section in sections:
        for line in section.lines:
            fields = line.as_dict()
            against = fields.pop("against_base") or {}
            seeds = fields.pop("seeds", None) or [fields.pop("seed")]
            del fields["levels"], fields["subjects"]
            fields["seeds"] = " ".join(map(str, seeds))
            yield _experiment(section) | fields | {f"against_base_{name}": value for name, value in against.items()}


def _groups(sections: Sequence[Section]) -> Iterator[Row]:
    for section in sections:
        for line in section.lines:
            fields = line.as_dict()
            for kind in ("level", "subject"):
                for name, rate in fields[f"{kind}s"].items():
                    yield _experiment(section) | {"arm": fields["arm"], "kind": kind, "group": name} | rate


def _correlations(sections: Sequence[Section]) -> Iterator[Row]:
    for section in sections:
        for line in section.correlations:
            yield _experiment(section) | line.as_dict()


def _errors(sections: Sequence[Section]) -> Iterator[Row]:
    for section in sections:
        for reason, runs in section.errors.items():
            yield _experiment(section) | {"reason": reason, "runs": runs}


def _ladders(sections: Sequence[Section]) -> Iterator[Row]:
    for section in sections:
        for ladder in section.ladders:
            for rung in ladder.rungs:
                fields = rung.as_dict()
                fields["switches"] = " ".join(rung.switches)
                label = "" if fields.pop("valid") else NOT_VALID
                yield _experiment(section) | {"arm": ladder.arm, "label": label} | fields


def write_comparisons(path: Path, comparisons: Sequence[Comparison]) -> list[Path]:
    """The flips to a file whose name ends in ``.csv``; anything else is a folder for comparisons, levels and flips.

    Raises:
        DodonaError: it cannot be written.
    """
    tables: dict[str, list[Row]] = {"comparisons": [], "levels": [], "flips": []}
    for one in comparisons:
        fields = one.as_dict()
        arms = {"arm_a": fields["arm_a"], "arm_b": fields["arm_b"]}
        levels, flips, a, b = (fields.pop(name) for name in ("levels", "flips", "a", "b"))
        rates = {
            f"{name}_{side}": rate[name] for side, rate in (("a", a), ("b", b)) for name in ("correct", "accuracy")
        }
        tables["comparisons"].append(arms | rates | fields)
        tables["levels"] += [arms | {"level": level} | part for level, part in levels.items()]
        tables["flips"] += [arms | flip for flip in flips]
    return write_tables(path, tables, alone="flips")
