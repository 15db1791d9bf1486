"""Grade answers again, or for the first time, without generating.

A file that `dodona eval` wrote is graded from its texts by the judge of its task; the verdicts that changed are listed.
In any other file each line is a JSON object with `prediction` and `gold` (or `letter`, of a choice), and gets the
fields correct, extracted, method and reason. What cannot be graded counts as wrong, with its reason, and is
reported. The result of NAME.jsonl goes to NAME.graded.jsonl beside it unless told otherwise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import IO

from dodona.engine.errors import DodonaError
from dodona.engine.records import encode_record
from dodona.eval.regrade import GRADED, Graded, grade_file, graded_path
from dodona.eval.report.table import plain

_FAULTS = 10  # shown of each file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="record files, folders of them, or other JSON lines")
    output = parser.add_argument_group("output")
    output.add_argument("--output-file", metavar="FILE", help="write to this file; - is standard output")
    output.add_argument("--in-place", action="store_true", help="replace each file, once all of it is graded")
    output.add_argument("--json", action="store_true", help="print a summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Grade, write and print."""
    paths = _files(args.files)
    if args.output_file is not None:
        if args.in_place:
            raise DodonaError("--in-place writes to the files themselves: leave --output-file out")
        if args.output_file == "-" and args.json:
            raise DodonaError("--json and --output-file - both want standard output: leave one out")
        if args.output_file != "-" and len(paths) > 1:
            raise DodonaError(f"--output-file holds what comes of one file, and these are {len(paths)}")
        if args.output_file != "-" and _is_same(Path(args.output_file), paths[0]):
            raise DodonaError("--output-file is the file that is graded: use --in-place to replace it")
    to_stdout = args.output_file == "-"
    results = []
    for path in paths:
        output = path if args.in_place else Path(args.output_file) if args.output_file else graded_path(path)
        graded = grade_file(path, None if to_stdout else output, stream=sys.stdout.buffer if to_stdout else None)
        results.append(graded)
        for fault in graded.faults[:_FAULTS]:
            print(f"dodona: {path}, line {fault.line}: {plain(fault.reason)}", file=sys.stderr)
        if len(graded.faults) > _FAULTS:
            print(f"dodona: {path}: {len(graded.faults) - _FAULTS} more lines could not be graded", file=sys.stderr)
        if not args.json:
            _show(graded, sys.stderr if to_stdout else sys.stdout)
    if args.json:
        summary = {"files": [graded.as_dict() for graded in results]}
        sys.stdout.write(encode_record(summary, ascii_only=True).decode("ascii"))
    return 0


def _files(names: list[str]) -> list[Path]:
    """Each file once; a folder stands for the record files in it and below that are no results of grading."""
    paths: list[Path] = []
    for path in map(Path, names):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*.jsonl") if not file.name.endswith(GRADED))
            if not found:
                raise DodonaError(f"{path} has no files of records (*.jsonl) in it")
        elif path.exists():
            found = [path]
        else:
            raise DodonaError(f"there is no file or folder {path}")
        paths += found
    return list({path.resolve(): path for path in reversed(paths)}.values())[::-1]


def _is_same(output: Path, path: Path) -> bool:
    return output.exists() and output.samefile(path)


def _show(graded: Graded, stream: IO[str]) -> None:
    share = f"{100 * graded.correct / graded.lines:.1f} %" if graded.lines else "none"
    what = "runs" if graded.runs else "lines"
    line = f"{graded.path}: {graded.correct} of {graded.lines} {what} right ({share})"
    if graded.runs:
        count = len(graded.flips)
        line += f", {count} verdict{'' if count == 1 else 's'} changed"
    if graded.faults:
        line += f", {len(graded.faults)} not graded"
    print(line + (f"; written: {graded.output}" if graded.output is not None else ""), file=stream)
    for flip in graded.flips:
        print(f"  {plain(flip.problem_id)}  {plain(flip.arm)}  {_word(flip.old)} -> {_word(flip.new)}", file=stream)


def _word(correct: bool | None) -> str:
    return "not graded" if correct is None else "right" if correct else "wrong"
