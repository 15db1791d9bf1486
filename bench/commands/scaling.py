"""Measure what a token costs over the prompt's length, the batch, the budget c and the burst length k, with fitted
lines, and beside each cell the time that its ledger predicts.

While c changes the oracle writes the same share of the tokens. The prediction is the ledger's counts times costs of
single forwards, which are measured in other runs of the same turns. Without models, the embedded pair and SmolLM2 (in
bfloat16, with two of its layers left out as the base) are measured.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_subject_options(parser)
    group = parser.add_argument_group("grid (several values with commas between them)")
    group.add_argument("--prefix", metavar="LIST", type=listed(positive), help="tokens of the prompt")
    group.add_argument("--batch", metavar="LIST", type=listed(positive), help="sequences at once")
    group.add_argument("--c", metavar="LIST", type=listed(positive), help="consults a text")
    group.add_argument("--k", metavar="LIST", type=listed(positive), help="tokens a consult")
    group.add_argument("--tokens", metavar="N", type=positive, help="tokens of a text where c and k change")
    group.add_argument("--turns", metavar="N", type=positive, help="timed runs of each cell")
    add_output_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, and print tables.

    Raises:
        DodonaError: options or models that cannot be used.
    """
    from dodona.bench.peers.sets import TEXT
    from dodona.bench.scaling import rows, with_room
    from dodona.bench.scaling_sizes import ROOM, sizes_for
    from dodona.engine.errors import CheckpointError

    effort_of(args)  # refuses a temperature below 0
    subjects = [subject_of(args)]
    if args.base_model is None:
        bf16 = args.dtype or "bfloat16"
        subjects.append(replace(subjects[0], base=TEXT[0], oracle=TEXT[1], dtype=bf16))
    measured = 0
    for subject in subjects:
        try:
            sizes = sizes_for(subject.parameters, quick=args.quick)
            context = subject.context
        except CheckpointError as error:
            if args.base_model is not None or subject.base is None:
                raise
            print(f"not measured: {error}", file=sys.stderr)
            continue
        chosen = {"prefixes": args.prefix, "batches": args.batch, "budgets": args.c, "bursts": args.k}
        chosen |= {"tokens": args.tokens, "turns": args.turns}
        sizes = sizes.chosen(**{name: value for name, value in chosen.items() if value is not None})
        sizes = sizes.within(context, guided=len(subject.names) > 1)
        subject = with_room(subject, sizes)
        with subject.engine(max_batch=max(sizes.batches), max_length=sizes.longest + sizes.tokens + ROOM) as engine:
            check_guided(engine, c=args.c, k=args.k)
            report(args, "scaling", engine, rows(engine, sizes, args.temperature), {})
        measured += 1
    return int(not measured)
