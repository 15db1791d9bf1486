"""The first wrong token: where the base's wrong texts went wrong, told by letting the oracle take over.

RUN is a file or folder of records of `dodona eval` with an arm of the base alone. Of the texts that the base has wrong
and the oracle alone right, the causal token is looked for: the oracle taking over just before it makes the answer
right, and just after it no longer does. Bisection finds one such token, the only one if rightness changes once along
the text; the takeovers beside it are tried, too, and a text in which one contradicts that is counted; --exhaustive
finds them all. Takeovers are forks from the recorded token ids, kept as they are done, so that the same command goes on
where it was stopped. One line a problem goes to RUN-causal.jsonl: the token, what both models thought of it, what
stands around it, and every takeover that was tried.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dodona.engine.records import encode_record
from dodona.engine.tokenizer import Tokenizer
from dodona.engine.whole_file import write_whole
from dodona.eval.analysis.labels import CONFIDENT
from dodona.eval.causal.forks import ForkLog
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.wrong import Search, search
from dodona.eval.causal.wrong_rows import csv_rows, lines
from dodona.eval.causal.wrong_tables import certainty_rows, plain_summary, tables
from dodona.eval.commands.analyze import at_least_zero
from dodona.eval.commands.forking import (
    Loaded,
    Progress,
    add_fork_options,
    add_origin_options,
    check_pictures,
    paths_of,
    say,
    stopped,
)
from dodona.eval.commands.options import positive
from dodona.eval.report.files import write_file
from dodona.eval.report.table import text_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_origin_options(parser)
    parser.add_argument("--arm", metavar="NAME", help="which arm of the base alone, where there are several seeds")
    parser.add_argument(
        "--exhaustive",
        action="store_true",
        help="take over at every position where the models differ: finds every fatal token, not one by bisection",
    )
    parser.add_argument("--limit", metavar="N", type=positive, help="only the first N wrong texts (default: all)")
    parser.add_argument(
        "--confident",
        metavar="NATS",
        type=at_least_zero,
        default=CONFIDENT,
        help=f"entropy below which the base counts as confident (default: {CONFIDENT:g})",
    )
    add_fork_options(parser, "-causal.jsonl")


def run(args: argparse.Namespace) -> int:
    """Search, write and print."""
    check_pictures(args)
    origin = Origin(args.path, say)
    arm = origin.arm(args.arm, alone=True)
    output, log_path = paths_of(args, origin, "-causal.jsonl", "takeovers")
    loaded = Loaded(origin, args)
    loaded.check()
    with ForkLog(log_path, origin) as log, Progress(hidden=args.json) as progress:
        try:
            found = search(
                origin,
                arm,
                log,
                loaded.engine,
                exhaustive=args.exhaustive,
                limit=args.limit,
                ids=args.ids,
                step=progress,
            )
        except KeyboardInterrupt:
            return stopped(log)
        rows = list(lines(found, loaded.tokenizer, log.of(arm)))
        write_whole(output, map(encode_record, rows))
    written = [output, *_write(args, found, loaded.tokenizer, rows)]
    if args.json:
        report = plain_summary(found, args.confident) | {"output": str(output), "forks_log": str(log_path)}
        sys.stdout.write(encode_record(report, ascii_only=True).decode("ascii"))
    else:
        print("\n\n".join("\n".join(text_lines(table)) for table in tables(found, args.confident)))
    for path in written:
        say(f"written: {path}")
    return 0


def _write(args: argparse.Namespace, found: Search, tokenizer: Tokenizer, rows: list[dict[str, Any]]) -> list[Path]:
    from dodona.eval.report.csv_files import write_tables

    written: list[Path] = []
    if args.csv:
        tables = {"tokens": csv_rows(rows), "certainty": certainty_rows(found, args.confident)}
        written += write_tables(Path(args.csv), tables, alone="tokens")
    if args.html:
        from dodona.eval.causal.wrong_page import page

        written.append(write_file(Path(args.html), page(found, tokenizer, rows, args.confident)))
    return written
