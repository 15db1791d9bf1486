"""One page that holds an analysis: pictures, tables and definitions, with nothing loaded from elsewhere.

Every text is escaped, and the page forbids itself all but its own style, script and pictures.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import dodona.eval.report.page as report_page
from dodona import __version__
from dodona.eval.analysis.study import Settings, Study
from dodona.eval.analysis.tables import study_tables
from dodona.eval.report.page import escaped
from dodona.eval.report.plots import Picture
from dodona.eval.report.table import Table, definitions


def page(drawn: Sequence[tuple[Study, Sequence[Picture]]], settings: Settings) -> str:
    """The page as a text; the same traces give the same page."""
    folder = Path(report_page.__file__).parent
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    tables = [study_tables(study) for study, _ in drawn]
    title = f"When to consult: {drawn[0][0].title}" if len(drawn) == 1 else f"When to consult: {len(drawn)} studies"
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escaped(title)}</title>\n<style>{style}</style>\n</head>\n<body>",
        f"<h1>{escaped(title)}</h1>",
        f'<p class="soft">Analysis by dodona {escaped(__version__)}. Intervals are 95 % intervals by bootstrap over '
        f"problems ({settings.resamples} resamples, seed {settings.seed}). A row is a position that the base wrote and "
        "the oracle looked at.</p>",
    ]
    for index, ((study, pictures), its_tables) in enumerate(zip(drawn, tables, strict=True)):
        parts += _section(study, pictures, its_tables, f"s{index}", heading=len(drawn) > 1)
    parts.append(f"<h2>What the columns mean</h2>\n{_list(definitions(t for own in tables for t in own))}")
    parts.append(f"<script>{script}</script>\n</body>\n</html>\n")
    return "\n".join(parts)


def _section(
    study: Study, pictures: Sequence[Picture], tables: Sequence[Table], anchor: str, *, heading: bool
) -> Iterator[str]:
    if heading:
        yield f'<h2 id="{anchor}">{escaped(study.title)}</h2>'
    recording = study.recording
    yield (
        f"<p>{study.problems} problems, {len(recording.runs)} runs of {len(study.arms)} arms, {recording.tokens} "
        f"tokens, {int(study.rows.sum())} rows.</p>"
    )
    yield from (f'<p class="note">{escaped(note)}</p>' for note in study.notes)
    figures = "".join(
        f'<figure><img src="data:image/svg+xml;base64,{base64.b64encode(picture.svg).decode("ascii")}" '
        f'alt="{escaped(picture.title)}"></figure>'
        for picture in pictures
    )
    yield f'<div class="figures wide">{figures}</div>'
    for table in tables:
        yield f"<h3>{escaped(table.title)}</h3>\n{_table(table)}"
    arms = "".join(f"<li>{escaped(arm)}</li>" for arm in study.arms)
    yield f"<details><summary>Arms</summary><ul>{arms}</ul></details>"


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


def _list(entries: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>' for name, text in entries.items())}</dl>"


def _digest(text: str) -> str:
    """By which the page's policy knows its own style and script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
