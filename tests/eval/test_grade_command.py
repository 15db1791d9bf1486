"""`dodona grade`: verdicts on what is written down already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dodona
from dodona.cli import main
from dodona.engine.errors import DodonaError
from dodona.eval import regrade
from dodona.eval.grading import Verdict
from dodona.eval.header import config_hash

ROOT = Path(dodona.__file__).resolve().parent.parent


def header(dataset: str = "math", recipe: str = "math", **config: Any) -> dict[str, Any]:
    """A header as `dodona eval` writes it."""
    config = {"dataset": dataset, "recipe": recipe, "base_model_id": "base", "oracle_model_id": None, **config}
    return {"header": {"schema": 2, "config": config, "config_hash": config_hash(config), "arms": [], "problems": []}}


def record(problem_id: str, result: str, gold: str, correct: bool | None, **fields: Any) -> dict[str, Any]:
    """A run's record; grading reads these fields and keeps all others."""
    return {
        "c": 0,
        "problem_id": problem_id,
        "arm": "c=0 seed=0",
        "result": result,
        "ground_truth": gold,
        "parsed_answer": "old",
        "correct": correct,
        "grade_method": "old",
        "grade_reason": "old",
        "error": None,
        "finish_reason": "eos",
        "ledger": {"base_ms": 0.25},
        **fields,
    }


def write(path: Path, *rows: Any) -> Path:
    """A file of JSON lines; a text is a line as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


RUNS = (
    header(),
    record("p1", r"so \boxed{\frac12}", "0.5", False),
    record("p2", r"so \boxed{3}", "4", True),
    record("p3", r"so \boxed{4}", "4", True),
    record("p4", "I do not know", "4", None),
    header(),
    record("p5", r"so \boxed{4}", "4", True, finish_reason="length"),
    record("p6", r"so \boxed{4}", "4", False, error="out of memory", finish_reason="error"),
)


def test_records_are_graded_again_and_the_flips_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Verdicts of another checker stay in the records for ever, or a regrade loses fields, lines or headers."""
    file = write(tmp_path / "c=0.jsonl", *RUNS)
    before = file.read_bytes()
    assert main(["grade", str(file)]) == 0
    out = capsys.readouterr().out
    graded = read(tmp_path / "c=0.graded.jsonl")
    assert file.read_bytes() == before
    assert [row.get("correct") for row in graded] == [None, True, False, True, False, None, False, False]
    assert graded[0] == RUNS[0] and graded[5] == RUNS[5]
    assert graded[1] == RUNS[1] | {
        "parsed_answer": r"\frac12",
        "correct": True,
        "grade_method": "exact",
        "grade_reason": "equal numbers",
    }
    assert list(graded[1]) == list(RUNS[1])
    assert graded[4]["parsed_answer"] is None or graded[4]["correct"] is False
    assert out.splitlines() == [
        f"{file}: 2 of 6 runs right (33.3 %), 4 verdicts changed; written: {tmp_path / 'c=0.graded.jsonl'}",
        "  p1  c=0 seed=0  wrong -> right",
        "  p2  c=0 seed=0  right -> wrong",
        "  p4  c=0 seed=0  not graded -> wrong",
        "  p5  c=0 seed=0  right -> wrong",
    ]


