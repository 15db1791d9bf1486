"""Where the viewer's texts come from: records, traces, tokenizers, and which belong together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from command_lines import Outcome
from viewer_runs import (
    ALONE,
    CONFIG,
    GUIDED,
    MadeRun,
    arms_of,
    data_of,
    make_run,
    two_arms,
    write_folder,
    write_records,
    write_trace,
)

from dodona.engine.tokenizer import Tokenizer
from dodona.eval.viewer.view import make_view

# --- records without traces, traces without records ---


def test_records_alone_are_enough(tokens: Tokenizer, tmp_path: Path) -> None:
    """Most runs have no trace; who wrote what is in the records."""
    view = make_view([write_folder(tmp_path / "run", two_arms(tokens), traced=False)])
    data = data_of(view)
    assert view.summary.traced == 0 and view.notes == [] and data.tree["signals"] == []
    assert [text for text in data.texts(data.run("p0", 1)) if text is not None][-2:] == ["\n", "<|end|>"]


def test_an_unknown_model_shows_stretches_and_says_why(tokens: Tokenizer, tmp_path: Path) -> None:
    """Records travel to machines without the model; the page must not need it."""
    runs = [make_run(tokens, GUIDED, "p0", [("base", "a b"), ("oracle", " c")], base_model_id="/nowhere/model")]
    path = write_records(tmp_path / "r.jsonl", runs, CONFIG | {"base_model_id": "/nowhere/model"})
    view = make_view([path])
    (note,) = view.notes
    assert "/nowhere/model" in note and "--tokenizer" in note
    data = data_of(view)
    run = data.run("p0")
    assert [(source, data.tree["texts"][text]) for source, _, text in run["pieces"]] == [
        ("base", "a b"),
        ("oracle", " c"),
    ]
    assert make_view([path], tokenizer="arith-base").notes == []


def test_another_models_tokenizer_is_noticed(tokens: Tokenizer, tmp_path: Path) -> None:
    """Ids decoded with the wrong vocabulary look like a model that has gone mad."""
    run = make_run(tokens, ALONE, "p0", [("base", "a b")])
    for segment in run.record["interleaved_outputs"]:
        segment["token_ids"] = [token + 1 for token in segment["token_ids"]]
    view = make_view([write_records(tmp_path / "r.jsonl", [run])])
    assert len(view.notes) == 1 and "another text" in view.notes[0]
    assert "pieces" in data_of(view).run("p0")


def test_records_without_token_ids_show_their_segments(tokens: Tokenizer, tmp_path: Path) -> None:
    """Records of the first experiments have texts only."""
    run = make_run(tokens, GUIDED, "p0", [("base", "a"), ("oracle", "b")])
    run.record["interleaved_outputs"] = [
        {key: segment[key] for key in ("source", "text")} for segment in run.record["interleaved_outputs"]
    ]
    data = data_of(make_view([write_records(tmp_path / "r.jsonl", [run], None)]))
    assert [piece[:2] for piece in data.run("p0")["pieces"]] == [["base", 0], ["oracle", 0]]


def test_a_trace_alone_needs_a_tokenizer_and_says_so(
    tokens: Tokenizer, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    """A trace holds ids; without a model's name nobody can know their texts, and a guess would be worse."""
    path = write_trace(tmp_path / "run.trace.parquet", two_arms(tokens))
    code, out, err = cli("view", path)
    assert code == 2 and out == "" and err.count("\n") == 1 and "--tokenizer" in err
    data = data_of(make_view([path], tokenizer="arith-base"))
    assert arms_of(data) == ["base alone", "c=5 k=5 entropy>0.5"]
    assert "".join(filter(None, data.texts(data.run("p1", 1)))) == "So 1 + 1 = 2.\n<|end|>"
    assert data.run("p1", 1)["starts"] == two_arms(tokens)[3].record["cheat_positions"]
    assert data.run("p1", 1)["outcome"] == "ungraded"


def test_a_trace_that_names_its_model_needs_nothing_else(tokens: Tokenizer, tmp_path: Path) -> None:
    """The metadata of a trace may say which model it is of."""
    path = write_trace(tmp_path / "t.parquet", two_arms(tokens), {"base_model_id": "arith-base"})
    assert make_view([path]).summary.traced == 4


def with_texts(tokens: Tokenizer, runs: list[MadeRun]) -> list[MadeRun]:
    """The runs with the tokens' texts in their traces."""
    for run in runs:
        run.columns["token"] = [tokens.token_text(token) for token in run.columns["token_id"]]
    return runs


