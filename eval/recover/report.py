"""The last stage: reads a study's files and writes tables, plots and a page; nothing is generated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from dodona.engine.errors import DodonaError
from dodona.eval.recover.csv_rows import csv_tables
from dodona.eval.recover.examples import MOST, examples
from dodona.eval.recover.findings import Findings, read_findings
from dodona.eval.recover.page import page
from dodona.eval.recover.rows import RIGHT
from dodona.eval.recover.tables import study_tables
from dodona.eval.report.csv_files import write_tables
from dodona.eval.report.files import write_file
from dodona.eval.report.table import Table

PAGE: Final = "report.html"
TABLES: Final = "tables"
PLOTS: Final = "plots"


class Report(NamedTuple):
    """What was written, and what it says."""

    findings: Findings
    title: str
    notes: list[str]
    tables: list[Table]
    rows: dict[str, list[Any]]  # by the name of their CSV table
    written: list[Path]


def write_report(
    folder: Path, *, exclude_answered: bool = False, bins: int = 5, most_examples: int = MOST, plots: bool = True
) -> Report:
    """Write ``report.html``, ``tables/*.csv`` and ``plots/*.png`` and ``*.svg`` into a study's folder.

    Args:
        exclude_answered: leave out prefixes that contain an answer.
        bins: of the solve rate.
        most_examples: completions on the page.
        plots: whether to draw; the page has no pictures then.

    Raises:
        DodonaError: there is no study, a file cannot be read or written, or there is no matplotlib for the plots.
    """
    findings = read_findings(folder, exclude_answered=exclude_answered, bins=bins)
    config = findings.config
    title = f"Recovery from wrong prefixes: {config['dataset']}, {config['strong_model']} after {config['weak_model']}"
    noted = notes(findings)
    tables = study_tables(findings, token_texts(str(config["weak_model"])))
    rows = csv_tables(findings)
    written = write_tables(folder / TABLES, {name: some for name, some in rows.items() if some}, alone="recovery")
    pictures = []
    if plots:
        from dodona.eval.recover.figures import draw

        pictures = draw(findings)
        for picture in pictures:
            written.append(write_file(folder / PLOTS / f"{picture.name}.png", picture.png))
            written.append(write_file(folder / PLOTS / f"{picture.name}.svg", picture.svg))
    text = page(findings, title, noted, pictures, tables, examples(findings, most_examples))
    written.append(write_file(folder / PAGE, text))
    return Report(findings, title, noted, tables, rows, written)


def notes(findings: Findings) -> list[str]:
    """What a reader should know before the numbers."""
    config = findings.config
    found = [
        f"{len(findings.problems)} problems; {findings.samples} straight shots of each by each model in the appraisal, "
        f"and {findings.samples} drawn anew among the controls; temperature {config['temperature']:g}."
    ]
    for stage, missing, asked in findings.missing:
        found.append(f"{missing} of {asked} runs of the stage {stage} have no record yet; they count as wrong.")
    if not findings.completions_asked:
        found.append("No prefix has been completed yet.")
    wrong = sum(prefix.kind != RIGHT for prefix in findings.prefixes.values())
    if findings.harmless:
        found.append(
            f"{len(findings.harmless)} of {wrong} wrong prefixes hold no error yet: a right solution that was drawn "
            "begins so, too. Going on rightly from them is no recovery; a table tells them apart."
        )
    found.append(
        "Bins come from few samples, so a problem's place in them is uncertain, and its rate in new samples lies "
        "nearer to the mean of all. Straight shots in the tables by difficulty are new samples for that reason; the "
        "diagonal of the scatter plot is where recovery equals those."
    )
    return found


def token_texts(model: str) -> Callable[[int], str]:
    """The text of a token, from the model's tokenizer where it is on this machine; else its id."""
    from dodona.eval.viewer.vocabulary import open_tokenizer

    try:
        return open_tokenizer(model, download=False).token_text
    except DodonaError:
        return lambda token: f"token {token}"
