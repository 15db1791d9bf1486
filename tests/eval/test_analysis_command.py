"""`dodona eval --trace` and `dodona analyze`: from a run to tables, pictures, a page and records with statistics."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sample_traces import noise, table, write
from sklearn.metrics import average_precision_score, roc_auc_score
from traced_runs import PROBLEMS, TRIGGER, write_runs

from dodona.cli import main
from dodona.engine.records import read_records
from dodona.engine.trace import read_metadata, read_traces
from dodona.engine.trace_store import recorded_runs
from dodona.eval.header import config_hash

FEW = ("--resamples", "100")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return write_runs(tmp_path_factory.mktemp("runs") / "r", "--attention-layer", "-1")


def analyzed(capsys, *arguments: object) -> dict:
    assert main(["analyze", *map(str, arguments), *FEW, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments: object) -> str:
    assert main(["analyze", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dodona: error: ") and "Traceback" not in error
    return error.strip().splitlines()[-1]


def records(folder: Path) -> list[dict]:
    found = [line for path in sorted(folder.glob("*.jsonl")) for line in read_records(path)]
    return [line for line in found if "header" not in line]


def test_eval_writes_a_trace_beside_each_file_of_records(runs):
    """A trace under another name, of other runs, or with tokens that are not the record's."""
    files = sorted(runs.glob("*.jsonl"))
    assert len(files) == 3
    assert sorted(path.name for path in runs.glob("*.trace.*")) == [f"{path.stem}.trace.parquet" for path in files]
    for path in files:
        by_run = {(line["arm"], line["problem_id"]): line for line in records_of(path)}
        assert len(by_run) == PROBLEMS
        traced = list(read_traces(path.with_name(f"{path.stem}.trace.parquet")))
        assert len(traced) == PROBLEMS
        for columns in traced:
            record = by_run.pop((columns["arm"][0], columns["problem_id"][0]))
            ids = [i for piece in record["interleaved_outputs"] for i in piece["token_ids"]]
            assert [int(i) for i in columns["token_id"]] == ids
            assert columns["prompt_tokens"][0] == record["prompt_tokens"]
            assert columns["trigger"][0] == record["trigger"] and columns["when"][0] == record["when"]
            starts = [int(p) for p in record["cheat_positions"]]
            consult = np.where(columns["source"] == "oracle", columns["consult"], -1)
            assert [
                p for p in range(len(ids)) if consult[p] >= 0 and (p == 0 or consult[p] != consult[p - 1])
            ] == starts
        header = next(read_records(path))["header"]
        metadata = read_metadata(path.with_name(f"{path.stem}.trace.parquet"))
        assert metadata["config_hash"] == header["config_hash"] == config_hash(json.loads(metadata["config"]))
        (arm,) = json.loads(metadata["arms"])
        assert arm["arm"] == record["arm"] and metadata["base_model_id"] == "arith-base"


def records_of(path: Path) -> list[dict]:
    return [line for line in read_records(path) if "header" not in line]


def test_the_table_is_scikit_learns_on_the_rows_of_the_traces(runs, capsys):
    """Rows, labels or directions that are not those of the documentation. The base alone has every context once."""
    (path,) = runs.glob("c=0*.trace.parquet")
    (study,) = analyzed(capsys, path)["studies"]
    rows = pq.read_table(path).to_pylist()
    assert all(row["source"] == "base" and row["agree"] is not None for row in rows), "--oracle-tail has all of them"
    assert study["tokens"] == study["rows"] == len(rows) and study["problems"] == PROBLEMS
    tables = {one["label"]: one for one in study["labels"]}
    assert list(tables) == ["differs", "differs_clear", "js"]
    wanted = {
        "differs": (rows, [not row["agree"] for row in rows]),
        "js": (rows, [row["js"] > 0.1 for row in rows]),
    }
    clear = [row for row in rows if row["margin"] >= 0.05 and row["oracle_margin"] >= 0.05]
    wanted["differs_clear"] = (clear, [not row["agree"] for row in clear])
    signs = {"entropy": 1, "margin": -1, "attn_entropy": 1, "agreement": 1, "position": 1, "logprob": -1}
    for label, (own, positive) in wanted.items():
        signals = {one["signal"]: one for one in tables[label]["signals"]}
        assert len(signals) == 11
        assert tables[label]["positives"] == sum(positive) > 5
        for name, sign in signs.items():
            scores = [sign * row[name] for row in own]
            assert signals[name]["auroc"]["value"] == pytest.approx(roc_auc_score(positive, scores))
            expected = average_precision_score(positive, scores)
            assert signals[name]["average_precision"]["value"] == pytest.approx(expected)
            assert signals[name]["auroc"]["low"] <= signals[name]["auroc"]["value"] <= signals[name]["auroc"]["high"]
        assert signals["position"]["auroc_over_control"] is None
        assert signals["entropy"]["auroc_over_control"]["low"] > 0.2
        assert set(signals["entropy"]["recall"]) == {"0.01", "0.02", "0.05", "0.1"}
    assert study["disagreement"]["differ"] == tables["differs"]["positives"]


