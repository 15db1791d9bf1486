"""What the viewer's page holds: texts and signals as they are on disk, and nothing that could become code."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from viewer_runs import (
    ALONE,
    GUIDED,
    arms_of,
    data_of,
    make_run,
    two_arms,
    write_folder,
    write_records,
)

from dodona.engine.engine import Engine
from dodona.engine.records import RecordFile
from dodona.engine.request import Request
from dodona.engine.tokenizer import Tokenizer
from dodona.engine.trace import TraceWriter
from dodona.eval.arms import Arm
from dodona.eval.viewer.columns import encode
from dodona.eval.viewer.document import make_page
from dodona.eval.viewer.payload import thresholds
from dodona.eval.viewer.view import make_view
from dodona.eval.viewer.vocabulary import byte_alphabet, token_bytes

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
