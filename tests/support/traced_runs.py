"""A small experiment of the embedded pair with its traces, as `dodona eval --trace` writes it."""

from __future__ import annotations

from pathlib import Path

from dodona.cli import main

PROBLEMS = 24
TRIGGER = "entropy > 0.3"


def write_runs(folder: Path, *arguments: str, problems: int = PROBLEMS) -> Path:
    """The base alone, two consults of three tokens, and the oracle alone; the base alone in a file of its own."""
    common = ["eval", "--dataset", "arith", "--device", "cpu", "--num-samples", str(problems), "--trace", "--json"]
    common += ["--oracle-tail", "--divergence", "--output-dir", str(folder), *arguments]
    assert main([*common, "--c", "0,2", "--k", "3", "--trigger", TRIGGER]) == 0
    assert main([*common, "--c", "inf", "--k", "inf", "--trigger", "always"]) == 0
    return folder
