"""Measure tokens a second over batch, consult budget c, burst length k and consult rate, with the oracle's share,
memory, and the share of the time in which no forward ran.

Every batch is measured alone and guided; then c, k and the rate are changed one at a time at the largest batch.
"""

from __future__ import annotations

import argparse
import math

from dodona.bench.commands.options import (
    add_output_options,
    add_subject_options,
    check_guided,
    effort_of,
    listed,
    positive,
    report,
    subject_of,
)


def budget(text: str) -> float:
    """A whole number of 1 or more, or ``inf``."""
    return math.inf if text == "inf" else positive(text)


def share(text: str) -> float:
    """A number above 0 and up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and up to 1, not {text!r}")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_subject_options(parser)
    group = parser.add_argument_group("grid (several values with commas between them)")
    group.add_argument("--batch", metavar="LIST", type=listed(positive), help="sequences at once")
    group.add_argument("--c", metavar="LIST", type=listed(budget), help="consults a text at most")
    group.add_argument("--k", metavar="LIST", type=listed(budget), help="tokens a consult")
    group.add_argument("--rate", metavar="LIST", type=listed(share), help="chance of a consult at a base token")
    group.add_argument("--tokens", metavar="N", type=positive, help="tokens of each text")
    add_output_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, and print a table.

    Raises:
        DodonaError: options or models that cannot be used.
    """
    from dodona.bench.throughput import arms, rows

    subject = subject_of(args)
    wanted = {"batches": args.batch, "budgets": args.c, "bursts": args.k, "rates": args.rate, "tokens": args.tokens}
    effort = effort_of(args, **wanted).within(subject.context)
    with subject.engine(max_batch=max(effort.batches), max_length=effort.prompt + effort.tokens) as engine:
        check_guided(engine, c=args.c, k=args.k, rate=args.rate)
        grid = arms(effort, guided=engine.oracle is not None)
        return report(args, "throughput", engine, rows(engine, effort, grid), {})
