"""One page that holds a report: plots, tables, configuration and definitions, with nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dodona import __version__
from dodona.eval.report import html
from dodona.eval.report.files import write_file
from dodona.eval.report.html import escaped
from dodona.eval.report.picture import Picture
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
    tables = [section_tables(section, holm=holm) for section, _ in drawn]
    title = drawn[0][0].title if len(drawn) == 1 else f"{len(drawn)} experiments"
    lead = f"Report by dodona {__version__}. Intervals are 95 % intervals. The denominator is every problem asked for."
    return html.document(title, lead, _body(drawn, tables))


def _body(drawn: Sequence[tuple[Section, Sequence[Picture]]], tables: Sequence[Sequence[Table]]) -> Iterator[str]:
    several = len(drawn) > 1
    if several:
        links = (f'<li><a href="#s{i}">{escaped(section.title)}</a></li>' for i, (section, _) in enumerate(drawn))
        yield f"<ul>{''.join(links)}</ul>"
    for index, ((section, pictures), its_tables) in enumerate(zip(drawn, tables, strict=True)):
        yield from _section(section, pictures, its_tables, f"s{index}", heading=several)
    yield html.meanings(definitions(table for its_tables in tables for table in its_tables))


def _section(
    section: Section, pictures: Sequence[Picture], tables: Sequence[Table], anchor: str, *, heading: bool
) -> Iterator[str]:
    experiment = section.experiment
    if heading:
        yield f'<h2 id="{anchor}">{escaped(section.title)}</h2>'
    yield f"<p>{len(experiment.problems)} problems, {len(experiment.arms)} arms, {experiment.records} records.</p>"
    yield from map(html.note, section.notes)
    rules = len({line.arm.rule for line in section.guided})
    yield html.figures(pictures, wide=rules > 1)
    yield from map(html.titled_table, tables)
    yield html.folded("Configuration, versions and files", html.listing(html.experiment_facts(experiment)))
