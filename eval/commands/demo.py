"""Show what dodona does on models that come with it: one problem alone and guided, then accuracy over c and k.

Records go to a new file each time, runs/demo-DATE-TIME.jsonl.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.records import RecordFile
from dodona.eval.commands.options import positive
from dodona.eval.commands.running import progress_bar
from dodona.eval.demo import TEXT_BASE, TEXT_DTYPE, TEXT_ORACLE, demo, demo_text, records_path
from dodona.eval.report.files import check_no_study
from dodona.eval.show import COLOR_CHOICES, marks_for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--text", action="store_true", help="plain language with SmolLM2 instead of arithmetic")
    parser.add_argument("--num-samples", metavar="N", type=positive, help="problems (default: 100)")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--color", choices=COLOR_CHOICES, default="auto", help="(default: auto, on a terminal)")
    parser.add_argument("--output-file", metavar="FILE", help="records (default: runs/demo-DATE-TIME.jsonl)")


def run(args: argparse.Namespace) -> int:
    """Run the demonstration."""
    if args.text and args.num_samples is not None:
        raise DodonaError("--num-samples is for the problems of arithmetic: leave it or --text out")
    marks = marks_for(sys.stdout, args.color)
    path = Path(args.output_file or records_path("demo-text" if args.text else "demo"))
    if args.text:
        check_no_study(path)
        with RecordFile(path) as file:
            engine = Engine(TEXT_BASE, oracle=TEXT_ORACLE, device=args.device, dtype=TEXT_DTYPE, max_batch=1)
            demo_text(engine, file, marks)
    else:
        demo(Engine(device=args.device), path, args.num_samples or 100, marks, _bar)
    return 0


def _bar(total: int, label: str) -> AbstractContextManager[Any]:
    bar: AbstractContextManager[Any] = progress_bar(total, 0, label, hidden=False)
    return bar
