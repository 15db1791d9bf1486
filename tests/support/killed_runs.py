"""Runs a command of dodona again and again, and kills it with SIGKILL at random moments, so many times in all.

    python killed_runs.py KILLS SEED FOLDER COMMAND...

`{}` in the command is replaced by a folder in FOLDER. In the first two, `whole` and `timed`, it is never killed. In the
others it is killed and started again until it ends by itself there; then the next folder begins. Everything is imported
once, and each run is a fork of this process, so a start costs next to nothing. Prints one JSON object: how often it was
killed, in how many folders, and how many lines had been written whenever it was.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from dodona.cli import main


def start(command: list[str], folder: Path) -> int:
    """A process that runs the command; its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        code = main(filled(command, folder))
    finally:
        os._exit(code)


def filled(command: list[str], folder: Path) -> list[str]:
    return [part.replace("{}", str(folder)) for part in command]


def ended(child: int) -> int | None:
    """Its exit code, negative for a signal; None while it runs."""
    found, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def lines(folder: Path) -> int:
    """Whole lines in the files of a folder."""
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("*.jsonl"))


def killed_after(child: int, seconds: float) -> bool:
    """Let it run so long, and kill it; False: it had ended by itself, as it should."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        code = ended(child)
        if code is not None:
            assert code == 0, f"exit code {code}"
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return wait(child) == -signal.SIGKILL


def run(kills: int, seed: int, root: Path, command: list[str]) -> dict[str, object]:
    rng = random.Random(seed)
    output = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    assert main(filled(command, root / "whole")) == 0  # in this process, which imports what it needs for all forks
    started = time.monotonic()
    child = start(command, root / "timed")
    while not lines(root / "timed"):
        time.sleep(0.002)
    first = time.monotonic() - started  # until something is written
    assert wait(child) == 0
    length = time.monotonic() - started - first
    written: list[int] = []
    folders = 0
    while True:
        folder = root / f"killed-{folders}"
        folders += 1
        while len(written) < kills:
            # Some of them before anything is written, most of them in the middle of it.
            seconds = rng.uniform(0.7, 1.0) * first if rng.random() < 0.15 else first + rng.uniform(0, length / 8)
            if not killed_after(start(command, folder), seconds):
                break
            written.append(lines(folder))
        else:
            assert wait(start(command, folder)) == 0
            os.dup2(output, 1)
            return {"kills": len(written), "folders": folders, "lines": written}


if __name__ == "__main__":
    result = run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    print(json.dumps(result))
