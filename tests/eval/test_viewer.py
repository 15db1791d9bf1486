"""What the viewer's page holds: runs, texts and signals as they are on disk, and nothing that could become code."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from viewer_runs import (
    ALONE,
    CONFIG,
    GUIDED,
    MadeRun,
    PageData,
    make_run,
    read_page,
    tokenizer,
    write_folder,
    write_records,
    write_trace,
)

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.records import RecordFile
from dodona.engine.request import Request
from dodona.engine.tokenizer import Tokenizer
from dodona.engine.trace import TraceWriter
from dodona.eval.arms import Arm
from dodona.eval.viewer.columns import encode
from dodona.eval.viewer.document import make_page
from dodona.eval.viewer.payload import thresholds
from dodona.eval.viewer.server import make_server
from dodona.eval.viewer.view import View, make_view
from dodona.eval.viewer.vocabulary import byte_alphabet, token_bytes

Outcome = tuple[int, str, str]  # exit code, standard output, standard error

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!-- <script> <![CDATA[ ]]> -->",
    "&lt;b&gt; &amp; &#0; \"'`",
    "\u2028\u2029\u0085 line ends",
    "\u202egnp.exe\u202c \u2066x\u2069 \u200f",
    "${alert(1)} {{script}} {{data}} \\u003c/script",
    "a\u0000b\u001b[31m\u007f\ufeff\u200b",
    "javascript:alert(1)",
)


@pytest.fixture(scope="module")
def tokens() -> Tokenizer:
    return tokenizer()


def two_arms(tokens: Tokenizer) -> list[MadeRun]:
    """Two problems, each by the base alone and guided."""
    return [
        make_run(tokens, ALONE, "p0", [("base", "So 2 + 3 = 6.\n")], seed=1, correct=False, parsed_answer="6"),
        make_run(tokens, ALONE, "p1", [("base", "So 1 + 1 = 2.\n")], seed=2),
        make_run(tokens, GUIDED, "p0", [("base", "So 2 + 3 ="), ("oracle", " 5."), ("base", "\n")], seed=3),
        make_run(tokens, GUIDED, "p1", [("base", "So 1 + 1"), ("oracle", " ="), ("oracle", " 2.\n")], seed=4),
    ]


def data_of(view: View) -> PageData:
    return read_page(view.page)


def arms_of(data: PageData) -> list[str]:
    return [arm["label"] for arm in data.tree["arms"]]


# --- what is shown is what is on disk ---


def test_signals_are_those_of_the_trace_to_the_last_digit_shown(tokens: Tokenizer, tmp_path: Path) -> None:
    """A column that is shifted by a run, or scaled twice, gives numbers that look right and are another token's."""
    runs = two_arms(tokens)
    data = data_of(make_view([write_folder(tmp_path / "run", runs)]))
    assert arms_of(data) == ["base alone", "c=5 k=5 entropy>0.5"]
    decimals = {entry["name"]: entry["decimals"] for entry in data.tree["signals"]}
    for made, (problem, arm) in zip(runs, [("p0", 0), ("p1", 0), ("p0", 1), ("p1", 1)], strict=True):
        run = data.run(problem, arm)
        for name in decimals:
            values = made.columns[name]
            plain = values.to_pylist() if isinstance(values, pa.Array) else list(values)
            there = np.array([math.nan if value is None else float(value) for value in plain])
            np.testing.assert_allclose(data.values(name, run), there, rtol=1e-6, atol=0.51 * 10.0 ** -decimals[name])
    assert decimals["entropy"] >= 4 and decimals["oracle_rank"] == 0


def test_texts_sources_and_consults_are_those_of_the_record(tokens: Tokenizer, tmp_path: Path) -> None:
    """A second consult right behind the first must not melt into it."""
    data = data_of(make_view([write_folder(tmp_path / "run", two_arms(tokens))]))
    run = data.run("p1", 1)
    assert "".join(filter(None, data.texts(run))) == "So 1 + 1 = 2.\n<|end|>"
    flags = data.columns["flags"][run["token"] : run["token"] + run["count"]]
    assert [i for i, flag in enumerate(flags) if flag & 2] == run["starts"]
    assert "".join(text or "" for text, flag in zip(data.texts(run), flags, strict=True) if flag & 1) == (
        " = 2.\n<|end|>"
    )
    special = [data.tree["vocabulary"]["texts"][number] for number in data.tree["vocabulary"]["special"]]
    assert special == ["<|end|>"]


