"""Two sets of runs on the same problems: the difference with its interval, McNemar's test, and the flips.

A and B are files of records or folders of them; with one path, two arms in it. Arms of the same name are compared, or
those that are named. The difference is B less A, over the problems that both were asked; what failed, was cut off, has
no answer or no record counts as wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from dodona.engine.errors import DodonaError
from dodona.engine.records import encode_record
from dodona.eval.recorded import Experiment, titles
from dodona.eval.report.comparison import Comparison, Sides, matched
from dodona.eval.report.comparison_tables import comparison_lines, overview_lines
from dodona.eval.report.csv_files import write_comparisons
from dodona.eval.report.table import plain
from dodona.eval.runs import read_runs

_FLIPS = 20  # shown unless asked for more
_IDS = 10  # problem ids shown in a note
_ARMS = 3  # likewise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("paths", metavar="PATH", nargs="+", help="A and B, or one for two arms in it")
    parser.add_argument("--arm", metavar="NAME", help="the arm to compare, in both")
    parser.add_argument("--arm-a", metavar="NAME", help="the arm of A")
    parser.add_argument("--arm-b", metavar="NAME", help="the arm of B")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--flips", metavar="N", type=_flips, default=_FLIPS, help=f"flips to show, or all (default: {_FLIPS})"
    )
    output.add_argument("--json", action="store_true", help="print everything as JSON, in place of the tables")
    output.add_argument("--csv", metavar="PATH", help="also write CSV: the flips to a .csv file, or all to a folder")


def run(args: argparse.Namespace) -> int:
    """Read, compare, write and print."""
    sides, labels = _sides(args)
    arm_a, arm_b = args.arm_a or args.arm, args.arm_b or args.arm
    pairs = matched(sides.a, sides.b, arm_a, arm_b)
    comparisons = [sides.compare(arms_a, arms_b) for arms_a, arms_b in pairs]
    notes = _notes(sides, comparisons, named=bool(arm_a or arm_b))
    if args.csv:
        for path in write_comparisons(Path(args.csv), comparisons):
            _say(f"written: {path}")
    if args.json:
        sys.stdout.write(encode_record(_as_dict(sides, labels, comparisons, notes), ascii_only=True).decode("ascii"))
        return 0
    print("\n".join(plain(line) for line in (*labels, f"{len(sides.problems)} problems in both")))
    for note in notes:
        print(f"note: {plain(note)}")
    lines = comparison_lines(comparisons[0], args.flips) if len(comparisons) == 1 else overview_lines(comparisons)
    print("\n" + "\n".join(lines))
    return 0


def _sides(args: argparse.Namespace) -> tuple[Sides, tuple[str, str]]:
    if len(args.paths) > 2:
        raise DodonaError(f"compare takes two paths, A and B, or one with two arms in it, not {len(args.paths)}")
    if args.arm and (args.arm_a or args.arm_b):
        raise DodonaError("--arm names the arm of both sides; give --arm-a and --arm-b where they differ")
    if len(args.paths) == 1 and args.arm:
        raise DodonaError("with one path, --arm-a and --arm-b name the two arms to compare")
    experiments = [_single(path) for path in args.paths]
    a, b = experiments[0], experiments[-1]
    labels = (f"A: {args.paths[0]}: {a.title}", f"B: {args.paths[-1]}: {b.title}")
    return Sides(a, b), labels


def _single(path: str) -> Experiment:
    """The one experiment at a path."""
    experiments = read_runs([path], note=_say)
    if len(experiments) > 1:
        named = zip(titles(experiments), experiments, strict=True)
        listed = "; ".join(f"{title} ({', '.join(experiment.files[:2])})" for title, experiment in named)
        raise DodonaError(f"{path} holds {len(experiments)} experiments, and a side is one: name its files: {listed}")
    return experiments[0]


def _notes(sides: Sides, comparisons: list[Comparison], *, named: bool) -> list[str]:
    notes = []
    for side, ids in (("A", sides.only_a), ("B", sides.only_b)):
        if ids:
            notes.append(f"{len(ids)} problems were asked of {side} alone and are left out: {_some(ids, _IDS)}")
    if other := sides.other_gold:
        notes.append(f"the gold answers of {len(other)} problems differ between A and B: {_some(other, _IDS)}")
    if sides.a is not sides.b:
        for side, here, arm in (("A", sides.a, "arm_a"), ("B", sides.b, "arm_b")):
            compared = {getattr(comparison, arm) for comparison in comparisons}
            left = [a.name for a in here.arms if here.rows.get(a.name) and a.name not in compared]
            if left and not named:
                notes.append(f"arms of {side} that are left out: {_some(left, _ARMS)}")
    return notes


def _some(names: list[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _as_dict(sides: Sides, labels: tuple[str, str], comparisons: list[Comparison], notes: list[str]) -> dict[str, Any]:
    return {
        "confidence": 0.95,
        "dataset": sides.a.dataset,
        "a": labels[0].removeprefix("A: "),
        "b": labels[1].removeprefix("B: "),
        "problems": len(sides.problems),
        "only_a": sides.only_a,
        "only_b": sides.only_b,
        "other_gold": sides.other_gold,
        "comparisons": [comparison.as_dict() for comparison in comparisons],
        "notes": notes,
    }


def _flips(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number or all, not {text!r}")
    return int(text)


def _say(text: str) -> None:
    print(plain(text), file=sys.stderr)
