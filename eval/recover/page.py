"""One page that holds a study: plots, tables, definitions and examples; nothing is loaded from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dodona import __version__
from dodona.eval.header import config_hash
from dodona.eval.recover.examples import Examples
from dodona.eval.recover.findings import Findings
from dodona.eval.report import html
from dodona.eval.report.picture import Picture
from dodona.eval.report.table import Table, definitions

_FILTERS: Final[Mapping[str, str]] = {
    "verdict": "all verdicts",
    "kind": "all prefixes",
    "fraction": "all fractions",
    "writer": "both models",
    "level": "all levels",
    "outcome": "all outcomes",
    "error": "with and without an error yet",
    "answered": "with and without an answer",
}


def page(
    findings: Findings,
    title: str,
    notes: Sequence[str],
    pictures: Sequence[Picture],
    tables: Sequence[Table],
    shown: Examples,
) -> str:
    """The page as a text; the same records give the same page."""
    lead = (
        f"Report by dodona {__version__}. Intervals are 95 % intervals, over problems. The denominator is every run "
        "that was asked for."
    )
    body = [
        *map(html.note, notes),
        html.figures(pictures),
        *map(html.titled_table, tables),
        _examples(shown) if shown.rows else "",
        html.meanings(definitions(tables)),
        html.folded("Configuration, versions and files", html.listing(_facts(findings))),
    ]
    own = Path(__file__).parent
    scripts = [own / "examples.js"] if shown.rows else []
    return html.document(title, lead, body, styles=[own / "examples.css"], scripts=scripts)


def _examples(shown: Examples) -> str:
    some = "" if len(shown.rows) == shown.of else f" {len(shown.rows)} of {shown.of} completions are on this page."
    says = f"What was given in grey, then the cut, then what the model wrote.{some}"
    return html.browser("example", "Examples", says, _FILTERS, shown.rows)


def _facts(findings: Findings) -> dict[str, Any]:
    facts = {"configuration": config_hash(findings.config)} | html.as_facts(findings.config)
    for name, header in findings.headers.items():
        asked = "".join(f", {key} {json.dumps(value)}" for key, value in header.asked.items())
        facts[f"{name}.jsonl"] = f"{len(header.problems)} problems{asked}; commit {header.git_commit or 'not known'}"
    last = findings.headers[list(findings.headers)[-1]]
    return facts | {"dodona": last.dodona} | {f"{name} (version)": value for name, value in last.versions.items()}