def test_a_trace_with_texts_needs_no_tokenizer(tokens: Tokenizer, tmp_path: Path) -> None:
    """Traces that hold the tokens' texts open anywhere, with records and without, and never ask the hub."""
    runs = with_texts(tokens, two_arms(tokens))
    path = write_trace(tmp_path / "t.parquet", runs, {"base_model_id": "nobody/nothing"})
    data = data_of(make_view([path]))
    assert "".join(filter(None, data.texts(data.run("p1", 1)))) == "So 1 + 1 = 2.\n<|end|>"
    for run in runs:
        run.record["base_model_id"] = "nobody/nothing"
    folder = write_folder(tmp_path / "run", runs)
    for file in folder.glob("*.jsonl"):
        file.write_text(file.read_text().replace("arith-base", "nobody/nothing"))
    view = make_view([folder])
    assert view.notes == [] and "pieces" not in data_of(view).run("p1", 1)


def test_a_tokenizer_that_contradicts_the_trace_is_not_used(tokens: Tokenizer, tmp_path: Path) -> None:
    """A folder of the same name may hold another model by now; the trace's own texts cannot be wrong."""
    runs = two_arms(tokens)[:1]
    runs[0].columns["token"] = [f"word{token}" for token in runs[0].columns["token_id"]]
    data = data_of(make_view([write_trace(tmp_path / "t.parquet", runs, {"base_model_id": "arith-base"})]))
    assert set(data.texts(data.run("p0"))) == set(runs[0].columns["token"])


def test_a_trace_that_names_its_arms_finds_their_records(tokens: Tokenizer, tmp_path: Path) -> None:
    """Two arms may differ in what neither c, k nor trigger says; then the arm's name decides."""
    runs = [make_run(tokens, ALONE, "p0", [("base", "same")], seed=seed) for seed in range(2)]
    for number, run in enumerate(runs):
        run.record["arm"] = f"arm {number}"
        run.columns["arm"] = [run.record["arm"]] * len(run.columns["token_id"])
    path = write_records(tmp_path / "all.jsonl", runs, None)
    write_trace(tmp_path / "all.trace.parquet", runs[::-1])
    data = data_of(make_view([path]))
    for arm, run in enumerate(runs):
        np.testing.assert_allclose(data.values("entropy", data.run("p0", arm)), run.columns["entropy"], atol=6e-5)


def test_records_and_a_trace_named_apart_belong_together(tokens: Tokenizer, tmp_path: Path) -> None:
    """`dodona generate --output-file a.jsonl --trace b.parquet` writes them wherever it is told to."""
    runs = two_arms(tokens)
    records = write_records(tmp_path / "a.jsonl", runs)
    (tmp_path / "elsewhere").mkdir()
    trace = write_trace(tmp_path / "elsewhere" / "b.parquet", runs)
    view = make_view([records, trace])
    assert view.summary.traced == 4 and view.summary.arms == 2 and view.notes == []


def test_samples_of_one_prompt_are_arms_of_one_problem(tokens: Tokenizer, tmp_path: Path) -> None:
    """`dodona generate --n 3` writes records without problem ids; they must not be taken for repetitions."""
    runs = [
        make_run(tokens, ALONE, "x", [("base", f"{sample}")], problem_id=None, prompt="Say a digit.", sample=sample)
        for sample in range(3)
    ]
    for run in runs:
        del run.record["arm"]
    path = write_records(tmp_path / "r.jsonl", runs, None)
    write_trace(tmp_path / "r.parquet", runs)
    view = make_view([path])
    assert (view.summary.problems, view.summary.arms, view.summary.traced) == (1, 3, 3)
    assert data_of(view).tree["problems"][0]["id"] == "Say a digit."


def test_prompts_as_messages_and_ids_are_readable(tokens: Tokenizer, tmp_path: Path) -> None:
    """A prompt need not be a text."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    runs = [
        make_run(tokens, ALONE, "p0", [("base", "a")], prompt=messages),
        make_run(tokens, ALONE, "p1", [("base", "a")], prompt=tokens.encode("Hi", raw=True)),
        make_run(tokens, ALONE, "p2", [("base", "a")], prompt=None),
    ]
    data = data_of(make_view([write_records(tmp_path / "r.jsonl", runs)]))
    prompts = [data.tree["texts"][data.run(problem)["prompt"]] for problem in ("p0", "p1", "p2")]
    assert prompts == ["[system]\nBe brief.\n\n[user]\nHi", tokens.decode(tokens.encode("Hi", raw=True), False), ""]


# --- traces find their runs ---


def test_a_trace_of_other_tokens_is_not_shown(tokens: Tokenizer, tmp_path: Path) -> None:
    """Records made again beside an old trace: the signals would be another text's."""
    runs = two_arms(tokens)
    folder = write_folder(tmp_path / "run", runs)
    other = make_run(tokens, GUIDED, "p0", [("base", "So 2 + 3 ="), ("oracle", " 7."), ("base", "\n")])
    write_trace(folder / f"{GUIDED.slug}.trace.parquet", [other, runs[3]])
    view = make_view([folder])
    assert view.summary.traced == 3
    assert any("1 of its 2 sequences" in note and "p0" in note for note in view.notes)
    assert any("1 of 4 texts have no trace" in note for note in view.notes)


