"""`dodona replay`: triggers, thresholds and budgets on recorded traces, what they hit and cost, and how exact it is."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from sample_traces import noise, recording, table, write
from traced_runs import PROBLEMS, TRIGGER, write_runs

from dodona.cli import main
from dodona.engine.engine import Engine
from dodona.engine.records import read_records
from dodona.engine.replay import Budget, Consults, Replayer
from dodona.engine.request import Request
from dodona.engine.trace import TraceWriter, read_traces
from dodona.eval.analysis.labels import Limits, labels
from dodona.eval.analysis.score import Scorer

FEW = ("--resamples", "100")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return write_runs(tmp_path_factory.mktemp("runs") / "r")


@pytest.fixture(scope="module")
def base(runs) -> Path:
    (path,) = runs.glob("c=0*.trace.parquet")
    return path


def replayed(capsys, *arguments: object) -> dict:
    assert main(["replay", *map(str, arguments), *FEW, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_runs_own_triggers_make_the_consults_that_happened_at_the_cost_of_the_ledger(runs, capsys):
    """A cost that no run has: the tail's look is all that the ledger counts beside the syncs of consults."""
    report = replayed(capsys, runs)
    (trial,) = report["trials"]
    lines = [line for path in runs.glob("*.jsonl") for line in read_records(path) if "header" not in line]
    tokens = sum(line["total_tokens_generated"] for line in lines)
    assert (trial["runs"], trial["tokens"]) == (len(lines), tokens) == (report["runs"], report["tokens"])
    assert trial["exact_runs"] == len(lines) and trial["exact_tokens"] == tokens
    assert trial["consults"] == trial["exact_consults"] == sum(len(line["cheat_positions"]) for line in lines)
    assert trial["burst_tokens"] == sum(line["ledger"]["burst_tokens"] for line in lines)
    assert trial["trigger"] is None and trial["c"] is None


def test_the_cost_is_the_ledgers_token_for_token(tmp_path, capsys):
    """Syncs that read a token twice or not at all; each text alone, as others would share their prompts with it."""
    engine = Engine(device="cpu")
    ledgers = []
    with TraceWriter(tmp_path / "t.parquet") as trace:
        for when in ("before", "after"):
            for c, k, cap in ((1, 1, None), (3, 4, None), (5, 7, 9), (math.inf, 1, None)):
                options = {"trigger": TRIGGER, "when": when, "c": c, "k": k, "max_oracle_tokens": cap}
                result = engine.generate(f"Work out {c} + 58 * 8{k}.", **options)
                trace.write(result)
                ledgers.append(result.ledger)
    report = replayed(capsys, tmp_path / "t.parquet")
    (trial,) = report["trials"]
    assert sum(ledger.consults for ledger in ledgers) == trial["consults"] > 15
    assert trial["sync_tokens"] == sum(ledger.sync_tokens for ledger in ledgers)
    assert trial["oracle_fed"] == sum(ledger.oracle_fed for ledger in ledgers)
    assert trial["exact_runs"] == trial["runs"] and trial["prompts_known"]


def test_thresholds_on_the_base_alone_count_hits_by_hand(base, capsys):
    """Hits of the wrong positions, or a recall over consults."""
    report = replayed(capsys, base, "--trigger", "entropy", "--threshold", "0.2,1")
    rows = [row for columns in read_traces(base) for row in zip(columns["entropy"], columns["agree"], strict=True)]
    assert [trial["trigger"] for trial in report["trials"]] == ["entropy > 0.2", "entropy > 1.0"]
    for trial in report["trials"]:
        fires = [agree for entropy, agree in rows if entropy > np.float32(trial["threshold"])]
        hits = sum(not agree for agree in fires)
        wrong = sum(not agree for _, agree in rows)
        assert (trial["c"], trial["k"], trial["consults"]) == ("inf", 1, len(fires))
        found = trial["labels"]["differs"]
        assert (found["labelled"], found["hits"], found["positives"]) == (len(fires), hits, wrong)
        assert found["precision"]["value"] == pytest.approx(hits / len(fires))
        assert found["recall"]["value"] == found["covered"]["value"] == pytest.approx(hits / wrong)
        assert trial["per_token"]["value"] == pytest.approx(len(fires) / len(rows))
        assert trial["per_token"]["low"] < trial["per_token"]["value"] < trial["per_token"]["high"]
        assert trial["exact_consults"] == 0 and 0 < trial["exact_tokens"] < len(rows)


