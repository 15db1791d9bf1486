"""Data sets of known shape: MATH, MATH-500, GSM8K, GPQA, Meta's evals files, and other multiple choice."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from dodona.engine.errors import DodonaError
from dodona.eval.tasks.names import task_named
from dodona.eval.tasks.problem import Problem, Task

MATH = [
    {
        "problem": "What is $2 + 2$?",
        "level": "Level 1",
        "type": "Algebra",
        "solution": "First \\boxed{3}? No.\n\nIt is $\\boxed{4}$.",
    },
    {
        "problem": "Half of $1$?",
        "level": "Level 5",
        "type": "Counting & Probability",
        "solution": "So $\\boxed{\\frac{1}{2}}$.",
    },
    {"problem": "An angle?", "level": "Level ?", "type": "Geometry", "solution": "We find $x = \\boxed 9$."},
]
MATH_500 = [
    {
        "problem": "Convert $(0,3)$ to polar coordinates.",
        "solution": "... \\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}",
        "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
        "subject": "Precalculus",
        "level": 2,
        "unique_id": "test/precalculus/0.json",
    }
]
GSM8K = [
    {"question": "Two hens lay 9 eggs each?", "answer": "They lay 2*9 = <<2*9=18>>18 eggs.\n#### 18"},
    {"question": "A thousand and 234?", "answer": "Sum.\n#### 1,234"},
]
CHOICE_COLUMNS = ["Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"]


def gpqa_rows(count: int) -> list[dict[str, str]]:
    return [
        {
            "Pre-Revision Question": "older",
            "Question": f"Which product number {i}, given\nthe table?",
            "Correct Answer": f" right {i}\n",
            "Incorrect Answer 1": f"[wrong] {i}",
            "Incorrect Answer 2": f"[2,3]-shift {i}",
            "Incorrect Answer 3": 'none, "really"',
            "Explanation": "because",
            "Record ID": f"rec{i:04}",
            "High-level domain": ["Physics", "Chemistry", "Biology"][i % 3],
            "Subdomain": "Quantum Mechanics",
        }
        for i in range(count)
    ]


def meta_row(name: str, prompt: str, answer: object, **more: object) -> dict[str, Any]:
    return {
        "task_type": "Generative",
        "task_name": name,
        "subtask_name": name,
        "input_question": "What is 1 + 1?",
        "input_choice_list": None,
        "input_final_prompts": [prompt],
        "input_correct_responses": answer,
        "output_prediction_text": ["no"],
        "is_correct": False,
        "eval_config": {"max_gen_len": "5120", "max_prompt_len": "3072", "num_few_shot": "0", "temperature": "0.0"},
        **more,
    }


PROMPT = (
    "<|start_header_id|>user<|end_header_id|>\n\nSolve it: 1 + 1<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def solve(task: Task, problem: Problem, answer: str) -> bool:
    return task.judge(answer, problem).correct


# --- MATH ---


def test_math_is_known_by_its_columns(tmp_path: Path) -> None:
    """Catches the first box taken for the answer, a box without braces, and "Level 3" as a text."""
    task = task_named(write_jsonl(tmp_path / "m.jsonl", MATH))
    problems = task.load()
    assert [p.gold for p in problems] == ["4", "\\frac{1}{2}", "9"]
    assert [p.level for p in problems] == [1, 5, None]
    assert [p.subject for p in problems] == ["Algebra", "Counting & Probability", "Geometry"]
    assert (task.kind, task.recipe.name, task.recipe.max_new_tokens) == ("math", "math", 5120)
    assert solve(task, problems[1], "... The final answer is $\\boxed{0.5}$")
    assert not solve(task, problems[1], "... The final answer is $\\boxed{2}$")


def test_math_500_has_its_own_answers_and_ids(tmp_path: Path) -> None:
    """Catches ids made of row numbers where the data set has better ones."""
    task = task_named(write_jsonl(tmp_path / "test.jsonl", MATH_500))
    (problem,) = task.load()
    assert problem.problem_id == "test/precalculus/0.json"
    assert (problem.gold, problem.level, problem.subject) == (MATH_500[0]["answer"], 2, "Precalculus")


def test_a_math_solution_without_an_answer_is_refused(tmp_path: Path) -> None:
    """Catches a whole solution taken for the gold answer, which no completion equals."""
    rows = [*MATH, {**MATH[0], "solution": "It is 4."}]
    with pytest.raises(DodonaError, match=r"row 4 \(line 4\): the column 'solution' ends without an answer: it has no"):
        task_named(write_jsonl(tmp_path / "m.jsonl", rows))


def test_a_folder_with_a_file_a_problem_is_math_too(tmp_path: Path) -> None:
    """Catches the layout of MATH's first release, test/algebra/1.json."""
    for i, row in enumerate(MATH):
        path = tmp_path / "MATH" / "test" / str(row["type"]).lower() / f"{i}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(row))
    assert {p.gold for p in task_named(str(tmp_path / "MATH")).load()} == {"4", "\\frac{1}{2}", "9"}


