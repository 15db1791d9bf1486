"""One page that holds an analysis: pictures, tables and definitions, with nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dodona import __version__
from dodona.eval.analysis.study import Settings, Study
from dodona.eval.analysis.tables import study_tables
from dodona.eval.report import html
from dodona.eval.report.html import escaped
from dodona.eval.report.picture import Picture
from dodona.eval.report.table import Table, definitions


def page(drawn: Sequence[tuple[Study, Sequence[Picture]]], settings: Settings) -> str:
    """The page as a text; the same traces give the same page."""
    tables = [study_tables(study) for study, _ in drawn]
    title = f"When to consult: {drawn[0][0].title}" if len(drawn) == 1 else f"When to consult: {len(drawn)} studies"
    lead = (
        f"Analysis by dodona {__version__}. Intervals are 95 % intervals by bootstrap over problems "
        f"({settings.resamples} resamples, seed {settings.seed}). A row is a position that the base wrote and the "
        "oracle looked at."
    )
    body = [
        part
        for index, ((study, pictures), its_tables) in enumerate(zip(drawn, tables, strict=True))
        for part in _section(study, pictures, its_tables, f"s{index}", heading=len(drawn) > 1)
    ]
    body.append(html.meanings(definitions(table for its_tables in tables for table in its_tables)))
    return html.document(title, lead, body)


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
    yield from map(html.note, study.notes)
    yield html.figures(pictures)
    yield from map(html.titled_table, tables)
    arms = "".join(f"<li>{escaped(arm)}</li>" for arm in study.arms)
    yield html.folded("Arms", f"<ul>{arms}</ul>")
