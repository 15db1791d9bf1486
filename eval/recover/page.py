"""One page that holds a study: plots, tables, definitions and examples; nothing is loaded from elsewhere.

Every text is escaped, and the page forbids itself all but its own style, scripts and pictures, so that nothing in a
record can run or reach the network when the page is read.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import dodona.eval.report.page as report_page
from dodona import __version__
from dodona.eval.header import config_hash
from dodona.eval.recover.examples import Examples, as_json
from dodona.eval.recover.findings import Findings
from dodona.eval.report.page import escaped
from dodona.eval.report.plots import Picture
from dodona.eval.report.table import Table, definitions

_FILTERS: Final[Mapping[str, str]] = {
    "verdict": "recovered and lost",
    "kind": "all prefixes",
    "fraction": "all fractions",
    "writer": "both models",
    "level": "all levels",
    "outcome": "all outcomes",
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
    shared, own = Path(report_page.__file__).parent, Path(__file__).parent
    style = _text(shared / "page.css") + _text(own / "examples.css")
    scripts = [_text(shared / "page.js"), *([_text(own / "examples.js")] if shown.rows else [])]
    allowed = " ".join(f"'{_digest(script)}'" for script in scripts)
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src {allowed}"
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escaped(title)}</title>\n<style>{style}</style>\n</head>\n<body>",
        f"<h1>{escaped(title)}</h1>",
        f'<p class="soft">Report by dodona {escaped(__version__)}. Intervals are 95 % intervals, over problems. The '
        "denominator is every run that was asked for.</p>",
        *(f'<p class="note">{escaped(note)}</p>' for note in notes),
    ]
    if pictures:
        figures = "".join(
            f'<figure><img class="{picture.name}" src="data:image/svg+xml;base64,{_base64(picture.svg)}" '
            f'alt="{escaped(picture.title)}"></figure>'
            for picture in pictures
        )
        parts.append(f'<div class="figures wide">{figures}</div>')
    parts += [f"<h3>{escaped(table.title)}</h3>\n{_table(table)}" for table in tables]
    if shown.rows:
        parts += _examples(shown)
    parts.append(f"<h2>What the columns mean</h2>\n{_list(definitions(tables))}")
    parts.append(f"<details><summary>Configuration, versions and files</summary>{_list(_facts(findings))}</details>")
    parts += [f"<script>{script}</script>" for script in scripts]
    return "\n".join([*parts, "</body>\n</html>\n"])


def _examples(shown: Examples) -> Iterator[str]:
    some = "" if len(shown.rows) == shown.of else f" {len(shown.rows)} of {shown.of} completions are on this page."
    selects = "".join(
        f'<select data-of="{name}" aria-label="{name}"><option value="">{label}</option></select>'
        for name, label in _FILTERS.items()
    )
    yield (
        f'<section id="examples"><h2>Examples</h2><p class="soft">What was given in grey, then the cut, then what the '
        f"model wrote.{some}</p>"
        f'<div class="controls">{selects}<input id="example-search" type="search" placeholder="Search" '
        f'aria-label="Search"><button id="example-back" type="button">Back</button>'
        f'<button id="example-on" type="button">On</button><span id="example-tally"></span></div>'
        f'<div id="example-list"></div></section>'
    )
    yield f'<script type="application/json" id="rows">{as_json(shown.rows)}</script>'


def _facts(findings: Findings) -> dict[str, Any]:
    config = findings.config
    facts: dict[str, Any] = {"configuration": config_hash(config)}
    facts |= {name: value if isinstance(value, str) else json.dumps(value) for name, value in config.items()}
    for name, header in findings.headers.items():
        asked = "".join(f", {key} {json.dumps(value)}" for key, value in header.asked.items())
        facts[f"{name}.jsonl"] = f"{len(header.problems)} problems{asked}; commit {header.git_commit or 'not known'}"
    last = findings.headers[list(findings.headers)[-1]]
    return facts | {"dodona": last.dodona} | {f"{name} (version)": value for name, value in last.versions.items()}


def _table(table: Table) -> str:
    heads = "".join(f'<th scope="col" title="{escaped(h.definition)}">{escaped(h.text)}</th>' for h in table.heads)
    rows = []
    for row in table.rows:
        cells = []
        for cell in row:
            value = "" if cell.value is None else f' data-v="{escaped(cell.value)}"'
            kind = ' class="words"' if isinstance(cell.value, str) else ""
            cells.append(f"<td{kind}{value}>{escaped(cell.text)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(rows)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _list(entries: Mapping[str, Any]) -> str:
    return f"<dl>{''.join(f'<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>' for name, text in entries.items())}</dl>"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _digest(text: str) -> str:
    """By which the page's policy knows its own style and scripts."""
    return f"sha256-{_base64(hashlib.sha256(text.encode()).digest())}"
