"""Parts of a page as HTML, and the page around them: one file that loads nothing from elsewhere.

Every text is escaped, and a page forbids itself all but its own style, scripts and pictures, so that nothing in a
record can run or reach the network when the page is read.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dodona.eval.recorded import Experiment
from dodona.eval.report.picture import Picture
from dodona.eval.report.table import Table


def document(
    title: str, lead: str, body: Iterable[str], *, styles: Sequence[Path] = (), scripts: Sequence[Path] = ()
) -> str:
    """A whole page.

    Args:
        lead: the line under the title, as plain text.
        body: HTML.
        styles: files beside the style that all pages have.
        scripts: files beside the script that all pages have; they may use `browse`.
    """
    folder = Path(__file__).parent
    common = ("page", "browse") if scripts else ("page",)
    style = "".join(_text(path) for path in (*(folder / f"{name}.css" for name in common), *styles))
    programs = [_text(path) for path in (*(folder / f"{name}.js" for name in common), *scripts)]
    allowed = " ".join(f"'{_digest(program)}'" for program in programs)
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src {allowed}"
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escaped(title)}</title>\n<style>{style}</style>\n</head>\n<body>",
        f"<h1>{escaped(title)}</h1>",
        f'<p class="soft">{escaped(lead)}</p>',
        *body,
        *(f"<script>{program}</script>" for program in programs),
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


def escaped(text: object) -> str:
    """The text as HTML shows it, in an element or in an attribute; control characters are shown, not obeyed."""
    shown = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(text))
    return html.escape(shown, quote=True)


def note(text: str) -> str:
    """A remark that the reader should not miss."""
    return f'<p class="note">{escaped(text)}</p>'


def titled_table(table: Table) -> str:
    """A table under its title."""
    return f"<h3>{escaped(table.title)}</h3>\n{bare_table(table)}"


def bare_table(table: Table) -> str:
    """A table that can be sorted by its columns, whose heads say what they mean when they are pointed at."""
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


def listing(entries: Mapping[str, Any]) -> str:
    """Names and what belongs to them."""
    return f"<dl>{''.join(f'<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>' for name, text in entries.items())}</dl>"


def meanings(entries: Mapping[str, str], of: str = "columns") -> str:
    """What the columns of a page's tables mean, at its end."""
    return f"<h2>What the {of} mean</h2>\n{listing(entries)}"


def folded(summary: str, inner: str) -> str:
    """HTML that shows when its summary is clicked."""
    return f"<details><summary>{escaped(summary)}</summary>{inner}</details>"


def figures(pictures: Sequence[Picture], *, wide: bool = True) -> str:
    """Pictures side by side, or one below the other where they are wide; nothing where there are none."""
    if not pictures:
        return ""
    shown = "".join(
        f'<figure><img class="{escaped(picture.name)}" src="data:image/svg+xml;base64,'
        f'{base64.b64encode(picture.svg).decode("ascii")}" alt="{escaped(picture.title)}"></figure>'
        for picture in pictures
    )
    return f'<div class="figures{" wide" if wide else ""}">{shown}</div>'


def browser(name: str, heading: str, says: str, filters: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows to look through, which a script of the page draws with `browse` (browse.js): a few at a time, with filters.

    Args:
        name: of a row; the section is called ``names``.
        says: the line under the heading, as plain text.
        filters: what each select is called where it filters nothing, by what it filters by.
        rows: as data for the script.
    """
    selects = "".join(
        f'<select data-of="{by}" aria-label="{by}"><option value="">{escaped(label)}</option></select>'
        for by, label in filters.items()
    )
    return (
        f'<section id="{name}s"><h2>{escaped(heading)}</h2><p class="soft">{escaped(says)}</p>'
        f'<div class="controls">{selects}<input id="{name}-search" type="search" placeholder="Search" '
        f'aria-label="Search"><button id="{name}-back" type="button">Back</button>'
        f'<button id="{name}-on" type="button">On</button><span id="{name}-tally"></span></div>'
        f'<div id="{name}-list"></div></section>\n'
        f'<script type="application/json" id="rows">{as_json(rows)}</script>'
    )


def experiment_facts(experiment: Experiment) -> dict[str, str]:
    """What a page says of where its runs come from: configuration, versions, files."""
    facts = {
        "configuration": experiment.config_hash,
        "dodona": ", ".join(experiment.dodona),
        "commit": ", ".join(experiment.commits) or "not known",
        "files": ", ".join(experiment.files),
    }
    facts |= as_facts(experiment.config)
    return facts | {f"{package} (version)": ", ".join(found) for package, found in experiment.versions.items()}


def as_facts(config: Mapping[str, Any]) -> dict[str, str]:
    """A configuration's values as texts."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in config.items()}


def as_json(data: Any) -> str:
    """JSON for a script element: no text in it can end the element."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """By which the page's policy knows its own style and scripts."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
