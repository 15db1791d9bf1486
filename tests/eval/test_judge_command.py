"""`dodona judge` from the command line: files, models that answer now, resuming, output and one-line errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from judged_pairs import CONFIG, ByRule, judge_all, make_pairs, write_csv
from kept_records import environment, missing_lock

import dodona.eval.judge.asked as asked_for
from dodona.cli import main
from dodona.eval.judge.files import StageFile
from dodona.eval.judge.results import read_ratings
from dodona.eval.judge.study import Cache, judge_pairs
from dodona.eval.judge.verdict import Verdict

ROWS: list[dict[str, Any]] = [
    {"question": "2+2?", "true_answer": "4", "answer_a": "It is \\boxed{4}.", "answer_b": "5", "human": "a"},
    {"question": "3+3?", "true_answer": "6", "answer_a": "7", "answer_b": "It is \\boxed{6}.", "human": "b"},
    {"question": "1+1?", "true_answer": "2", "answer_a": "2", "answer_b": "The answer is 2.", "human": "a"},
    {"question": "9-1?", "true_answer": "8", "answer_a": "", "answer_b": "8", "human": "tie"},
    {"question": "8-1?", "true_answer": "7", "answer_a": "7", "answer_b": "  ", "human": ""},
    {"question": "", "true_answer": "7", "answer_a": "7", "answer_b": "6", "human": ""},
    {"question": "7-1?", "true_answer": "", "answer_a": "6", "answer_b": "5", "human": ""},
]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "pairs.csv", ROWS)


def judge(*arguments: object) -> int:
    return main(["judge", *map(str, arguments)])


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def fault(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a wrong command prints."""
    assert judge(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("dodona: error: "), lines
    return lines[0]


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_with_missing_answers_keeps_every_row_in_the_denominator(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows without an answer that leave the count, or end the run."""
    assert judge(pairs, "--judge", "exact", "--judge", "longer", "--output-dir", tmp_path / "out", "--json") == 0
    exact, longer = printed(capsys)["judges"]
    assert [exact[name] for name in ("n", "wins", "losses", "ties", "errors")] == [7, 1, 1, 1, 4]
    assert exact["rate_a"]["rate"] == pytest.approx(1.5 / 7) and exact["rate_a"]["n"] == 7
    assert exact["reasons"] == [["no answer a", 1], ["no answer b", 1], ["no question", 1], ["no true answer", 1]]
    assert [longer[name] for name in ("n", "errors")] == [7, 3]
    human = exact["human"]
    assert (human["n"], human["equal"]) == (4, 2) and human["accuracy"] == 0.5
    lines = records(tmp_path / "out" / "judgements.jsonl")
    assert lines[0]["header"]["config"]["name_a"] == "answer_a"
    assert len(lines) == 1 + 2 * 7
    assert {line["pair_id"] for line in lines[1:]} == {f"row-{n}" for n in range(1, 8)}


def test_an_empty_answer_can_be_made_to_lose(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A side that wins by saying nothing, as its pairs are not counted against it."""
    assert judge(pairs, "--judge", "exact", "--empty-loses", "--output-dir", tmp_path / "out", "--json") == 0
    (exact,) = printed(capsys)["judges"]
    assert [exact[name] for name in ("n", "wins", "losses", "ties", "errors")] == [7, 2, 2, 1, 2]


def test_the_log_shows_question_answers_verdict_and_the_totals_at_the_end(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log from which nobody can tell why a pair went as it went."""
    out = tmp_path / "out"
    assert judge(pairs, "--judge", "exact", "--output-dir", out, "--name-a", "base", "--name-b", "tuned") == 0
    text = capsys.readouterr().out
    assert "[1/7] row-1, judged by exact\n  question: 2+2?\n  true answer: 4\n  A: It is \\boxed{4}.\n  B: 5\n" in text
    assert "  verdict: A (A first: A; B first: A); a person says A\n" in text
    assert "  A: (none)\n" in text and "  verdict: error: no answer a" in text
    totals = text[text.index("A: base\nB: tuned") :]
    assert "4 of 7 pairs are errors" in totals and "Win rates" in totals and "Agreement with people" in totals
    assert (out / "log.txt").read_text() == text
    assert judge(pairs, "--judge", "exact", "--output-dir", out, "--name-a", "base", "--name-b", "tuned") == 0
    assert capsys.readouterr().out == text  # and nothing was asked again
    assert len(records(out / "verdicts.jsonl")) == 1 + 6
    assert judge(pairs, "--judge", "exact", "--output-dir", tmp_path / "quiet", "--quiet") == 0
    assert capsys.readouterr().out.startswith("A: answer_a\n")


def test_terminal_codes_in_an_answer_are_shown_and_not_obeyed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An answer that rewrites the lines above it."""
    file = tmp_path / "p.jsonl"
    row = {"question": "q\x1b[2J", "answer_a": "\x1b]0;x\x07one\ntwo", "answer_b": "</script><b>\u2028"}
    file.write_text(json.dumps(row) + "\n")
    assert judge(file, "--judge", "first", "--output-dir", tmp_path / "out") == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text and "\x07" not in text and "\\x1b[2J" in text and "    two\n" in text
    page = (tmp_path / "out" / "pairs.html").read_text()
    assert "</script><b>" not in page and "\x1b" not in page


def test_columns_are_mapped_by_options_and_ids_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns found by luck, or numbers that lose their digits."""
    file = tmp_path / "odd.jsonl"
    rows = [{"Q": "q", "C": "some text", "T": 4, "X": "4", "Y": 5.5, "who": "B", "n": 7}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--question-column", "Q", "--context-column", "C", "--reference-column", "T", "--human-column", "who"]
    options += ["--answer-a-column", "X", "--answer-b-column", "Y", "--id-column", "n"]
    assert judge(file, *options, "--judge", "exact", "--output-dir", tmp_path / "out") == 0
    text = capsys.readouterr().out
    assert "[1/1] 7, judged by exact\n  context: some text\n" in text and "  B: 5.5\n" in text
    assert "A: X\nB: Y\n" in text and "a person says B" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--judge says who judges"),
        (["--judge", "nobody"], "'nobody' is neither exact, first"),
        (["--judge", "exact", "--judge", "exact"], "names exact twice"),
        (["--judge", "exact", "--question-column", "nope"], "--question-column: "),
        (["--judge", "exact", "--answer-a-column", "question"], "named for two things"),
        (["--judge", "exact", "--human-column", "true_answer"], "a person's verdict is a, b or tie"),
        (["--judge", "exact", "--id-column", "human"], "have the same id 'a'"),
        (["--judge", "exact", "--start-index", "7"], "--start-index 7 is none of the 7 rows"),
        (["--judge", "exact", "--num-samples", "0"], "--num-samples"),
        (["--judge", "exact", "--prompt", "similarity"], "a scripted one does not"),
        (["--judge", "exact", "--judge-model", "m"], "belongs to a judge behind an address"),
        (["--judge", "http://127.0.0.1:1"], "--judge-model"),
        (["--judge", "http://u:p@h", "--judge-model", "m"], "--judge-key-env"),
        (["--judge", "http://h", "--judge-model", "m", "--judge-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
        (["--judge", "http://h", "--judge-model", "m", "--judge-timeout", "0"], "--judge-timeout"),
        (["--judge", "http://h", "--judge-model", "m", "--judge-wait", "-1"], "--judge-wait"),
        (["--judge", "http://h", "--judge-model", "m", "--prompt-file", "/none.txt"], "cannot be read"),
        (["--judge", "arith-oracle", "--judge-tokens", "-1"], "--judge-tokens"),
        (["--judge", "exact", "--model-a", "arith-base", "--answer-a-column", "answer_a"], "give one of them"),
        (["--judge", "exact", "--model-a", "no-such-model"], "no model 'no-such-model'"),
        (["--judge", "exact", "--dataset", "arith"], "give a file of pairs, or --dataset"),
        (["--judge", "exact", "--recipe", "math"], "--recipe belongs to --dataset"),
        (["--judge", "exact", "--examples", "-1"], "--examples"),
        (["--judge", "exact", "--max-new-tokens", "5"], "--max-new-tokens is for models that answer now"),
        (["--judge", "exact", "--preference-column", "nope"], "--preference-column"),
        (["--judge", "exact", "--answer-prompt-file", "x"], "--answer-prompt-file is for models that answer now"),
        (["--judge", "exact", "--judge-wait", "1"], "--judge-wait belongs to a judge behind an address"),
        (["--judge", "exact", "--judge-raw"], "--judge-raw belongs to a judge that is a model of the engine"),
        (["--judge", "exact", "--judge-tokens", "5"], "--judge-tokens belongs to a judge that reads"),
        (["--preference-column", "true_answer", "--retry-errors"], "--retry-errors belongs to a --judge"),
        (["--compare", "x"], "--compare reads what was judged"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_option(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """A traceback, or a run that begins and fails in the middle."""
    assert said in fault(capsys, pairs, *arguments, "--output-dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_cannot_be_judged_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Errors of the reader that do not say which file, row or column."""
    (tmp_path / "no.csv").write_text("question,x\n1,2\n")
    assert "name it with --answer-a-column" in fault(capsys, tmp_path / "no.csv", "--judge", "first")
    (tmp_path / "bad.jsonl").write_text('{"question": "q", "answer_a": {"x": 1}, "answer_b": "y"}\n')
    assert "row 1 (line 1)" in fault(capsys, tmp_path / "bad.jsonl", "--judge", "first")
    assert "cannot be read" in fault(capsys, tmp_path / "none.csv", "--judge", "first")
    assert "give a file of pairs" in fault(capsys, "--judge", "first")
    assert "--model-a and --model-b" in fault(capsys, "--dataset", "arith", "--judge", "exact")
    assert "has no judgements.jsonl" in fault(capsys, "--compare", tmp_path, tmp_path)
    assert "leave out --output-dir" in fault(capsys, "--compare", tmp_path, "--output-dir", tmp_path)
    (tmp_path / "two.csv").write_text("question,answer_a,answer_b\nq,1,2\n")
    missing = fault(capsys, tmp_path / "two.csv", "--judge", "exact")
    assert "--reference-column" in missing
    assert "--reference-column" in fault(
        capsys, tmp_path / "two.csv", "--judge", "arith-oracle", "--prompt", "similarity"
    )


def test_a_folder_of_another_study_is_refused_with_the_difference(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two studies mixed in one folder."""
    out = tmp_path / "out"
    assert judge(pairs, "--judge", "first", "--output-dir", out, "--quiet") == 0
    capsys.readouterr()
    said = fault(capsys, pairs, "--judge", "first", "--output-dir", out, "--name-a", "other")
    assert '--name-a is "answer_a" there and "other" here' in said and "--output-dir" in said
    other = tmp_path / "evals"
    other.mkdir()
    (other / "verdicts.jsonl").write_text('{"c": 1}\n')
    assert "does not hold verdicts" in fault(capsys, pairs, "--judge", "first", "--output-dir", other)
    (tmp_path / "file").write_text("")
    assert "needs a folder" in fault(capsys, pairs, "--judge", "first", "--output-dir", tmp_path / "file")


def test_a_run_that_stops_anywhere_goes_on_with_the_same_records(tmp_path: Path) -> None:
    """A verdict that is asked for twice, lost, or another after a restart; a torn last line that is taken for one."""
    pairs = make_pairs(12)
    whole = judge_all(ByRule(lambda ask: Verdict("first" if "a" in ask.first[7] else "second")), pairs, tmp_path / "w")
    asked: list[str] = []

    class Stop(Exception):
        pass

    def rule(ask: Any) -> Verdict:
        if len(asked) == 7:
            asked.append("stop")
            raise Stop
        asked.append(ask.pair_id + ask.order)
        return Verdict("first" if "a" in ask.first[7] else "second")

    with pytest.raises(Stop):
        judge_all(ByRule(rule), pairs, tmp_path / "k")
    path = tmp_path / "k" / "verdicts.jsonl"
    with path.open("ab") as file:
        file.write(b'{"key": "torn", "choi')
    resumed = judge_all(ByRule(rule), pairs, tmp_path / "k")
    assert resumed == whole
    asked.remove("stop")
    assert len(asked) == len(set(asked)) == 24
    assert sorted(path.read_text().splitlines()[1:]) == sorted(
        (tmp_path / "w" / "verdicts.jsonl").read_text().splitlines()[1:]
    )


def test_equal_pairs_are_asked_once(tmp_path: Path) -> None:
    """A question that is paid for as often as it stands in the file."""
    pair = make_pairs(1)[0]
    judge_of = ByRule(lambda ask: Verdict("first"))
    found = judge_all(judge_of, [pair, pair._replace(pair_id="twin")], tmp_path)
    assert len(judge_of.asked) == 2 and [one.judgement.winner for one in found] == ["tie", "tie"]


def test_a_damaged_cache_is_named_and_not_believed(tmp_path: Path) -> None:
    """A record of something else that counts as a verdict."""
    from dodona.engine.errors import DodonaError

    judge_all(ByRule(lambda ask: Verdict("first")), make_pairs(1), tmp_path)
    with (tmp_path / "verdicts.jsonl").open("a") as file:
        file.write(
            '{"key": "x", "choice": "third", "probabilities": null, "text": null, "error": null, "attempts": 1}\n'
        )
    with (
        StageFile(tmp_path / "verdicts.jsonl", "verdicts", CONFIG) as stage,
        pytest.raises(DodonaError, match="cannot be read"),
    ):
        list(judge_pairs(ByRule(lambda ask: Verdict("first")), [], Cache(stage)))


@pytest.mark.slow
def test_a_judge_that_is_killed_at_any_moment_leaves_the_records_of_one_that_was_not(
    root: Path, tmp_path: Path
) -> None:
    """Records lost or doubled by SIGKILL, and a lock that outlives its process."""
    rows = [{"question": p.question, "answer_a": p.answer_a, "answer_b": p.answer_b} for p in make_pairs(60)]
    file = write_csv(tmp_path / "pairs.csv", rows)
    script = [sys.executable, str(root / "tests/support/killed_runs.py"), "8", "0", str(tmp_path / "runs")]
    arguments = ["judge", str(file), "--judge", "random", "--judge", "longer", "--output-dir", "{}"]
    done = subprocess.run(
        [*script, *arguments], cwd=root, env=environment(root), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["kills"] == 8
    whole = tmp_path / "runs" / "whole"
    folders = sorted(path for path in (tmp_path / "runs").iterdir() if path != whole)
    assert len(folders) >= 1
    for folder in folders:
        for name in ("verdicts.jsonl", "judgements.jsonl", "log.txt"):
            assert (folder / name).read_text() == (whole / name).read_text(), (folder, name)
    assert missing_lock(tmp_path / "runs")


def test_ctrl_c_keeps_what_was_judged(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback, an exit code of success, or a lock that is left behind."""
    calls: list[int] = []

    def interrupted(ask: Any, seed: int) -> str:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return "first"

    monkeypatch.setattr(asked_for, "SCRIPTS", {**asked_for.SCRIPTS, "first": interrupted})
    out = tmp_path / "out"
    assert judge(pairs, "--judge", "first", "--output-dir", out) == 130
    assert f"stopped: 4 records kept in {out}; the same command goes on" in capsys.readouterr().err
    assert not (out / ".lock").exists()
    assert judge(pairs, "--judge", "first", "--output-dir", out, "--json") == 0
    assert printed(capsys)["judges"][0]["split"] == 4 and len(calls) == 5 + 4


def test_two_models_answer_now_and_the_same_command_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Answers that are written twice, mixed up between the sides, or taken from another prompt or model."""
    out = tmp_path / "out"
    task = ["--dataset", "arith", "--model-a", "arith-base", "--model-b", "arith-oracle", "--device", "cpu"]
    small = [*task, "--judge", "exact", "--output-dir", out, "--json"]
    assert judge(*small, "--num-samples", "6") == 0
    first = printed(capsys)
    assert (first["a"], first["b"]) == ("arith-base", "arith-oracle")
    assert first["judges"][0]["n"] == 6 and first["judges"][0]["errors"] == 0
    kept = [(out / f"answers-{letter}.jsonl").read_bytes() for letter in "ab"]
    assert judge(*small, "--num-samples", "12") == 0
    more = printed(capsys)
    assert more["judges"][0]["n"] == 12
    for letter, before in zip("ab", kept, strict=True):
        now = (out / f"answers-{letter}.jsonl").read_bytes()
        assert now.startswith(before) and now.count(b"\n") == 13
    with (out / "answers-b.jsonl").open("ab") as file:
        file.write(b'{"pair_id": "torn')
    assert judge(*small, "--num-samples", "12") == 0
    assert printed(capsys)["judges"] == more["judges"]
    said = fault(capsys, *small, "--num-samples", "12", "--temperature", "0.5")
    assert "--temperature is 0.0 there and 0.5 here" in said


def test_choices_are_shown_to_the_judge_and_compared_by_letter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A letter that is compared as mathematics, and a question without what there is to choose from."""
    row = {"question": "Which is even?", "choices": ["three", "four"], "answer": "B"}
    file = tmp_path / "choices.jsonl"
    file.write_text(json.dumps(row) + "\n")
    models = ["--model-a", "arith-base", "--model-b", "arith-base", "--device", "cpu", "--max-new-tokens", "8"]
    assert judge("--dataset", file, *models, "--judge", "exact", "--output-dir", tmp_path / "out") == 0
    text = capsys.readouterr().out
    assert "    Which is even?\n\n    (A) three\n    (B) four\n  true answer: B\n" in text
    assert "1 of 1 pairs have one answer on both sides" in text
    grade = asked_for._grader(choices=True)
    assert grade("The answer is (B).", "B") and not grade("The answer is (A).", "B")


def test_one_side_of_a_file_may_be_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A column that is judged in place of the model's answer, and questions without one that end the run."""
    rows = [{"question": q, "answer": a, "mine": a} for q, a in (("Work out 3 + 4.", "7"), ("Work out 5 + 2.", "7"))]
    file = write_csv(tmp_path / "half.csv", [*rows, {"question": "", "answer": "1", "mine": "1"}])
    arguments = [file, "--answer-a-column", "mine", "--model-b", "arith-oracle", "--device", "cpu"]
    template = tmp_path / "ask.txt"
    template.write_text("{question}\n")
    arguments += ["--answer-prompt-file", template, "--max-new-tokens", "60", "--judge", "exact", "--judge", "longer"]
    assert judge(*arguments, "--output-dir", tmp_path / "out", "--json") == 0
    content = printed(capsys)
    assert (content["a"], content["b"]) == ("mine", "arith-oracle")
    exact, longer = content["judges"]
    assert (exact["n"], exact["errors"], exact["ties"]) == (3, 1, 2) and longer["losses"] == 2
    assert (tmp_path / "out" / "answers-b.jsonl").exists() and not (tmp_path / "out" / "answers-a.jsonl").exists()


def test_a_local_model_judges_from_the_command_line(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options of the judge that reach nobody."""
    arguments = [pairs, "--judge", "arith-oracle", "--device", "cpu", "--num-samples", "3", "--max-batch", "2"]
    assert judge(*arguments, "--output-dir", tmp_path / "out", "--json") == 0
    (own,) = printed(capsys)["judges"]
    assert (own["n"], own["errors"]) == (3, 0) and own["graded_a"]["n"] == 3 and 0 < own["mass"] <= 1
    assert own["settings"]["prompt"] == "similarity" and own["settings"]["read"] == "tokens"
    mine = tmp_path / "mine.txt"
    mine.write_text("{question} {answer_a} {answer_b}")
    assert judge(*arguments, "--prompt-file", mine, "--output-dir", tmp_path / "out", "--json") == 0
    (own,) = printed(capsys)["judges"]
    assert own["settings"]["prompt"] == "mine.txt"
    assert len(records(tmp_path / "out" / "verdicts.jsonl")) == 1 + 2 * 6


def test_judges_are_compared_in_one_run_and_across_folders(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Judges of one name that are taken for one, and errors that leave the comparison."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert judge(pairs, "--judge", "exact", "--judge", "longer", "--output-dir", one, "--json") == 0
    together = printed(capsys)["between"]
    assert judge(pairs, "--judge", "longer", "--output-dir", two, "--quiet") == 0
    capsys.readouterr()
    assert judge("--compare", one, two, "--json") == 0
    content = printed(capsys)
    assert [entry["judge"] for entry in content["judges"]] == ["exact", "longer (one)", "longer (two)"]
    assert content["between"][0] | {"second": "longer"} == together[0]
    same = content["between"][2]
    assert same["agreement"] == 1 and same["n"] == 7 and same["opposed"] == 0
    assert judge("--compare", one, two) == 0
    assert "Judges beside each other" in capsys.readouterr().out
    assert "needs two judges or more" in fault(capsys, "--compare", two)
    _, ratings = read_ratings(one / "judgements.jsonl")
    assert [rated.judge for rated in ratings] == ["exact", "longer"]


def test_preferences_of_a_file_are_counted_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows without a preference that leave the denominator unsaid, or numbers that are no preferences."""
    values: list[Any] = [1, 2, 1.5, 1.2, 1.9, None, "2.0", 3, "x"]
    rows = [
        {"instruction": f"i{n}", "output_1": "o", "output_2": "oo", "generator_1": "ref", "preference": value}
        for n, value in enumerate(values)
    ]
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(rows))
    arguments = [file, "--preference-column", "preference", "--output-dir", tmp_path / "out"]
    assert judge(*arguments, "--json") == 0
    content = printed(capsys)
    (own,) = content["judges"]
    assert content["a"] == "ref" and own["judge"] == "the file's preferences"
    assert [own[name] for name in ("n", "wins", "losses", "ties", "errors")] == [9, 2, 3, 1, 3]
    assert own["graded_b"]["n"] == 6 and own["graded_b"]["mean"] == pytest.approx((0 + 1 + 0.5 + 0.2 + 0.9 + 1) / 6)
    assert own["consistency"] is None and own["rate_b"]["rate"] == pytest.approx(3.5 / 9)
    assert judge(*arguments, "--judge", "longer") == 0
    text = capsys.readouterr().out
    assert "the file's preferences and longer" in text and "the preference 3 is not between 1 and 2" in text


class Page(HTMLParser):
    """The tags of a page, and what they load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "srcset") or (tag == "link")]


def test_the_page_holds_every_pair_its_filters_and_nothing_from_elsewhere(pairs: Path, tmp_path: Path) -> None:
    """A page that needs a network, or that shows fewer pairs than it says."""
    out = tmp_path / "out"
    assert judge(pairs, "--judge", "exact", "--judge", "first", "--output-dir", out, "--quiet") == 0
    text = (out / "pairs.html").read_text()
    reader = Page()
    reader.feed(text)
    assert not reader.loaded and reader.tags.count("select") == 5 and "default-src 'none'" in text
    rows = json.loads(re.search(r'id="rows">(.*?)</script>', text, re.DOTALL).group(1))  # type: ignore[union-attr]
    assert len(rows) == 14 and {row["judge"] for row in rows} == {"exact", "first"}
    assert rows[0]["winner"] == "a" and rows[3]["winner"] is None and rows[3]["a"] is None
    assert judge(pairs, "--judge", "exact", "--output-dir", out, "--quiet", "--examples", "2") == 0
    text = (out / "pairs.html").read_text()
    assert "The first 2 pairs of each judge are on this page" in text
