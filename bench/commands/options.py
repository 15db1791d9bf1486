"""Options that the benchmark's commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dodona.bench.birth import described, typed_command
from dodona.bench.effort import FULL, QUICK, Effort
from dodona.bench.lines import ResultFile, json_text, lines_of
from dodona.bench.subject import SEED, Subject
from dodona.bench.subject import described as engine_facts
from dodona.bench.tables import table
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.options import device_of

ENGINE_OPTIONS = ("backend", "ops", "loop", "lookahead", "threads")


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more, not {text!r}")
    return value


def listed(read: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """A reader of several values with commas between them."""

    def read_list(text: str) -> tuple[Any, ...]:
        return tuple(read(part.strip()) for part in text.split(","))

    return read_list


def add_subject_options(parser: argparse.ArgumentParser) -> None:
    """Which models to measure, where, and how they run."""
    parser.add_argument(
        "--base-model", metavar="MODEL", help="1B, smollm2, dummy:1B, a folder (default: embedded pair)"
    )
    parser.add_argument("--oracle-model", metavar="MODEL", help="likewise")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    parser.add_argument("--dtype", help="float32, bfloat16, float16 (default: bfloat16 on cuda, float32 on the CPU)")
    parser.add_argument("--backend", help="eager, or triton (default: triton on cuda, eager on the CPU)")
    parser.add_argument("--ops", help="torch or triton: the step's operations, where they are not the backend's")
    parser.add_argument("--loop", help="host or device: where a step is decided, where it is not as the backend has it")
    parser.add_argument("--lookahead", metavar="N", type=positive, help="ticks that the device loop launches ahead")
    parser.add_argument("--threads", metavar="N", type=positive, help="CPU threads")
    parser.add_argument(
        "--temperature", metavar="X", type=float, default=0.0, help="of both models: above 0, steps draw (default: 0)"
    )


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Where the results go."""
    parser.add_argument("--quick", action="store_true", help="short texts and few of them: seconds, not minutes")
    parser.add_argument("--json", action="store_true", help="print the result lines in place of a table")
    parser.add_argument("--out", metavar="FILE", type=Path, help="append the result lines to this file")


def check_guided(engine: Engine, **options: Any) -> None:
    """Refuse options of consults where there is no oracle to consult.

    Raises:
        DodonaError: one has a value.
    """
    for name, value in options.items():
        if value is not None and engine.oracle is None:
            raise DodonaError(f"--{name} needs an oracle: name one with --oracle-model, or leave it out")


def subject_of(args: argparse.Namespace) -> Subject:
    """The models and options that the user gave.

    Raises:
        DodonaError: an oracle without a base, or an unknown device.
    """
    given = {name: getattr(args, name) for name in ENGINE_OPTIONS if getattr(args, name) is not None}
    if device_of(args.device).type == "cuda":
        given.setdefault("backend", "triton")
    return Subject(args.base_model, args.oracle_model, args.device, args.dtype, given)


def effort_of(args: argparse.Namespace, **wanted: Any) -> Effort:
    """How much to measure; ``wanted`` replaces fields where there is a value.

    Raises:
        DodonaError: a temperature below 0.
    """
    if not args.temperature >= 0:
        raise DodonaError(f"--temperature must be 0 or more, not {args.temperature}")
    wanted["temperature"] = args.temperature
    chosen = {name: value for name, value in wanted.items() if value is not None}
    return (QUICK if args.quick else FULL)._replace(**chosen)


def report(
    args: argparse.Namespace, bench: str, engine: Engine, rows: Iterable[Mapping[str, Any]], facts: Mapping[str, Any]
) -> int:
    """Measure the rows one by one; each is written as it comes, and all of them are shown at the end.

    Args:
        facts: what else belongs to the subject in a line.

    Raises:
        DodonaError: the file cannot be written, or a run failed.
    """
    subject = {**engine_facts(engine), "seed": SEED, **facts}
    command = typed_command("dodona", sys.argv[1:])
    lines = []
    with ResultFile(args.out) as file:
        for line in lines_of(bench, rows, subject, command, engine.device):
            file.append(line)
            lines.append(line)
            if args.json:
                print(json_text(line), flush=True)
            elif sys.stderr.isatty():
                print(f"\r\033[K{line['part']} {line.get('lengths', '')}", end="", file=sys.stderr, flush=True)
    if not args.json:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
        print("\n".join([*described(lines[-1]["birth"]), "", *table(lines)]))
    return 0
