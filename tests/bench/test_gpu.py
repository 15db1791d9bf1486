"""The GPU check without a GPU: parts that fail, hang or die, the time they share, and what the report says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fragile_parts import fragile

from dodona.bench import apart
from dodona.bench.gpu import check, targets
from dodona.bench.gpu.budget import GRACE, Budget
from dodona.bench.gpu.check import Part
from dodona.bench.gpu.options import Options
from dodona.bench.gpu.piece import FAILED, NOT_RUN, PASSED, SKIPPED
from dodona.bench.gpu.report import markdown, sections, summary
from dodona.bench.lines import read_results
from dodona.bench.tables import table
from dodona.cli import main

OPTIONS = Options("arith-base", "arith-oracle", "cpu", quick=True)


def part(name: str, *pieces: str, weight: float = 1.0, cuda_only: bool = False) -> Part:
    return Part(name, f"the part {name}", weight, lambda options: pieces, fragile, cuda_only)


def report_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[Part, ...], minutes: float
) -> dict[str, Any]:
    monkeypatch.setattr(check, "PARTS", parts)
    lines: list[str] = []
    report = check.run(OPTIONS, minutes, tmp_path, "dodona bench gpu", say=lines.append)
    assert json.loads((tmp_path / check.JSON).read_text())["finished"] is True
    return report | {"said": "\n".join(lines)}


# --- parts that go wrong ---


@pytest.mark.slow
def test_a_part_that_fails_costs_nobody_else_anything(tmp_path, monkeypatch):
    """A poisoned CUDA context, a process that dies: the others must run, and the report must say what happened."""
    parts = (
        part("first", "fine", "raises", "wrong", "dies", "fine too"),
        part("second", "fine", "nowhere"),
        part("third", "never asked", cuda_only=True),
    )
    report = report_of(tmp_path, monkeypatch, parts, 3)
    first, second, third = report["parts"]
    assert [piece["status"] for piece in first["pieces"]] == [PASSED, FAILED, FAILED, FAILED, PASSED]
    assert "illegal memory access" in first["pieces"][1]["problems"][0]
    assert first["pieces"][2]["problems"] == ["1 is not 2"]
    assert first["pieces"][3]["problems"] == ["the process died with exit code 5"]
    assert (first["status"], first["reason"]) == (FAILED, "3 of 5 pieces failed")
    assert [piece["status"] for piece in second["pieces"]] == [PASSED, SKIPPED] and second["status"] == PASSED
    assert (third["status"], third["reason"]) == (SKIPPED, "needs a CUDA device")
    assert not check.passed(report)
    page = (tmp_path / check.MARKDOWN).read_text()
    assert "## What went wrong" in page and "first, dies: the process died with exit code 5" in page
    assert "| the part second | passed | 1 of 2 |" in page
    assert "first: failed, 3 of 5 pieces failed" in report["said"]


@pytest.mark.slow
def test_what_has_no_time_left_is_marked_and_hangs_are_ended(tmp_path, monkeypatch):
    """A hang must not take the minutes of the parts after it, and nothing may look as if it had run."""
    monkeypatch.setattr("dodona.bench.gpu.budget.GRACE", 1.0)
    monkeypatch.setattr(apart, "LEAST", 60.0)  # of a busy machine's processes, to be there
    parts = (part("slow", "hangs", "fine", weight=1), part("late", "fine", weight=0.0001))
    report = report_of(tmp_path, monkeypatch, parts, 0.1)
    slow, late = report["parts"]
    assert slow["pieces"][0]["status"] == FAILED and "no result within" in slow["pieces"][0]["problems"][0]
    assert [piece["status"] for piece in slow["pieces"][1:]] == [NOT_RUN]
    assert (late["status"], late["reason"]) == (NOT_RUN, "no time left")
    assert late["pieces"][0]["problems"] == ["no time left"]
    assert not check.passed(report)
    assert "| the part late | not run | 0 of 1 |" in (tmp_path / check.MARKDOWN).read_text()


@pytest.mark.slow
def test_a_kill_keeps_what_is_done(tmp_path, monkeypatch):
    """Eight minutes of a rented machine for nothing."""
    monkeypatch.setattr(check, "PARTS", (part("one", "fine", "fine again", "and again"),))

    def say(line: str) -> None:
        if "fine again" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check.run(OPTIONS, 3, tmp_path, "dodona bench gpu", say=say)
    report = json.loads((tmp_path / check.JSON).read_text())
    assert [piece["name"] for piece in report["parts"][0]["pieces"]] == ["fine"] and not report["finished"]
    assert "not finished" in (tmp_path / check.MARKDOWN).read_text()


def test_pieces_that_cannot_be_listed_fail_their_part_alone(tmp_path, monkeypatch):
    """A model that is not there is found out in one part's list and must not end the run."""

    def broken(options: Options) -> tuple[str, ...]:
        raise ValueError("no such model")

    report = report_of(tmp_path, monkeypatch, (Part("listed", "x", 1, broken, fragile),), 1)
    assert report["parts"][0]["status"] == FAILED and "no such model" in report["parts"][0]["reason"]