def test_in_place_replaces_the_file_and_a_second_time_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The result of grading must be a file that can be graded, with its permissions."""
    file = write(tmp_path / "runs.jsonl", *RUNS)
    file.chmod(0o640)
    assert main(["grade", "--in-place", "--json", str(file)]) == 0
    first = json.loads(capsys.readouterr().out)["files"][0]
    assert (first["kind"], first["graded"], first["correct"], first["changed"]) == ("runs", 6, 2, 4)
    assert first["flips"][0] == {"problem_id": "p1", "arm": "c=0 seed=0", "old": False, "new": True}
    after = file.read_bytes()
    assert main(["grade", "--in-place", "--json", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["changed"] == 0
    assert file.read_bytes() == after
    assert file.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["runs.jsonl"]


@pytest.mark.parametrize(
    ("config", "rows", "verdicts"),
    [
        (header("gpqa_main", "gpqa-cot"), [("The best answer is B", "B"), ("A better way", "A")], [True, False]),
        (header("arith", "bare"), [(r"\boxed{007}", "7"), (r"\boxed{14/2}", "7"), ("7", "7")], [True, False, False]),
        (header("math", "math"), [(r"\boxed{\text{(B)}}", "B"), ("The best answer is C.", "B")], [True, False]),
        (header("meta-gpqa", "meta"), [("The best answer is (D).", "D")], [True]),
        (header("meta-math", "meta"), [(r"\boxed{14/2}", "7")], [True]),
    ],
)
def test_a_file_is_graded_by_the_judge_of_its_task(
    tmp_path: Path, config: Any, rows: list[tuple[str, str]], verdicts: list[bool]
) -> None:
    """A letter judged as an expression, or the embedded integers by an equivalence check, would move scores."""
    records = [record(f"p{n}", result, gold, False) for n, (result, gold) in enumerate(rows)]
    file = write(tmp_path / "runs.jsonl", config, *records)
    assert main(["grade", str(file)]) == 0
    assert [row["correct"] for row in read(tmp_path / "runs.graded.jsonl")[1:]] == verdicts


def test_the_judge_of_the_integers_is_that_of_the_task(tmp_path: Path) -> None:
    """Two functions for one rule drift apart."""
    from dodona.eval.tasks.arith import judge
    from dodona.eval.tasks.problem import Problem

    for completion in (r"\boxed{7}", r"\boxed{+07}", r"\boxed{8}", "7", r"\boxed{x}", r"\boxed{\boxed{7}}", ""):
        problem = Problem("p", "q", "q", False, "7")
        assert regrade.judge_integer(completion, "7") == judge(completion, problem)


def test_other_right_answers_of_a_record_count_too(tmp_path: Path) -> None:
    """Meta's files have several right answers to some problems."""
    file = write(tmp_path / "runs.jsonl", header(), record("p1", r"\boxed{5}", "4", False, also=["6", "5"]))
    main(["grade", str(file)])
    assert read(tmp_path / "runs.graded.jsonl")[1]["correct"] is True


def test_a_gold_answer_that_nothing_can_be_compared_with_makes_no_run_right() -> None:
    """Nor does it end the file, or hide another answer that is right."""

    def judge(completion: str, gold: str) -> Verdict:
        if not gold:
            raise DodonaError("the gold answer is empty")
        return Verdict(completion == gold, completion, "string", "")

    run = {"result": "4", "ground_truth": ""}
    assert regrade.regraded(judge, run) == Verdict(False, None, "", "the gold answer is empty")
    assert regrade.regraded(judge, run | {"also": ["4"]}).correct


def test_lines_get_the_fields_of_their_verdict(tmp_path: Path) -> None:
    """Other fields and the order stay; numbers are answers; NaN and odd characters survive."""
    file = write(
        tmp_path / "mine.jsonl",
        {"id": 7, "prediction": r"it is \boxed{\frac{2}{4}}", "gold": "0.5", "note": "é\ud800"},
        {"prediction": "The best answer is B.", "letter": "b", "gold": "not looked at"},
        {"prediction": 7, "gold": 7.0, "score": float("nan")},
        {"prediction": None, "gold": "5"},
        {"prediction": "6", "gold": "5", "letter": None, "correct": "an older field"},
    )
    assert main(["grade", str(file)]) == 0
    rows = read(tmp_path / "mine.graded.jsonl")
    assert rows[0] == {
        "id": 7,
        "prediction": r"it is \boxed{\frac{2}{4}}",
        "gold": "0.5",
        "note": "é\ud800",
        "correct": True,
        "extracted": r"\frac{2}{4}",
        "method": "exact",
        "reason": "equal numbers",
    }
    assert [row["correct"] for row in rows] == [True, True, True, False, False]
    assert (rows[1]["extracted"], rows[1]["method"], rows[3]["extracted"]) == ("B", "choice", None)
    assert rows[2]["score"] != rows[2]["score"]


