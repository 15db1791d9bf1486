"""One page that holds a study: plots, tables and definitions, with nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dodona import __version__
from dodona.eval.analysis.resample import NARROW
from dodona.eval.diversity.settings import Options
from dodona.eval.report import html
from dodona.eval.report.picture import Picture
from dodona.eval.report.table import Table, definitions


def page(
    title: str,
    notes: Sequence[str],
    pictures: Sequence[Picture],
    tables: Sequence[Table],
    facts: Mapping[str, str],
    options: Options,
) -> str:
    """The page as a text; the same findings give the same page."""
    lead = (
        f"Report by dodona {__version__}. Intervals are 95 % intervals by bootstrap over problems ({options.resamples} "
        f"resamples, seed {options.seed}); {NARROW}. The denominator is all samples asked for."
    )
    body = [
        *map(html.note, notes),
        html.figures(pictures),
        *map(html.titled_table, tables),
        html.meanings(definitions(tables)),
        html.folded("Configuration, versions and files", html.listing(facts)),
    ]
    return html.document(title, lead, body)
