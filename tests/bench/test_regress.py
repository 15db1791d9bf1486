"""The regression check: a ratio that fell fails, whatever the times did."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dodona.bench.commands import check
from dodona.bench.regress import described, findings, value
from dodona.cli import main

BIRTH = {"cpu": "A CPU", "date": "2026-01-01", "command": "dodona bench peers"}


def line(ratio: float, peer: str = "careful", **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        **{"schema": 1, "bench": "peers", "part": "guided", "name": "c=8, k=8, every(12)", "peer": peer},
        **{"c": 8, "k": 8, "trigger": "every(12)", "lengths": {"prompts": 1, "tokens": 256}},
        "ratio": {"p20": ratio - 0.1, "p50": ratio, "p80": ratio + 0.1, "p99": ratio, "samples": 3},
        "subject": {"base": "b", "oracle": "o", "dtype": "bfloat16", "device": "cpu", "threads": 2},
        **{"birth": BIRTH, "arguments": ["bench", "peers", "--quick"], "faults": []},
    }
    return found | more


def written(path: Path, *lines: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(item) + "\n" for item in lines))
    return str(path)


@pytest.mark.parametrize(("now", "passes"), [(2.0, True), (1.71, True), (1.69, False), (3.0, True), (0.1, False)])
def test_a_ratio_may_fall_by_the_tolerance_and_no_further(now, passes):
    """A check that never fails, or that fails for a gain."""
    (found,) = findings([line(2.0)], [line(now)], 0.15)
    assert (found.reason is None) == passes and (found.before, found.now) == (2.0, now)
    if not passes:
        assert "fell by" in str(found.reason) and "more than 15 %" in str(found.reason)


def test_a_ratio_that_is_not_measured_again_fails():
    """A peer that no longer runs would take its regression along."""
    (gone,) = findings([line(2.0)], [line(2.0, peer="naive")], 0.15)
    (skipped,) = findings([line(2.0)], [line(2.0) | {"ratio": None, "skipped": "no compiler"}], 0.15)
    assert gone.reason == "not measured again" and skipped.reason == "no compiler" and gone.now is None


def test_a_fault_of_the_new_run_fails_though_its_ratio_is_fine():
    """Twice as fast with other tokens is no gain."""
    found = findings([line(2.0)], [line(9.0, faults=["careful wrote 3 tokens and dodona 4"])], 0.15)
    assert [finding.reason for finding in found] == [None, "careful wrote 3 tokens and dodona 4"]


def test_consult_ratios_are_checked_beside_those_of_speed():
    """Throughput may stay while every consult got slower."""
    before, now = line(2.0, first_ratio=4.0), line(2.0, first_ratio=2.0)
    assert [(f.ratio, f.reason is None) for f in findings([before], [now], 0.15)] == [
        ("ratio", True),
        ("first_ratio", False),
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"lengths": {"prompts": 1, "tokens": 40}},
        {"c": 4, "name": "c=4"},
        {"subject": {"base": "b", "oracle": "o", "dtype": "float32", "device": "cpu", "threads": 2}},
        {"subject": {"base": "b", "oracle": "o", "dtype": "bfloat16", "device": "cpu", "threads": 1}},
    ],
)
def test_other_work_is_not_compared(other):
    """A ratio of 40 tokens beside one of 256 says nothing of the code."""
    (found,) = findings([line(2.0)], [line(2.0, **other)], 0.15)
    assert found.reason == "not measured again"
    assert described(line(2.0)) != described(line(2.0, **other))


def test_the_last_line_of_a_measure_counts():
    """Files are appended to."""
    (found,) = findings([line(1.0), line(2.0)], [line(0.5), line(2.0)], 0.15)
    assert found.before == 2.0 and found.reason is None


def test_values_that_are_no_ratio_are_none():
    """A flag counts as 1, and a text would end the check in a traceback."""
    assert [value({"ratio": item}, "ratio") for item in (True, "x", None, {}, 2, {"p50": 1.5})] == [
        *(None, None, None, None, 2.0, 1.5)
    ]


def test_the_command_compares_two_files(tmp_path, capsys):
    """Its exit code is all that a script sees."""
    before = written(tmp_path / "before.jsonl", line(2.0), line(5.0, peer="naive"))
    good, bad = (
        written(tmp_path / "good.jsonl", line(2.1), line(4.9, peer="naive")),
        written(tmp_path / "bad.jsonl", line(2.1), line(3.0, peer="naive")),
    )
    assert main(["bench", "check", before, good]) == 0
    assert "2 of 2 passed" in capsys.readouterr().out
    assert main(["bench", "check", before, bad]) == 1
    out = capsys.readouterr().out
    assert "FAIL  ratio 5.00 -> 3.00" in out and "1 of 2 passed" in out
    assert main(["bench", "check", before, bad, "--tolerance", "0.5"]) == 0
    capsys.readouterr()
    assert main(["bench", "check", before, bad, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_another_machine_is_named(tmp_path, capsys):
    """Ratios move with the processor, too."""
    before = written(tmp_path / "before.jsonl", line(2.0))
    now = written(tmp_path / "now.jsonl", line(2.0, birth=BIRTH | {"cpu": "Another"}))
    assert main(["bench", "check", before, now]) == 0
    assert "the baseline is of A CPU, this of Another" in capsys.readouterr().out


def test_without_a_new_file_the_baselines_own_command_runs_again(tmp_path, monkeypatch, capsys):
    """Another command would measure something else; its lines are kept where --out says."""
    ran: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        written(Path(command[command.index("--out") + 1]), line(1.9))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(check.subprocess, "run", run)
    before, kept = written(tmp_path / "before.jsonl", line(2.0), line(2.0)), tmp_path / "kept.jsonl"
    assert main(["bench", "check", before, "--out", str(kept)]) == 0
    assert len(ran) == 1 and ran[0][1:6] == ["-m", "dodona", "bench", "peers", "--quick"]
    assert json.loads(kept.read_text())["ratio"]["p50"] == 1.9
    capsys.readouterr()


@pytest.mark.parametrize(
    ("lines", "arguments", "message"),
    [
        ([], [], "holds no results"),
        ([{"bench": "latency"}], [], "has no ratio against a peer"),
        ([{k: v for k, v in line(2.0).items() if k != "arguments"}], [], "does not say how it was measured"),
        ([line(2.0, arguments=["bench", "gpu"])], [], "was not written by `dodona bench peers`"),
        ([line(2.0)], ["{file}", "--out", "x.jsonl"], "--out is for what is measured again"),
        ([line(2.0)], ["{file}.none"], "cannot be read"),
    ],
)
def test_mistakes_are_one_line(lines, arguments, message, tmp_path, capsys):
    """A traceback for a file of another benchmark."""
    path = written(tmp_path / "file.jsonl", *lines)
    assert main(["bench", "check", path, *(argument.format(file=path) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1


@pytest.mark.parametrize("tolerance", ["1", "-0.1", "x", "nan"])
def test_a_tolerance_out_of_range_is_refused(tolerance, capsys):
    """With a tolerance of 1 nothing can fail."""
    with pytest.raises(SystemExit) as stop:
        main(["bench", "check", "x.jsonl", "--tolerance", tolerance])
    assert stop.value.code == 2 and "--tolerance" in capsys.readouterr().err
