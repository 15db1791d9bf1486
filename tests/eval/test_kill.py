"""Whatever ends a run, what it wrote stays, and the same command does the rest: no run twice, none missing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from kept_records import contents, environment, files_end_at, lines, missing_lock

from dodona.cli import main

ARITH = ("eval", "--dataset", "arith", "--device", "cpu", "--temperature", "0.7")
SWEEP = """
output_dir = "FOLDER"
grid = { c = [0, 2], k = [2, 5], trigger = "entropy > 0.5" }
options = { temperature = 0.7, max_new_tokens = 120 }
engine = { device = "cpu", max_batch = 3 }
models = [{ base = "arith-base", oracle = "arith-oracle", name = "pair" }]

[[tasks]]
name = "first"
dataset = "arith"
num_samples = 6

[[tasks]]
name = "second"
dataset = "arith"
start_index = 10
num_samples = 5
"""
GRID = (*ARITH, "--c", "0,2", "--k", "3", "--max-new-tokens", "120")


@pytest.mark.slow
def test_twenty_kills_leave_the_records_of_a_sweep_that_was_never_killed(root: Path, tmp_path: Path) -> None:
    """Catches a record lost or written twice, a torn line that hides the next one, a lock that outlives its process,
    and draws that depend on order, on batch mates or on how often a run was started. A sweep runs each of its two
    experiments as `dodona eval` runs its one.
    """
    names = ["whole", *(f"killed-{number}" for number in range(20))]
    for name in names:
        (tmp_path / f"{name}.toml").write_text(SWEEP.replace("FOLDER", str(tmp_path / name)))
    script = [sys.executable, str(root / "tests/support/killed_runs.py"), "20", "0", str(tmp_path)]
    done = subprocess.run(
        [*script, "sweep", "{}.toml"], cwd=root, env=environment(root), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["kills"] == 20
    for part, runs in (("first", 18), ("second", 15)):
        whole = contents(tmp_path / "whole" / f"{part}-pair")
        assert len(whole) == runs
        for name in names[1 : 1 + report["folders"]]:
            assert contents(tmp_path / name / f"{part}-pair") == whole
    assert missing_lock(tmp_path)
    middle = [count for count in report["lines"] if 3 < count < 18 + 15 + 6]
    assert len(middle) >= 5, f"too few kills hit the middle: {report['lines']}"


def stopped(arguments: list[str], folder: Path, least: int) -> int:
    """Run a command here, press Ctrl-C once so many lines are written, and return its exit code.

    A shell starts background jobs with SIGINT ignored, so the handler is set as a terminal's command has it.
    """
    ended = threading.Event()

    def press() -> None:
        while lines(folder) <= least:
            if ended.wait(0.005):
                return
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    finger = threading.Thread(target=press)
    try:
        finger.start()
        return main(arguments)
    finally:
        ended.set()
        finger.join()
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_says_what_was_kept_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback, an exit code of success, or a count that includes headers; then torn lines in every file."""
    grid = [*GRID, "--num-samples", "24", "--max-batch", "2", "--output-dir", str(tmp_path / "stopped")]
    code = stopped(grid, tmp_path / "stopped", least=7)
    error = capsys.readouterr().err
    kept = len(contents(tmp_path / "stopped"))
    assert code == 130, error
    assert error.endswith(f"stopped: {kept} records kept in {tmp_path / 'stopped'}; the same command goes on\n")
    assert "Traceback" not in error and 5 <= kept < 48
    assert missing_lock(tmp_path)
    for path in (tmp_path / "stopped").glob("*.jsonl"):
        with path.open("ab") as file:
            file.write(b'{"arm": "c=0 se')
    assert main(grid) == 0
    assert main([*GRID, "--num-samples", "24", "--output-dir", str(tmp_path / "whole")]) == 0
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def filled(arguments: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """Run a command that meets a full disk; how many records it kept."""
    capsys.readouterr()
    code = main(arguments)
    error = capsys.readouterr().err
    assert code == 2, error
    last = error.splitlines()[-1]
    assert re.fullmatch(rf"dodona: error: {re.escape(str(place))}\S* cannot be written: .*; .* are kept", last), last
    assert "Traceback" not in error
    return len(contents(place))


def test_a_full_disk_is_one_clear_line_and_costs_nothing_that_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The write that fails leaves a part of its line, which must not stay, nor hide the next record."""
    place = tmp_path / "r.jsonl"
    grid = [*GRID, "--num-samples", "12", "--output-file", str(place)]
    with files_end_at(20_000):
        kept = filled(grid, place, capsys)
    assert 3 < kept < 24
    assert main(grid) == 0
    assert main([*GRID, "--num-samples", "12", "--output-file", str(tmp_path / "whole.jsonl")]) == 0
    assert contents(place) == contents(tmp_path / "whole.jsonl")


def test_a_small_disk_that_is_full_in_the_middle_of_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real thing, of 100 KB: every file must stay whole, and more room must be enough to go on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no permission to mount a file system")
    try:
        grid = [*GRID, "--num-samples", "40", "--output-dir", str(disk / "runs")]
        kept = filled(grid, disk / "runs", capsys)
        assert 3 < kept < 80
        assert filled(grid, disk / "runs", capsys) >= kept  # still full: nothing is lost by trying
        subprocess.run(["mount", "-o", "remount,size=20M", str(disk)], check=True)
        assert main(grid) == 0
        assert main([*GRID, "--num-samples", "40", "--output-dir", str(tmp_path / "whole")]) == 0
        assert contents(disk / "runs") == contents(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
