"""`dodona causal`: a wrong token that was planted is found, and every number in the table can be counted by hand."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded_runs import BASE, GUIDED, ORACLE, record_runs

from dodona.cli import main
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.records import encode_record, read_records
from dodona.engine.request import Request
from dodona.engine.result import Result, Segment
from dodona.engine.trace_store import TraceStore, trace_paths
from dodona.eval.causal.forks import ForkLog
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.wrong import Search, search
from dodona.eval.causal.wrong_rows import csv_rows, lines
from dodona.eval.causal.wrong_tables import plain_summary, tables
from dodona.eval.report.table import text_lines


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(max_batch=32) as engine:
        yield engine


@pytest.fixture(scope="module")
def folder(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_runs(tmp_path_factory.mktemp("causal") / "run", engine, problems=12)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the tests that only look at what was found: a fork is run once."""
    return tmp_path_factory.mktemp("log") / "forks.log"


def found_in(folder: Path, engine: Engine, log: Path, **options: Any) -> Search:
    origin = Origin(folder)
    with ForkLog(log, origin) as forks:
        return search(origin, origin.arm(None, alone=True), forks, lambda: engine, **options)


def planted(engine: Engine, result: Result) -> tuple[Result, int]:
    """A right text of the base with one digit changed, written on by the base from there, as one run of the base."""
    digits = [p for p, token in enumerate(result.ids) if result.token_text(token).isdigit() and p > 12]
    for position in digits:
        wrong = next(t for t in result.ids[:40] if t != result.ids[position] and result.token_text(t).isdigit())
        before = [*result.ids[:position], wrong]
        rest = engine.generate(Request(prompt=[*result.prompt_ids, *before], c=0, oracle_tail=True, raw=True))
        ids = before + rest.ids
        if rest.finish_reason == "eos" and "boxed" in rest.text and result.text.split("boxed")[1] not in rest.text:
            break
    else:
        raise AssertionError("no digit spoils this text")
    signals = {
        name: np.concatenate([values[: position + 1], rest.signals[name]]) for name, values in result.signals.items()
    }
    text = engine.tokenizer.decode(ids)
    return (
        dataclasses.replace(
            result,
            ids=ids,
            text=text,
            segments=[Segment("base", text, ids)],
            signals=signals,
            sources=np.zeros(len(ids), dtype=np.uint8),
        ),
        position,
    )


def test_a_planted_wrong_token_is_the_causal_one(engine: Engine, tmp_path: Path) -> None:
    """The oracle solves the text up to the planted digit and not from behind it: this very token must be named, with
    what stands around it, read from the trace beside the records.
    """
    folder = record_runs(tmp_path / "run", engine, [BASE, ORACLE], problems=6, levels=(3,))
    origin = Origin(folder)
    arm = origin.arm(None, alone=True)
    right = next(text for text in origin.texts(arm).values() if text.correct)
    own = engine.generate(
        Request(prompt=right.problem.prompt, raw=right.problem.raw, c=0, oracle_tail=True, id=right.problem_id)
    )
    assert tuple(own.ids) == right.ids
    spoilt, position = planted(engine, own)
    file = origin.place.file(origin.live(arm))
    content = [line for line in read_records(file)]
    for line in content:
        if line.get("problem_id") == right.problem_id:
            line |= spoilt.record() | {"problem_id": right.problem_id, "correct": False, "parsed_answer": "0"}
    file.write_bytes(b"".join(map(encode_record, content)))
    store = TraceStore(file)
    store.append(spoilt, arm=arm.name, problem_id=right.problem_id)
    store.close()
    assert trace_paths(file)[0].is_file()
    found = found_in(folder, engine, tmp_path / "log", exhaustive=True)
    (case,) = [case for case in found.found if case.text.problem_id == right.problem_id]
    assert case.text.ids == tuple(spoilt.ids)
    assert case.found.causal == position and case.found.verified
    (line,) = [x for x in lines(found, engine.tokenizer, {}) if x["problem_id"] == right.problem_id]
    assert line["position"] == line["causal"]["position"] == position
    assert line["causal"]["token_id"] == spoilt.ids[position] != line["causal"]["oracle_token_id"]
    assert spoilt.text.startswith(line["causal"]["before"]) or line["causal"]["before"] in spoilt.text
    whole = line["causal"]["before"] + line["causal"]["token"] + line["causal"]["after"]
    assert whole in engine.tokenizer.decode(spoilt.ids, skip_special=False)


