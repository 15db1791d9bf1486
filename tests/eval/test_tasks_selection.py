"""Which problems of a task are asked for: by options, by a mapping, and what is said where there are none."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from dodona.engine.errors import DodonaError
from dodona.eval.arith.problems import held_out_problems
from dodona.eval.tasks.names import task_named
from dodona.eval.tasks.options import add_task_options, load_task, task_from
from dodona.eval.tasks.problem import Problem, Selection
from dodona.eval.tasks.select import read_level, select

SUBJECTS = ("Algebra", "Counting & Probability", "Sets, Logic")
PROBLEMS = [
    Problem(f"p{i}", f"q{i}", f"q{i}", False, str(i), level=i % 5 + 1, subject=SUBJECTS[i % 3]) for i in range(30)
]


def ids(**selection: Any) -> list[str]:
    return [problem.problem_id for problem in select("them", PROBLEMS, Selection(**selection))]


def fault(**selection: Any) -> str:
    with pytest.raises(DodonaError) as caught:
        ids(**selection)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- selecting ---


def test_filters_come_first_then_start_then_count() -> None:
    """Catches --level 1 --num-samples 3 that looks for level 1 among the first three problems."""
    assert ids() == [p.problem_id for p in PROBLEMS]
    assert ids(num_samples=2) == ["p0", "p1"]
    assert ids(levels=(1,), start_index=1, num_samples=2) == ["p5", "p10"]
    assert ids(levels=(1,), subjects=("Algebra",)) == ["p0", "p15"]
    assert ids(ids=("p7,p3", "p20")) == ["p3", "p7", "p20"]
    assert ids(ids=("p3", "p7"), levels=(4,)) == ["p3"]


@pytest.mark.parametrize(
    "text",
    ["Counting & Probability", "counting and probability", "counting_and_probability", "COUNTING-AND-PROBABILITY"],
)
def test_a_subject_may_be_written_in_any_of_its_ways(text: str) -> None:
    """Catches hendrycks_math's folder names, which are not the subjects that its rows have."""
    assert ids(subjects=(text,), num_samples=1) == ["p1"]


def test_a_subject_with_a_comma_in_it_can_be_named() -> None:
    """Catches a list split at every comma."""
    assert ids(subjects=("Sets, Logic",), num_samples=1) == ["p2"]
    assert ids(subjects=("algebra,counting and probability",), num_samples=3) == ["p0", "p1", "p3"]


def test_levels_may_be_numbers_or_as_the_data_set_writes_them() -> None:
    """Catches "3" from the command line that is not 3 from the file."""
    assert ids(levels=(3,)) == ids(levels=("3",)) == ids(levels=("Level 3",)) == ids(levels=(" level  3",))
    assert ids(levels=("1,3",)) == ids(levels=(1, 3)) == ids(levels=("3", "1", 1))


@pytest.mark.parametrize(
    ("value", "level"),
    [
        ("Level 3", 3),
        ("3", 3),
        (3, 3),
        (3.0, 3),
        ("3.0", 3),
        ("level 3", 3),
        ("hard", "hard"),
        ("Level hard", "hard"),
        (2.5, "2.5"),
        *(("Level ?", None), ("", None), (None, None), (" ", None), (float("nan"), None), (float("inf"), None)),
    ],
)
def test_levels_are_read_as_numbers_where_they_are(value: object, level: object) -> None:
    """Catches levels that sort as 1, 10, 2, and one bad cell that is a traceback."""
    assert read_level(value) == level


def test_what_is_not_there_is_one_line_with_what_is() -> None:
    """Catches an empty table of results."""
    assert fault(levels=(9,)) == "--level: them has no level '9': its levels are 1, 2, 3, 4, 5"
    assert fault(subjects=("Algbra",)) == (
        "--subject: them has no subject 'Algbra': its subjects are Algebra, Counting & Probability, Sets, Logic; "
        "did you mean Algebra?"
    )
    assert fault(ids=("p3", "nope")) == "--ids: them has no problem 'nope': its 30 ids are p0, p1, p2, ..., p29"
    assert "is beyond the last: them has 30 problems, counted from 0" in fault(start_index=30)
    assert "them has no problem that is all of --ids p3 --level 1" in fault(ids=("p3",), levels=(1,))
    bare = [Problem("a", "q", "q", False, "1")]
    with pytest.raises(DodonaError, match="--level: the problems of them have no levels"):
        select("them", bare, Selection(levels=(1,)))
    with pytest.raises(DodonaError, match="--subject: the problems of them have no subjects"):
        select("them", bare, Selection(subjects=("x",)))


