"""Runs a command of dodona again and again, and kills it with SIGKILL at random moments, so many times in all.

    python killed_runs.py KILLS SEED FOLDER COMMAND...

`{}` in the command is replaced by a folder in FOLDER. In the first one, `whole`, it is never killed. In the others,
`killed-0` and so on, it is killed and started again until it ends by itself there; then the next folder begins. Most
kills come when a random number of bytes has been added, a moment later, so that they hit all parts of the work on a
machine of any speed; the others come while it starts. Everything is imported once, and each run is a fork of this
process, so a start costs next to nothing. Prints one JSON object: how often it was killed, in how many folders, and how
many lines had been written whenever it was.
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


def size(folder: Path) -> int:
    """Bytes in the files whose lines are counted."""
    return sum(path.stat().st_size for path in folder.rglob("*.jsonl"))


def killed(child: int, folder: Path, least: float, delay: float) -> bool:
    """Kill it so many seconds after more than so many bytes are there; False: it had ended by itself, as it should."""
    deadline: float | None = None
    while deadline is None or time.monotonic() < deadline:
        code = ended(child)
        if code is not None:
            assert code == 0, f"exit code {code}"
            return False
        if deadline is None and size(folder) > least:
            deadline = time.monotonic() + delay
        else:
            time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return wait(child) == -signal.SIGKILL


def run(kills: int, seed: int, root: Path, command: list[str]) -> dict[str, object]:
    rng = random.Random(seed)
    output = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    assert main(filled(command, root / "whole")) == 0  # in this process, which imports what it needs for all forks
    whole = size(root / "whole")
    start_up = 0.5  # seconds until something is written, about: as long as the last run had
    written: list[int] = []
    folders = 0
    while True:
        folder = root / f"killed-{folders}"
        folders += 1
        while len(written) < kills:
            started, before = time.monotonic(), size(folder)
            early = rng.random() < 0.15  # while it starts
            least = -1 if early else before + rng.uniform(0, whole / 8)
            if not killed(start(command, folder), folder, least, rng.uniform(0, start_up if early else 0.02)):
                break
            start_up = start_up if early else time.monotonic() - started
            written.append(lines(folder))
        else:
            assert wait(start(command, folder)) == 0
            os.dup2(output, 1)
            return {"kills": len(written), "folders": folders, "lines": written}


if __name__ == "__main__":
    result = run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    print(json.dumps(result))
