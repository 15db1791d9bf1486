"""Compare ratios against peers with those of a baseline: measured again by the baseline's own commands, or from a file.

The exit code is 1 where a ratio fell by more than the tolerance, was not measured, or the new rows have faults.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dodona.engine.errors import DodonaError

TOLERANCE = 0.15


def share(text: str) -> float:
    """A number from 0 to below 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to below 1, not {text!r}")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("baseline", metavar="BASELINE", type=Path, help="lines that `bench peers --out` wrote")
    parser.add_argument("new", metavar="NEW", type=Path, nargs="?", help="lines to compare (default: measure again)")
    parser.add_argument(
        "--tolerance",
        metavar="SHARE",
        type=share,
        default=TOLERANCE,
        help=f"share that a ratio may fall by (default: {TOLERANCE})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of a table")
    parser.add_argument("--out", metavar="FILE", type=Path, help="append what is measured again to this file")


def run(args: argparse.Namespace) -> int:
    """Compare and print.

    Raises:
        DodonaError: files that cannot be used.
    """
    from dodona.bench.lines import json_text, read_results
    from dodona.bench.regress import RATIOS, findings, value

    if args.new and args.out:
        raise DodonaError("--out is for what is measured again; with a NEW file nothing is")
    baseline = read_results(args.baseline)
    if not any(value(line, name) is not None for line in baseline for name in RATIOS):
        raise DodonaError(f"{args.baseline} has no ratio against a peer: `dodona bench peers --out FILE` writes them")
    new = read_results(args.new) if args.new else measured_again(baseline, args.baseline, args.out)
    found = findings(baseline, new, args.tolerance)
    failed = [finding for finding in found if finding.reason is not None]
    if args.json:
        print(json_text({"passed": not failed, "findings": [finding._asdict() for finding in found]}))
        return int(bool(failed))
    for note in other_machine(baseline, new):
        print(note)
    for finding in found:
        now = "-" if finding.now is None else f"{finding.now:.2f}"
        ratio = f"{finding.ratio} {finding.before:.2f} -> {now}  " if finding.ratio else ""
        print(f"{'ok  ' if finding.reason is None else 'FAIL'}  {ratio}{finding.what}" + _because(finding.reason))
    print(f"{len(found) - len(failed)} of {len(found)} passed")
    return int(bool(failed))


def measured_again(baseline: list[dict[str, Any]], path: Path, out: Path | None) -> list[dict[str, Any]]:
    """New lines from the commands that wrote the baseline's.

    Raises:
        DodonaError: the baseline does not name its command, or nothing came out of it.
    """
    from dodona.bench.lines import ResultFile, read_results

    commands = list(dict.fromkeys(json.dumps(line["arguments"]) for line in baseline if "arguments" in line))
    if not commands:
        raise DodonaError(f"{path} does not say how it was measured: give a NEW file to compare it with")
    lines: list[dict[str, Any]] = []
    with ResultFile(out) as file:
        for text in commands:
            arguments = json.loads(text)
            if arguments[:2] != ["bench", "peers"] or not all(isinstance(argument, str) for argument in arguments):
                raise DodonaError(f"{path} was not written by `dodona bench peers`")
            with tempfile.TemporaryDirectory() as folder:
                results = Path(folder) / "new.jsonl"
                print(f"dodona {' '.join(arguments)}", file=sys.stderr)
                command = [sys.executable, "-m", "dodona", *arguments, "--out", str(results), "--json"]
                code = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
                if code not in (0, 1) or not results.exists() or not results.stat().st_size:
                    raise DodonaError(f"`dodona {' '.join(arguments)}` measured nothing")
                new = read_results(results)
            for line in new:
                file.append(line)
            lines += new
    return lines


def other_machine(baseline: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    """A note where the two come from different machines."""
    names = [{_machine(line) for line in lines if line.get("birth")} for lines in (baseline, new)]
    if names[0] == names[1]:
        return []
    return [f"note: the baseline is of {', '.join(sorted(names[0]))}, this of {', '.join(sorted(names[1]))}"]


def _machine(line: dict[str, Any]) -> str:
    birth = line["birth"]
    return str((birth.get("device") or {}).get("name") or birth.get("cpu"))


def _because(reason: str | None) -> str:
    return "" if reason is None else f": {reason}"