# --- time ---


def test_time_is_shared_by_weight_and_what_is_left_goes_on():
    """A part that ends early must not take its seconds with it, and one that runs over must not take all of them."""
    now = 0.0
    budget = Budget(100, {"a": 1, "b": 3, "c": 1}, clock=lambda: now)
    assert budget.begin("a") == 20
    now = 10
    assert not budget.over
    assert budget.begin("b") == pytest.approx(90 * 3 / 4)
    assert budget.patience() == pytest.approx(90 + GRACE), "half as long again, but hardly beyond the whole"
    now = 10 + 67.5
    assert budget.over and budget.patience() == pytest.approx(GRACE)
    now = 95
    assert budget.begin("c") == 5
    assert budget.patience() == pytest.approx(5 + GRACE)
    now = 200
    assert budget.left == -100 and budget.patience() == 1.0


# --- the report ---


def gpu_report() -> dict[str, Any]:
    """A report of everything, made up."""

    def row(part_: str, ms: float, **more: Any) -> dict[str, Any]:
        return {"part": part_, "lengths": {"prompt": 32}, "ms": {"p20": ms, "p50": ms, "p80": ms, "p99": ms}, **more}

    guided = row("guided", 100.0, consult_ms={"p50": 4.5}, consult_in_oracle_steps=1.2, lag=9, formula_share=0.9) | {
        **{"lengths": {"every": 8, "k": 8}, "burst_ms": {"p50": 4.1}, "catch_up_ms": None, "host_share": 0.02}
    }
    far = guided | {"lag": 500, "consult_in_oracle_steps": 3.0, "formula_share": 0.7}
    shares = [
        {"part": f"share of {name}", "with_ms": 1, "without_ms": 0.9, "share": 0.01} for name in ("signals", "trigger")
    ]
    arm = {
        **{"part": "guided", "batch": 256, "c": "inf", "k": 8, "rate": 0.03, "oracle_share": 0.2, "consults": 9},
        **{"tokens_per_second": {"p20": 1, "p50": 40_000.0, "p80": 2}, "host_share": 0.1, "memory": {"peak": 2e9}},
    }
    waits = {"base alone": {"waits_a_token": 0.0, "calls_a_token": {"cudaStreamSynchronize": 0.0}}}
    figures = {
        "machine": {
            "ceilings": {"read_gb_s": 4400.0, "copy_gb_s": 4300.0},
            "matrix product": {"size": 8192, "tflop_s": 780.0},
        },
        "times": {
            **{
                "base step": row("base step", 0.7),
                "oracle step": row("oracle step", 4.6),
                "guided, every 8, k 8": guided,
            },
            **{"guided, every 512, k 8": far, "shares": shares, "eager base step": row("base step", 9.0)},
        },
        "replays": {"host synchronisations": waits},
        "batches": {"guided x 256": arm},
    }
    report = check.begun(Options("dummy:1B", "dummy:8B", "cpu"), 8, "dodona bench gpu") | {
        "device": "cuda",
        "finished": True,
    }
    for record in report["parts"]:
        pieces = figures.get(record["name"], {})
        record["pieces"] = [
            {"name": name, "seconds": 1.0, "status": PASSED, "problems": [], "figures": value}
            for name, value in pieces.items()
        ]
        record["status"] = PASSED
    return report


def test_targets_stand_beside_what_was_measured():
    """The worst consult at a short lag counts, not the best, and a far one is not asked to be cheap."""
    report = gpu_report()
    found = {each.target.name: (each.value, each.verdict) for each in targets.reached(report)}
    assert list(found.values()) == [
        *((0.7, "good"), (4.6, "missed"), (1.0, "good"), (1.2, "good"), (0.7, "missed"), (0.0, "goal met")),
        (40_000.0, "good"),
    ]
    page = markdown(report)
    assert page.index("## Targets") < page.index("## Parts")
    assert "| oracle step | ms | 4.4 | 4 | 4.6 | missed |" in page
    assert "| eager steps" not in page and "## Eager steps" in page
    assert any("missed" in line and "oracle step: 4.6 ms" in line for line in summary(report))