def test_the_models_choices_are_the_traces_tokens(tokens: Tokenizer, tmp_path: Path) -> None:
    """Choices are stored as distances from the written token; one that is off shows another word."""
    runs = two_arms(tokens)
    data = data_of(make_view([write_folder(tmp_path / "run", runs)]))
    run, made = data.run("p0", 1), runs[2]
    for name in ("base_top1", "oracle_top1"):
        distance = data.columns[name][run["signal"] : run["signal"] + run["count"]]
        written = data.columns["token"][run["token"] : run["token"] + run["count"]]
        ids = [
            None if d == -(2**31) else data.tree["vocabulary"]["ids"][w + d]
            for w, d in zip(written.tolist(), distance.tolist(), strict=True)
        ]
        column = made.columns[name]
        assert ids == (column.to_pylist() if isinstance(column, pa.Array) else column.tolist())


def test_a_character_of_several_tokens_shows_once(tokens: Tokenizer, tmp_path: Path) -> None:
    """Halves of a character decoded one by one are replacement signs, four for one emoji."""
    text = "🙂 é\u202e 日本"
    run = make_run(tokens, GUIDED, "p0", [("base", text[:1]), ("oracle", text[1:])])
    data = data_of(make_view([write_folder(tmp_path / "run", [run])]))
    texts = data.texts(data.run("p0"))
    assert "".join(filter(None, texts)) == text + "<|end|>"
    assert texts[:4] == ["", "", "", "🙂"]
    assert "F0" in data.tree["vocabulary"]["bytes"].values()


def test_a_character_across_a_hand_off_is_kept(tokens: Tokenizer, tmp_path: Path) -> None:
    """The base writes two bytes of an emoji and the oracle the other two."""
    run = make_run(tokens, GUIDED, "p0", [("base", "a"), ("oracle", "b")], ends=False)
    ids = tokens.encode("🙂", raw=True)
    run.record["interleaved_outputs"] = [
        {"source": "base", "text": "", "token_ids": ids[:2]},
        {"source": "oracle", "text": "🙂", "token_ids": ids[2:]},
    ]
    run.record |= {"result": "🙂", "cheat_positions": [2], "total_tokens_generated": 4}
    path = write_records(tmp_path / "r.jsonl", [run])
    assert data_of(make_view([path])).texts(data_of(make_view([path])).run("p0")) == ["", "", "", "🙂"]


def test_an_unfinished_character_stays_visible(tokens: Tokenizer, tmp_path: Path) -> None:
    """A text cut off inside a character ends in bytes that belong to none."""
    run = make_run(tokens, ALONE, "p0", [("base", "x")], ends=False)
    half = tokens.encode("🙂", raw=True)[:2]
    run.record["interleaved_outputs"] = [{"source": "base", "text": tokens.decode(half), "token_ids": half}]
    run.record["result"] = tokens.decode(half)
    data = data_of(make_view([write_records(tmp_path / "r.jsonl", [run])]))
    assert "".join(filter(None, data.texts(data.run("p0")))).count("\ufffd") == 1


def test_every_byte_has_a_stand_in() -> None:
    """A table with a hole shows no bytes for some halves; the first and last printable ones are easily missed."""
    table = byte_alphabet()
    assert sorted(table.values()) == list(range(256)) and len(table) == 256
    assert (table["!"], table["Ġ"], table["Ċ"], table["ÿ"]) == (0x21, 0x20, 0x0A, 0xFF)
    assert token_bytes("<0xF0>") == b"\xf0" and token_bytes("▁the") is None


def test_a_page_of_the_real_engine_agrees_with_its_results(tmp_path: Path) -> None:
    """Made-up traces may lack what the engine's have: nulls in whole-number columns, ids as names of requests."""
    engine = Engine()
    arms = [Arm(0, 0, "never", "before", 0), Arm(2, 3, "entropy > 0.2", "before", 0)]
    results = {}
    with RecordFile(tmp_path / "run.jsonl") as records, TraceWriter(tmp_path / "run.trace.parquet") as trace:
        for arm in arms:
            name = json.dumps([arm.name, "p0"])
            result = engine.generate(Request(prompt="What is 58 * 86?", id=name, max_new_tokens=60, **arm.fields()))
            records.append(result.record() | {"problem_id": "p0", "arm": arm.name})
            trace.write(result)
            results[arm.name] = result
    view = make_view([tmp_path / "run.jsonl"])
    data = data_of(view)
    assert view.notes == [] and view.summary.traced == 2
    for number, arm in enumerate(arms):
        run, result = data.run("p0", number), results[arm.name]
        assert "".join(filter(None, data.texts(run))).removesuffix("<|end|>") == result.text
        assert run["starts"] == result.cheat_positions and run["outcome"] == "ungraded"
        np.testing.assert_allclose(data.values("entropy", run), result.signals["entropy"], atol=6e-5)
        np.testing.assert_array_equal(np.isnan(data.values("agree", run)), np.isnan(result.signals["agree"]))
    assert data.tree["arms"][1]["thresholds"] == {"entropy": [0.2]}


