"""Tables, plots and a page from record files: accuracy with intervals, costs, differences from the base, correlations.

PATH is a file of records or a folder of them, any number and mix. Runs of one configuration belong together, wherever
they lie. The denominator is every problem that was asked for: what failed, was cut off, has no answer or no record
counts as wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dodona.engine.records import encode_record
from dodona.eval.report.csv_files import write_report
from dodona.eval.report.page import write_page
from dodona.eval.report.picture import check_matplotlib
from dodona.eval.report.plots import draw, write_plots
from dodona.eval.report.section import Section, sections
from dodona.eval.report.table import plain, text_lines
from dodona.eval.report.tables import section_tables
from dodona.eval.runs import read_runs
from dodona.eval.stats.bootstrap import RESAMPLES, SEED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("paths", metavar="PATH", nargs="+", help="files of records, or folders of them")
    parser.add_argument("--holm", action="store_true", help="also show p corrected for the number of arms (Holm)")
    parser.add_argument(
        "--common", action="store_true", help="only problems that every arm has a record of, as while a grid still runs"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print everything as JSON, in place of the tables")
    output.add_argument("--csv", metavar="PATH", help="also write CSV: the arms to a .csv file, or all to a folder")
    output.add_argument("--plots", metavar="DIR", help="also write the plots, as PNG and as SVG")
    output.add_argument("--html", metavar="FILE", help="also write one page with the plots and the tables")


def run(args: argparse.Namespace) -> int:
    """Read, compute, write and print."""
    if args.plots or args.html:  # before anything is read
        check_matplotlib("--plots" if args.plots else "--html")
    found = sections(read_runs(args.paths, note=_say), common=args.common)
    written: list[Path] = []
    if args.csv:
        written += write_report(Path(args.csv), found)
    drawn = [(section, draw(section)) for section in found] if args.plots or args.html else []
    if args.plots:
        written += write_plots(Path(args.plots), drawn)
    if args.html:
        written.append(write_page(Path(args.html), drawn, holm=args.holm))
    if args.json:
        report = {
            "confidence": 0.95,
            "bootstrap": {"resamples": RESAMPLES, "seed": SEED},
            "experiments": [section.as_dict() for section in found],
        }
        sys.stdout.write(encode_record(report, ascii_only=True).decode("ascii"))
    else:
        print("\n\n".join("\n".join(section_lines(section, holm=args.holm)) for section in found))
    for path in written:
        _say(f"written: {path}")
    return 0


def section_lines(section: Section, *, holm: bool) -> list[str]:
    """A section as lines of text."""
    title, experiment = plain(section.title), section.experiment
    lines = [title, "=" * len(title)]
    lines.append(f"{len(experiment.problems)} problems, {len(experiment.arms)} arms, {experiment.records} records")
    lines += [f"note: {plain(note)}" for note in section.notes]
    for table in section_tables(section, holm=holm):
        lines += ["", *text_lines(table)]
    return lines


def _say(text: str) -> None:
    print(plain(text), file=sys.stderr)
