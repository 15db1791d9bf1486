"""`dodona recover` with the embedded pair: its command, its stages one by one, and whatever may stop them."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kept_records import OF_THE_BATCH, environment, files_end_at

from dodona.cli import main
from dodona.engine.engine import Engine
from dodona.engine.records import read_records
from dodona.engine.request import Request
from dodona.eval.recover.rows import EDITED, OFF
from dodona.eval.recover.stages import FILES
from dodona.eval.recover.writer import Pair

SMALL = ("recover", "--dataset", "arith", "--device", "cpu", "--num-samples", "4", "--max-new-tokens", "120")
SMALL += ("--samples", "2", "--tries", "3", "--wrong-solutions", "2", "--fraction", "0.4,0.7", "--edited")
TINY = (*SMALL[: SMALL.index("--samples")], "--samples", "2", "--tries", "2", "--wrong-solutions", "1", "--edited")
WRITING = ("--stage", "appraise,prefixes,complete")
CONTROLS = ("strong, straight shot", "weak, straight shot", "strong, right prefix", "weak, own wrong prefix")


def contents(folder: Path) -> dict[str, list[str]]:
    """The records of every stage, sorted, without what depends on the clock and on batch mates."""
    found = {}
    for name in FILES.values():
        records = [record for record in read_records(folder / name) if "header" not in record]
        assert len({record["row_id"] for record in records}) == len(records), "a row was written twice"
        for record in records:
            ledger = record.get("ledger", {})
            record["ledger"] = {name: value for name, value in ledger.items() if name not in OF_THE_BATCH}
            # Of another batch, in the last digits.
            for signal, values in record.get("signals", {}).items():
                record["signals"][signal] = [None if value is None else round(value, 3) + 0.0 for value in values]
        found[name] = sorted(json.dumps(record, sort_keys=True) for record in records)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that nothing stopped, without its report; not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    assert main([*SMALL, *WRITING, "--output-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def test_a_study_of_the_embedded_pair_has_every_kind_and_every_control(
    copy: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    """The whole path with real models: nothing scripted decides here what a prefix or an answer is."""
    code, out, error = cli("recover", "--stage", "report", "--output-dir", str(copy), "--no-plots", "--json")
    assert code == 0, error
    report = json.loads(out)
    assert {row["series"] for row in report["bins"]} >= set(CONTROLS)
    assert {(row["kind"], row["fraction"]) for row in report["recovery"]} >= {(OFF, 0.4), (OFF, 0.7), (EDITED, 0.7)}
    assert not [note for note in report["notes"] if "no record yet" in note]
    assert all(row["low"] <= row["rate"] <= row["high"] for row in report["recovery"] if row["rate"] is not None)
    assert {row["stage"] for row in report["costs"]} == {"appraise", "prefixes", "complete"}
    assert all(row["forwards"] >= row["runs"] and row["written"] > 0 for row in report["costs"])
    assert {path.name for path in copy.iterdir()} == {*FILES.values(), "report.html", "tables"}
    code, out, _ = cli("recover", "--stage", "report", "--output-dir", str(copy), "--no-plots")
    table = out.partition("\nRecovery\n")[2].splitlines()[0]
    for head in ("strong straight shot", "weak straight shot", "right prefix", "weak, own wrong prefix"):
        assert f"{head} [95 %]" in table


def test_a_prefix_is_read_as_it_was_written_and_the_strong_model_goes_on(whole: Path) -> None:
    """A completion is one consult with k=inf after the very ids of the cut solution, in a turn that is still open.

    Catches a prefix that is tokenised again, a turn that is closed at the cut, and draws of another key or number.
    """
    rows = {name: {row.get("row_id"): row for row in read_records(whole / file)} for name, file in FILES.items()}
    chosen = {}
    for row in rows["complete"].values():
        if row.get("role") == "strong" and row["prefix"] is not None:
            chosen.setdefault((row["kind"], row["fraction"]), row)
    assert len(chosen) >= 6
    engine = Engine("arith-base", oracle="arith-oracle", device="cpu")
    questions = {p["problem_id"]: p["question"] for p in rows["complete"][None]["header"]["problems"]}
    for row in chosen.values():
        prefix = rows["prefixes"][row["prefix"]]
        body = rows["solutions"][prefix["solution"]]["token_ids"]
        if prefix["kind"] != EDITED:
            assert prefix["token_ids"] == body[: prefix["cut"]]
        given = [*engine.tokenizer.encode(questions[row["problem_id"]], raw=False), *prefix["token_ids"]]
        request = Request(
            prompt=given,
            c=math.inf,
            k=math.inf,
            trigger="always",
            temperature=0.7,
            max_new_tokens=120 - prefix["cut"],
            key=f"recover/complete/strong/{prefix['row_id']}",
            sample=row["sample"],
        )
        (result,) = engine.generate([request])
        assert list(result.ids) == row["token_ids"]
    engine.close()


def test_the_same_command_again_loads_no_model_and_changes_no_byte(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks whether a study is done must not wait for 70B weights, and must not write to it."""
    before = {name: (copy / name).read_bytes() for name in FILES.values()}
    monkeypatch.setattr(Pair, "writer", lambda self, role: pytest.fail("a model was loaded"))
    assert main([*SMALL, *WRITING, "--output-dir", str(copy)]) == 0
    assert {name: (copy / name).read_bytes() for name in FILES.values()} == before
    assert not (copy / ".lock").exists()