BAD = (
    {"prediction": "5", "gold": "5"},
    "not json",
    "[1]",
    {"prediction": "5"},
    {"gold": "5"},
    {"prediction": "5", "gold": " "},
    {"prediction": ["5"], "gold": "5"},
    {"prediction": "5", "letter": "AB"},
    {"prediction": "5", "gold": True},
    "",
    '{"prediction": "5", "gold": "5"',
    {"prediction": "6", "gold": "6"},
)


def test_bad_lines_are_wrong_and_reported_and_lose_no_other_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One bad line among thousands must neither end the command nor leave the denominator."""
    file = write(tmp_path / "mine.jsonl", *BAD)
    assert main(["grade", str(file)]) == 0
    captured = capsys.readouterr()
    rows = read(tmp_path / "mine.graded.jsonl")
    assert [row["correct"] for row in rows] == [True, *[False] * 9, True]
    assert rows[1]["line"] == "not json" and rows[1]["reason"].startswith("not graded: not JSON (")
    assert rows[3]["reason"] == "not graded: there is no 'gold' and no 'letter'"
    assert "2 of 11 lines right (18.2 %), 9 not graded" in captured.out
    errors = captured.err.splitlines()
    assert len(errors) == 9
    assert errors[2] == f"dodona: {file}, line 4: there is no 'gold' and no 'letter'"
    assert errors[3] == f"dodona: {file}, line 5: there is no 'prediction'"
    assert errors[4] == f"dodona: {file}, line 6: the gold answer is empty"


def test_the_summary_counts_what_could_not_be_graded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A script reads this and not the messages."""
    file = write(tmp_path / "mine.jsonl", *BAD)
    assert main(["grade", "--json", str(file)]) == 0
    (summary,) = json.loads(capsys.readouterr().out)["files"]
    assert (summary["kind"], summary["graded"], summary["correct"], len(summary["faults"])) == ("lines", 11, 2, 9)
    assert summary["faults"][1] == {"line": 3, "reason": "it is no JSON object"}
    assert summary["output"] == str(tmp_path / "mine.graded.jsonl")


