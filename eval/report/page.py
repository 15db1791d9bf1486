"""One page that holds a report: plots, tables, configuration and definitions, with nothing loaded from elsewhere.

Every text is escaped, and the page forbids itself all but its own style, script and pictures, so that nothing in a
record can run or reach the network when the page is read.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dodona import __version__
from dodona.eval.report.files import write_file
from dodona.eval.report.plots import Picture
from dodona.eval.report.section import Section
from dodona.eval.report.table import Table, definitions
from dodona.eval.report.tables import section_tables


def write_page(path: Path, drawn: Sequence[tuple[Section, Sequence[Picture]]], *, holm: bool = False) -> Path:
    """Write the page; the same records give the same page.

    Raises:
        DodonaError: it cannot be written.
    """
    return write_file(path, page(drawn, holm=holm))


def page(drawn: Sequence[tuple[Section, Sequence[Picture]]], *, holm: bool = False) -> str:
    """The page as a text, from sections with their pictures."""
    sections = [section for section, _ in drawn]
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    script = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
    tables = [section_tables(section, holm=holm) for section in sections]
    title = sections[0].title if len(sections) == 1 else f"{len(sections)} experiments"
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escaped(title)}</title>\n<style>{style}</style>\n</head>\n<body>",
        f"<h1>{escaped(title)}</h1>",
        f'<p class="soft">Report by dodona {escaped(__version__)}. Intervals are 95 % intervals. The denominator is '
        "every problem that was asked for.</p>",
    ]
    if len(sections) > 1:
        links = (f'<li><a href="#s{index}">{escaped(section.title)}</a></li>' for index, section in enumerate(sections))
        parts.append(f"<ul>{''.join(links)}</ul>")
    for index, ((section, pictures), its_tables) in enumerate(zip(drawn, tables, strict=True)):
        parts += _section(section, pictures, its_tables, f"s{index}", heading=len(sections) > 1)
    defined = definitions(table for its_tables in tables for table in its_tables)
    parts.append(f"<h2>What the columns mean</h2>\n{_list(defined)}")
    parts.append(f"<script>{script}</script>\n</body>\n</html>\n")
    return "\n".join(parts)


def escaped(text: object) -> str:
    """The text as HTML shows it, in an element or in an attribute; control characters are shown, not obeyed."""
    shown = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(text))
    return html.escape(shown, quote=True)


def _section(
    section: Section, pictures: Sequence[Picture], tables: Sequence[Table], anchor: str, *, heading: bool
) -> Iterator[str]:
    experiment = section.experiment
    if heading:
        yield f'<h2 id="{anchor}">{escaped(section.title)}</h2>'
    yield f"<p>{len(experiment.problems)} problems, {len(experiment.arms)} arms, {experiment.records} records.</p>"
    yield from (f'<p class="note">{escaped(note)}</p>' for note in section.notes)
    figures = [
        f'<figure><img src="{_data_uri(picture.svg)}" alt="{escaped(picture.title)}"></figure>' for picture in pictures
    ]
    if figures:
        rules = len({line.arm.rule for line in section.guided})
        yield f'<div class="figures{" wide" if rules > 1 else ""}">{"".join(figures)}</div>'
    for table in tables:
        yield f"<h3>{escaped(table.title)}</h3>\n{_table(table)}"
    facts = {
        "configuration": experiment.config_hash,
        "dodona": ", ".join(experiment.dodona),
        "commit": ", ".join(experiment.commits) or "not known",
        "files": ", ".join(experiment.files),
    }
    facts |= {name: value if isinstance(value, str) else json.dumps(value) for name, value in experiment.config.items()}
    facts |= {f"{package} (version)": ", ".join(found) for package, found in experiment.versions.items()}
    yield f"<details><summary>Configuration, versions and files</summary>{_list(facts)}</details>"


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


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"


def _digest(text: str) -> str:
    """By which the page's policy knows its own style and script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