def test_scores_of_made_up_consults_are_those_by_hand(tmp_path):
    """Positions inside a burst that count as missed or as hit, unknown labels, or a prompt that is read twice."""
    agree = np.array([1, 0, 0, 1, np.nan, 0, 1, 1, 0, 1])
    read = recording(
        tmp_path / "t.parquet",
        [table(0, 10, agree=agree, entropy=np.zeros(10, dtype=np.float32)), table(1, 4, agree=np.ones(4, dtype=bool))],
    )
    scorer = Scorer(read, {"differs": labels(read, Limits())["differs"]}, resamples=50, seed=0)
    found = scorer.score(Consults(np.array([1, 4, 9, 12]), np.array([2, 3, 1, 2]), np.array([0, 0, 0, 1])))
    (hits,) = found.hits
    assert (hits.labelled, hits.hits, hits.positives) == (3, 1, 4)
    assert hits.precision.value == 1 / 3 and hits.recall.value == 1 / 4 and hits.covered.value == 3 / 4
    # Sequence 0, prompt 7: reads 8 and 1 more of the burst; then to 11 from 9; then to 16 from 13. Sequence 1: reads 9.
    assert found.sync_tokens == (7 + 1) + (11 - 9) + (16 - 13) + (7 + 2)
    assert found.burst_tokens == 8 and found.oracle_fed == found.sync_tokens + 4
    assert found.per_token.value == 4 / 14 and found.per_run.value == 2
    assert (found.exact_runs, found.exact_tokens, found.exact_consults) == (0, 1 + 2, 0)


def test_budgets_are_a_grid(base, capsys):
    """A budget that is ignored, or that leaks into the next one."""
    report = replayed(
        capsys, base, "--trigger", "entropy > 0.2", "--c", "0,1,inf", "--k", "1,5", "--max-oracle-tokens", 6
    )
    found = {(trial["c"], trial["k"]): trial for trial in report["trials"]}
    assert list(found) == [(0, 1), (0, 5), (1, 1), (1, 5), ("inf", 1), ("inf", 5)]
    assert found[0, 5]["consults"] == 0
    assert found[1, 1]["consults"] == found[1, 5]["consults"] <= PROBLEMS
    assert found["inf", 5]["burst_tokens"] <= 6 * PROBLEMS < found["inf", 5]["tokens"]
    assert found["inf", 1]["burst_tokens"] == found["inf", 1]["consults"]
    assert found[0, 1]["labels"]["differs"]["precision"]["value"] is None


def test_a_replay_on_the_base_alone_foretells_a_guided_run_up_to_the_first_consult(runs, base, capsys):
    """What is flagged as exact and is not: the guided runs' first consults are known."""
    guided = next(path for path in runs.glob("c=2*.jsonl"))
    starts = {line["problem_id"]: line["cheat_positions"] for line in read_records(guided) if "header" not in line}
    report = replayed(capsys, base, "--trigger", TRIGGER, "--c", 2, "--k", 3)
    (trial,) = report["trials"]
    lengths = {columns["problem_id"][0]: len(columns["position"]) for columns in read_traces(base)}
    first = [starts[name][0] if starts[name] else length for name, length in lengths.items()]
    assert trial["exact_tokens"] == sum(first)
    assert trial["exact_runs"] == sum(not starts[name] for name in lengths)