def test_fewer_problems_than_asked_for_are_said() -> None:
    """Catches a denominator of 6 that the user believes to be 100."""
    notes: list[str] = []
    select("them", PROBLEMS, Selection(num_samples=100, levels=(2,), start_index=1), notes.append)
    assert notes == ["them has 5 problems of --level 2 from index 1 on, fewer than the 100 asked for"]
    select("them", PROBLEMS, Selection(num_samples=30), notes.append)
    select("them", PROBLEMS, Selection(), notes.append)
    assert len(notes) == 1


def test_a_stretch_of_one_subject_out_of_several_is_said() -> None:
    """Catches the first 100 of a file that is sorted by subject, taken for a sample of all."""
    notes: list[str] = []
    in_order = sorted(PROBLEMS, key=lambda problem: str(problem.subject))
    select("them", in_order, Selection(num_samples=5), notes.append)
    assert notes == ["these 5 problems of them are all Algebra; it has 3 subjects"]
    select("them", in_order, Selection(num_samples=5, subjects=("Algebra",)), notes.append)
    select("them", PROBLEMS, Selection(num_samples=5), notes.append)
    assert len(notes) == 1


# --- from options and mappings ---


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_task_options(parser)
    parser.add_argument("--seed")  # a command has options of its own
    return parser.parse_args(arguments)


def chosen(*arguments: str) -> list[str]:
    return [problem.problem_id for problem in task_from(parsed("--dataset", "arith", *arguments))[1]]


def test_a_hundred_problems_is_the_default_unless_ids_are_named() -> None:
    """Catches 120 named ids of which 100 are run."""
    assert chosen() == [f"arith-0-{i}" for i in range(100)]
    named = [f"arith-0-{i}" for i in range(0, 240, 2)]
    assert chosen("--ids", ",".join(named)) == named
    assert chosen("--ids", ",".join(named), "--num-samples", "5", "--start-index", "2") == named[2:7]