def test_a_folder_pools_its_arms_and_counts_shared_contexts_once(runs, capsys):
    """The beginnings of texts, which all arms share, weighed by the number of arms."""
    (study,) = analyzed(capsys, runs)["studies"]
    assert len(study["arms"]) == 3 and study["runs"] == 3 * PROBLEMS
    contexts = set()
    for path in runs.glob("*.parquet"):
        for columns in read_traces(path):
            ids = [int(i) for i in columns["token_id"]]
            for position, source in enumerate(columns["source"]):
                if source == "base":
                    contexts.add((columns["problem_id"][0], *ids[:position]))
    assert study["rows"] == len(contexts) < study["tokens"]
    problem = study["problem_outcome"]
    by_arm = {line["arm"]: {} for line in records(runs)}
    for line in records(runs):
        by_arm[line["arm"]][line["problem_id"]] = line["correct"]
    base, oracle = (next(v for k, v in by_arm.items() if k.startswith(name)) for name in ("c=0", "c=inf"))
    assert problem["rows"] == PROBLEMS and problem["control"] == "length"
    assert problem["positives"] == sum(not base[name] and oracle[name] for name in base)


def test_one_arm_can_be_chosen(runs, capsys):
    """An arm's name that is taken for a pattern, or silently ignored."""
    (study,) = analyzed(capsys, runs, "--arm", "c=0 seed=0")["studies"]
    assert study["arms"] == ["c=0 seed=0"] and study["runs"] == PROBLEMS
    assert "no run is of the arm 'c=9'; there are 'c=0 seed=0'" in refused(capsys, runs, "--arm", "c=9")


def test_records_get_the_statistics_of_their_consults(runs, tmp_path, capsys):
    """Signals of another token, another run, or under other names than those of the first experiments."""
    out = tmp_path / "analysed.jsonl"
    analyzed(capsys, runs, "--output-file", out)
    lines = list(read_records(out))
    assert sum("header" in line for line in lines) == 3
    found = [line for line in lines if "header" not in line]
    assert len(found) == 3 * PROBLEMS
    before = {(line["arm"], line["problem_id"]): line for line in records(runs)}
    traces = {
        (columns["arm"][0], columns["problem_id"][0]): columns
        for path in runs.glob("*.parquet")
        for columns in read_traces(path)
    }
    names = ["position", "entropy", "varentropy", "top_prob", "prob_top2_diff", "attn_entropy", "attn_varentropy"]
    consults = 0
    for line in found:
        key = line["arm"], line["problem_id"]
        analysis, acc = line.pop("analysis_result"), line.pop("acc")
        assert line == before[key] and acc == int(line["correct"])
        assert [one["position"] for one in analysis] == line["cheat_positions"]
        for one in analysis:
            consults += 1
            assert list(one) == [*names, "agreement", "interaction_strength"]
            columns = traces[key]
            for name, column in zip(
                names[1:], ["entropy", "varentropy", "top_prob", "margin", *names[5:]], strict=True
            ):
                assert one[name] == pytest.approx(float(columns[column][one["position"]]))
            if line["trigger"] == TRIGGER:
                assert one["entropy"] > 0.3
    assert consults > PROBLEMS
    before_again = out.read_bytes()
    analyzed(capsys, runs, "--output-file", out)
    assert out.read_bytes() == before_again