def test_other_models_and_the_cpu_have_no_targets():
    """The targets are for a 1B base and an 8B oracle on one GPU; beside anything else they would mislead."""
    for change in ({"device": "cpu"}, {"base": "arith-base"}, {"oracle": "dummy:70B"}, {"base": "dummy:11B"}):
        assert targets.reached(gpu_report() | change) == [], change
    assert len(targets.reached(gpu_report() | {"base": "meta-llama/Llama-3.2-1B-Instruct"})) == len(targets.TARGETS)


def test_a_target_without_a_figure_is_not_measured():
    """A part that failed has reached nothing, good or bad."""
    report = gpu_report()
    for record in report["parts"]:
        for piece in record["pieces"]:
            piece["status"] = FAILED
    assert {each.verdict for each in targets.reached(report)} == {"not measured"}


def test_a_report_of_nothing_can_be_written():
    """The first write is before the first result."""
    report = check.begun(OPTIONS, 8, "dodona bench gpu")
    assert "0 of 7 parts passed" in markdown(report) and "not finished" in markdown(report)
    assert list(sections(report)) == ["parts"]
    assert not check.passed(report)


def test_the_reports_tables_go_into_pages(tmp_path):
    """The README's table is made of the JSON file alone."""
    (tmp_path / "gpu.json").write_text(json.dumps(gpu_report()))
    found = table(read_results(tmp_path / "gpu.json"), "targets")
    assert found[0].startswith("| target | unit |") and "dodona bench gpu" in found[-1]


# --- the command ---


@pytest.mark.slow
def test_the_whole_check_passes_on_the_cpu_without_other_packages(root, tmp_path):
    """On a rented machine there is torch, triton, transformers and numpy, and no network."""
    absent = ["datasets", "pyarrow", "gguf", "accelerate", "math_verify", "matplotlib", "pandas", "scipy"]
    blocked = tmp_path / "blocked"
    for name in absent:
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text(f"raise ImportError('{name} is not here')\n")
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise OSError('there is no network')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "from dodona.cli import main\n"
        "if __name__ == '__main__':\n"
        f"    arguments = ['--device', 'cpu', '--quick', '--minutes', '8', '--out', {str(tmp_path)!r}]\n"
        "    raise SystemExit(main(['bench', 'gpu', *arguments]))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(blocked), str(root)]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    statuses = {record["name"]: record["status"] for record in report["parts"]}
    assert statuses.pop("kernels") == SKIPPED and set(statuses.values()) == {PASSED}
    by_name = {record["name"]: record["pieces"] for record in report["parts"]}
    assert all(piece["seconds"] > 0 for pieces in by_name.values() for piece in pieces)
    assert {piece["name"] for piece in by_name["times"]} >= {
        "base step",
        "oracle step",
        "shares",
        "sync 16",
        "eager base step",
    }
    assert [piece["status"] for piece in by_name["replays"]] == [SKIPPED, PASSED, PASSED, SKIPPED]
    page = (tmp_path / "gpu.md").read_text()
    assert "needs a CUDA device" in page and "## Guided" in page and "## Throughput" in page
    assert str(tmp_path) not in json.dumps({**report, "birth": None})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cpu"], "--device cpu goes with --quick"),
        ([], "no CUDA device was found"),
        (["--minutes", "0", "--device", "cpu", "--quick"], "--minutes must be above 0"),
        (["--device", "tpu"], "--device cpu --quick"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the messages are those of a machine without a GPU")
def test_mistakes_are_one_line(tmp_path, arguments, message, capsys):
    """A traceback, or eight minutes on the CPU, for a forgotten option."""
    assert main(["bench", "gpu", "--out", str(tmp_path / "x"), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_a_folder_that_cannot_be_written_is_found_out_at_once(capsys):
    """After eight minutes it would be too late."""
    assert main(["bench", "gpu", "--out", "/dev/null/x", "--device", "cpu", "--quick"]) == 2
    assert "/dev/null/x/gpu.json cannot be written" in capsys.readouterr().err