def test_options_and_a_mapping_say_the_same() -> None:
    """Catches a sweep file whose settings mean something else than the options of the same names."""
    by_options = chosen("--num-samples", "4", "--start-index", "2", "--level", "1,3", "--level", "5")
    for spec in (
        {"dataset": "arith", "num_samples": 4, "start_index": 2, "level": [1, 3, 5]},
        {"dataset": "arith", "num-samples": "4", "start-index": "2", "level": ["1,3", 5]},
    ):
        assert [p.problem_id for p in load_task(spec)[1]] == by_options
    assert by_options == ["arith-0-4", "arith-0-5", "arith-0-7", "arith-0-9"]


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ({}, "--dataset says which problems to solve"),
        ({"dataset": ""}, "--dataset must be a text"),
        ({"dataset": "arith", "num_smaples": 3}, "a task has no setting 'num_smaples': did you mean num_samples?"),
        ({"dataset": "arith", "all_samples": True}, "a task has no setting 'all_samples'"),
        ({"dataset": "arith", "num_samples": "some"}, "--num-samples must be a whole number or all, not 'some'"),
        ({"dataset": "arith", "num_samples": 2.5}, "--num-samples must be a whole number or all, not 2.5"),
        ({"dataset": "arith", "num_samples": True}, "--num-samples must be a whole number or all, not True"),
        ({"dataset": "arith", "num_samples": 0}, "--num-samples must be 1 or more, or all, not 0"),
        ({"dataset": "arith", "start_index": -1}, "--start-index must be 0 or more, not -1"),
        ({"dataset": "arith", "start_index": "x"}, "--start-index must be a whole number, not 'x'"),
        ({"dataset": "arith", "level": [[1]]}, "--level must be a text or a list of texts"),
        ({"dataset": "arith", "no_cot": "yes"}, "--no-cot must be true or false, not 'yes'"),
        ({"dataset": ["arith"]}, "--dataset must be a text"),
        ({"dataset": "arith", "level": 6}, "arith has no level '6': its levels are 1, 2, 3, 4, 5"),
        ({"dataset": "arith", "subject": "Algebra"}, "the problems of arith have no subjects"),
        ({"dataset": "arith", "ids": "arith-1-0"}, "arith has no problem 'arith-1-0'"),
        ({"dataset": "arith", "ids": "arith-0-999999"}, "arith has no problem 'arith-0-999999'"),
        ({"dataset": "arith", "answer_column": "x"}, "--answer-column is for data sets with columns"),
        ({"dataset": "arith", "split": "test"}, "--split is for data sets with columns"),
        ({"dataset": "airth"}, "there is no file or folder airth; the names are arith, math, math-500"),
        ({"dataset": "math", "task": "x"}, "there is no task 'x'"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(spec: dict[str, Any], fault: str) -> None:
    """Catches a typing mistake that is silently without effect."""
    with pytest.raises(DodonaError) as caught:
        load_task(spec)
    assert fault in str(caught.value) and "\n" not in str(caught.value)


def test_notes_go_to_standard_error_or_to_who_asks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches a note inside the JSON on standard output."""
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"problem": "1+1", "answer": "2"}) + "\n")
    load_task({"dataset": str(path)})
    assert capfd.readouterr() == ("", "note: mine has 1 problem, fewer than the 100 asked for\n")
    heard: list[str] = []
    load_task({"dataset": str(path)}, note=heard.append)
    assert len(heard) == 1 and capfd.readouterr() == ("", "")


# --- arith ---


def test_ariths_problems_are_those_of_the_generator() -> None:
    """Catches another order or other ids, with which no older record could be compared."""
    task = task_named("arith")
    for problem, drawn in zip(task.load(Selection(50)), held_out_problems(50), strict=True):
        assert (problem.problem_id, problem.prompt, problem.gold, problem.level) == (
            (drawn.problem_id, drawn.question, drawn.answer, drawn.level)
        )
        assert problem.question == problem.prompt and not problem.raw and problem.subject is None
    assert (task.name, task.kind, task.recipe.name, task.recipe.max_new_tokens) == ("arith", "math", "bare", 256)


def test_an_id_of_arith_means_one_problem_whichever_are_asked_for() -> None:
    """Catches ids that are counted among the chosen levels."""
    task = task_named("arith")
    by_id = {p.problem_id: p for p in task.load(Selection(200))}
    some = task.load(Selection(20, levels=(3, 1)))
    assert [p.level for p in some] == [1, 3] * 10
    assert all(by_id[p.problem_id] == p for p in some)
    assert task.load(Selection(5, start_index=7, levels=("1", "Level 3"))) == some[7:12]
    assert task.load(Selection(ids=("arith-0-123", "arith-0-7"))) == [by_id["arith-0-7"], by_id["arith-0-123"]]


@pytest.mark.parametrize(
    ("completion", "correct", "extracted"),
    [
        ("so \\boxed{1}, no, \\boxed{042}.", True, "042"),
        ("so \\boxed{42", False, None),
        ("The answer is 42.", False, None),
        ("\\boxed{-42}", False, "-42"),
        ("\\boxed{42.0}", False, "42.0"),
        ("\\boxed{ +42 }", True, " +42 "),
    ],
)
def test_arith_is_judged_by_the_integer_in_the_last_box(completion: str, correct: bool, extracted: str | None) -> None:
    """Catches the mathematical checker, which would count what the embedded pair was not trained to write."""
    task = task_named("arith")
    verdict = task.judge(completion, Problem("p", "q", "q", False, "42"))
    assert (verdict.correct, verdict.extracted) == (correct, extracted)
