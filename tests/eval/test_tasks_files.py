"""Rows from files and folders of every format, and the one line that says what is wrong with a broken one."""

from __future__ import annotations

import csv
import gzip
import json
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from dodona.engine.errors import DodonaError
from dodona.eval.tasks.names import task_named
from dodona.eval.tasks.options import load_task
from dodona.eval.tasks.problem import Problem

ROWS = [
    {"problem": "What is 2 + 2?", "answer": "4"},
    {"problem": 'Say "no",\nplease.', "answer": "007"},
    {"problem": "What is nothing?", "answer": "None"},
    {"problem": "Größe von 1/2 + 1/3?", "answer": "\\frac{5}{6}"},
]


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")


def write_json(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text(json.dumps(rows), encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    pa.parquet.write_table(pa.Table.from_pylist(list(rows)), path)


def write_arrow_stream(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    table = pa.Table.from_pylist(list(rows))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def write_arrow_file(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    pa.feather.write_feather(pa.Table.from_pylist(list(rows)), str(path))


WRITERS: dict[str, Callable[[Path, Sequence[Mapping[str, Any]]], None]] = {
    "a.jsonl": write_jsonl,
    "b.json": write_json,
    "c.csv": write_csv,
    "d.tsv": write_csv,
    "e.parquet": write_parquet,
    "f.arrow": write_arrow_stream,
    "g.feather": write_arrow_file,
    "h.parquet.gzip": write_parquet,  # as Meta's evals files are called: the compression is inside
    "i.json": write_jsonl,  # JSON lines under the name of JSON
}


def problems_of(path: Path, **options: Any) -> list[Problem]:
    return task_named(str(path), **options).load()


def fault_of(path: Path, **options: Any) -> str:
    with pytest.raises(DodonaError) as caught:
        problems_of(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- what can be read ---


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_problems(name: str, tmp_path: Path) -> None:
    """Catches guessed types (007 as 7), the answer "None" as nothing, and cells with line breaks cut in two."""
    WRITERS[name](tmp_path / name, ROWS)
    problems = problems_of(tmp_path / name)
    assert [(p.question, p.gold) for p in problems] == [(row["problem"], row["answer"]) for row in ROWS]
    assert [p.problem_id for p in problems] == [f"{name[0]}-{i}" for i in range(4)]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "c.csv.gz"])
def test_compressed_text_is_read(name: str, tmp_path: Path) -> None:
    """Catches reading the compressed bytes as text."""
    plain = tmp_path / name.removesuffix(".gz")
    WRITERS[plain.name](plain, ROWS)
    (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    assert [p.gold for p in problems_of(tmp_path / name)] == [row["answer"] for row in ROWS]


def test_a_cell_may_be_longer_than_pythons_csv_reader_takes_unasked(tmp_path: Path) -> None:
    """Catches a long problem refused as not CSV."""
    rows = [{"problem": "x" * 200_000, "answer": "4"}]
    write_csv(tmp_path / "a.csv", rows)
    assert problems_of(tmp_path / "a.csv")[0].question == rows[0]["problem"]


def test_numbers_of_a_fixed_scale_are_read_as_they_are_written(tmp_path: Path) -> None:
    """Catches Parquet's decimal columns refused as neither text nor number."""
    write_parquet(tmp_path / "e.parquet", [{"problem": "?", "answer": Decimal("1.50")}])
    assert problems_of(tmp_path / "e.parquet")[0].gold == "1.50"


@pytest.mark.parametrize(
    "values",
    [
        pa.array([2**52], pa.timestamp("ms")),
        pa.Array.from_buffers(pa.utf8(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")]),
    ],
)
def test_a_parquet_value_that_python_cannot_hold_is_one_line(values: pa.Array, tmp_path: Path) -> None:
    """Catches a traceback from a date of the year 140000 and from text that is not UTF-8."""
    pa.parquet.write_table(pa.table({"problem": ["?"], "answer": ["1"], "other": values}), tmp_path / "e.parquet")
    assert "e.parquet has a value in it that cannot be read: " in fault_of(tmp_path / "e.parquet")


@pytest.mark.parametrize("name", WRITERS)
def test_a_changed_file_is_read_again(name: str, tmp_path: Path) -> None:
    """Catches a cache that hands out yesterday's rows: results under the name of questions that were not asked."""
    path = tmp_path / name
    WRITERS[name](path, ROWS)
    before = problems_of(path)
    WRITERS[name](path, [{**row, "answer": row["answer"].replace("4", "5")} for row in ROWS])
    after = problems_of(path)
    assert (before[0].gold, after[0].gold) == ("4", "5")
    assert before[0].digest != after[0].digest and before[1].digest == after[1].digest


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_text(tmp_path: Path) -> None:
    """Catches a first column called "\\ufeffproblem", as spreadsheets write it."""
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeffproblem,answer\r\n1+1,2\r\n".encode())
    (problem,) = problems_of(path)
    assert (problem.question, problem.gold) == ("1+1", "2")


def test_json_lines_may_hold_separators_that_python_breaks_lines_at(tmp_path: Path) -> None:
    """Catches str.splitlines, which breaks a JSON text at U+2028 and makes two broken rows of it."""
    write_jsonl(tmp_path / "a.jsonl", [{"problem": "a\u2028b\x0cc", "answer": 1}])
    assert problems_of(tmp_path / "a.jsonl")[0].question == "a\u2028b\x0cc"


def test_a_list_of_rows_inside_an_object_is_found(tmp_path: Path) -> None:
    """Catches {"version": 1, "data": [...]} read as one row."""
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "data": ROWS}))
    assert len(problems_of(tmp_path / "a.json")) == 4


def test_five_thousand_rows_are_read_at_once(tmp_path: Path) -> None:
    """Catches work that grows with the square of the rows; the bound is a hundred times what it takes."""
    rows = [{"problem": f"What is {i} + {i}?" * 10, "answer": str(2 * i), "level": i % 5} for i in range(5000)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    started = time.process_time()
    _, problems = load_task({"dataset": str(tmp_path / "a.jsonl"), "num_samples": "all", "level": [1, 2]})
    assert len(problems) == 2000
    assert time.process_time() - started < 30


# --- columns ---


@pytest.mark.parametrize("problem", ["problem", "question", "prompt", "input", "Question"])
@pytest.mark.parametrize("answer", ["answer", "gold", "target", "solution", "ground_truth", "final_answer"])
def test_columns_are_known_by_their_usual_names(problem: str, answer: str, tmp_path: Path) -> None:
    """Catches a file that needs options although its columns say what they are."""
    write_jsonl(tmp_path / "a.jsonl", [{"other": 1, problem: "1+1", answer: 2}])
    (found,) = problems_of(tmp_path / "a.jsonl")
    assert (found.question, found.gold) == ("1+1", "2")


def test_columns_of_any_name_can_be_given(tmp_path: Path) -> None:
    """Catches an option that only one format honours."""
    row = {"Frage": "1+1", "Antwort": "2", "answer": "wrong", "Nr": "x7", "Stufe": "Level 3", "Fach": "Algebra"}
    options = {
        "problem_column": "Frage",
        "answer_column": "antwort",
        "id_column": "Nr",
        "level_column": "Stufe",
        "subject_column": "Fach",
    }
    for name in ("a.jsonl", "c.csv", "e.parquet"):
        WRITERS[name](tmp_path / name, [row])
        (found,) = problems_of(tmp_path / name, **options)
        assert (found.question, found.gold, found.problem_id) == ("1+1", "2", "x7")
        assert (found.level, found.subject) == (3, "Algebra")


@pytest.mark.parametrize("option", ["problem_column", "answer_column", "id_column", "level_column", "subject_column"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(option: str, tmp_path: Path) -> None:
    """Catches a KeyError, and a message that leaves the user to open the file."""
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    message = fault_of(tmp_path / "a.jsonl", **{option: "nope"})
    assert f"--{option.replace('_', '-')}" in message and "'nope'" in message and "it has problem, answer" in message


def test_a_file_whose_columns_say_nothing_lists_them(tmp_path: Path) -> None:
    """Catches a wrong column taken for the problem."""
    write_jsonl(tmp_path / "a.jsonl", [{"x": "1", "answer": "2"}])
    assert fault_of(tmp_path / "a.jsonl").endswith("name it with --problem-column: the columns are x, answer")
    write_jsonl(tmp_path / "b.jsonl", [{"problem": "1", "y": "2"}])
    assert fault_of(tmp_path / "b.jsonl").endswith("name it with --answer-column: the columns are problem, y")


@pytest.mark.parametrize(
    ("value", "gold"), [(42, "42"), (0, "0"), (-1.5, "-1.5"), (["x"], "x"), ("  7 ", "7"), ("\\boxed{3}", "3")]
)
def test_answers_are_text_or_numbers(value: object, gold: str, tmp_path: Path) -> None:
    """Catches the number 0 taken for an empty cell."""
    write_jsonl(tmp_path / "a.jsonl", [{"problem": "?", "answer": value}])
    assert problems_of(tmp_path / "a.jsonl")[0].gold == gold


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"problem": "", "answer": "1"}, "row 2 (line 3): the column 'problem' is empty"),
        ({"problem": "  \n ", "answer": "1"}, "row 2 (line 3): the column 'problem' is empty"),
        ({"problem": "x", "answer": ""}, "row 2 (line 3): the column 'answer' is empty"),
        ({"problem": "x", "answer": None}, "row 2 (line 3): the column 'answer' is empty"),
        ({"problem": "x"}, "row 2 (line 3): the column 'answer' is empty"),
        ({"problem": "x", "answer": "\\boxed{}"}, "row 2 (line 3): the column 'answer' ends without an answer"),
        ({"problem": "x", "answer": ["1", "2"]}, "row 2 (line 3): the column 'answer' has a list in it"),
        ({"problem": "x", "answer": True}, "row 2 (line 3): the column 'answer' has a bool in it"),
        ({"problem": {"a": 1}, "answer": "1"}, "row 2 (line 3): the column 'problem' has a dict in it"),
        (
            {"problem": "a\ud800b", "answer": "1"},
            "row 2 (line 3): the column 'problem' has the broken character '\\ud800'",
        ),
        ({"problem": "x", "answer": float("nan")}, "row 2 (line 3): the column 'answer' is empty"),
    ],
)
def test_a_row_that_cannot_be_asked_or_judged_is_refused_with_its_number(
    row: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    """Catches an empty gold answer, which any model fails or, worse, any empty completion passes."""
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(ROWS[0])}\n\n{json.dumps(row)}\n")
    message = fault_of(path)
    assert message.startswith(f"{path}, {fault}")


# --- ids ---


def test_ids_come_from_their_column_else_from_the_row(tmp_path: Path) -> None:
    """Catches ids that change when fewer rows are asked for."""
    write_jsonl(tmp_path / "a.jsonl", [{**row, "level": i % 2} for i, row in enumerate(ROWS)])
    for column in ("id", "problem_id", "unique_id", "ID"):
        write_jsonl(tmp_path / "b.jsonl", [{**row, column: 10 + i} for i, row in enumerate(ROWS)])
        assert [p.problem_id for p in problems_of(tmp_path / "b.jsonl")] == ["10", "11", "12", "13"]
    spec = {"dataset": str(tmp_path / "b.jsonl"), "ids": [12, 10]}
    assert [p.problem_id for p in load_task(spec)[1]] == ["10", "12"]
    spec = {"dataset": str(tmp_path / "a.jsonl"), "level": 1, "start_index": 1, "num_samples": 1}
    assert [p.problem_id for p in load_task(spec)[1]] == ["a-3"]


def test_an_id_that_two_rows_have_is_refused_with_both(tmp_path: Path) -> None:
    """Catches records of two questions under one id; numbering the rows is offered as the way out."""
    write_jsonl(tmp_path / "a.jsonl", [{**row, "id": i % 3} for i, row in enumerate(ROWS)])
    message = fault_of(tmp_path / "a.jsonl")
    assert "row 4 (line 4): the id '0' is that of row 1 (line 1) too" in message and "--id-column row" in message
    assert [p.problem_id for p in problems_of(tmp_path / "a.jsonl", id_column="row")] == ["a-0", "a-1", "a-2", "a-3"]


def test_an_empty_id_is_refused(tmp_path: Path) -> None:
    """Catches a problem called "None"."""
    write_jsonl(tmp_path / "a.jsonl", [{**ROWS[0], "id": "x"}, {**ROWS[1], "id": None}])
    assert "row 2 (line 2): the column 'id' is empty" in fault_of(tmp_path / "a.jsonl")


# --- broken files ---


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b" \n\n", "is empty"),
        ("a.csv", b"problem,answer\n", "has no rows"),
        ("a.json", b"[]", "has no rows"),
        ("a.txt", b"x", "a data set is a file that ends in .jsonl, .json, .csv"),
        ("data", b"x", "a data set is a file that ends in .jsonl, .json, .csv"),
        ("a.jsonl", b'{"problem": "1", "answer": "2"}\n{"problem": "1", "ans', ", line 2 is not JSON: Unterminated"),
        ("a.jsonl", b'{"problem": "1"}\n[1, 2]\n', ", line 2 is JSON but no object"),
        ("a.json", b'[{"problem": "1"},\n {"problem": ]', ", line 2 is not JSON: Expecting value at column 14"),
        ("a.json", b'"text"', "is JSON but no list of rows"),
        ("a.json", b'[{"problem": "1"}, 5]', ", row 2 is no object"),
        ("a.json", b"[" * 100_000, "is not JSON: it is nested too deeply"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not JSON: it is nested too deeply"),
        ("a.csv", b'problem,answer\n1,2\n"3,4\n5,6\n', "row that begins at line 3 is not CSV: a quote is not closed"),
        ("a.csv", b"problem,answer\n1,2,3\n", "row 1 (line 2) has 3 cells where the first line names 2 columns"),
        ("a.csv", b"problem,answer\n1\n", "row 1 (line 2) has 1 cells where the first line names 2 columns"),
        ("a.csv", b"answer,answer\n1,2\n", "has two columns of the name 'answer'"),
        ("a.csv", b"problem,answer\n1,2\nGr\xf6\xdfe,3\n", ", line 3: the file is not UTF-8 (byte 0xf6)"),
        ("a.jsonl", "{}".encode("utf-16"), ", line 1: the file is not UTF-8"),
        ("a.parquet", b"PAR1 but no more", "is not a Parquet file"),
        ("a.arrow", b"ARROW1 but no more", "is not an Arrow file"),
        ("a.arrow", b"nothing like it", "is not an Arrow file"),
        ("a.jsonl.gz", b"\x1f\x8b\x08 cut off", "is not a whole gzip file"),
    ],
)
def test_a_broken_file_is_one_clear_line(name: str, content: bytes, fault: str, tmp_path: Path) -> None:
    """Catches tracebacks, and messages that leave the user to find the line."""
    path = tmp_path / name
    path.write_bytes(content)
    message = fault_of(path)
    assert str(path) in message and fault in message


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("missing.jsonl", "there is no file or folder"),
        ("missing", "there is no file or folder"),
        ("a b", "there is no file or folder"),
        ("x" * 300, "there is no file or folder"),
        ("a\0b", "there is no file or folder"),
    ],
)
def test_a_file_that_is_not_there_is_not_looked_for_on_the_hub(name: str, fault: str, tmp_path: Path) -> None:
    """Catches half a minute of retries for a mistyped path."""
    assert fault in fault_of(tmp_path / name)