# --- scaling ---


def test_infinities_nulls_and_odd_columns_come_through() -> None:
    """minus infinity shown as a number, or a list column that ends the command."""
    ids = np.arange(3)
    trace = {
        "token_id": ids,
        "logprob": np.array([-math.inf, math.inf, math.nan]),
        "kl": np.array([0.25, None, 1e9], dtype=object),
        "mine": np.array([1, 2, 3]),
        "heads": np.array([[1], [2], [3]], dtype=object),
        "words": np.array(["a", "b", None], dtype=object),
        "nothing": np.array([math.nan] * 3),
    }
    other = {"token_id": ids, "tiny": np.array([1e-7, 2e-7, 3e-7])}
    about, columns = encode([(trace, 3), (other, 3)])
    assert [entry["name"] for entry in about] == ["logprob", "kl", "mine", "tiny"]
    assert columns["logprob"].tolist() == [-(2**31) + 1, 2**31 - 1, *[-(2**31)] * 4]
    kl = next(entry for entry in about if entry["name"] == "kl")
    assert columns["kl"][0] / 10.0 ** kl["decimals"] == pytest.approx(0.25, abs=1)
    assert columns["kl"][2] / 10.0 ** kl["decimals"] == pytest.approx(1e9, rel=1e-6)
    tiny = next(entry for entry in about if entry["name"] == "tiny")
    assert columns["tiny"][3:] / 10.0 ** tiny["decimals"] == pytest.approx([1e-7, 2e-7, 3e-7], rel=1e-3)
    for entry in about:
        assert entry["low"] < entry["high"]


def test_thresholds_are_read_from_expressions_and_presets() -> None:
    """A line in the plot at a number that the trigger does not mean."""
    assert thresholds("entropy > 0.5 and margin < 0.1") == {"entropy": [0.5], "margin": [0.1]}
    assert thresholds("entropy") == {"entropy": [2.0]}
    assert thresholds("-1 > logprob") == {"logprob": [-1.0]}
    assert thresholds("0.8*entropy > 1") == {}
    assert thresholds("a class of the user's") == {}


def test_a_token_costs_few_bytes(tokens: Tokenizer, tmp_path: Path) -> None:
    """Signals as JSON text would be a hundred bytes a token: 30 MB for 500 problems x 300 tokens x 2 arms."""
    runs = [
        make_run(tokens, arm, f"p{i}", [("base", "1+2=3, " * 80)], seed=i) for i in range(20) for arm in (ALONE, GUIDED)
    ]
    folder = write_folder(tmp_path / "run", runs)
    bare = make_page(b"", "")
    view = make_view([folder])
    assert (len(view.page) - len(bare)) / view.summary.tokens < 36


# --- nothing becomes code ---


def test_hostile_texts_stay_texts(tokens: Tokenizer, tmp_path: Path) -> None:
    """Everything from a model or a data set must stay inside the compressed data; a folder's name is escaped."""
    runs = [
        make_run(
            *(tokens, GUIDED, f"id {text}", [("base", text), ("oracle", text)]),
            **{"prompt": text, "ground_truth": text, "parsed_answer": text, "subject": text, "level": text},
            **{"finish_reason": text},
        )
        for text in HOSTILE
    ]
    folder = write_folder(tmp_path / "<img src=x onerror=alert(1)> {{script}} & co", runs)
    view = make_view([folder])
    page = view.page.decode()
    for piece in ("alert(1)", "gnp.exe", "<img", "\u2028", "\u202e"):
        outside = page.replace(html.escape(folder.name), "")
        assert piece not in outside
    assert page.count("<script") == page.count("</script>") == 2
    data = data_of(view)
    for text in HOSTILE:
        run = data.run(f"id {text}")
        assert "".join(filter(None, data.texts(run))) == text + text + "<|end|>"
        assert data.tree["texts"][run["prompt"]] == text


def test_half_a_surrogate_pair_is_no_crash(tokens: Tokenizer, tmp_path: Path) -> None:
    """JSON can hold one, UTF-8 cannot."""
    run = make_run(tokens, ALONE, "p\ud800", [("base", "x")], prompt="\udc00")
    view = make_view([write_records(tmp_path / "r.jsonl", [run])])
    assert data_of(view).tree["problems"][0]["key"] == "p\ud800"