def test_official_scores_stand_beside_math_and_not_beside_other_problems(tmp_path: Path) -> None:
    """Catches Meta's MATH scores as a reference line of somebody's own questions."""
    math = task_named(write_jsonl(tmp_path / "m.jsonl", MATH))
    assert dict(math.official) == {"1B": 30.6, "3B": 48.0, "8B": 51.9, "70B": 68.0, "405B": 73.8}
    assert "MATH" in math.official_source
    gpqa = task_named(write_csv(tmp_path / "gpqa_main.csv", gpqa_rows(2)))
    assert list(gpqa.official.values()) == [27.2, 32.8, 32.8, 46.7, 51.1]
    for other in (
        task_named(write_csv(tmp_path / "gpqa_diamond.csv", gpqa_rows(2))),
        task_named(write_jsonl(tmp_path / "own.jsonl", [{"problem": "1+1", "answer": "2"}])),
        task_named("arith"),
    ):
        assert (dict(other.official), other.official_source) == ({}, "")


# --- GSM8K ---


def test_gsm8k_is_known_by_its_marks(tmp_path: Path) -> None:
    """Catches the whole worked solution taken for the gold answer."""
    task = task_named(write_jsonl(tmp_path / "test.jsonl", GSM8K))
    problems = task.load()
    assert [p.gold for p in problems] == ["18", "1,234"]
    assert task.recipe.name == "gsm8k"
    assert solve(task, problems[1], "The final answer is \\boxed{1234}")


def test_a_gsm8k_answer_without_its_mark_is_refused(tmp_path: Path) -> None:
    """Catches one broken row among thousands."""
    rows = [*GSM8K, {"question": "?", "answer": "It is 4."}]
    with pytest.raises(DodonaError, match=r"row 3 \(line 3\): .* after #### as others have"):
        task_named(write_jsonl(tmp_path / "t.jsonl", rows))


def test_a_task_can_be_forced(tmp_path: Path) -> None:
    """Catches detection that nobody can overrule."""
    path = write_jsonl(tmp_path / "t.jsonl", [{"question": "1+1", "answer": "2"}])
    assert task_named(path).recipe.name == "math"
    assert task_named(path, task="gsm8k").recipe.name == "gsm8k"
    with pytest.raises(DodonaError, match="is no GPQA file: it has no column 'Question'; it has question, answer"):
        task_named(path, task="gpqa")
    with pytest.raises(DodonaError, match="is no evals file of Meta's: it has no column 'input_final_prompts'"):
        task_named(path, task="meta")
    with pytest.raises(DodonaError, match="there is no task 'maths': --task is one of math, gsm8k, gpqa, choice, meta"):
        task_named(path, task="maths")


# --- GPQA ---


def test_gpqas_choices_are_kept_as_they_are_but_for_white_space_around_them(tmp_path: Path) -> None:
    """Catches a popular preprocessing that cuts [square brackets] out of chemical names."""
    task = task_named(write_csv(tmp_path / "gpqa_diamond.csv", gpqa_rows(6)))
    assert (task.kind, task.recipe.name, task.recipe.max_new_tokens) == ("choice", "gpqa-cot", 2048)
    for i, problem in enumerate(task.load()):
        assert set(problem.choices) == {f"right {i}", f"[wrong] {i}", f"[2,3]-shift {i}", 'none, "really"'}
        assert problem.choices["ABCD".index(problem.gold)] == f"right {i}"
        assert problem.problem_id == f"rec{i:04}"
        assert problem.subject == ["Physics", "Chemistry", "Biology"][i % 3]
        letter = next(letter for letter in "ABCD" if letter != problem.gold)
        assert solve(task, problem, f"The best answer is {problem.gold}.")
        assert not solve(task, problem, f"The best answer is {letter}.")


def test_a_rows_choices_stand_in_one_order_whatever_the_other_rows_are(tmp_path: Path) -> None:
    """Catches one random generator for the whole file: with one row less, every later prompt would change."""
    rows = gpqa_rows(40)
    whole = {p.problem_id: p.prompt for p in task_named(write_csv(tmp_path / "gpqa_main.csv", rows)).load()}
    part = {p.problem_id: p.prompt for p in task_named(write_csv(tmp_path / "b.csv", rows[:5:-2])).load()}
    assert part.items() <= whole.items()
    other = {p.problem_id: p.prompt for p in task_named(str(tmp_path / "gpqa_main.csv"), shuffle_seed=1).load()}
    assert other.keys() == whole.keys() and other != whole
    assert task_named(str(tmp_path / "gpqa_main.csv"), shuffle_seed=1).name == "gpqa_main-shuffle-1"


