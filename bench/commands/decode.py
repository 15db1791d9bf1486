"""Measure decode throughput on this machine, as ratios against transformers and the naive loop in the same run.

Prints one JSON object last. Parts: base (SmolLM2 alone), guided (against the loop that re-runs both models over the
whole prefix), batch (many sequences against one).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from dodona.bench.birth import birth_certificate, typed_command
from dodona.bench.commands.options import positive
from dodona.bench.decode import base_alone, guided
from dodona.bench.lines import write_text
from dodona.bench.many import many_against_one
from dodona.engine.errors import DodonaError
from dodona.engine.threads import check_threads
from dodona.engine.whole_file import check_writable

PARTS = ("base", "guided", "batch")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--parts", metavar="LIST", default=",".join(PARTS), help=f"(default: {','.join(PARTS)})")
    parser.add_argument("--threads", metavar="N", type=positive, help="CPU threads of torch")
    parser.add_argument("--tokens", metavar="N", type=positive, default=96, help="tokens a text (default: 96)")
    parser.add_argument("--repeats", metavar="N", type=positive, default=3, help="timed runs of each (default: 3)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="also write the JSON object to a file")


def run(args: argparse.Namespace) -> int:
    """Run the parts.

    Raises:
        DodonaError: an unknown part, or a file that cannot be written.
    """
    parts = args.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        raise DodonaError(f"there is no part {unknown[0]!r}: choose among {', '.join(PARTS)}")
    if args.out:
        check_writable(args.out)
    check_threads(args.threads)
    if args.threads:
        torch.set_num_threads(args.threads)
    report: dict[str, Any] = {"birth": birth_certificate(typed_command("dodona", sys.argv[1:]))}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if "base" in parts:
            report["base"] = base_alone(folder, args.tokens, args.repeats)
        if "guided" in parts:
            report["guided"] = guided(folder, args.tokens, args.repeats)
        if "batch" in parts:
            report["batch"] = many_against_one(args.repeats)
    text = json.dumps(report, indent=2)
    if args.out:
        write_text(args.out, text + "\n")
    print(text)
    return 0
