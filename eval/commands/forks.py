"""What single consults change: runs on with the consult and without it from the same tokens, and grades both.

RUN is a file or folder of records of `dodona eval`. At each chosen position of an arm's texts the oracle writes k
tokens and the base goes on alone; without the consult the base goes on alone at once. One line a consult goes to
RUN-changes.jsonl, {"problem_id", "position", "change": -1, 0 or 1, ...}, which `dodona analyze --changes` takes as a
label. Forks are kept as they are done, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys

from dodona.engine.records import encode_record
from dodona.eval.causal.change_tables import summary, table
from dodona.eval.causal.changes import lines, measure
from dodona.eval.causal.forks import ForkLog
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.positions import MODES, MOST
from dodona.eval.commands.analyze import add_resampling_options
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
from dodona.eval.commands.options import budget, positive
from dodona.eval.report.table import text_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_origin_options(parser)
    parser.add_argument("--arm", metavar="NAME", help="whose texts (default: the only arm with the positions)")
    parser.add_argument(
        "--positions",
        choices=tuple(MODES),
        default="consults",
        help="; ".join(f"{name}: {what}" for name, what in MODES.items()) + " (default: consults)",
    )
    limits = ", ".join(f"{name} {most}" for name, most in MOST.items() if most is not None)
    parser.add_argument(
        "--max-per-problem", metavar="N", type=positive, help=f"positions of a text at most (default: {limits})"
    )
    parser.add_argument(
        "--k", metavar="K", type=budget, help="tokens that the oracle writes, or inf (default: the arm's own, else 1)"
    )
    add_resampling_options(parser)
    add_fork_options(parser, "-changes.jsonl")


def run(args: argparse.Namespace) -> int:
    """Measure, write and print."""
    origin = Origin(args.path, say)
    arm = origin.arm(args.arm, alone=args.positions != "consults")
    output, log_path = paths_of(args, origin, "-changes.jsonl")
    k = args.k if args.k is not None else 1 if arm.base_alone else arm.k
    most = args.max_per_problem if args.max_per_problem is not None else MOST[args.positions]
    loaded = Loaded(origin, args)
    loaded.check()
    with ForkLog(log_path, origin) as log, Progress(hidden=args.json) as progress:
        try:
            found = measure(
                origin, arm, log, loaded.engine, mode=args.positions, k=k, most=most, seed=args.seed, step=progress
            )
        except KeyboardInterrupt:
            return stopped(log)
        write_lines(output, lines(found))
    for_bootstrap = {"resamples": args.resamples, "seed": args.seed}
    if args.json:
        report = summary(found, **for_bootstrap) | {"output": str(output), "forks_log": str(log_path)}
        sys.stdout.write(encode_record(report, ascii_only=True).decode("ascii"))
        return 0
    if found.changes:
        print("\n".join(text_lines(table(found, **for_bootstrap))))
    else:
        print(f"{arm.name}: no position to try a consult at")
    say(f"written: {output}")
    return 0
