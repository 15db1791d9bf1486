"""The frame of the pages of `dodona causal` and `dodona forks`: one file with all that it shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dodona import __version__
from dodona.engine.tokenizer import Tokenizer
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.texts import Text
from dodona.eval.report import html
from dodona.eval.report.html import escaped
from dodona.eval.report.picture import Picture
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
    lead = f"Made by dodona {__version__}. Intervals are 95 % intervals."
    body = [
        *(f"<p>{escaped(paragraph)}</p>" for paragraph in says),
        html.figures(pictures, wide=False),
        *map(html.titled_table, tables),
        *texts,
        html.meanings(definitions(tables)),
        html.folded("Configuration, versions and files", html.listing(html.experiment_facts(origin.experiment))),
    ]
    return html.document(title, lead, body, styles=[Path(__file__).with_name("page.css")])


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
