"""What single consults change: runs on with the consult and without it from the same tokens, and grades both.

RUN is a file or folder of records of `dodona eval`. At each chosen position of an arm's texts the oracle writes k
tokens and the base goes on alone; without the consult the base goes on alone at once. One line a consult goes to
RUN-changes.jsonl, {"problem_id", "position", "change": -1, 0 or 1, ...}, which `dodona analyze --changes` takes as a
label. Forks are kept as they are done, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from dodona.engine.errors import DodonaError
from dodona.engine.records import encode_record
from dodona.engine.whole_file import write_whole
from dodona.eval.analysis.resample import RESAMPLES
from dodona.eval.causal.change_rows import lines
from dodona.eval.causal.change_tables import SIGNALS, Summary, summary, tables
from dodona.eval.causal.changes import measure
from dodona.eval.causal.forks import ForkLog
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.positions import RANKED, Where, read_at
from dodona.eval.commands.analyze import not_negative
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
from dodona.eval.commands.options import budget, positive
from dodona.eval.report.files import write_file
from dodona.eval.report.table import text_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_origin_options(parser)
    parser.add_argument(
        "--arm", metavar="NAME", help="whose texts (default: the only arm with consults; with positions the base alone)"
    )
    parser.add_argument(
        "--k", metavar="K", type=budget, help="tokens that the oracle writes, or inf (default: the arm's own, else 1)"
    )
    group = parser.add_argument_group("positions, of each text", "default: where the run consulted")
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--trigger", metavar="T", help="where this trigger would consult; the oracle's columns may be used, too"
    )
    which.add_argument(
        "--at", metavar="LIST", help="these, as in 3,17,40, or a file of JSON lines with problem_id and position"
    )
    which.add_argument("--top", metavar="N", type=positive, help="the N where a signal most says consult")
    which.add_argument("--random", metavar="N", type=positive, help="N drawn evenly, by --seed")
    which.add_argument("--differs", action="store_true", help="all where the models' first choices differ")
    which.add_argument("--all", action="store_true", help="every one")
    group.add_argument("--by", metavar="SIGNAL", help="of --top (default: entropy)")
    group.add_argument("--max-per-problem", metavar="N", type=positive, help="only the first N of a text")
    numbers = parser.add_argument_group("numbers")
    numbers.add_argument(
        "--bins",
        metavar="SIGNAL",
        action="append",
        help=f"by which to divide the consults; may be repeated (default: {' and '.join(SIGNALS)})",
    )
    numbers.add_argument(
        "--resamples", metavar="N", type=positive, default=RESAMPLES, help=f"of the bootstrap (default: {RESAMPLES})"
    )
    numbers.add_argument(
        "--seed", metavar="N", type=not_negative, default=0, help="of --random and of the bootstrap (default: 0)"
    )
    add_fork_options(parser, "-changes.jsonl")


def run(args: argparse.Namespace) -> int:
    """Measure, write and print."""
    where = positions_of(args)
    for name in args.bins or ():
        if name not in RANKED:
            raise DodonaError(f"--bins is one of {', '.join(RANKED)}, not {name!r}")
    check_pictures(args)
    origin = Origin(args.path, say)
    arm = origin.arm(args.arm, alone=where.kind != "consults")
    output, log_path = paths_of(args, origin, "-changes.jsonl", "change")
    k = args.k if args.k is not None else 1 if arm.base_alone else arm.k
    loaded = Loaded(origin, args)
    loaded.check()
    with ForkLog(log_path, origin) as log, Progress(hidden=args.json) as progress:
        try:
            found = measure(origin, arm, log, loaded.engine, where=where, k=k, ids=args.ids, step=progress)
        except KeyboardInterrupt:
            return stopped(log)
        rows = list(lines(found, loaded.tokenizer))
        write_whole(output, map(encode_record, rows))
    made = summary(found, resamples=args.resamples, seed=args.seed, signals=args.bins or SIGNALS)
    written = [output, *_write(args, made, rows)]
    if args.json:
        report = made.as_dict() | {"output": str(output), "forks_log": str(log_path)}
        sys.stdout.write(encode_record(report, ascii_only=True).decode("ascii"))
    elif found.changes:
        print("\n\n".join("\n".join(text_lines(table)) for table in tables(made)))
    else:
        print(f"{arm.name}: no position {where} to try a consult at")
    if found.unseen:
        say(f"left out, as no signals are known: {len(found.unseen)} texts")
    if found.passed_over:
        say(f"passed over: {found.passed_over} positions that lie behind a text's end or inside a burst")
    for path in written:
        say(f"written: {path}")
    return 0


def positions_of(args: argparse.Namespace) -> Where:
    """The positions that the options say.

    Raises:
        DodonaError: they say none, or too much.
    """
    if args.by is not None and args.top is None:
        raise DodonaError("--by goes with --top N")
    if args.trigger is not None:
        where = Where("trigger", trigger=args.trigger)
    elif args.at is not None:
        where = read_at(args.at)
    elif args.top is not None:
        where = Where("top", count=args.top, signal=args.by or "entropy")
    elif args.random is not None:
        where = Where("random", count=args.random, seed=args.seed)
    else:
        where = Where("differs" if args.differs else "all" if args.all else "consults")
    return dataclasses.replace(where, most=args.max_per_problem)


def _write(args: argparse.Namespace, made: Summary, rows: list[dict[str, object]]) -> list[Path]:
    from dodona.eval.report.csv_files import write_tables

    written: list[Path] = []
    if args.csv:
        written += write_tables(Path(args.csv), csv_tables(made, rows), alone="changes")
    if args.html:
        from dodona.eval.causal.change_page import page

        written.append(write_file(Path(args.html), page(made, rows)))
    return written


def csv_tables(made: Summary, rows: list[dict[str, object]]) -> dict[str, list[dict[str, object]]]:
    """Rows of the tables ``changes``, ``groups`` and ``bins``."""
    flat = []
    for row in rows:
        signals = row["signals"]
        assert isinstance(signals, dict)
        flat.append({name: value for name, value in row.items() if name != "signals"} | signals)
    bins = [{"signal": one.signal, **group.flat()} for one in made.bins for group in one.groups]
    return {"changes": flat, "groups": [group.flat() for group in made.groups], "bins": bins}