def test_a_calibrated_threshold_is_shown_on_other_problems(base, capsys):
    """A rate on the problems where it was found, or a split that changes from call to call."""
    report = replayed(capsys, base, "--trigger", "margin", "--calibrate", "2%")
    (found,) = report["calibrations"]
    assert found["trigger"].startswith("margin < ") and found["target"] == 0.02 and found["per"] == "token"
    assert found["rate_where_found"] == pytest.approx(0.02, abs=0.002)
    assert found["problems_where_found"] == found["problems_held_out"] == PROBLEMS // 2
    assert found["rate_held_out"]["low"] <= found["rate_held_out"]["value"] <= found["rate_held_out"]["high"]
    assert found["held_out"]["runs"] == PROBLEMS // 2 and report["trials"] == []
    assert replayed(capsys, base, "--trigger", "margin", "--calibrate", "0.02") == report
    other = replayed(capsys, base, "--trigger", "margin", "--calibrate", "2%", "--seed", 5)
    assert other["calibrations"][0]["threshold"] != found["threshold"]
    each = replayed(capsys, base, "--trigger", "entropy > threshold", "--calibrate", 1, "--per", "problem", "--c", 3)
    assert each["calibrations"][0]["rate_where_found"] == pytest.approx(1, abs=0.1)


def test_a_fitted_trigger_is_a_text_that_decides_the_same(base, capsys):
    """A trigger that cannot be given to `dodona eval`, or that does something else there."""
    report = replayed(capsys, base, "--fit", "entropy,margin,ema(entropy, 0.9)", "--threshold=-1,0")
    fit, trials = report["fit"], report["trials"]
    assert fit["label"] == "differs" and fit["rows"] == report["tokens"]
    assert 0.5 < fit["cross_validated_auroc"]["low"] < fit["cross_validated_auroc"]["value"] <= 1
    assert set(fit["auroc_alone"]) == {"entropy", "margin", "ema(entropy, 0.9)"}
    assert [trial["trigger"] for trial in trials] == [f"{fit['expression']} > {t}" for t in ("-1.0", "0.0")]
    for trial in trials:
        Request(prompt="", trigger=trial["trigger"])
        again = replayed(capsys, base, "--trigger", trial["trigger"])["trials"][0]
        assert again | {"threshold": trial["threshold"]} == trial
    alone = replayed(capsys, base, "--fit", "entropy")
    assert alone["trials"][0]["trigger"].endswith("> 0.0")
    assert alone["fit"]["cross_validated_auroc"]["value"] == pytest.approx(
        alone["fit"]["auroc_alone"]["entropy"]["value"], abs=0.05
    )


def test_a_fit_and_its_threshold_come_from_the_same_half(base, capsys):
    """Held-out problems that the coefficients have seen."""
    report = replayed(capsys, base, "--fit", "entropy,margin", "--calibrate", "0.02", "--label", "js")
    (found,) = report["calibrations"]
    assert report["fit"]["label"] == "js" and report["fit"]["problems"] == found["problems_where_found"]
    assert report["fit"]["rows"] < report["tokens"]
    assert found["trigger"].startswith(report["fit"]["expression"])


def test_tables_for_people_and_csv(runs, base, tmp_path, capsys):
    """A column that is missing or means something else than its head."""
    args = ["replay", str(base), *FEW, "--trigger", "entropy", "--threshold", "0.2:0.6:0.2"]
    assert main([*args, "--csv", str(tmp_path / "r.csv")]) == 0
    output = capsys.readouterr()
    for word in ("entropy > 0.4 c=inf k=1", "exact tokens", "against differs_clear", "against js", "precision"):
        assert word in output.out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text())))
    assert [row["threshold"] for row in rows] == ["0.2", "0.4", "0.6"]
    assert [int(row["consults"]) for row in rows] == sorted((int(row["consults"]) for row in rows), reverse=True)
    assert float(rows[0]["differs_recall_low"]) <= float(rows[0]["differs_recall"])
    assert main(["replay", str(base), *FEW, "--trigger", "margin", "--calibrate", "1%"]) == 0
    output = capsys.readouterr()
    assert "asked for 1 % of the tokens" in output.out and "fitted" not in output.err
    assert main(["replay", str(runs), *FEW, "--arm", "c=0 seed=0", "--fit", "entropy,margin"]) == 0
    output = capsys.readouterr()
    assert "cross-validated over problems" in output.out and "problems that the trigger was fitted to" in output.err


def test_what_no_running_trigger_knows_is_called_a_bound(base, capsys):
    """A bound that is taken for a trigger."""
    assert main(["replay", str(base), *FEW, "--trigger", "js > 0.1", "--trigger", "logprob < -1"]) == 0
    error = capsys.readouterr().err
    assert "note: js > 0.1 uses js, which no running trigger knows: it is a bound" in error
    assert "logprob is of the token that is committed" in error