def test_consults_without_a_trace_have_nulls(runs, tmp_path, capsys):
    """Signals of another run of the same problem."""
    guided = next(path for path in runs.glob("c=2*.jsonl"))
    changed = list(read_records(guided))
    changed[1]["interleaved_outputs"][0]["token_ids"][0] += 1
    copy = tmp_path / guided.name
    copy.write_text("".join(json.dumps(line) + "\n" for line in changed))
    trace = guided.with_name(f"{guided.stem}.trace.parquet")
    assert main(["analyze", str(copy), str(trace), *FEW, "--output-file", str(tmp_path / "out.jsonl")]) == 0
    assert "records with consults have no trace" in capsys.readouterr().err
    line = list(read_records(tmp_path / "out.jsonl"))[1]
    assert line["analysis_result"] and {one["entropy"] for one in line["analysis_result"]} == {None}
    assert line["analysis_result"][0]["position"] == line["cheat_positions"][0]


def test_generate_writes_records_and_a_trace_that_can_be_analysed(tmp_path, capsys):
    """Runs that are of no experiment: no arm, no problem, no header."""
    base = ["generate", "Work out 58 * 86.", "--device", "cpu", "--n", "3", "--temperature", "0.7", "--c", "2"]
    base += ["--k", "3", "--trigger", TRIGGER, "--oracle-tail"]
    assert main([*base, "--output-file", str(tmp_path / "r.jsonl"), "--trace", str(tmp_path / "t.parquet")]) == 0
    capsys.readouterr()
    report = analyzed(capsys, tmp_path / "r.jsonl", tmp_path / "t.parquet", "--output-file", tmp_path / "a.jsonl")
    (study,) = report["studies"]
    assert (study["runs"], study["problems"], study["config_hash"]) == (3, 3, None)
    for line in read_records(tmp_path / "a.jsonl"):
        assert line["acc"] is None and line["analysis_result"][0]["entropy"] > 0.3


def test_changes_of_the_outcome_are_a_label(runs, tmp_path, capsys):
    """A label at the wrong tokens, or positions that were not tried counted as no help."""
    (path,) = runs.glob("c=0*.trace.parquet")
    rng = np.random.default_rng(0)
    lines, scores, helps = [], [], []
    for columns in read_traces(path):
        for position in rng.choice(len(columns["entropy"]), 10, replace=False):
            change = int(rng.choice([-1, 0, 1]))
            lines.append({"problem_id": columns["problem_id"][0], "position": int(position), "change": change})
            scores.append(columns["entropy"][position])
            helps.append(change == 1)
    lines.append({"problem_id": "nowhere", "position": 0, "change": 1})
    file = tmp_path / "changes.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["analyze", str(path), "--changes", str(file), *FEW, "--json"]) == 0
    captured = capsys.readouterr()
    assert "1 lines of" in captured.err
    (study,) = json.loads(captured.out)["studies"]
    (table_,) = (one for one in study["labels"] if one["label"] == "helps")
    assert (table_["rows"], table_["positives"]) == (10 * PROBLEMS, sum(helps))
    (entropy,) = (one for one in table_["signals"] if one["signal"] == "entropy")
    assert entropy["auroc"]["value"] == pytest.approx(roc_auc_score(helps, scores))