def test_the_order_of_choices_is_written_down_and_fair(tmp_path: Path) -> None:
    """Catches an order that changes with Python's version or its hash seed, and a letter that is right too often."""
    task = task_named(write_csv(tmp_path / "gpqa_main.csv", gpqa_rows(400)))
    golds = [p.gold for p in task.load()]
    assert "".join(golds[:16]) == "DADBCCBBACBDDBBB"
    assert min(Counter(golds).values()) > 70


def test_a_folder_of_gpqas_files_needs_one_of_them(tmp_path: Path) -> None:
    """Catches diamond's questions asked three times over, as all the files hold them."""
    for name in ("main", "diamond", "extended"):
        write_csv(tmp_path / f"gpqa_{name}.csv", gpqa_rows(3)[: {"main": 2, "diamond": 1, "extended": 3}[name]])
    counts = [len(task_named(str(tmp_path), task=t).load()) for t in ("gpqa", "gpqa-diamond", "gpqa-extended")]
    assert counts == [2, 1, 3]
    with pytest.raises(DodonaError, match="has several sets of GPQA in it"):
        task_named(str(tmp_path))


def test_an_empty_choice_is_refused_with_its_row(tmp_path: Path) -> None:
    """Catches a question with a letter that stands for nothing."""
    rows = gpqa_rows(3)
    rows[1]["Incorrect Answer 2"] = " "
    with pytest.raises(DodonaError, match=r"row 2 \(line 5\): the column 'Incorrect Answer 2' is empty"):
        task_named(write_csv(tmp_path / "gpqa_main.csv", rows))


# --- other multiple choice ---


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Which?", "choices": ["x", "y", "z"], "answer": 1},
        {"question": "Which?", "choices": ["x", "y", "z"], "answer": "B"},
        {"question": "Which?", "options": ["x", "y", "z"], "answer": "(b)"},
        {"question": "Which?", "options": ["x", " y", "z"], "answer": "y"},
        {"question": "Which?", "choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]}, "answerKey": "B"},
        {"question": "Which?", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answerKey": "2"},
        {"question": "Which?", "choices": '["x", "y", "z"]', "answer": "B"},
    ],
)
def test_a_column_of_lists_makes_multiple_choice(row: dict[str, Any], tmp_path: Path) -> None:
    """Catches MMLU's 0-based numbers read from 1, ARC's labels from 1 read from 0, and the lists of a CSV file."""
    task = task_named(write_jsonl(tmp_path / "a.jsonl", [row]))
    (problem,) = task.load()
    assert (task.kind, problem.gold, problem.choices) == ("choice", "B", ("x", "y", "z"))
    assert "A. x\nB. y\nC. z\n" in str(problem.prompt) and "A, B or C" in str(problem.prompt)