def test_the_page_runs_its_own_program_and_loads_nothing() -> None:
    """A policy whose hash is not the script's shows an empty page; one without hashes lets injected code run."""
    page = make_page(b"data", "title").decode()
    policy = html.unescape(re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[0])
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert set(re.findall(r"https?://[^\s\"'`)]+", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=(?!\"data:,\")", page)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", page)


def test_the_same_runs_give_the_same_bytes(tokens: Tokenizer, tmp_path: Path) -> None:
    """A time stamp in the compressed data would make every page of a repository differ."""
    folder = write_folder(tmp_path / "run", two_arms(tokens))
    assert make_view([folder]).page == make_view([folder]).page


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


# --- the command ---


def test_the_command_writes_beside_what_it_shows(
    tokens: Tokenizer, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    """The default path, its one line, and the same again over an older page."""
    folder = write_folder(tmp_path / "run", two_arms(tokens))
    code, out, err = cli("view", folder)
    assert (code, err) == (0, "") and (folder / "view.html").is_file()
    assert out.startswith(f"{folder / 'view.html'}: 2 problems, 2 arms, 4 texts, ") and "all traced" in out
    assert cli("view", folder)[0] == 0
    assert cli("view", folder / f"{GUIDED.slug}.jsonl")[0] == 0
    assert (folder / f"{GUIDED.slug}.view.html").is_file()
    target = tmp_path / "new" / "page.html"
    code, out, _ = cli("view", folder, "--output-file", target, "--json")
    report = json.loads(out)
    assert target.is_file() and report["page"] == str(target) and report["traced"] == report["runs"] == 4
    assert report["bytes"] == target.stat().st_size
    assert [file.name for file in target.parent.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("missing", "no file or folder"),
        ("empty folder", "neither records"),
        ("only a header", "no run is recorded"),
        ("empty file", "is empty"),
        ("other jsonl", "no interleaved_outputs"),
        ("text", "no JSON object"),
        ("bad segment", "line 2"),
        ("later line", "line 3"),
        ("other parquet", "no trace of dodona"),
        ("torn parquet", "cannot read the trace"),
        ("no parquet", "no Parquet file"),
        ("empty trace", "no run is recorded"),
        ("gap in a trace", "whole texts"),
    ],
)
def test_what_cannot_be_shown_is_one_clear_line(
    tokens: Tokenizer, tmp_path: Path, cli: Callable[..., Outcome], what: str, says: str
) -> None:
    """Never a traceback, and never a page about nothing."""
    run = make_run(tokens, ALONE, "p0", [("base", "abc")])
    path = tmp_path / ("x.parquet" if "parquet" in what or "trace" in what else "x.jsonl")
    match what:
        case "empty folder":
            path.mkdir()
        case "only a header":
            path.write_bytes(write_records(tmp_path / "y.jsonl", [run]).read_bytes().split(b"\n")[0] + b"\n")
        case "empty file":
            path.touch()
        case "other jsonl":
            path.write_text('{"question": 1}\n')
        case "text":
            path.write_text("hello\n")
        case "bad segment":
            run.record["interleaved_outputs"] = [{"source": "base", "text": 5}]
            write_records(path, [run])
        case "later line":
            write_records(path, [run])
            with path.open("a") as file:
                file.write('{"a": 1}\n')
        case "other parquet":
            pq.write_table(pa.table({"x": [1]}), path)
        case "torn parquet":
            path.write_bytes(write_trace(tmp_path / "y.parquet", [run]).read_bytes()[:200])
        case "no parquet":
            path.write_text("PAR")
        case "empty trace":
            write_trace(path, [])
        case "gap in a trace":
            run.columns["position"] = [0, *range(2, len(run.columns["token_id"]) + 1)]
            write_trace(path, [run])
    code, out, err = cli("view", path, "--output-file", tmp_path / "page.html", "--tokenizer", "arith-base")
    assert code == 2 and out == "" and says in err and "Traceback" not in err
    assert err.count("\n") == 1 and not (tmp_path / "page.html").exists()


def test_what_does_not_belong_in_a_folder_is_passed_over(tokens: Tokenizer, tmp_path: Path) -> None:
    """Graded copies, decisions of other tools and data sets lie in the same folders."""
    folder = write_folder(tmp_path / "run", two_arms(tokens))
    (folder / "other.jsonl").write_text('{"x": 1}\n')
    (folder / "x.graded.jsonl").write_text("no\n")
    pq.write_table(pa.table({"x": [1]}), folder / "data.parquet")
    (folder / "torn.parquet").write_bytes(b"")
    view = make_view([folder])
    assert view.summary.runs == 4 and len(view.notes) == 3
    assert all("passed over" in note for note in view.notes) and not any("graded" in note for note in view.notes)


@pytest.mark.parametrize("what", ["records", "page of another kind", "folder", "no folder"])
def test_no_file_of_another_kind_is_overwritten(
    tokens: Tokenizer, tmp_path: Path, cli: Callable[..., Outcome], what: str
) -> None:
    """`dodona view run.jsonl --output-file run.jsonl` would destroy hours of work."""
    records = write_records(tmp_path / "r.jsonl", [make_run(tokens, ALONE, "p0", [("base", "x")])])
    before = records.read_bytes()
    target = {"records": records, "folder": tmp_path, "no folder": records / "x.html"}.get(what, tmp_path / "i.html")
    if what == "page of another kind":
        target.write_text("<!doctype html><title>mine</title>")
    code, _, err = cli("view", records, "--output-file", target)
    assert code == 2 and err.count("\n") == 1 and "--output-file" in err
    assert records.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--serve", "RUN"], "RUN comes before it"),
        (["RUN", "--serve", "70000"], "0 to 65535"),
        (["RUN", "--limit", "0"], "1 or more"),
        (["RUN", "--tokenizer", "no-such-model"], "no-such-model"),
        ([], "RUN"),
    ],
)
def test_wrong_options_are_one_clear_line(
    tokens: Tokenizer, tmp_path: Path, cli: Callable[..., Outcome], arguments: list[str], says: str
) -> None:
    """A folder behind --serve is read as its port."""
    records = write_records(tmp_path / "r.jsonl", [make_run(tokens, ALONE, "p0", [("base", "x")])])
    code, _, err = cli("view", *(str(records) if argument == "RUN" else argument for argument in arguments))
    assert code == 2 and says in err and "Traceback" not in err and err.count("\n") == 1