def test_options_of_folders_are_refused_for_files(tmp_path: Path) -> None:
    """Catches an option that is silently without effect."""
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    assert "--split and --dataset-config are for folders" in fault_of(tmp_path / "a.jsonl", split="test")
    assert "--shuffle-seed is for GPQA" in fault_of(tmp_path / "a.jsonl", shuffle_seed=3)


# --- folders ---


def test_a_folder_of_files_is_one_data_set_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Catches 10.json before 9.json, and hidden files and metadata read as rows."""
    folder = tmp_path / "mine"
    (folder / "algebra").mkdir(parents=True)
    for i in (10, 9, 2):
        (folder / "algebra" / f"{i}.json").write_text(json.dumps({"problem": f"p{i}", "answer": i}))
    (folder / "README.md").write_text("no data")
    (folder / ".hidden.jsonl").write_text("no data")
    (folder / "dataset_infos.json").write_text("{}")
    problems = problems_of(folder)
    assert [p.question for p in problems] == ["p2", "p9", "p10"]
    assert [p.problem_id for p in problems] == ["mine-0", "mine-1", "mine-2"]
    (folder / "algebra" / "9.json").write_text('{"problem": ""}')
    assert "algebra/9.json, row 1: the column" in fault_of(folder)


def test_of_a_folders_splits_the_test_split_is_read(tmp_path: Path) -> None:
    """Catches measuring on training problems."""
    folder = tmp_path / "copy"
    (folder / "main").mkdir(parents=True)
    for split in ("train", "test"):
        write_parquet(folder / "main" / f"{split}-00000-of-00001.parquet", [{"question": split, "answer": "#### 1"}])
    (folder / "socratic").mkdir()
    write_parquet(folder / "socratic" / "test-00000-of-00001.parquet", [{"question": "other", "answer": "#### 1"}])
    assert [p.question for p in problems_of(folder)] == ["test"]
    assert [p.question for p in problems_of(folder, split="train")] == ["train"]
    assert [p.question for p in problems_of(folder, dataset_config="socratic")] == ["other"]
    assert "has no split 'dev': it has test, train" in fault_of(folder, split="dev")
    assert "has no folder 'x': it has main, socratic" in fault_of(folder, dataset_config="x")


def test_a_folder_without_a_test_split_asks_which(tmp_path: Path) -> None:
    """Catches a guess between train and validation."""
    for split in ("train", "validation"):
        write_jsonl(tmp_path / f"{split}.jsonl", ROWS)
    assert "say one with --split: it has train, validation" in fault_of(tmp_path)


def test_an_empty_folder_says_what_is_looked_for(tmp_path: Path) -> None:
    """Catches "has no rows", which sends the user to a file that does not exist."""
    assert "has no data files in it (.jsonl, .json" in fault_of(tmp_path)


def test_what_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    """Catches reading its state.json as the rows."""
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_list([{"problem": "1+1", "answer": "2"}])
    rows.save_to_disk(str(tmp_path / "one"))
    DatasetDict({"train": rows, "test": rows.map(lambda row: {"answer": "3"})}).save_to_disk(str(tmp_path / "two"))
    assert [p.gold for p in problems_of(tmp_path / "one")] == ["2"]
    assert [p.gold for p in problems_of(tmp_path / "two")] == ["3"]
    assert [p.gold for p in problems_of(tmp_path / "two", split="train")] == ["2"]
    assert "it has train, test" in fault_of(tmp_path / "two", split="dev")
    (tmp_path / "one" / "state.json").write_text("{")
    assert "written by save_to_disk but cannot be read" in fault_of(tmp_path / "one")


def test_reading_writes_nothing_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches progress bars and log lines of the libraries between the user's results."""
    from datasets import Dataset

    Dataset.from_list([{"problem": "1+1", "answer": "2"}]).save_to_disk(str(tmp_path / "one"))
    capfd.readouterr()
    for name, write in WRITERS.items():
        write(tmp_path / name, ROWS)
        problems_of(tmp_path / name)
    problems_of(tmp_path / "one")
    assert capfd.readouterr() == ("", "")