def test_equal_texts_of_two_arms_keep_their_own_traces(tokens: Tokenizer, tmp_path: Path) -> None:
    """The base alone and a guided arm that never consulted write the same tokens; only one has oracle columns."""
    runs = [make_run(tokens, arm, "p0", [("base", "same")], seed=seed) for seed, arm in enumerate((ALONE, GUIDED))]
    path = write_records(tmp_path / "all.jsonl", runs)
    write_trace(tmp_path / "all.trace.parquet", runs[::-1])
    data = data_of(make_view([path]))
    for arm, run in enumerate(runs):
        np.testing.assert_allclose(data.values("entropy", data.run("p0", arm)), run.columns["entropy"], atol=6e-5)


def test_two_runs_of_the_same_arms_stay_apart(tokens: Tokenizer, tmp_path: Path) -> None:
    """`dodona view A B` is there to compare them."""
    first = write_folder(tmp_path / "a" / "run", two_arms(tokens))
    second = write_folder(tmp_path / "b" / "run", [make_run(tokens, GUIDED, "p0", [("base", "So 2"), ("oracle", "!")])])
    data = data_of(make_view([first, second]))
    assert arms_of(data) == ["base alone", "c=5 k=5 entropy>0.5 · a/run", "c=5 k=5 entropy>0.5 · b/run"]
    assert [arm["source"] for arm in data.tree["arms"]] == [0, 0, 1]
    assert data.run("p0", 2)["count"] < data.run("p0", 1)["count"]
    assert data.tree["title"] == "run, run"


def test_the_first_record_of_a_run_counts(tokens: Tokenizer, tmp_path: Path) -> None:
    """A record written twice by two processes must not be counted twice."""
    run = make_run(tokens, ALONE, "p0", [("base", "first")])
    again = make_run(tokens, ALONE, "p0", [("base", "second")])
    view = make_view([write_records(tmp_path / "r.jsonl", [run, again])])
    assert view.summary.runs == 1 and "1 more record" in view.notes[0]
    assert "first" in "".join(filter(None, data_of(view).texts(data_of(view).run("p0"))))


def test_problems_asked_for_and_not_run_are_listed(tokens: Tokenizer, tmp_path: Path) -> None:
    """A run that was stopped has problems without a record; leaving them out would raise its score."""
    runs = two_arms(tokens)
    path = write_records(tmp_path / "r.jsonl", runs[:1])
    header = json.loads(path.read_text().splitlines()[0])
    header["header"]["problems"] += [{"problem_id": "never run", "level": 5, "subject": "algebra"}]
    with path.open("a") as file:
        file.write(json.dumps(header) + "\n")
    data = data_of(make_view([path]))
    assert [problem["key"] for problem in data.tree["problems"]] == ["p0", "never run"]
    assert data.tree["problems"][1]["level"] == 5


def test_outcomes_are_called_by_their_reasons(tokens: Tokenizer, tmp_path: Path) -> None:
    """A failed run has no text at all, and a text that was cut off is wrong whatever it says."""
    cases: dict[str, dict[str, Any]] = {
        "correct": {},
        "wrong": {"correct": False},
        "unparsed": {"correct": False, "parsed_answer": None},
        "truncated": {"finish_reason": "length", "correct": False},
        "failed": {"error": "out of pages", "correct": False, "finish_reason": "error"},
    }
    runs = [make_run(tokens, ALONE, name, [("base", "x")], **fields) for name, fields in cases.items()]
    runs[-1].record |= {"interleaved_outputs": [], "result": "", "cheat_positions": []}
    data = data_of(make_view([write_records(tmp_path / "r.jsonl", runs)]))
    assert {name: data.run(name)["outcome"] for name in cases} == {name: name for name in cases}
    assert data.run("failed")["count"] == 0 and data.run("failed")["error"] == "out of pages"


def test_arms_and_problems_can_be_chosen(tokens: Tokenizer, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    """A grid of 18 arms x 5000 problems is too much for one page."""
    folder = write_folder(tmp_path / "run", two_arms(tokens))
    view = make_view([folder], arms=["base alone"], limit=1)
    assert (view.summary.arms, view.summary.problems, view.summary.runs) == (1, 1, 1)
    code, _, err = cli("view", folder, "--arm", "nonsense")
    assert code == 2 and "'nonsense'" in err and "c=0 seed=0" in err and err.count("\n") == 1
