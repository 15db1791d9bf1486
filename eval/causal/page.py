"""The frame of the pages of `dodona causal` and `dodona forks`: one file with all that it shows.

Every text is escaped, and the page forbids itself all but its own style, script and pictures.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dodona.eval.report.page as report_page
from dodona import __version__
from dodona.engine.tokenizer import Tokenizer
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.texts import Text
from dodona.eval.report.page import escaped
from dodona.eval.report.plots import Picture
from dodona.eval.report.table import Table, definitions


def framed(
    title: str,
    says: Iterable[str],
    pictures: Sequence[Picture],
    tables: Sequence[Table],
    texts: Iterable[str],
    origin: Origin,
) -> str:
    """The page as a text; the same records give the same page.

    Args:
        says: paragraphs under the title, as plain text.
        texts: HTML to stand under the tables.
    """
    shared, own = Path(report_page.__file__).parent, Path(__file__).parent
    style = _read(shared / "page.css") + _read(own / "page.css")
    script = _read(shared / "page.js")
    allowed = [report_page._digest(part) for part in (style, script)]
    policy = f"default-src 'none'; img-src data:; style-src '{allowed[0]}'; script-src '{allowed[1]}'"
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escaped(title)}</title>\n<style>{style}</style>\n</head>\n<body>",
        f"<h1>{escaped(title)}</h1>",
        f'<p class="soft">Made by dodona {escaped(__version__)}. Intervals are 95 % intervals.</p>',
        *(f"<p>{escaped(paragraph)}</p>" for paragraph in says),
    ]
    if pictures:
        figures = (
            f'<figure><img class="{picture.name}" src="data:image/svg+xml;base64,'
            f'{base64.b64encode(picture.svg).decode("ascii")}" alt="{escaped(picture.title)}"></figure>'
            for picture in pictures
        )
        parts.append(f'<div class="figures">{"".join(figures)}</div>')
    parts += [f"<h3>{escaped(table.title)}</h3>\n{report_page._table(table)}" for table in tables]
    parts += texts
    parts.append(f"<h2>What the columns mean</h2>\n{report_page._list(definitions(tables))}")
    facts = report_page._list(_facts(origin))
    parts.append(f"<details><summary>Configuration, versions and files</summary>{facts}</details>")
    parts.append(f"<script>{script}</script>\n</body>\n</html>\n")
    return "\n".join(parts)


def asked(text: Text, tokenizer: Tokenizer) -> str:
    """The problem as it was put to the models: of a chat the last message."""
    prompt: Any = text.problem.prompt
    if isinstance(prompt, str):
        return prompt
    if prompt and isinstance(prompt[0], Mapping):
        return str(prompt[-1].get("content"))
    return tokenizer.decode(list(prompt), skip_special=False)


def mark(kind: str, token: str, title: str) -> str:
    """A token that stands out, with what to show when it is pointed at; white space of its own is made visible."""
    shown = token if token.strip() else token.replace(" ", "\u00b7").replace("\n", "\u21b5\n") or "\u2205"
    return f'<mark class="{kind}" title="{escaped(title)}">{escaped(shown)}</mark>'


def _facts(origin: Origin) -> dict[str, Any]:
    experiment = origin.experiment
    facts: dict[str, Any] = {
        "configuration": experiment.config_hash,
        "dodona": ", ".join(experiment.dodona),
        "commit": ", ".join(experiment.commits) or "not known",
        "files": ", ".join(experiment.files),
    }
    facts |= {name: value if isinstance(value, str) else json.dumps(value) for name, value in experiment.config.items()}
    return facts | {f"{package} (version)": ", ".join(found) for package, found in experiment.versions.items()}


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