def test_the_page_holds_everything_and_loads_nothing(runs, tmp_path, capsys):
    """A page that misses a table, reaches out, or runs what a record says."""
    page = tmp_path / "deep" / "page.html"
    args = ["analyze", str(runs), *FEW, "--html", str(page), "--plots", str(tmp_path / "plots"), "--csv"]
    assert main([*args, str(tmp_path / "csv")]) == 0
    output = capsys.readouterr()
    text = page.read_text()
    assert "default-src 'none'" in text and text.count("<table>") == 6
    assert not re.search(r"(src|href)=[\"'](?!data:|#)", text) and "://" not in text
    assert text.count("data:image/svg+xml;base64,") == 5
    few = f"{PROBLEMS} problems are few to draw from"
    for word in ("arith-base with arith-oracle", "confident mistakes", "differs_clear", "recoverable", few, "interval"):
        assert word in text and (word in output.out or word == "interval")
    assert output.err.count("written: ") == 13
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == sorted(
        f"{name}.{kind}" for name in ("auroc", "roc", "recall", "entropy", "map") for kind in ("png", "svg")
    )
    rows = list(csv.DictReader(io.StringIO((tmp_path / "csv" / "signals.csv").read_text())))
    assert len(rows) == 11 * 4 and {row["label"] for row in rows} == {"differs", "differs_clear", "js", "recoverable"}
    assert float(rows[0]["auroc_low"]) <= float(rows[0]["auroc"]) <= float(rows[0]["auroc_high"])
    before = page.read_bytes()
    assert main([*args[:4], "--html", str(page)]) == 0
    assert page.read_bytes() == before, "the same traces give the same page"


def test_names_in_a_trace_are_shown_and_not_obeyed(tmp_path, capsys):
    """A model's or an arm's name that is markup, or moves the cursor of a terminal."""
    evil = "<script>alert(1)</script>\x1b[2J"
    path = write(
        tmp_path / "t.parquet",
        noise(np.random.default_rng(0), 5, 30, arm=evil),
        {"base_model_id": evil, "config_hash": "1"},
    )
    assert main(["analyze", str(path), *FEW, "--html", str(tmp_path / "p.html")]) == 0
    assert "\x1b" not in capsys.readouterr().out
    text = (tmp_path / "p.html").read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text and "\x1b" not in text


def test_two_configurations_are_two_studies(tmp_path, capsys):
    """Other models' tokens in one table."""
    rng = np.random.default_rng(1)
    for number in range(2):
        metadata = {"base_model_id": "tiny", "oracle_model_id": "large", "config_hash": f"{number}"}
        write(tmp_path / f"{number}.parquet", noise(rng, 4, 20), metadata)
    report = analyzed(capsys, tmp_path)
    assert [study["title"] for study in report["studies"]] == [f"tiny with large, config {n}" for n in "01"]
    assert [study["problems"] for study in report["studies"]] == [4, 4]