def test_standard_output_and_other_files(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """With - the lines are on standard output alone, and what is said about them is not."""
    file = write(tmp_path / "mine.jsonl", {"prediction": "5", "gold": "5"})
    assert main(["grade", str(file), "--output-file", "-"]) == 0
    captured = capfdbinary.readouterr()
    assert json.loads(captured.out)["correct"] is True
    assert b"1 of 1 lines right" in captured.err
    other = tmp_path / "other.txt"
    assert main(["grade", str(file), "--output_file", str(other)]) == 0
    assert read(other)[0]["correct"] is True
    assert sorted(os.listdir(tmp_path)) == ["mine.jsonl", "other.txt"]


def test_links_are_followed_and_devices_are_not_replaced(tmp_path: Path) -> None:
    """Renaming a file over /dev/null, as root can, breaks the machine; one over a link parts it from its target."""
    file = write(tmp_path / "mine.jsonl", {"prediction": "5", "gold": "5"})
    assert main(["grade", str(file), "--output-file", os.devnull]) == 0
    assert not Path(os.devnull).is_file()
    link = tmp_path / "link.jsonl"
    link.symlink_to(file)
    assert main(["grade", str(link), "--in-place"]) == 0
    assert link.is_symlink() and read(file)[0]["correct"] is True


def test_a_folder_stands_for_its_record_files_but_not_for_graded_ones(tmp_path: Path) -> None:
    """Graded files would be graded again and again."""
    write(tmp_path / "runs" / "a.jsonl", *RUNS)
    write(tmp_path / "runs" / "deep" / "b.jsonl", *RUNS)
    for _ in range(2):
        assert main(["grade", str(tmp_path / "runs"), str(tmp_path / "runs" / "a.jsonl")]) == 0
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jsonl"))
    assert found == ["runs/a.graded.jsonl", "runs/a.jsonl", "runs/deep/b.graded.jsonl", "runs/deep/b.jsonl"]


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a mistake is answered with."""
    assert main(["grade", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    return line.removeprefix("dodona: error: ")


def test_mistakes_are_one_clear_line_and_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A half-written or empty result looks like a score of zero."""
    good = write(tmp_path / "good.jsonl", {"prediction": "5", "gold": "5"})
    other = write(tmp_path / "other.jsonl", {"prediction": "5", "gold": "5"})
    wrong = write(tmp_path / "wrong.jsonl", {"question": "5"}, {"question": "6"})
    empty = write(tmp_path / "empty.jsonl")
    torn = write(tmp_path / "torn.jsonl", header(), "{broken", record("p", "5", "5", True))
    bare = write(tmp_path / "bare.jsonl", header(), {"problem_id": "p", "result": "5"})
    before = sorted(os.listdir(tmp_path))
    assert fails(capsys, tmp_path / "none.jsonl") == f"there is no file or folder {tmp_path / 'none.jsonl'}"
    assert fails(capsys, wrong).startswith(f"{wrong}, line 1: there is no 'prediction'; a line to grade is")
    assert fails(capsys, empty) == f"{empty} is empty"
    assert fails(capsys, torn).startswith(f"{torn}, line 2: not JSON")
    assert fails(capsys, torn, "--in-place").startswith(f"{torn}, line 2: not JSON")
    assert fails(capsys, bare) == f"{bare}, line 2: the record has no text 'ground_truth'"
    assert fails(capsys, good, "--in-place", "--output-file", "x").startswith("--in-place")
    assert fails(capsys, good, "--json", "--output-file", "-").startswith("--json")
    assert fails(capsys, good, other, "--output-file", tmp_path / "x").startswith("--output-file holds")
    assert fails(capsys, good, "--output-file", good).startswith("--output-file is the file that is graded")
    assert "cannot be written" in fails(capsys, good, "--output-file", good / "x.jsonl")
    assert "it is a folder" in fails(capsys, good, "--output-file", tmp_path)
    assert "holds records or a trace" in fails(capsys, good, "--output-file", bare)
    (tmp_path / "folder").mkdir()
    assert fails(capsys, tmp_path / "folder") == f"{tmp_path / 'folder'} has no files of records (*.jsonl) in it"
    (tmp_path / "folder").rmdir()
    assert sorted(os.listdir(tmp_path)) == before


def test_an_error_in_the_middle_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or Ctrl-C must not cost the records of an experiment."""
    file = write(tmp_path / "runs.jsonl", *RUNS)
    before = file.read_bytes()
    calls = iter([regrade.check, regrade.check])

    def interrupted(completion: str, gold: str) -> regrade.Verdict:
        function = next(calls, None)
        if function is None:
            raise KeyboardInterrupt
        return function(completion, gold)

    monkeypatch.setattr(regrade, "check", interrupted)
    assert main(["grade", "--in-place", str(file)]) == 130
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["runs.jsonl"]


def test_a_file_that_is_being_written_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `dodona eval` appends to a file that was renamed away is lost."""
    from dodona.engine.records import RecordFile

    file = write(tmp_path / "runs.jsonl", *RUNS)
    with RecordFile(file):
        assert fails(capsys, file, "--in-place") == f"{file} is being written by another process"
        assert main(["grade", str(file)]) == 0  # beside it, that is no matter
    assert main(["grade", "--in-place", str(file)]) == 0


def test_it_runs_as_a_module_with_math_verify(tmp_path: Path) -> None:
    """The worker must start, answer and end under `python -m dodona`."""
    file = write(tmp_path / "mine.jsonl", {"prediction": r"\boxed{\int_0^1 x\,dx}", "gold": r"\frac12"})
    done = subprocess.run(
        [sys.executable, "-m", "dodona", "grade", str(file)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert read(tmp_path / "mine.graded.jsonl")[0]["method"] == "math-verify"
