"""Run every benchmark of this machine, each in a process of its own: latency, throughput, profile, peers, scaling.

Result lines go to DIR/NAME.jsonl and what is printed to DIR/NAME.txt. A part that fails does not end the others; the
exit code is 1 if one failed. With --quick all of it takes two minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dodona.bench.commands.options import listed
from dodona.engine.errors import DodonaError

TEXT = ("--base-model", "smollm2@drop=24,26", "--oracle-model", "smollm2", "--dtype", "bfloat16")


class Part(NamedTuple):
    """A benchmark and its options beyond those that all have."""

    name: str  # of its files
    arguments: tuple[str, ...]
    quick: bool = True  # whether it is a part of the quick set


PARTS = (
    Part("latency", ("latency",)),
    Part("latency-text", ("latency", *TEXT), quick=False),
    Part("throughput", ("throughput",)),
    Part("profile", ("profile",)),
    Part("peers", ("peers",)),
    Part("scaling", ("scaling",)),
)


class Done(NamedTuple):
    """How a part ended."""

    name: str
    code: int
    seconds: float
    said: str  # its last line where it failed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    names = ",".join(part.name for part in PARTS)
    parser.add_argument("--parts", metavar="LIST", type=listed(str), help=f"(default: {names})")
    parser.add_argument("--quick", action="store_true", help="short texts and few of them: two minutes for all")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("bench-results"), help="(default: bench-results)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the parts one after another.

    Raises:
        DodonaError: an unknown part, or a folder that cannot be made.
    """
    known = {part.name for part in PARTS}
    if unknown := [name for name in args.parts or () if name not in known]:
        raise DodonaError(f"there is no part {unknown[0]!r}: choose among {', '.join(part.name for part in PARTS)}")
    chosen = [part for part in PARTS if (part.name in args.parts if args.parts else part.quick or not args.quick)]
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DodonaError(f"--out {args.out} cannot be made: {error.strerror}") from error
    failed = 0
    for done in run_all(chosen, args.out, quick=args.quick):
        failed += done.code != 0
        how = "done" if done.code == 0 else f"FAILED with exit code {done.code}: {done.said}"
        print(f"{done.name:14}{done.seconds:6.1f} s  {how}", flush=True)
    print(f"results and tables are in {args.out}" + (f"; {failed} of {len(chosen)} failed" if failed else ""))
    return int(bool(failed))


def run_all(parts: list[Part], folder: Path, *, quick: bool) -> Iterator[Done]:
    """Each part's end, as it comes."""
    for part in parts:
        command = [sys.executable, "-m", "dodona", "bench", *part.arguments, *(["--quick"] if quick else [])]
        command += ["--out", str(folder / f"{part.name}.jsonl")]
        if part.name == "profile":
            command += ["--trace", str(folder / "trace.json")]
        printed = folder / f"{part.name}.txt"
        started = time.perf_counter()
        with printed.open("w", encoding="utf-8") as stream:
            # Read when torch is imported, as for our own process.
            env = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=env).returncode
        yield Done(part.name, code, time.perf_counter() - started, last_line(printed))


def last_line(path: Path) -> str:
    """The last line of a file that says anything."""
    lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
