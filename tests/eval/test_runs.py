"""Reading record files back: any mix of files and folders, shards, later headers, and what is not a record file."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from sample_runs import BASE, ORACLE, SampleArm, grid, header, problem, record, rising, write_lines, write_runs

from dodona.engine.errors import DodonaError
from dodona.eval.recorded import Experiment, titles
from dodona.eval.runs import read_runs

ARM = SampleArm(5, 10)


def only(*paths: Path) -> Experiment:
    (experiment,) = read_runs(paths)
    return experiment


def rows(experiment: Experiment) -> dict[tuple[str, str], str]:
    return {(arm, id): row.outcome for arm, by_id in experiment.rows.items() for id, row in by_id.items()}


def test_every_layout_of_the_same_runs_reads_the_same(tmp_path: Path) -> None:
    """One file with all arms, a file an arm, or shards of either: the table must not depend on it."""
    arms, problems = grid(), [problem(index) for index in range(12)]
    lines = [record(arm, asked, rising(arm, index)) for arm in arms for index, asked in enumerate(problems)]
    write_lines(tmp_path / "one" / "all.jsonl", [header(arms, problems), *lines])
    for number, arm in enumerate(arms):
        own = [line for line in lines if line["arm"] == arm.name]
        write_lines(tmp_path / "arms" / f"{number}.jsonl", [header([arm], problems), *own[:7]])
        write_lines(tmp_path / "arms" / f"{number}.1.jsonl", [header([arm], problems), *own[7:]])
    write_lines(tmp_path / "shards" / "x.jsonl", [header(arms, problems), *lines[::2]])
    write_lines(tmp_path / "shards" / "x.1.jsonl", [header(arms, problems), *lines[1::2]])
    whole = only(tmp_path / "one")
    assert len(rows(whole)) == len(lines)
    places = [
        tmp_path / "arms",
        tmp_path / "shards",
        tmp_path / "shards" / "x.jsonl",
        tmp_path / "one" / "all.jsonl",
    ]
    for place in places:
        other = only(place)
        assert rows(other) == rows(whole) and other.arms == whole.arms and other.duplicates == 0
        assert sorted(other.problems) == sorted(whole.problems)
    mixed = only(*sorted((tmp_path / "arms").iterdir()), tmp_path / "one", tmp_path / "one" / "all.jsonl")
    assert rows(mixed) == rows(whole) and mixed.duplicates == len(lines)


def test_a_named_file_brings_its_shards_and_no_other_file(tmp_path: Path) -> None:
    """`report run.jsonl` after a run of four processes would show a quarter of the runs, and the rest as missing."""
    problems = [problem(index) for index in range(4)]
    for name, index in (("run.jsonl", 0), ("run.1.jsonl", 1), ("run.10.jsonl", 2), ("run.b.jsonl", 3)):
        write_lines(tmp_path / name, [header([ARM], problems), record(ARM, problems[index])])
    found = only(tmp_path / "run.jsonl")
    assert set(found.rows[ARM.name]) == {"p0", "p1", "p2"}
    assert [Path(file).name for file in found.files] == ["run.jsonl", "run.1.jsonl", "run.10.jsonl"]


def test_arms_come_in_one_order_wherever_they_lie(tmp_path: Path) -> None:
    """The base alone first, the oracle alone last, c and k as numbers: 10 after 2, infinity at the end."""
    arms = [SampleArm(10, 5), ORACLE, SampleArm(2, 5), SampleArm("inf", 5), SampleArm(2, 20, seed=1), BASE]
    arms.append(SampleArm(2, 20))
    names = [arm.name for arm in only(write_runs(tmp_path / "a.jsonl", arms, 2, rising)).arms]
    assert names == [
        "c=0 seed=0",
        "c=2 k=5 random before seed=0",
        "c=2 k=20 random before seed=0",
        "c=2 k=20 random before seed=1",
        "c=10 k=5 random before seed=0",
        "c=inf k=5 random before seed=0",
        "c=inf k=inf always before seed=0",
    ]


def test_later_headers_add_up(tmp_path: Path) -> None:
    """More problems were asked for later: the first header's count would be the denominator for ever."""
    first, second = [problem(0), problem(1)], [problem(2)]
    lines = [header([BASE], first), record(BASE, first[0]), header([BASE, ARM], second), record(ARM, second[0])]
    found = only(write_lines(tmp_path / "a.jsonl", lines))
    assert [asked.problem_id for asked in found.problems] == ["p0", "p1", "p2"]
    assert [arm.name for arm in found.arms] == [BASE.name, ARM.name]
    assert found.listed