def test_an_oracles_bound_has_perfect_precision_and_recall(base, capsys):
    """Labels that are shifted against the positions of consults."""
    (trial,) = replayed(capsys, base, "--trigger", "not agree")["trials"]
    assert trial["labels"]["differs"]["precision"]["value"] == trial["labels"]["differs"]["recall"]["value"] == 1


def test_other_options_of_the_run_can_differ(base, capsys):
    """`--when after` that shifts nothing: the oracle then takes over a token later."""
    (before,) = replayed(capsys, base, "--trigger", "entropy > 0.3")["trials"]
    (after,) = replayed(capsys, base, "--trigger", "entropy > 0.3", "--when", "after")["trials"]
    assert before["consults"] >= after["consults"] > 0
    assert before["labels"]["differs"]["hits"] > after["labels"]["differs"]["hits"]
    assert before["sync_tokens"] != after["sync_tokens"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trigger", "entropi > 1"], "did you mean `entropy`?"),
        (["--trigger", "entropy"], None),
        (["--trigger", "entropy > threshold"], "give --threshold or --calibrate"),
        (["--trigger", "entropy > 2", "--threshold", "1"], "has no threshold to fill in"),
        (["--threshold", "1"], "--threshold needs a trigger"),
        (["--calibrate", "0.1"], "--calibrate needs a trigger"),
        (["--trigger", "entropy", "--calibrate", "0.1", "--threshold", "1"], "give one of them"),
        (["--trigger", "entropy", "--calibrate", "2"], "out of reach"),
        (["--trigger", "entropy", "--calibrate", "-1"], "must be a rate"),
        (["--trigger", "entropy", "--threshold", "1:2"], "START:STOP:STEP"),
        (["--fit", "entropy", "--trigger", "always"], "give one of them"),
        (["--fit", "entropy,boundary"], "number"),
        (["--fit", "since_consult"], "--fit takes signals"),
        (["--fit", "js"], "after the fact"),
        (["--fit", "attn_entropy"], "no values of attn_entropy"),
        (["--fit", "entropy", "--label", "helps"], "--label helps is not known on these traces"),
        (["--label", "js"], "--label belongs to --fit"),
        (["--per", "problem"], "--per belongs to --calibrate"),
        (["--trigger", "js > 0.1"], "no values of js"),
        (["--c", "-1", "--trigger", "always"], "0 or more"),
        (["--k", "x"], "whole number or inf"),
        (["--max-oracle-tokens", "-1"], "0 or more"),
    ],
)
def test_mistakes_are_one_line(arguments, words, tmp_path, capsys):
    """A traceback, or an option that is ignored."""
    path = write(tmp_path / "t.parquet", noise(np.random.default_rng(0), 4, 30))
    try:
        code = main(["replay", str(path), *FEW, *arguments])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    if words is None:
        assert code == 0
        return
    assert code == 2 and words in error and "Traceback" not in error


def test_one_problem_cannot_be_halved(tmp_path, capsys):
    """A threshold that is tried where it was found."""
    path = write(tmp_path / "t.parquet", noise(np.random.default_rng(0), 1, 30))
    assert main(["replay", str(path), "--trigger", "entropy", "--calibrate", "0.1"]) == 2
    assert "needs two problems or more" in capsys.readouterr().err


def test_a_million_tokens_and_many_thresholds_need_no_loop_over_tokens(tmp_path):
    """A replay whose work grows with consults x thresholds in Python: counted in calls, as no test looks at a clock."""
    rng = np.random.default_rng(1)
    read = recording(tmp_path / "t.parquet", noise(rng, 50, 400))
    calls = 0

    class Counting(Replayer):
        def fired(self, trigger):
            nonlocal calls
            calls += 1
            return super().fired(trigger)

    replayer = Counting(read, Budget(math.inf, 1))
    counts = [len(replayer.consults(f"entropy > {threshold}").start) for threshold in np.linspace(0, 3, 20)]
    assert calls == 20 and counts == sorted(counts, reverse=True) and counts[0] > 10_000
