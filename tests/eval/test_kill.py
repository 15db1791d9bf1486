"""Whatever ends a run, what it wrote stays, and the same command does the rest: no run twice, none missing."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kept_records import contents, environment, lines, missing_lock

from dodona.cli import main

ARITH = ("eval", "--dataset", "arith", "--device", "cpu", "--temperature", "0.7")
GRID = (*ARITH, "--c", "0,2", "--k", "3", "--max-new-tokens", "120")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dodona", *arguments]


@pytest.mark.slow
def test_twenty_kills_leave_the_records_of_a_run_that_was_never_killed(root: Path, tmp_path: Path) -> None:
    """Catches a record lost or written twice, a torn line that hides the next one, a lock that outlives its process,
    and draws that depend on order, on batch mates or on how often a run was started.
    """
    script = [sys.executable, str(root / "tests/support/killed_runs.py"), "20", "0", str(tmp_path)]
    grid = [*ARITH, "--max-batch", "8", "--num-samples", "16", "--c", "0,1,2", "--k", "2,5"]
    grid += ["--trigger", "entropy > 0.5", "--output-dir", "{}"]
    done = subprocess.run(
        [*script, *grid], cwd=root, env=environment(root), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    whole = contents(tmp_path / "whole")
    assert len(whole) == 16 * 5
    assert report["kills"] == 20
    for folder in ["timed", *(f"killed-{number}" for number in range(report["folders"]))]:
        assert contents(tmp_path / folder) == whole
    assert missing_lock(tmp_path)
    headers = len(list((tmp_path / "whole").glob("*.jsonl")))
    assert any(headers < count < headers + len(whole) for count in report["lines"]), "no kill hit the middle"


def stopped(arguments: list[str], root: Path, folder: Path, number: int, least: int) -> tuple[int, str]:
    """Start a command, send a signal once so many lines are written, and return exit code and standard error.

    A shell starts background jobs with SIGINT ignored, and children inherit that: the command gets it as a terminal
    would give it, however the tests were started.
    """
    listen = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, cwd=root, env=environment(root), text=True, **pipes, **listen) as process:  # type: ignore[call-overload]
        deadline = time.monotonic() + 120
        while lines(folder) <= least and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(number)
        _, error = process.communicate(timeout=120)
    return process.returncode, error


@pytest.mark.slow
def test_ctrl_c_says_what_was_kept_and_the_same_command_goes_on(root: Path, tmp_path: Path) -> None:
    """A traceback, an exit code of success, or a count that includes headers; then torn lines in every file."""
    grid = [*GRID, "--num-samples", "40", "--max-batch", "4", "--output-dir", str(tmp_path / "stopped")]
    code, error = stopped(command(*grid), root, tmp_path / "stopped", signal.SIGINT, least=12)
    kept = len(contents(tmp_path / "stopped"))
    assert code == 130, error
    assert error.endswith(f"stopped: {kept} records kept in {tmp_path / 'stopped'}; the same command goes on\n")
    assert "Traceback" not in error and 10 <= kept < 80
    assert missing_lock(tmp_path)
    for path in (tmp_path / "stopped").glob("*.jsonl"):
        with path.open("ab") as file:
            file.write(b'{"arm": "c=0 se')
    assert main(grid) == 0
    assert main([*GRID, "--num-samples", "40", "--output-dir", str(tmp_path / "whole")]) == 0
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def filled(run: Callable[[], subprocess.CompletedProcess[str]], place: Path) -> int:
    """Run a command that meets a full disk; how many records it kept."""
    done = run()
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(rf"dodona: error: {re.escape(str(place))}\S* cannot be written: .*; .* are kept", last), last
    assert "Traceback" not in done.stderr
    return len(contents(place))


def test_a_full_disk_is_one_clear_line_and_costs_nothing_that_was_written(root: Path, tmp_path: Path) -> None:
    """A limit on a file's size makes the kernel fail a write in the middle, as a full disk does."""
    place = tmp_path / "r.jsonl"
    grid = [*GRID, "--num-samples", "12", "--output-file", str(place)]

    def run() -> subprocess.CompletedProcess[str]:
        limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))}
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            command(*grid), cwd=root, env=environment(root), capture_output=True, text=True, timeout=120, **limit
        )

    kept = filled(run, place)
    assert 3 < kept < 24
    assert main(grid) == 0
    assert main([*GRID, "--num-samples", "12", "--output-file", str(tmp_path / "whole.jsonl")]) == 0
    assert contents(place) == contents(tmp_path / "whole.jsonl")


@pytest.mark.slow
def test_a_small_disk_that_is_full_in_the_middle_of_a_grid(root: Path, tmp_path: Path) -> None:
    """The real thing, of 100 KB: every file must stay whole, and more room must be enough to go on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no permission to mount a file system")
    try:
        grid = [*GRID, "--num-samples", "60", "--output-dir", str(disk / "runs")]

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                command(*grid), cwd=root, env=environment(root), capture_output=True, text=True, timeout=120
            )

        kept = filled(run, disk / "runs")
        assert 3 < kept < 120
        assert filled(run, disk / "runs") >= kept  # still full: nothing is lost by trying
        subprocess.run(["mount", "-o", "remount,size=20M", str(disk)], check=True)
        assert main(grid) == 0
        assert main([*GRID, "--num-samples", "60", "--output-dir", str(tmp_path / "whole")]) == 0
        assert contents(disk / "runs") == contents(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