def test_every_causal_token_holds_against_runs_from_the_prompt_on(engine: Engine, folder: Path, log: Path) -> None:
    """The oracle that takes over before the token is right, and one token later wrong, by another way of running it."""
    found = found_in(folder, engine, log)
    assert found.found and not found.unseen
    origin = Origin(folder)
    requests = {}
    for case in found.found:
        problem, causal = case.text.problem, case.found.causal
        assert causal is not None and case.found.verified
        assert causal in case.view.diverging
        for cut in (causal, causal + 1):
            options = {"c": 1, "k": math.inf, "trigger": f"at({cut})", "id": f"{problem.problem_id}@{cut}"}
            if cut < len(case.text.ids):
                requests[options["id"]] = problem, Request(prompt=problem.prompt, raw=problem.raw, **options)
    results = {result.request.id: result for result in engine.generate(request for _, request in requests.values())}
    verdicts = {name: origin.task.judge(results[name].text, problem).correct for name, (problem, _) in requests.items()}
    for case in found.found:
        name, causal = case.text.problem_id, case.found.causal
        assert verdicts[f"{name}@{causal}"] is True
        assert verdicts.get(f"{name}@{causal + 1}", False) is False


def test_bisection_and_the_exhaustive_search_agree_where_there_is_one_change(
    engine: Engine, folder: Path, log: Path
) -> None:
    """And the exhaustive one says where there are more."""
    quick, whole = (found_in(folder, engine, log, exhaustive=exhaustive) for exhaustive in (False, True))
    assert [case.text.problem_id for case in quick.found] == [case.text.problem_id for case in whole.found]
    for one, all_ in zip(quick.found, whole.found, strict=True):
        assert all_.found.exhaustive
        assert one.found.causal in all_.found.fatal
        if all_.found.monotone:
            assert one.found.causal == all_.found.causal == all_.found.first_fatal


def test_the_oracle_alone_counts_as_a_takeover_from_the_start(
    engine: Engine, folder: Path, tmp_path: Path, log: Path
) -> None:
    """Without its arm the same is found by takeovers, and the same texts are left out."""
    found = found_in(folder, engine, log)
    alone = record_runs(tmp_path / "alone", engine, [BASE], problems=12)
    same = found_in(alone, engine, tmp_path / "log-alone")
    assert [c.found for c in same.cases] == [c.found for c in found.cases]
    assert (tmp_path / "log-alone").read_text().count('"position": 0,') == len(found.cases)
    assert log.read_text().count('"position": 0,') == 0
    rows = Origin(folder).experiment.rows
    wrong = {name for name, row in rows[BASE.name].items() if row.outcome != "correct"}
    right = {name for name, row in rows[ORACLE.name].items() if row.outcome == "correct"}
    assert {case.text.problem_id for case in found.cases} == wrong
    assert {case.text.problem_id for case in found.found} == wrong & right


def test_the_summary_counts_what_the_lines_say(engine: Engine, folder: Path, log: Path) -> None:
    """A share over tokens where it should be over texts, or a median of another column."""
    found = found_in(folder, engine, log, exhaustive=True)
    rows = list(lines(found, engine.tokenizer, {}))
    data = plain_summary(found, 0.5)
    assert data["oracle_right"]["part"] == len(rows) == data["verified"]
    assert data["problems"] == 12 and data["base_wrong"] == len(found.cases)
    causal = data["kinds"]["causal token"]
    assert causal["tokens"] == len(rows)
    assert causal["entropy"][1] == pytest.approx(float(np.median([row["causal"]["entropy"] for row in rows])))
    assert causal["confident"]["value"] == pytest.approx(np.mean([row["causal"]["entropy"] < 0.5 for row in rows]))
    assert causal["sure"]["value"] == pytest.approx(np.mean([row["causal"]["probability"] > 0.9 for row in rows]))
    assert data["entropy_rank"]["1"]["part"] == sum(row["causal"]["entropy_rank"] == 1 for row in rows)
    assert data["kinds"]["every diverging token"]["tokens"] == sum(len(row["diverging"]) for row in rows)
    assert data["kinds"]["every token"]["tokens"] == sum(row["tokens"] for row in rows)
    assert data["causal_is_first_diverging"]["part"] == sum(row["position"] == row["diverging"][0] for row in rows)
    json.dumps(data)
    assert len([text_lines(table) for table in tables(found, 0.5)]) == 3


def test_a_search_over_nothing_says_so(engine: Engine, tmp_path: Path) -> None:
    """A base that solves everything leaves empty tables, not a division by zero."""
    swapped = [dataclasses.replace(ORACLE, c=0, k=0, trigger="never")]
    with Engine("arith-oracle", oracle="arith-oracle", max_batch=8) as strong:
        folder = record_runs(tmp_path / "run", strong, swapped, problems=2, levels=(1,))
        found = found_in(folder, strong, tmp_path / "log")
    assert found.cases == () and found.wrong == 0
    assert plain_summary(found, 0.5)["oracle_right"] == {"part": 0, "of": 0, "share": None, "low": 0.0, "high": 1.0}
    assert all(text_lines(table) for table in tables(found, 0.5))