def test_runs_of_other_configurations_are_other_experiments(tmp_path: Path) -> None:
    """Rows of two configurations in one table are a number about nothing."""
    write_runs(tmp_path / "a.jsonl", [BASE], 3, rising)
    write_runs(tmp_path / "b.jsonl", [BASE], 3, rising, max_new_tokens=512)
    both = "".join((tmp_path / name).read_text() for name in ("a.jsonl", "b.jsonl"))
    (tmp_path / "c.jsonl").write_text(both)
    for paths in ([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], [tmp_path / "c.jsonl"]):
        experiments = read_runs(paths)
        assert [len(rows(experiment)) for experiment in experiments] == [3, 3]
        assert titles(experiments) == [
            "arith: arith-base with arith-oracle, max_new_tokens=256",
            "arith: arith-base with arith-oracle, max_new_tokens=512",
        ]


def test_the_first_record_of_a_run_counts(tmp_path: Path) -> None:
    """A second one comes from a file that was copied, and would make 12 right of 10."""
    lines = [header([ARM], [problem(0)]), record(ARM, problem(0), "wrong"), record(ARM, problem(0), "correct")]
    found = only(write_lines(tmp_path / "a.jsonl", lines))
    assert rows(found) == {(ARM.name, "p0"): "wrong"} and found.duplicates == 1


@pytest.mark.parametrize("outcome", ["correct", "wrong", "unparsed", "truncated", "failed"])
def test_outcomes(tmp_path: Path, outcome: str) -> None:
    """A truncated run with a lucky number in it must not be right, nor a failed one only unparsed."""
    change = {"truncated": {"correct": True}, "failed": {"correct": True, "parsed_answer": "4"}}.get(outcome, {})
    lines = [header([ARM], [problem(0)]), record(ARM, problem(0), outcome, **change)]
    assert set(rows(only(write_lines(tmp_path / "a.jsonl", lines))).values()) == {outcome}


def test_graded_files_are_passed_over_in_a_folder_and_read_by_name(tmp_path: Path) -> None:
    """Beside their originals they would make every run a duplicate."""
    write_runs(tmp_path / "a.jsonl", [BASE], 3, lambda arm, index: "wrong")
    write_runs(tmp_path / "a.graded.jsonl", [BASE], 3, lambda arm, index: "correct")
    assert set(rows(only(tmp_path)).values()) == {"wrong"}
    assert set(rows(only(tmp_path / "a.graded.jsonl")).values()) == {"correct"}


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    """It is what a killed run leaves, and the run is made again; the rest of the file is good."""
    path = write_runs(tmp_path / "a.jsonl", [BASE], 3, rising)
    path.write_bytes(path.read_bytes()[:-40])
    assert len(rows(only(path))) == 2


def test_an_old_header_without_a_list_of_problems_still_reads(tmp_path: Path) -> None:
    """Arms and problems are then those of the records, and the report says so."""
    old = {"header": {"schema": 1, "dodona": "0.1.0", "config": {"dataset": "arith", "base_model_id": "b"}}}
    found = only(write_lines(tmp_path / "a.jsonl", [old, record(BASE, problem(0)), record(ARM, problem(1))]))
    assert [asked.problem_id for asked in found.problems] == ["p0", "p1"]
    assert [arm.name for arm in found.arms] == [BASE.name, ARM.name]
    assert not found.listed and found.title == "arith: b"


def test_texts_are_not_kept(tmp_path: Path) -> None:
    """A hundred thousand texts of 5,000 tokens do not fit into memory; an answer may be as long as a text."""
    problems = [problem(index) for index in range(40)]
    long = "x" * 100_000
    lines = [header([ARM], problems)]
    lines += [record(ARM, asked, result=long, parsed_answer=long, ground_truth=long) for asked in problems]
    path = write_lines(tmp_path / "a.jsonl", lines)
    tracemalloc.start()
    found = only(path)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 1e6
    answer = found.rows[ARM.name]["p0"].answer
    assert answer is not None and len(answer) == 200 and answer.endswith("…") and len(found.gold["p0"]) == 200


def test_infinite_budgets_are_numbers(tmp_path: Path) -> None:
    """As the text "inf" they would neither sort nor be the oracle alone."""
    found = only(write_runs(tmp_path / "a.jsonl", [ORACLE, ARM], 1, rising))
    assert [(arm.c, arm.k, found.is_oracle_alone(arm)) for arm in found.arms] == [
        (5, 10, False),
        (math.inf, math.inf, True),
    ]
    capped = only(write_runs(tmp_path / "b.jsonl", [ORACLE], 1, rising, max_oracle_tokens=9))
    assert not capped.is_oracle_alone(capped.arms[0])


