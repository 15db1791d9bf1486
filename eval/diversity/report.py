"""The last stage: reads samples, computes everything, and writes tables, plots and a page; nothing is generated."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from dodona.eval.diversity.expectations import MOST
from dodona.eval.diversity.findings import Findings, analyse
from dodona.eval.diversity.page import page
from dodona.eval.diversity.pool import Pool
from dodona.eval.diversity.settings import Options
from dodona.eval.diversity.study import Recorded
from dodona.eval.diversity.tables import bucket_tables, csv_tables, study_tables
from dodona.eval.diversity.votes import SILENT
from dodona.eval.header import config_hash
from dodona.eval.report.csv_files import write_tables
from dodona.eval.report.files import write_file
from dodona.eval.report.html import as_facts
from dodona.eval.report.table import Table

PAGE: Final = "report.html"
TABLES: Final = "tables"
PLOTS: Final = "plots"
_TIES: Final[Mapping[str, str]] = {
    "expectation": "the mean over the answers that tie",
    "first": "the answer of them that a sample gave first",
    "wrong": "wrong",
}


class Report(NamedTuple):
    """What was written, and what it says."""

    findings: Findings
    title: str
    notes: list[str]
    tables: list[Table]  # without those of buckets
    rows: dict[str, list[Any]]  # by the name of their CSV table
    written: list[Path]


def make_report(
    pools: Sequence[Pool],
    title: str,
    notes: Sequence[str],
    facts: Mapping[str, str],
    options: Options,
    folder: Path | None,
    *,
    plots: bool = True,
) -> Report:
    """Compute everything, and write ``report.html``, ``tables/*.csv`` and ``plots/*.png`` and ``*.svg``.

    Args:
        notes, facts: what is to be said beside what the pools show.
        folder: where to write; None: nothing is written.
        plots: whether to draw; the page has no pictures then.

    Raises:
        DodonaError: a file cannot be written, or there is no matplotlib for the plots.
    """
    findings = analyse(pools, options)
    noted = [*notes, *rule_notes(pools, findings, options)]
    tables, rows = study_tables(findings), csv_tables(findings)
    written: list[Path] = []
    if folder is not None:
        written += write_tables(folder / TABLES, {name: some for name, some in rows.items() if some}, alone="sizes")
        pictures = []
        if plots:
            from dodona.eval.diversity.figures import draw

            pictures = draw(findings)
        for picture in pictures:
            written.append(write_file(folder / PLOTS / f"{picture.name}.png", picture.png))
            written.append(write_file(folder / PLOTS / f"{picture.name}.svg", picture.svg))
        text = page(title, noted, pictures, [*tables, *bucket_tables(findings)], facts, options)
        written.append(write_file(folder / PAGE, text))
    return Report(findings, title, noted, tables, rows, written)


def rule_notes(pools: Sequence[Pool], findings: Findings, options: Options) -> list[str]:
    """What a reader should know of the rules before the numbers."""
    longest = max(pool.n for pool in pools)
    notes = [
        f"{len(findings.problems)} problems, {findings.n} samples of each"
        + (f" at {len(findings.temperatures)} temperatures." if len(findings.temperatures) > 1 else ".")
    ]
    if longest != findings.n:
        notes.append(
            f"Problems have {findings.n} to {longest} samples; sizes go up to the fewest, and of each problem all "
            "samples are used."
        )
    silent = sum(int((pool.classes == SILENT).sum()) for pool in pools)
    if silent:
        notes.append(f"{silent} of {sum(pool.n for pool in pools)} samples have no vote: no whole answer.")
    exact = "Coverage and best-of-N"
    if options.ties != "first" and longest <= MOST:
        exact = "Coverage, majority and best-of-N"
    notes.append(
        f"{exact} are counted over all subsets of a size; other rules are means over all subsets where there are at "
        f"most {options.most}, else over {options.draws} that seed {options.seed} draws."
    )
    notes.append(f"A tie between answers of a majority is {_TIES[options.ties]}; other rules take the mean of equals.")
    if any(rewards.weights is None for pool in pools for rewards in pool.rewards.values()):
        notes.append("Some rewards are below 0, so they are no weights, and there is no vote weighted by them.")
    return notes


def study_notes(recorded: Recorded) -> list[str]:
    """What a reader should know of a study's samples."""
    outcomes = recorded.outcomes
    total = sum(outcomes.values())
    texts = len(recorded.texts)
    notes = [f"{texts} of {total} texts are different."]
    parts = [f"{outcomes[name]} {name}" for name in ("unparsed", "truncated", "failed", "missing") if outcomes[name]]
    if parts:
        notes.append(f"Counted as wrong, of {total} samples: {', '.join(parts)}.")
    return notes


def study_facts(recorded: Recorded) -> dict[str, str]:
    """Configuration, versions and files."""
    header = recorded.header
    facts = {"configuration": config_hash(header.config), **as_facts(header.config)}
    facts["samples by temperature"] = json.dumps(header.asked)
    facts["rewards"] = ", ".join(recorded.rewards) or "log-probability alone"
    facts["commit"] = header.git_commit or "not known"
    facts["dodona"] = header.dodona
    return facts | {f"{name} (version)": value for name, value in header.versions.items()}
