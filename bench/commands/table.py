"""Print a result file's tables, or bring the tables of a page up to date.

FILE is a result file (.jsonl, .json) or a page. In a page, what stands between <!-- bench:NAME --> and
<!-- /bench:NAME --> becomes the tables of NAME.jsonl or NAME.json in --results; NAME/SECTION is one of its tables. With
--check nothing is written, and the exit code is 1 if the page is not up to date.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dodona.engine.errors import DodonaError

RESULTS = Path(__file__).resolve().parent.parent / "results"
DATA = (".json", ".jsonl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", type=Path, help="a result file, or a page with marks")
    parser.add_argument("--results", metavar="DIR", type=Path, default=RESULTS, help="(default: bench/results)")
    parser.add_argument("--section", metavar="NAME", help="with a result file: this table alone")
    parser.add_argument("--check", action="store_true", help="with a page: only say whether it is up to date")


def run(args: argparse.Namespace) -> int:
    """Print tables, or write a page.

    Raises:
        DodonaError: a file that cannot be read, a mark without its end, or a result that is not there.
    """
    from dodona.bench.lines import read_results, write_text
    from dodona.bench.tables import filled, table

    if args.file.suffix in DATA:
        if args.check or args.results != RESULTS:
            raise DodonaError("--check and --results are for a page, and this is a result file")
        print("\n".join(table(read_results(args.file), args.section)))
        return 0
    if args.section is not None:
        raise DodonaError("--section is for a result file: a page names its sections in its marks")
    try:
        page = args.file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise DodonaError(f"{args.file} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    new = filled(page, args.results)
    if args.check:
        print(f"{args.file} is " + ("up to date" if new == page else "not up to date: run this without --check"))
        return int(new != page)
    if new != page:
        write_text(args.file, new)
    return 0
