"""`dodona eval`: its table, its records, and that a stopped one goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_lines import Outcome, command

from dodona.engine.records import read_records

QUESTION = "What is 23 + 48?"


GRID = ("--c", "0,1", "--k", "3,5", "--trigger", "random", "--trigger", "entropy > 0.5", "--max_new_tokens", "48")


def test_eval_prints_a_table_and_writes_records(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The c=0 arm is the same for every k and trigger: run once and shown once. The default folder is in runs/."""
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("eval", "--dataset", "arith", "--num-samples", "6", *GRID)
    assert code == 0, err
    folder = Path("runs/arith-arith-base-arith-oracle")
    assert f"5 arms x 6 problems = 30 runs; records: {folder}" in err
    headers, records = recorded(folder)
    assert [header["config"]["max_new_tokens"] for header in headers] == [48] * 5
    assert len(records) == 30
    arms = {record["arm"] for record in records}
    assert arms == {"c=0 seed=0"} | {
        f"c=1 k={k} {trigger} before seed=0" for k in (3, 5) for trigger in ("random", "entropy>0.5")
    }
    for arm in arms:
        assert out.count(f"\n{arm} ") + out.startswith(f"{arm} ") == 2  # in the table, and in that by level
    assert "level 5" in out and "tokens/s" in out

    code, again, err = cli("eval", "--dataset", "arith", "--num-samples", "6", *GRID)
    assert code == 0 and "30 of them there already" in err and "nothing was left to run" in again
    assert again.split("\n\n")[:2] == out.split("\n\n")[:2]
    assert [len(lines) for lines in recorded(folder)] == [5, 30]

    code, _, err = cli("eval", "--dataset", "arith", "--num-samples", "6", *GRID[:-1], "50")
    difference = "--max-new-tokens is 48 there and 50 here; go on with its own, or give another --output-dir\n"
    assert code == 2 and err.endswith(difference)
    assert [len(lines) for lines in recorded(folder)] == [5, 30]


def recorded(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The headers and the runs in the files of a folder."""
    found = [record for file in sorted(folder.glob("*.jsonl")) for record in read_records(file)]
    return [line["header"] for line in found if "header" in line], [line for line in found if "header" not in line]


def test_eval_as_json_is_json_alone(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """A progress bar or a remark in the output breaks every script behind it; --stats-file holds the same."""
    stats, records = tmp_path / "deep" / "stats.json", tmp_path / "r.jsonl"
    code, out, err = cli(
        *("eval", "--dataset", "arith", "--num_samples", "4", "--level", "1,3", "--c", "inf", "--k", "inf"),
        *("--trigger", "always", "--max-new-tokens", "40", "--json"),
        *("--output_file", str(records), "--stats_file", str(stats)),
    )
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert json.loads(stats.read_text()) == report
    (arm,) = report["arms"]
    assert (arm["c"], arm["k"], arm["n"]) == ("inf", "inf", 4)
    assert set(arm["levels"]) == {"1", "3"}
    assert arm["low"] <= arm["accuracy"] <= arm["high"]
    assert arm["oracle_share"] == 1.0 and arm["consults"] == 1.0
    assert arm["correct"] + arm["unparsed"] + arm["truncated"] + arm["failed"] <= 4


def test_eval_shows_every_text_where_asked(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """The first experiments' command had --verbose too; the texts stand before the table, each under its run."""
    grid = (
        "eval",
        "--dataset",
        "arith",
        "--num-samples",
        "2",
        "--c",
        "2",
        "--trigger",
        "at(0)",
        "--max-new-tokens",
        "20",
    )
    code, out, _ = cli(*grid, "--verbose", "--output-file", str(tmp_path / "r.jsonl"))
    assert code == 0
    assert out.count("c=2 k=10 at(0) before seed=0, arith-0-") == 2
    assert out.count("⟦") == 2


def test_eval_without_an_oracle_measures_the_base(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Asking for consults without an oracle must be refused before 400 runs have failed one by one."""
    file = ("--output-file", str(tmp_path / "r.jsonl"))
    base = ("eval", "--dataset", "arith", "--num-samples", "2", "--base-model", "arith-base", *file)
    assert "needs an oracle" in cli(*base, "--c", "0,3")[2]
    code, out, _ = cli(*base, "--json", "--max-new-tokens", "30")
    assert code == 0
    assert [arm["arm"] for arm in json.loads(out)["arms"]] == ["c=0 seed=0"]


STABLE = ("arm", "problem_id", "result", "interleaved_outputs", "cheat_positions", "parsed_answer", "correct")


def contents(file: Path) -> dict[str, dict[str, Any]]:
    """The records by run, without what depends on the clock and on batch mates."""
    records = [record for record in read_records(file) if "header" not in record]
    found = {f"{r['arm']} {r['problem_id']}": {key: r[key] for key in STABLE} for r in records}
    assert len(found) == len(records), "a run was recorded twice"
    return found


def stop_in_the_middle(arguments: list[str], file: Path, root: Path, number: int, least: int) -> tuple[int, str]:
    """Start the command, send a signal once the file has so many lines, and return exit code and standard error.

    A shell starts background jobs with SIGINT ignored, and children inherit that: the command gets it as a terminal
    would give it, however the tests were started.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, cwd=root, **pipes, preexec_fn=_listen_to_ctrl_c) as process:
        for _ in lines_of(file, process):
            if file.exists() and file.read_bytes().count(b"\n") > least:
                process.send_signal(number)
                break
        _, error = process.communicate(timeout=120)
        return process.returncode, error.decode()


def _listen_to_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def lines_of(file: Path, process: subprocess.Popen[bytes]) -> Iterator[None]:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
        yield


@pytest.mark.slow
def test_a_stopped_eval_goes_on_where_it_was(cli: Callable[..., Outcome], root: Path, tmp_path: Path) -> None:
    """Ctrl-C, then kill -9 while it goes on, then the same command again: the same records as a run never stopped.

    Catches a lost record, a record written twice, and draws that depend on order or on batch mates.
    """
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    grid = ("eval", "--dataset", "arith", "--num-samples", "40", "--c", "0,2", "--k", "3", "--seed", "0,1")
    grid += ("--temperature", "0.7", "--max-batch", "8")
    assert cli(*grid, "--output-file", str(whole))[0] == 0

    arguments = command(*grid, "--output-file", str(stopped))
    code, error = stop_in_the_middle(arguments, stopped, root, signal.SIGINT, least=10)
    kept = sum(1 for _ in read_records(stopped)) - 1
    assert code == 130, error
    assert error.endswith(f"stopped: {kept} records kept in {stopped}; the same command goes on\n")
    assert "Traceback" not in error and 10 <= kept < 160

    code, _ = stop_in_the_middle(arguments, stopped, root, signal.SIGKILL, least=kept + 10)
    assert code == -signal.SIGKILL
    with stopped.open("ab") as file:
        file.write(b'{"arm": "torn')

    code, _, error = cli(*grid, "--output-file", str(stopped))
    assert code == 0 and "of them there already" in error
    assert contents(stopped) == contents(whole)
