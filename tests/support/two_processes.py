"""Runs a command of dodona as the two processes of one launch, and ends them in the middle in two ways.

    python two_processes.py FOLDER COMMAND...

`{}` in the command is replaced by a folder in FOLDER. In `one` a single process does everything. In `left` the second
of two is killed, and the first one is left alone; in `ended` the first one is then ended with SIGTERM, as torchrun and
schedulers do. Everything is imported once, and each process is a fork of this one. Prints one JSON object: for `left`
and `ended`, how the first process ended and what it had printed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from dodona.cli import main

LINES = 5  # that both have written when the second one is killed, headers among them


def start(command: list[str], rank: int, output: Path) -> int:
    """One of two processes, which prints into a file; its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ.update(RANK=str(rank), WORLD_SIZE="2")
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(file, 1)
        os.dup2(file, 2)
        code = main(command)
        sys.stdout.flush()
    finally:
        os._exit(code)


def lines(folder: Path, second: bool) -> int:
    """Whole lines that one of the two has written."""
    files = [path for path in folder.glob("*.jsonl") if path.name.endswith(".1.jsonl") is second]
    return sum(path.read_bytes().count(b"\n") for path in files)


def two(command: list[str], folder: Path, *, terminate: bool) -> dict[str, object]:
    """Kill the second in the middle, and perhaps end the first."""
    output = folder.with_suffix(".txt")
    first, second = (start(command, rank, path) for rank, path in ((0, output), (1, Path(os.devnull))))
    while min(lines(folder, False), lines(folder, True)) < LINES:
        assert not os.waitpid(-1, os.WNOHANG)[0], output.read_text()
        time.sleep(0.002)
    os.kill(second, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]) == -signal.SIGKILL
    if terminate:
        os.kill(first, signal.SIGTERM)
    return {"code": os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]), "output": output.read_text()}


def run(root: Path, command: list[str]) -> dict[str, object]:
    def filled(name: str) -> list[str]:
        return [part.replace("{}", str(root / name)) for part in command]

    output = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    assert main(filled("one")) == 0
    sys.stdout.flush()
    found: dict[str, object] = {
        name: two(filled(name), root / name, terminate=name == "ended") for name in ("left", "ended")
    }
    os.dup2(output, 1)
    return found


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), sys.argv[2:])))