@pytest.mark.parametrize(("other", "golds"), [("0", "BA"), ("3", "AC")])
def test_numbers_are_texts_of_choices_only_where_all_of_them_are(other: str, golds: str, tmp_path: Path) -> None:
    """Catches MMLU's number of a choice, 1, taken for the choice that reads 1: the first of 1, 2, 3."""
    rows = [{"question": "?", "choices": ["1", "2", "3"], "answer": answer} for answer in ("1", other)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert "".join(problem.gold for problem in task_named(path).load()) == golds


def test_choices_in_columns_of_their_own_are_named(tmp_path: Path) -> None:
    """Catches an order of choices that is not that of the option."""
    path = write_csv(tmp_path / "a.csv", [{"q": "Which?", "b": "y", "a": "x", "right": "B"}])
    task = task_named(path, problem_column="q", answer_column="right", choice_columns=["a,b"])
    assert [(p.gold, p.choices) for p in task.load()] == [("B", ("x", "y"))]
    with pytest.raises(DodonaError, match=r"--choice-columns: .* has no column 'c'; it has q, b, a, right"):
        task_named(path, problem_column="q", answer_column="right", choice_columns=["a", "c"])
    with pytest.raises(DodonaError, match="say with --problem-column which of the columns: q, b, a, right"):
        task_named(path, choice_columns=["a", "b"])
    with pytest.raises(DodonaError, match="say with --choice-columns which of the columns"):
        task_named(path, problem_column="q", answer_column="right", task="choice")


@pytest.mark.parametrize("answer", ["D", "4", 3, "w", ""])
def test_an_answer_that_is_no_choice_is_refused(answer: object, tmp_path: Path) -> None:
    """Catches a question that nobody can answer."""
    path = write_jsonl(tmp_path / "a.jsonl", [{"question": "?", "choices": ["x", "y", "z"], "answer": answer}])
    with pytest.raises(DodonaError, match=r"row 1 \(line 1\)"):
        task_named(path)


# --- Meta's evals files ---


def write_meta(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        write_jsonl(path, rows)
    else:
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("name", ["d.json", "d.jsonl", "d.parquet", "Details_math_2024-09-23.parquet.gzip"])
def test_metas_prompts_are_used_to_the_letter(name: str, tmp_path: Path) -> None:
    """Catches a prompt that is stripped, or wrapped in a chat template once more."""
    rows = [meta_row("math", PROMPT, ["\\frac{1}{2}"]), meta_row("math", "<|begin_of_text|>" + PROMPT, ["2"])]
    task = task_named(write_meta(tmp_path / name, rows))
    problems = task.load()
    assert [p.prompt for p in problems] == [PROMPT, "<|begin_of_text|>" + PROMPT]
    assert all(p.raw for p in problems)
    assert [p.gold for p in problems] == ["\\frac{1}{2}", "2"]
    assert (task.kind, task.recipe.name, task.recipe.max_new_tokens) == ("math", "meta", 5120)
    assert problems[0].question == "What is 1 + 1?" and problems[0].subject == "math"
    assert task.official["8B"] == 51.9
    assert solve(task, problems[0], "The final answer is: $\\boxed{0.5}$")


@pytest.mark.parametrize("answer", ["C", "(C)", "The best answer is C", "The best answer is C."])
def test_metas_multiple_choice_has_letters_as_gold(answer: str, tmp_path: Path) -> None:
    """Catches a gold answer "The best answer is C" that no letter equals."""
    choices = {"A": "w", "B": "x", "C": "[y]", "D": "z"}
    config = {"max_gen_len": "2048"}
    row = meta_row("gpqa", PROMPT, [answer], input_choice_list=choices, eval_config=json.dumps(config))
    task = task_named(write_meta(tmp_path / "d.parquet", [row]))
    (problem,) = task.load()
    assert (task.kind, problem.gold, problem.choices) == ("choice", "C", ("w", "x", "[y]", "z"))
    assert task.recipe.max_new_tokens == 2048 and task.official["8B"] == 32.8
    assert solve(task, problem, "so the best answer is C")
    assert not solve(task, problem, "so the best answer is D")


def test_any_of_several_right_responses_is_right(tmp_path: Path) -> None:
    """Catches a judge that knows the first only."""
    task = task_named(write_meta(tmp_path / "d.json", [meta_row("math", PROMPT, ["x+1", "7", "7"])]))
    (problem,) = task.load()
    assert (problem.gold, problem.also) == ("x+1", ("7",))
    assert solve(task, problem, "\\boxed{7}") and solve(task, problem, "\\boxed{1+x}")
    assert not solve(task, problem, "\\boxed{8}")


def test_metas_questions_can_be_asked_by_another_recipe(tmp_path: Path) -> None:
    """Catches --recipe without effect, and an exact prompt put into a second template."""
    rows = [meta_row("math", PROMPT, ["2"])]
    task = task_named(write_meta(tmp_path / "d.json", rows), recipe="math")
    (problem,) = task.load()
    assert not problem.raw and str(problem.prompt).endswith("Problem: What is 1 + 1?")
    rows[0]["input_question"] = ""
    with pytest.raises(DodonaError, match="row 1: there is an exact prompt but no question"):
        task_named(write_meta(tmp_path / "d.json", rows), recipe="math")
    assert task_named(str(tmp_path / "d.json")).load()[0].question == PROMPT


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"input_final_prompts": []}, "the column 'input_final_prompts' is empty"),
        ({"input_final_prompts": ["a", "b"]}, "the column 'input_final_prompts' has 2 prompts"),
        ({"input_correct_responses": None}, "the column 'input_correct_responses' is empty"),
        ({"task_name": "gpqa", "input_correct_responses": ["x+1"]}, "is no letter of a choice"),
    ],
)
def test_a_row_of_metas_that_cannot_be_used_is_refused(change: dict[str, Any], fault: str, tmp_path: Path) -> None:
    """Catches an empty prompt, which is an error of every run of that problem much later."""
    path = write_meta(tmp_path / "d.json", [{**meta_row("math", PROMPT, ["2"]), **change}])
    with pytest.raises(DodonaError, match="row 1") as caught:
        task_named(path)
    assert fault in str(caught.value)
