"""Which signal of the base says when to consult: every signal against labels on tokens, from traces.

PATH is a trace, a file of records with its trace beside it, or a folder of them, any number and mix. A row is a
position that the base wrote and the oracle looked at; a context that several arms share counts once. The labels are
kept apart: the first choices differ (with and without near-ties), the divergence is above a threshold, and, with
--changes, a consult there turns a wrong answer into a right one. Intervals are by bootstrap over problems.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from dodona.engine.errors import DodonaError
from dodona.engine.recording import read_recording
from dodona.engine.records import encode_record, read_records
from dodona.engine.whole_file import write_whole
from dodona.eval.analysis.consults import ConsultAnalysis
from dodona.eval.analysis.labels import CONFIDENT, JS, NEAR_TIE, Limits
from dodona.eval.analysis.resample import RESAMPLES
from dodona.eval.analysis.sources import Files, find_files
from dodona.eval.analysis.study import Settings, Study, choose_arms, studies
from dodona.eval.analysis.tables import csv_rows, study_tables
from dodona.eval.commands.options import number, positive, whole
from dodona.eval.recorded import Experiment
from dodona.eval.report.files import check_no_runs
from dodona.eval.report.table import plain, text_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("paths", metavar="PATH", nargs="+", help="traces, files of records, or folders of them")
    parser.add_argument("--arm", metavar="NAME", action="append", default=[], help="only this arm; may be repeated")
    add_label_options(parser)
    parser.add_argument(
        "--confident",
        metavar="NATS",
        type=at_least_zero,
        default=CONFIDENT,
        help=f"entropy below which the base counts as confident (default: {CONFIDENT:g})",
    )
    add_resampling_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print everything as JSON, in place of the tables")
    output.add_argument("--csv", metavar="PATH", help="also write CSV: the signals to a .csv file, or all to a folder")
    output.add_argument("--html", metavar="FILE", help="also write one page with the pictures and the tables")
    output.add_argument("--plots", metavar="DIR", help="also write the pictures, as PNG and as SVG")
    output.add_argument(
        "--output-file", metavar="FILE", help="also write the records with analysis_result (their consults) and acc"
    )


def add_label_options(parser: argparse.ArgumentParser) -> None:
    """Where continuous labels are cut, and the file of outcome changes."""
    group = parser.add_argument_group("labels")
    group.add_argument(
        "--near-tie",
        metavar="P",
        type=at_least_zero,
        default=NEAR_TIE,
        help=f"margin below which a first choice is a near-tie, which rounding may flip (default: {NEAR_TIE:g})",
    )
    group.add_argument(
        "--js", metavar="NATS", type=at_least_zero, default=JS, help=f"cut of the label js (default: {JS:g})"
    )
    group.add_argument(
        "--changes",
        metavar="FILE",
        help='JSON lines {"problem_id", "position", "change": -1, 0 or 1}: what a consult there changes in the outcome',
    )


def add_resampling_options(parser: argparse.ArgumentParser) -> None:
    """How often to resample, and the seed."""
    parser.add_argument(
        "--resamples", metavar="N", type=positive, default=RESAMPLES, help=f"of the bootstrap (default: {RESAMPLES})"
    )
    parser.add_argument("--seed", metavar="N", type=not_negative, default=0, help="of the bootstrap (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Read, compute, write and print."""
    if args.html or args.plots:  # before anything is read
        from dodona.eval.report.picture import check_matplotlib

        check_matplotlib("--plots" if args.plots else "--html")
    files = find_files(args.paths, say)
    if args.output_file is not None:
        check_output(files, Path(args.output_file))
    recording = choose_arms(read_recording(files.traces), args.arm)
    if not recording.runs:
        raise DodonaError(f"no run has left a token in {', '.join(map(str, files.traces))}")
    settings = Settings(Limits(args.near_tie, args.js), args.confident, args.resamples, args.seed, args.changes)
    found = studies(recording, experiments(files, say), settings, say)
    written: list[Path] = []
    if args.output_file is not None:
        written.append(write_consults(ConsultAnalysis(recording), files, Path(args.output_file)))
    written += _write(args, found, settings)
    if args.json:
        report = {
            "confidence": 0.95,
            "bootstrap": {"over": "problems", "resamples": settings.resamples, "seed": settings.seed},
            "near_tie": settings.limits.near_tie,
            "js": settings.limits.js,
            "studies": [study.as_dict() for study in found],
        }
        sys.stdout.write(encode_record(report, ascii_only=True).decode("ascii"))
    else:
        print("\n\n".join("\n".join(study_lines(study)) for study in found))
    for path in written:
        say(f"written: {path}")
    return 0