def test_a_taken_port_is_one_clear_line() -> None:
    """Address already in use, as a traceback of socketserver."""
    with make_server(b"page", 0) as server, pytest.raises(DodonaError, match="--serve"):
        make_server(b"page", server.server_address[1])


def test_the_server_serves_the_page_alone_and_here_alone() -> None:
    """A server of the folder, or on all addresses, would show the user's files to the network."""
    with make_server(b"<p>page</p>", 0) as server:
        host, port = server.server_address[:2]
        assert host == "127.0.0.1"
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            with urllib.request.urlopen(f"http://{host}:{port}/?x=1") as answer:
                assert answer.read() == b"<p>page</p>" and answer.headers["Content-Type"] == "text/html; charset=utf-8"
            for path in ("/etc/passwd", "/..%2f", "/view.html"):
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    urllib.request.urlopen(f"http://{host}:{port}{path}")
        finally:
            server.shutdown()
            thread.join()


def test_serving_ends_with_ctrl_c_and_without_an_error(tokens: Tokenizer, tmp_path: Path, root: Path) -> None:
    """The address must come out before the server waits, and Ctrl-C is its ordinary end."""
    folder = write_folder(tmp_path / "run", two_arms(tokens)[:1])
    command = [sys.executable, "-c", "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"]
    command[-1] += "from dodona.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [*command, "view", str(folder), "--serve"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        url = re.findall(r"http://127\.0\.0\.1:\d+/", lines[1])[0]
        with urllib.request.urlopen(url) as answer:
            assert answer.read() == (folder / "view.html").read_bytes()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0 and err == "stopped\n"


def test_a_hub_model_is_never_downloaded_for_its_tokenizer(
    tokens: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening the checkpoint would fetch 16 GB of weights to show a page."""
    import huggingface_hub

    import dodona.engine.checkpoint

    asked: list[dict[str, Any]] = []

    def snapshot(repository: str, **options: Any) -> str:
        asked.append({"repository": repository, **options})
        if options.get("local_files_only"):
            raise FileNotFoundError(repository)
        folder = tmp_path / "hub"
        folder.mkdir()
        embedded = Path(dodona.engine.checkpoint.__file__).parent / "embedded" / "base"
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(embedded / name, folder / name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: None)
    run = make_run(tokens, ALONE, "p0", [("base", "x")], base_model_id="8B")
    view = make_view([write_records(tmp_path / "r.jsonl", [run], CONFIG | {"base_model_id": "8B"})])
    assert view.notes == [] and "pieces" not in data_of(view).run("p0")
    assert [call["repository"] for call in asked] == ["meta-llama/Llama-3.1-8B-Instruct"] * 2
    fits = [pattern for pattern in asked[1]["allow_patterns"] if fnmatch("model-00001-of-00004.safetensors", pattern)]
    assert fits == []
