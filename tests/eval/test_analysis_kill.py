"""`dodona eval --trace`, killed again and again: the traces are those of a run that was never killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kept_records import environment

from dodona.engine.trace import read_traces

NAMES = ("token_id", "source", "entropy", "logprob", "oracle_logprob", "u", "trigger", "c", "finish_reason")


def runs(folder: Path) -> dict[tuple[str, str], list[list[str]]]:
    """Every run's rows, without what batch mates may change in the last digits."""
    found: dict[tuple[str, str], list[list[str]]] = {}
    for path in sorted(folder.glob("*.trace.parquet")):
        for columns in read_traces(path):
            key = columns["arm"][0], columns["problem_id"][0]
            assert key not in found, "a run is there twice"
            found[key] = [[_shown(value) for value in columns[name]] for name in NAMES]
    return found


def _shown(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) or hasattr(value, "dtype") else str(value)


@pytest.mark.slow
def test_ten_kills_leave_the_traces_of_a_run_that_was_never_killed(root: Path, tmp_path: Path) -> None:
    """Rows lost between the trace and the record, written twice by the run that goes on, or left in a journal."""
    script = [sys.executable, str(root / "tests/support/killed_runs.py"), "10", "3", str(tmp_path)]
    grid = ["eval", "--dataset", "arith", "--device", "cpu", "--num-samples", "9", "--max-batch", "3", "--trace"]
    grid += ["--c", "0,2", "--k", "3", "--trigger", "entropy > 0.5", "--oracle-tail", "--max-new-tokens", "120"]
    grid += ["--output-dir", "{}"]
    done = subprocess.run(
        [*script, *grid], cwd=root, env=environment(root), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["kills"] == 10
    whole = runs(tmp_path / "whole")
    assert len(whole) == 18
    for folder in (tmp_path / f"killed-{number}" for number in range(report["folders"])):
        assert sorted(path.suffix for path in folder.iterdir()) == [".jsonl"] * 2 + [".parquet"] * 2
        assert runs(folder) == whole
