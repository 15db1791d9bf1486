"""Several processes on one experiment: who does what, on which device, and that together they do it once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kept_records import contents, environment, missing_lock

from dodona.cli import main
from dodona.engine.errors import DodonaError
from dodona.eval.commands import running
from dodona.eval.shard import WHOLE, Shard, current_shard

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_CPU")
GRID = (
    *("--dataset", "arith", "--device", "cpu", "--temperature", "0.7", "--max-new-tokens", "120"),
    *("--c", "0,2", "--k", "3"),
)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher around these tests."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def is_process(monkeypatch: pytest.MonkeyPatch, rank: int, count: int) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(count))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_every_problem_belongs_to_one_process(count: int) -> None:
    """A problem of two processes is run twice, one of none never."""
    problems = list(range(13))
    parts = [Shard(index, count).of(problems) for index in range(count)]
    assert sorted(problem for part in parts for problem in part) == problems
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rendezvous that a plain command waits for, for half an hour; the import of accelerate for nothing."""
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert current_shard() == WHOLE and WHOLE.whole and WHOLE.first
    is_process(monkeypatch, 0, 1)
    assert current_shard() == WHOLE
    monkeypatch.setenv("WORLD_SIZE", "")
    assert current_shard() == WHOLE


def test_jobs_of_an_array_need_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may run days apart; a rendezvous would wait for the others."""
    monkeypatch.setitem(sys.modules, "accelerate", None)
    is_process(monkeypatch, 3, 8)
    assert current_shard() == Shard(3, 8, 0)
    assert current_shard().label == "process 3 of 8"


@pytest.mark.parametrize(
    ("rank", "count", "message"),
    [("8", "8", "RANK=8 is none of the 8"), ("-1", "2", "RANK=-1 is none"), ("x", "2", "RANK must be a whole number")],
)
def test_numbers_that_make_no_sense_are_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, rank: str, count: str, message: str
) -> None:
    """RANK counted from 1 would leave the first problems out and nobody would notice."""
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", count)
    with pytest.raises(DodonaError, match=message):
        current_shard()


def test_processes_that_cannot_meet_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.distributed's traceback of eighty lines hides that an address was wrong."""
    import accelerate

    def fail(**_: Any) -> None:
        raise RuntimeError("The client socket\nhas failed to connect to nowhere:1")

    monkeypatch.setattr(accelerate, "PartialState", fail)
    monkeypatch.setenv("MASTER_ADDR", "nowhere")
    is_process(monkeypatch, 1, 2)
    with pytest.raises(DodonaError, match="cannot find each other: The client socket has failed to connect"):
        current_shard()


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """All engines on cuda:0 run out of memory there, while seven GPUs idle."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    devices = [Shard(index, 8, local=index % 4).device(None) for index in range(8)]
    assert devices == [f"cuda:{index % 4}" for index in range(8)]
    assert Shard(5, 8, local=5).device("cuda") == "cuda:1"
    assert Shard(5, 8, local=5).device("cuda:2") == "cuda:2"  # the user's word
    assert Shard(5, 8, local=5).device("cpu") == "cpu"
    assert WHOLE.device(None) is None and WHOLE.device("cuda") == "cuda"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")  # accelerate launch --cpu
    assert Shard(5, 8, local=5).device(None) == WHOLE.device(None) == "cpu"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "False")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Shard(5, 8, local=5).device(None) is None


def test_processes_one_after_the_other_do_what_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a run that two do or none does, a table that each of them prints, and draws that depend on the part."""
    grid = ["eval", *GRID, "--num-samples", "7"]
    assert main([*grid, "--output-dir", str(tmp_path / "one")]) == 0
    whole = capsys.readouterr().out
    for rank in (2, 0, 1):
        is_process(monkeypatch, rank, 3)
        assert main([*grid, "--output-dir", str(tmp_path / "three")]) == 0
        captured = capsys.readouterr()
        if rank:
            assert (captured.out, captured.err) == ("", "")
        else:
            assert "2 arms x 7 problems = 14 runs, 6 of them in process 0 of 3, 4 of them there already" in captured.err
            assert "4 of 14 runs are missing: another process is still at work or ended early" in captured.out
            assert f"`dodona report {tmp_path / 'three'}`" in captured.out
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    is_process(monkeypatch, 0, 3)
    assert main([*grid, "--output-dir", str(tmp_path / "three")]) == 0
    again = capsys.readouterr()
    assert again.out.split("\n\n")[:2] == whole.split("\n\n")[:2]
    assert "nothing was left to run" in again.out and "missing:" not in again.out
    assert missing_lock(tmp_path)


def test_what_another_process_does_meanwhile_was_not_there_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs of the other processes counted as those of an earlier command."""
    command = ["eval", *GRID, "--num-samples", "5", "--output-dir", str(tmp_path / "two"), "--json"]

    def other(lock: Path) -> None:
        is_process(monkeypatch, 1, 2)
        assert main(command) == 0

    monkeypatch.setattr(running, "wait_until_free", other)
    is_process(monkeypatch, 0, 2)
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["missing"] == 0 and (report["run"]["runs"], report["run"]["runs_before"]) == (6, 0)


def launched(root: Path, arguments: list[str]) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(arguments, cwd=root, env=environment(root), text=True, **pipes)  # type: ignore[call-overload]


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_processes_give_the_records_of_one(root: Path, tmp_path: Path, launcher: list[str]) -> None:
    """The real launchers: their variables, their rendezvous, and one table for both processes."""
    grid = ["eval", *GRID, "--num-samples", "5"]
    arguments = [sys.executable, *launcher, "-m", "dodona", *grid, "--output-dir", str(tmp_path / "two"), "--json"]
    with launched(root, arguments) as process:
        out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error[-2000:]
    assert out.count('"problems": 5') == 1 and '"missing": 0' in out
    assert main([*grid, "--output-dir", str(tmp_path / "one")]) == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    written = {path.name for path in (tmp_path / "two").iterdir()}
    assert {name.replace(".1.jsonl", ".jsonl") for name in written if name.endswith(".1.jsonl")} == {
        path.name for path in (tmp_path / "one").iterdir()
    }
    assert missing_lock(tmp_path)


@pytest.mark.slow
def test_killing_one_of_two_processes_loses_nothing_that_was_written(root: Path, tmp_path: Path) -> None:
    """Whether the other one is left alone or ended too, a single process later does what is left of both.

    Waiting for a dead process, the first one would hang until somebody notices, or a scheduler's limit.
    """
    grid = ["eval", *GRID, "--num-samples", "20", "--max-batch", "2", "--output-dir"]
    script = [sys.executable, str(root / "tests/support/two_processes.py"), str(tmp_path), *grid, "{}"]
    done = subprocess.run(script, cwd=root, env=environment(root), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["left"]["code"] == 0, report["left"]["output"][-2000:]
    assert "runs are missing: another process is still at work or ended early" in report["left"]["output"]
    assert report["ended"]["code"] in (-signal.SIGTERM, 130, 143), report["ended"]
    whole = contents(tmp_path / "one")
    assert len(whole) == 40
    for name, least in (("left", 20), ("ended", 4)):
        kept = contents(tmp_path / name)
        assert least <= len(kept) < 40
        assert main([*grid, str(tmp_path / name)]) == 0
        assert contents(tmp_path / name) == whole and set(kept) <= set(whole)
    assert missing_lock(tmp_path)
