"""Check and measure everything on a GPU within some minutes: kernels, both backends, graphs, times, throughput.

Writes gpu.json and gpu.md to --out, after every piece. A part that fails is reported and the others still run; the exit
code is 0 if every part has passed. Needs torch, triton, transformers and numpy, and no network.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from dodona.engine.errors import DodonaError

MINUTES = 8.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--minutes", metavar="N", type=float, default=MINUTES, help=f"for all of it (default: {MINUTES:g})"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder of gpu.json and gpu.md")
    parser.add_argument("--base", "--base-model", metavar="MODEL", dest="base", help="(default: dummy:1B)")
    parser.add_argument("--oracle", "--oracle-model", metavar="MODEL", dest="oracle", help="(default: dummy:8B)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu with --quick (default: cuda)")
    parser.add_argument(
        "--quick", action="store_true", help="short texts and few of them; on the CPU the embedded pair"
    )


def run(args: argparse.Namespace) -> int:
    """Run all parts; 0 if each has passed.

    Raises:
        DodonaError: options that cannot be used, or no device.
    """
    if not args.minutes > 0:
        raise DodonaError(f"--minutes must be above 0, not {args.minutes:g}")
    from dodona.bench.birth import typed_command
    from dodona.bench.gpu import check
    from dodona.bench.gpu.options import DUMMIES, EMBEDDED, Options
    from dodona.engine.options import device_of

    try:
        on_cuda = device_of(args.device).type == "cuda"
    except DodonaError as error:
        raise DodonaError(
            f"{error}; --device cpu --quick tries all but the kernels and the graphs, on the embedded pair"
        ) from error
    if on_cuda and os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise DodonaError("TRITON_INTERPRET is set, and interpreted kernels check nothing of a GPU's: unset it")
    if not on_cuda and not args.quick:
        raise DodonaError("--device cpu goes with --quick: the full check is made for a CUDA device")
    base, oracle = DUMMIES if on_cuda else EMBEDDED
    options = Options(args.base or base, args.oracle or oracle, args.device, args.quick)
    command = typed_command("dodona", sys.argv[1:])
    report = check.run(options, args.minutes, args.out, command, say=lambda line: print(line, flush=True))
    return 0 if check.passed(report) else 1