@pytest.mark.parametrize("lost", [("complete",), ("appraise", "solutions", "prefixes")])
def test_a_stage_that_is_run_again_alone_gives_its_records_again(
    copy: Path, whole: Path, lost: tuple[str, ...]
) -> None:
    """A stage's rows are a function of the earlier ones, of their ids and of nothing that was only in memory."""
    for name in lost:
        (copy / FILES[name]).unlink()
    for stage in ("appraise", "prefixes", "complete"):
        if stage in lost or (stage == "prefixes" and "solutions" in lost):
            assert main([*SMALL, "--stage", stage, "--output-dir", str(copy)]) == 0
    assert contents(copy) == contents(whole)


@pytest.mark.parametrize("stage", ["appraise", "solutions", "complete"])
def test_a_full_disk_is_one_clear_line_and_the_same_command_goes_on(
    copy: Path, whole: Path, cli: Callable[..., tuple[int, str, str]], stage: str
) -> None:
    """A stage that was killed in the middle of a record goes on, meets a full disk, and goes on when there is room."""
    file = copy / FILES[stage]
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 2 // 3])
    arguments = (*SMALL, *WRITING, "--output-dir", str(copy))
    with files_end_at(len(data) * 5 // 6):
        code, _, error = cli(*arguments)
    last = error.splitlines()[-1]
    assert code == 2 and last.startswith(f"dodona: error: {file} cannot be written: "), error
    assert "Traceback" not in error and file.read_bytes().endswith(b"}\n")
    assert cli(*arguments)[0] == 0
    assert contents(copy) == contents(whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fraction", "1.2"), "--fraction must lie between 0 and 1, as in 0.1,0.5,0.9, not 1.2"),
        (("--temperature", "0"), "--temperature must be above 0, not 0"),
        (("--samples", "0"), "--samples must be 1 or more, not 0"),
        (("--completions", "-1"), "--completions must be 1 or more, not -1"),
        (("--stage", "prefix"), "there is no stage 'prefix': --stage takes appraise, prefixes, complete, report"),
        (("--strong-model", "8B"), "--strong-model needs a --weak-model beside it"),
        (("--weak-model", "1B"), "--weak-model needs a --strong-model beside it"),
        (("--oracle-device-map", "auto"), "--oracle-device-map is for an oracle beside a base"),
        (("--bins", "0"), "--bins"),
        (("--examples", "-1"), "--examples must be 0 or more, not -1"),
        (("--c", "5"), "unknown option --c"),
        (("--stage", "complete", "--output-dir", "{}/new"), "4 of 4 problems are not appraised yet"),
        (("--samples", "3", "--output-dir", "{}/copy"), "--samples is 2 there and 3 here"),
        (("--seed", "7", "--output-dir", "{}/copy"), "--seed is 0 there and 7 here"),
        (("--stage", "report", "--output-dir", "{}"), "holds no study of `dodona recover`"),
        (("--output-dir", "{}/file"), "is a file, and --output-dir needs a folder there"),
    ],
)
def test_a_mistake_is_one_clear_line(
    copy: Path, tmp_path: Path, cli: Callable[..., Any], arguments: tuple[str, ...], message: str
) -> None:
    """A traceback, or a study that starts with something else than was meant."""
    (tmp_path / "file").write_text("x")
    given = [argument.replace("{}", str(tmp_path)) for argument in arguments]
    where = () if "--output-dir" in given else ("--output-dir", str(tmp_path / "other"))
    code, _, error = cli(*SMALL, *given, *where)
    assert code == 2 and message in error.splitlines()[-1], error
    assert "Traceback" not in error and contents(copy)


@pytest.mark.slow
def test_twenty_kills_leave_the_records_of_a_study_that_was_never_killed(root: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments of every stage: no row lost, none twice, and no draw that depends on how often it was
    started, or on which of a problem's solutions were there already.
    """
    script = [sys.executable, str(root / "tests/support/killed_runs.py"), "20", "0", str(tmp_path)]
    study = [*TINY, *WRITING, "--max-batch", "2", "--output-dir", "{}"]
    done = subprocess.run(
        [*script, *study], cwd=root, env=environment(root), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["kills"] == 20
    expected = contents(tmp_path / "whole")
    for folder in (f"killed-{number}" for number in range(report["folders"])):
        assert contents(tmp_path / folder) == expected, folder
        assert not list((tmp_path / folder).glob(".*"))
    lengths = [len(expected[name]) for name in FILES.values()]
    reached = {sum(count > sum(lengths[:place]) for place in range(4)) for count in report["lines"]}
    assert len(reached) >= 3, f"kills hit too few stages: {report['lines']}"