def test_common_problems_are_those_that_every_arm_has(tmp_path: Path) -> None:
    """While a grid runs, the arms have come to different problems; an arm that has not begun is no arm yet."""
    arms = [BASE, ARM, SampleArm(9, 9)]
    reached = {BASE: 5, ARM: 3}
    path = write_runs(
        tmp_path / "a.jsonl", arms, 6, lambda arm, index: "wrong" if index < reached.get(arm, 0) else None
    )
    found = only(path).common()
    assert [asked.problem_id for asked in found.problems] == ["p0", "p1", "p2"]
    assert [arm.name for arm in found.arms] == [BASE.name, ARM.name]


# --- what is not a record file ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello\n", "does not begin with a line of JSON"),
        (b"\x80\x04\x95 pickle\n", "does not begin with a line of JSON"),
        (b"[" * 100_000 + b"\n", "does not begin with a line of JSON"),
        (b'["a"]\n', "does not begin with a header"),
        (b'{"prediction": "4", "gold": "4"}\n', "does not begin with a header"),
        (b'{"header": 3}\n', "does not begin with a header"),
        (b'{"header": {"schema": 99, "config": {}}}\n', "was written by another version of dodona (schema 99)"),
    ],
)
def test_a_file_that_is_no_record_file_is_one_clear_line(tmp_path: Path, content: bytes, message: str) -> None:
    """A KeyError says nothing about which of forty files it was. In a folder it is passed over, and told."""
    path = tmp_path / "other.jsonl"
    path.write_bytes(content)
    with pytest.raises(DodonaError) as caught:
        read_runs([path])
    assert str(caught.value).startswith(f"{path} {message}")
    with pytest.raises(DodonaError, match="no records of `dodona eval` in"):
        read_runs([tmp_path])
    write_runs(tmp_path / "runs.jsonl", [BASE], 2, rising)
    notes: list[str] = []
    assert len(rows(read_runs([tmp_path], notes.append)[0])) == 2
    (note,) = notes
    assert note.startswith(f"{path} is passed over: it {message}")


def broken(**change: Any) -> dict[str, Any]:
    line = record(ARM, problem(0)) | change
    return {name: value for name, value in line.items() if value != "gone"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (broken(arm="gone"), "line 3: no record of `dodona eval`, for it has no 'arm'"),
        (broken(ledger="gone"), "for it has no 'ledger'"),
        (broken(ledger=[]), "line 3: no record of `dodona eval` ("),
        (broken(ledger={}), "for it has no 'base_forwards'"),
        (broken(total_tokens_generated="many"), "'many' where a number belongs"),
        (broken(cheat_positions=None), "line 3: no record of `dodona eval` ("),
        (broken(arm=["x"]), "line 3: no record of `dodona eval` ("),
        (broken(arm="new", c="few"), "a budget of 'few'"),
        (broken(problem_id="new", level=[1]), "a level of [1]"),
        ({"header": {"schema": 3, "config": {}}}, "a header of schema 3"),
        ({"header": None}, "line 3: no record of `dodona eval` ("),
        ({"header": {"schema": 2, "config": 5}}, "a header whose config is no object"),
        ({"header": {"schema": 2, "config": {}, "arms": [{"arm": "x"}]}}, "for it has no 'c'"),
        ({"header": {"schema": 2, "config": {}, "problems": 7}}, "line 3: no record of `dodona eval` ("),
        ({}, "line 3: no record of `dodona eval`, for it has no"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: dict[str, Any], message: str) -> None:
    """A traceback, or worse, a row that silently leaves the denominator. In a folder it is no less an error."""
    lines = [header([ARM], [problem(0)]), record(ARM, problem(1)), line, record(ARM, problem(2))]
    path = write_lines(tmp_path / "a.jsonl", lines)
    for place in (path, tmp_path):
        with pytest.raises(DodonaError) as caught:
            read_runs([place])
        assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("garbage", [b"{oops}\n", b"\n", b"\xff\xfe\n", b"7\n", b"[" * 100_000 + b"\n"])
def test_garbage_between_records_is_an_error(tmp_path: Path, garbage: bytes) -> None:
    """Two processes that wrote over each other leave such lines; what else is lost then nobody knows."""
    path = write_runs(tmp_path / "a.jsonl", [BASE], 3, rising)
    head, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(head + garbage + b"".join(rest))
    with pytest.raises(DodonaError, match="line 2"):
        read_runs([path])


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    """A typing error in a path must not become an empty table."""
    with pytest.raises(DodonaError, match="there is no file or folder"):
        read_runs([tmp_path / "nothing"])
    (tmp_path / "x.json").write_text(json.dumps({}))
    with pytest.raises(DodonaError, match=r"has no files of records \(\*.jsonl\) in it"):
        read_runs([tmp_path])
