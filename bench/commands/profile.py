"""Profile a guided run: a trace for chrome://tracing or ui.perfetto.dev, and tables by phase and by kernel.

The trace is written to --trace. With --nvtx there is no trace: the run is in NVTX ranges for Nsight Systems, as in
`nsys profile -t cuda,nvtx dodona bench profile --nvtx`. With --uncaptured CUDA graphs are left out, so that statistics,
draws and triggers can be told from the forward.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dodona.bench.commands.options import (
    add_output_options,
    add_subject_options,
    effort_of,
    positive,
    report,
    subject_of,
)

TOKENS = 64  # a trace of more is slow to open
TRACE = Path("dodona-trace.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_subject_options(parser)
    parser.add_argument("--batch", metavar="N", type=positive, default=1, help="sequences at once (default: 1)")
    parser.add_argument("--tokens", metavar="N", type=positive, help=f"tokens of each text (default: {TOKENS})")
    parser.add_argument("--trace", metavar="FILE", type=Path, default=TRACE, help=f"what is traced (default: {TRACE})")
    parser.add_argument("--nvtx", action="store_true", help="NVTX ranges in place of torch's profiler")
    parser.add_argument("--uncaptured", action="store_true", help="run step programs launch by launch")
    add_output_options(parser)


def run(args: argparse.Namespace) -> int:
    """Profile, and print the tables.

    Raises:
        DodonaError: options or models that cannot be used.
    """
    from dodona.bench.ceiling import ceilings
    from dodona.bench.profile import in_ranges, rows
    from dodona.engine.errors import DodonaError
    from dodona.engine.options import device_of

    if args.nvtx and (args.json or args.out or args.trace != TRACE):
        raise DodonaError("--nvtx leaves everything to Nsight: leave out --json, --out and --trace")
    if args.nvtx and device_of(args.device).type != "cuda":
        raise DodonaError("--nvtx marks ranges for Nsight on a CUDA device: leave it out on the CPU")
    subject = subject_of(args)
    effort = effort_of(args, tokens=args.tokens or (None if args.quick else TOKENS)).within(subject.context)
    chosen = {"batch": args.batch, "captured": not args.uncaptured}
    with subject.engine(max_batch=args.batch, max_length=effort.prompt + effort.tokens) as engine:
        if args.nvtx:
            in_ranges(engine, effort, **chosen)
            return 0
        try:
            args.trace.parent.mkdir(parents=True, exist_ok=True)
            args.trace.open("a").close()
        except OSError as error:
            raise DodonaError(f"--trace {args.trace} cannot be written: {error.strerror}") from error
        found = ceilings(engine.device, quick=args.quick)
        return report(
            args, "profile", engine, rows(engine, effort, found, args.trace, **chosen), {"ceilings": found, **chosen}
        )