def test_a_run_that_is_there_twice_counts_once(tmp_path, capsys):
    """A copy of a trace that halves every interval."""
    made = noise(np.random.default_rng(2), 6, 30)
    once = analyzed(capsys, write(tmp_path / "a" / "t.parquet", made))
    write(tmp_path / "a" / "copy.parquet", made)
    assert main(["analyze", str(tmp_path / "a"), *FEW, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == once
    assert "6 runs are in the traces more than once" in captured.err


def test_what_is_no_trace_is_passed_over_in_a_folder_and_refused_by_name(tmp_path, capsys):
    """One foreign file that spoils a folder, or is read."""
    pq.write_table(table(0, 3).replace_schema_metadata({}), tmp_path / "foreign.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    (tmp_path / "changes.jsonl").write_text('{"header": {"schema": "changes 1"}}\n{"problem_id": "p0"}\n')
    (tmp_path / "notes.jsonl").write_text("no JSON at all\n")
    write(tmp_path / "t.parquet", noise(np.random.default_rng(3), 3, 20))
    assert main(["analyze", str(tmp_path), *FEW]) == 0
    error = capsys.readouterr().err
    for name in ("foreign.parquet", "torn.parquet", "changes.jsonl", "notes.jsonl"):
        assert f"{name} is passed over" in error
    assert "holds no records of runs" in refused(capsys, tmp_path / "changes.jsonl")
    assert "no trace of dodona" in refused(capsys, tmp_path / "foreign.parquet")
    assert "cannot read the trace" in refused(capsys, tmp_path / "torn.parquet")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing"], "there is no file or folder"),
        (["empty"], "`dodona eval --trace` writes one beside the records"),
        (["t.parquet", "--output-file", "x.jsonl"], "--output-file needs records"),
        (["t.parquet", "--changes", "missing"], "cannot be read"),
        (["t.parquet", "--near-tie", "-1"], "must be a number of 0 or more"),
        (["t.parquet", "--js", "nan"], "must be a number of 0 or more"),
        (["t.parquet", "--resamples", "0"], "must be 1 or more"),
        (["t.parquet", "--seed", "-1"], "must be 0 or more"),
        (["t.parquet", "--csv", "t.parquet"], "cannot be written"),
        (["none.parquet"], "no run has left a token"),
    ],
)
def test_mistakes_are_one_line(arguments, words, tmp_path, capsys, monkeypatch):
    """A traceback for a user's mistake."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write(tmp_path / "t.parquet", noise(np.random.default_rng(4), 3, 20))
    write(tmp_path / "none.parquet", [])
    try:
        code = main(["analyze", *arguments])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and words in error and "Traceback" not in error


def test_a_file_that_is_read_is_not_written_over(runs, capsys):
    """Records that are gone, or their trace."""
    path = next(iter(runs.glob("c=0*.jsonl")))
    trace = next(iter(runs.glob("c=0*.parquet")))
    assert "is a file that is read" in refused(capsys, path, "--output-file", path)
    assert "is a file that is read" in refused(capsys, path, "--output-file", trace)
    for other in (*runs.glob("c=2*.jsonl"), *runs.glob("c=2*.parquet")):
        assert "holds records or a trace" in refused(capsys, path, trace, "--output-file", other)


def test_traces_without_labels_say_what_is_missing(tmp_path, capsys):
    """Tables of nothing without a word."""
    bare = [table(number, 30, entropy=np.linspace(0, 1, 30, dtype=np.float32)) for number in range(3)]
    path = write(tmp_path / "t.parquet", bare)
    assert main(["analyze", str(path), *FEW]) == 0
    output = capsys.readouterr().out
    assert "the oracle has not looked at 90 of 90 base tokens" in output and "--oracle-tail" in output


@pytest.mark.slow
def test_a_killed_run_is_read_and_its_successor_completes_the_trace(root, tmp_path, capsys):
    """Runs with a record and no rows, or rows twice, once the same command has gone on."""
    folder = tmp_path / "runs"
    command = ["eval", "--dataset", "arith", "--device", "cpu", "--num-samples", "30", "--max-batch", "2", "--trace"]
    command += ["--c", "0", "--output-dir", str(folder), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, "-m", "dodona", *command], env=environment, stdout=subprocess.DEVNULL, cwd=tmp_path
    ) as process:
        while process.poll() is None and sum(path.read_bytes().count(b"\n") for path in folder.glob("*.jsonl")) < 6:
            time.sleep(0.01)
        process.kill()
    (path,) = folder.glob("*.jsonl")
    kept = len(recorded_runs(path))
    assert 5 <= kept < 30
    assert main(["analyze", str(folder), *FEW, "--json"]) == 0
    captured = capsys.readouterr()
    assert kept <= json.loads(captured.out)["studies"][0]["runs"] <= kept + 1
    assert "of a run that has not ended, or was killed" in captured.err
    assert main(command) == 0
    capsys.readouterr()
    ids = [columns["problem_id"][0] for columns in read_traces(folder / f"{path.stem}.trace.parquet")]
    assert len(ids) == len(set(ids)) == 30
    assert not list(folder.glob("*.journal")) and not list(folder.glob("*.partial"))


def test_runs_without_a_trace_are_named_when_a_run_goes_on_with_one(tmp_path, capsys):
    """Half of the runs missing from every table without a word."""
    command = [
        "eval",
        "--dataset",
        "arith",
        "--device",
        "cpu",
        "--c",
        "0",
        "--output-file",
        str(tmp_path / "all.jsonl"),
    ]
    assert main([*command, "--num-samples", "3"]) == 0
    assert main([*command, "--num-samples", "5", "--trace"]) == 0
    assert "3 runs there have no trace, as they were made without --trace" in capsys.readouterr().err
    assert len(list(read_traces(tmp_path / "all.trace.parquet"))) == 2
