"""Measure what each part of guided decoding takes at batch 1: first token, steps, syncs, consults, catch-ups, signals.

Times are beside the bytes that the step must read and the read ceiling that is measured first on this machine. On the
device's loop they are by the device's own clock.
"""

from __future__ import annotations

import argparse

from dodona.bench.commands.options import add_output_options, add_subject_options, effort_of, report, subject_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_subject_options(parser)
    add_output_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, and print a table.

    Raises:
        DodonaError: options or models that cannot be used.
    """
    from dodona.bench.ceiling import ceilings
    from dodona.bench.latency import rows

    subject = subject_of(args)
    effort = effort_of(args).within(subject.context)
    with subject.engine(max_batch=1, max_length=effort.longest) as engine:
        found = ceilings(engine.device, quick=args.quick)
        return report(args, "latency", engine, rows(engine, effort, found), {"ceilings": found})