def study_lines(study: Study) -> list[str]:
    """A study as lines of text."""
    title, recording = plain(study.title), study.recording
    lines = [title, "=" * len(title)]
    lines.append(
        f"{study.problems} problems, {len(recording.runs)} runs of {len(study.arms)} arms, {recording.tokens} tokens, "
        f"{int(study.rows.sum())} rows"
    )
    lines += [f"note: {plain(note)}" for note in study.notes]
    for table in study_tables(study):
        lines += ["", *text_lines(table)]
    return lines


def experiments(files: Files, note: Callable[[str], None]) -> list[Experiment]:
    """The experiments of the records; a file that is of none, as `dodona generate` writes it, is passed over."""
    from dodona.eval.runs import read_runs

    ours = []
    for path in files.records:
        if "header" in next(read_records(path), {}):
            ours.append(path)
        else:
            note(f"{path} has no header, as files of `dodona eval` have: outcomes of problems are not read from it")
    return read_runs(ours) if ours else []


def check_output(files: Files, path: Path) -> None:
    """Refuse to write over what is read, and over runs that are no output of this command.

    Raises:
        DodonaError: there are no records, or the output is one of the files that are read, or other runs.
    """
    if not files.records:
        raise DodonaError("--output-file needs records: name their file or folder, not only the trace")
    if path.resolve() in [file.resolve() for file in (*files.records, *files.traces)]:
        raise DodonaError(f"--output-file {path} is a file that is read: name another one")
    try:
        ours = path.is_file() and any("analysis_result" in line for line in islice(read_records(path), 2))
    except DodonaError:
        ours = False
    if not ours:
        check_no_runs(path)


def write_consults(analysis: ConsultAnalysis, files: Files, path: Path) -> Path:
    """The records with their consults' signals.

    Raises:
        DodonaError: a file cannot be read or written.
    """
    without = 0

    def encoded() -> Iterator[bytes]:
        nonlocal without
        for line in analysis.lines(files.records):
            without += bool(line.get("analysis_result")) and not analysis.has_trace(line)
            yield encode_record(line)

    write_whole(path, encoded())
    if without:
        say(f"{without} records with consults have no trace: their signals are null")
    return path


def _write(args: argparse.Namespace, found: list[Study], settings: Settings) -> list[Path]:
    from dodona.eval.report.csv_files import write_tables
    from dodona.eval.report.files import write_file

    written: list[Path] = []
    if args.csv:
        written += write_tables(Path(args.csv), csv_rows(found), alone="signals")
    if not args.html and not args.plots:
        return written
    from dodona.eval.analysis.figures import draw
    from dodona.eval.analysis.page import page

    drawn = [(study, draw(study)) for study in found]
    if args.plots:
        for place, (_, pictures) in enumerate(drawn):
            folder = Path(args.plots) / f"study-{place + 1}" if len(drawn) > 1 else Path(args.plots)
            for picture in pictures:
                written.append(write_file(folder / f"{picture.name}.png", picture.png))
                written.append(write_file(folder / f"{picture.name}.svg", picture.svg))
    if args.html:
        written.append(write_file(Path(args.html), page(drawn, settings)))
    return written


def at_least_zero(text: str) -> float:
    """A number of 0 or more."""
    value = number(text)
    if not value >= 0 or math.isinf(value):
        raise argparse.ArgumentTypeError(f"must be a number of 0 or more, not {text!r}")
    return value


def not_negative(text: str) -> int:
    """A whole number of 0 or more."""
    if (value := whole(text)) < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {value}")
    return value


def say(text: str) -> None:
    """A line on standard error."""
    print(plain(text), file=sys.stderr)