def test_the_command_goes_on_and_writes_the_same_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is killed after any takeover ends in the same lines as what was never killed."""
    paths = {name: tmp_path / name for name in ("out.jsonl", "forks.log")}
    command = ["causal", str(folder), "--output-file", str(paths["out.jsonl"]), "--forks", str(paths["forks.log"])]
    assert main([*command, "--limit", "3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["looked_at"] == 3 and report["output"] == str(paths["out.jsonl"])
    whole, log = paths["out.jsonl"].read_bytes(), paths["forks.log"].read_bytes().splitlines(keepends=True)
    assert whole and all(json.loads(line)["config_hash"] == report["config_hash"] for line in whole.splitlines())
    assert main([*command[:4], "--forks", str(tmp_path / "all.log"), "--exhaustive"]) == 0
    paths["out.jsonl"].unlink()
    assert (
        main([*command[:4], "--forks", str(tmp_path / "all.log"), "--limit", "3"]) == 0
    )  # what else is known is aside
    assert paths["out.jsonl"].read_bytes() == whole
    for cut in (len(log) // 2,):
        paths["forks.log"].write_bytes(b"".join(log[:cut]) + b'{"arm": "c=0')
        paths["out.jsonl"].unlink()
        assert main([*command, "--limit", "3"]) == 0
        assert paths["out.jsonl"].read_bytes() == whole
    capsys.readouterr()
    assert main([*command, "--arm", GUIDED.name]) == 2
    assert "has consults: the first wrong token is looked for in the base's texts" in capsys.readouterr().err
    records = str(next(folder.glob("*.jsonl")))
    assert main(["causal", str(folder), "--output-file", records]) == 2
    assert "is a file of records that is read: name another one" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.log", "forks.log", "out.jsonl"]


def test_neighbours_are_the_tokens_around_with_their_own_signals(engine: Engine, folder: Path, log: Path) -> None:
    """The probability of a neighbour read at the causal token would make every token look unsure."""
    found = found_in(folder, engine, log)
    rows = list(lines(found, engine.tokenizer, {}))
    for case, row in zip(found.found, rows, strict=True):
        causal = row["causal"]
        near = [token["position"] for token in causal["neighbours"]]
        assert near == [
            p
            for p in range(row["position"] - 4, row["position"] + 5)
            if 0 <= p < row["tokens"] and p != row["position"]
        ]
        for token in (*causal["neighbours"], causal, row["first_diverging"]):
            place = token["position"]
            assert token["token_id"] == case.text.ids[place]
            assert token["entropy"] == float(case.view.columns["entropy"][place])
            assert token["probability"] == pytest.approx(math.exp(case.view.columns["logprob"][place]))
            assert token["diverges"] is (place in row["diverging"])
        assert row["first_diverging"]["position"] == row["diverging"][0]
    flat = list(csv_rows(rows))
    assert all(isinstance(value, (str, int, float, type(None))) for row in flat for value in row.values())
    assert [row["causal_token"] for row in flat] == [row["causal"]["token"] for row in rows]


def test_the_page_shows_every_text_with_its_tokens_marked(
    engine: Engine, folder: Path, tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mark on the token before or behind, or a text of a model that becomes a part of the page."""
    output, page = tmp_path / "out.jsonl", tmp_path / "page.html"
    command = ["causal", str(folder), "--output-file", str(output), "--forks", str(log)]
    assert main([*command, "--exhaustive", "--html", str(page), "--csv", str(tmp_path / "tokens.csv")]) == 0
    rows, content = list(read_records(output)), page.read_text()
    blocks = content.split('<div class="text" id="')[1:]
    assert [block.split('"')[0] for block in blocks] == [row["row_id"] for row in rows]
    for row, block in zip(rows, blocks, strict=True):
        marks = re.findall(r'<mark class="(\w+)" title="token (\d+):', block)
        assert [int(place) for _, place in marks] == row["diverging"]
        assert [int(place) for kind, place in marks if kind == "causal"] == [row["position"]]
        whole = html.unescape(re.sub("<[^>]*>", "", block.split("<pre>")[1].split("</pre>")[0]))
        assert row["causal"]["after"] in whole
    assert content.count("<img") == 3 and "http-equiv" in content and 'src="http' not in content
    with (tmp_path / "tokens.csv").open() as file:
        assert [line["row_id"] for line in csv.DictReader(file)] == [row["row_id"] for row in rows]
    some = rows[1]["problem_id"]
    assert main([*command, "--ids", some, "--json"]) == 0
    assert [row["problem_id"] for row in read_records(output)] == [some]
    capsys.readouterr()
    assert main([*command, "--ids", "nobody"]) == 2
    assert "--ids: the records have no problem 'nobody'" in capsys.readouterr().err


def test_runs_that_are_not_complete_are_refused(engine: Engine, folder: Path, tmp_path: Path) -> None:
    """A search over half of the problems would be read as one over all of them."""
    part = tmp_path / "run"
    part.mkdir()
    for file in folder.glob("*.jsonl"):
        kept = file.read_bytes().splitlines(keepends=True)
        (part / file.name).write_bytes(b"".join(kept[:-1]))
    with pytest.raises(DodonaError, match="1 of 12 runs of the arm 'c=0 seed=0' have no record yet"):
        found_in(part, engine, tmp_path / "log")
