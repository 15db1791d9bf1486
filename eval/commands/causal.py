"""The first wrong token: where the base's wrong texts went wrong, told by letting the oracle take over.

RUN is a file or folder of records of `dodona eval` with an arm of the base alone. Of the texts that the base has wrong
and the oracle alone right, the causal token is looked for: the oracle taking over just before it makes the answer
right, and just after it no longer does. Takeovers are forks from the recorded token ids. They are kept as they are
done, so that the same command goes on where it was stopped. One line a problem goes to RUN-causal.jsonl: the token,
what both models thought of it, what stands around it, and every takeover that was tried.
"""

from __future__ import annotations

import argparse
import sys

from dodona.engine.records import encode_record
from dodona.eval.analysis.labels import CONFIDENT
from dodona.eval.causal.forks import ForkLog
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.wrong import lines, search
from dodona.eval.causal.wrong_tables import plain_summary, tables
from dodona.eval.commands.analyze import at_least_zero
from dodona.eval.commands.forking import (
    Loaded,
    Progress,
    add_fork_options,
    add_origin_options,
    paths_of,
    say,
    stopped,
    write_lines,
)
from dodona.eval.commands.options import positive
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
    origin = Origin(args.path, say)
    arm = origin.arm(args.arm, alone=True)
    output, log_path = paths_of(args, origin, "-causal.jsonl")
    loaded = Loaded(origin, args)
    loaded.check()
    with ForkLog(log_path, origin) as log, Progress(hidden=args.json) as progress:
        try:
            found = search(origin, arm, log, loaded.engine, exhaustive=args.exhaustive, limit=args.limit, step=progress)
        except KeyboardInterrupt:
            return stopped(log)
        write_lines(output, lines(found, loaded.tokenizer, log.of(arm)))
    if args.json:
        report = plain_summary(found, args.confident) | {"output": str(output), "forks": str(log_path)}
        sys.stdout.write(encode_record(report, ascii_only=True).decode("ascii"))
        return 0
    print("\n\n".join("\n".join(text_lines(table)) for table in tables(found, args.confident)))
    say(f"written: {output}")
    return 0
