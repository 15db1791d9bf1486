"""All benchmarks in one command: each in its own process, whatever becomes of the others."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from dodona.bench.commands import all as everything
from dodona.cli import COMMANDS, Group, main


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that would have run; `throughput` fails."""
    found: list[list[str]] = []

    def run(command: list[str], stdout: Any, **_: Any) -> subprocess.CompletedProcess[str]:
        found.append(command[2:])
        failed = "throughput" in command
        stdout.write("some table\n" + ("dodona: error: no memory\n" if failed else ""))
        return subprocess.CompletedProcess(command, 2 if failed else 0)

    monkeypatch.setattr(everything.subprocess, "run", run)
    return found


def test_a_part_that_fails_does_not_end_the_others(ran, tmp_path, capsys):
    """An hour of measurements, lost to the first peer that is not installed."""
    assert main(["bench", "all", "--quick", "--out", str(tmp_path / "new" / "dir")]) == 1
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[:-1]] == ["latency", "throughput", "profile", "peers", "scaling"]
    assert "FAILED with exit code 2: dodona: error: no memory" in out[1] and "1 of 5 failed" in out[-1]
    assert (tmp_path / "new" / "dir" / "peers.txt").read_text() == "some table\n"
    assert all(command[:2] == ["dodona", "bench"] and "--quick" in command for command in ran)
    assert all(Path(command[command.index("--out") + 1]).parent == tmp_path / "new" / "dir" for command in ran)


def test_the_parts_that_are_asked_for_run(ran, tmp_path, capsys):
    """A name that is no part must not be passed over."""
    assert main(["bench", "all", "--parts", "scaling,latency-text", "--out", str(tmp_path)]) == 0
    assert [command[2] for command in ran] == ["latency", "scaling"] and "--base-model" in ran[0]
    capsys.readouterr()
    assert main(["bench", "all", "--parts", "speed", "--out", str(tmp_path)]) == 2
    assert "there is no part 'speed': choose among latency," in capsys.readouterr().err
    assert main(["bench", "all", "--out", "/dev/null/x"]) == 2
    assert "--out /dev/null/x cannot be made" in capsys.readouterr().err


def test_every_part_is_a_command():
    """A part that was renamed would fail after the parts before it."""
    bench = COMMANDS["bench"]
    assert isinstance(bench, Group)
    assert {part.arguments[0] for part in everything.PARTS} <= set(bench.commands)
    assert len({part.name for part in everything.PARTS}) == len(everything.PARTS)
