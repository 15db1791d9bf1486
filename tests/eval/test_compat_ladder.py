"""The ladder of `--compat`: numbers worked out by hand, its labels, and that it touches no honest number."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_lines import Outcome
from sample_runs import BASE, SampleArm, header, problem, record, write_lines

from dodona.eval.compat.kept import moved
from dodona.eval.compat.switches import NOT_VALID, STRIP, variant_name
from dodona.eval.report.plots import draw
from dodona.eval.report.section import make_section
from dodona.eval.runs import read_runs
from dodona.eval.stats.intervals import wilson
from dodona.eval.stats.paired import Pairs, clustered_difference, mcnemar, tango

ARM, OTHER = SampleArm(5, 10), SampleArm(5, 20)
EVERYTHING = ["strip", "no-end", "drop-unparsed", "string-match"]


def variant(arm: SampleArm, index: int, switches: Sequence[str], outcome: str, **change: Any) -> dict[str, Any]:
    """A record as `dodona eval --compat` writes it."""
    own = {"arm": variant_name(arm.name, switches), "compat": list(switches), "note": NOT_VALID}
    return record(arm, problem(index), outcome, **change) | own


def asked(path: Path, arms: Sequence[SampleArm], count: int, lines: Sequence[Any], compat: Sequence[str]) -> Path:
    first = header(arms, [problem(index) for index in range(count)])
    first["header"]["compat"] = list(compat)
    return write_lines(path, [first, *lines])


def spread(outcomes: dict[str, int]) -> list[str]:
    return [outcome for outcome, times in outcomes.items() for _ in range(times)]


def ladder(path: Path, arm: SampleArm = ARM) -> dict[str, dict[str, Any]]:
    """The rungs of an arm by name, as the report's JSON has them."""
    (experiment,) = read_runs([path])
    found = make_section(experiment, "title").as_dict()["compat"]["ladders"]
    (one,) = [each for each in found if each["arm"] == arm.name]
    return {rung["counted"]: rung for rung in one["rungs"]}


# --- the published kind of table ---


def test_fifteen_of_a_hundred_were_once_printed_as_seventeen_percent(
    cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    """17.05 % was 15 of 88 and 22.67 % was 17 of 75, beside 15 of 100: that is what this table must be able to say."""
    base = spread({"correct": 15, "wrong": 73, "unparsed": 12})
    arm = spread({"correct": 17, "wrong": 58, "unparsed": 25})
    lines = [record(BASE, problem(i), base[i]) for i in range(100)]
    lines += [record(ARM, problem(i), arm[i]) for i in range(100)]
    path = asked(tmp_path / "r.jsonl", [BASE, ARM], 100, lines, ["drop-unparsed"])
    code, out, _ = cli("report", path)
    assert code == 0
    table = out[out.index(NOT_VALID) :]
    assert "17.05 % [" in table and "22.67 % [" in table and "15.00 % [" in table and "17.00 % [" in table
    rung = ladder(path, BASE)["+ drop-unparsed"]
    assert (rung["correct"], rung["n"], rung["dropped"]) == (15, 88, 12)
    assert (rung["low"], rung["high"]) == pytest.approx(wilson(15, 88))
    assert rung["difference"] == pytest.approx(15 / 88 - 0.15) and rung["p"] is None
    assert rung["difference_low"] < rung["difference"] < rung["difference_high"]
    honest = ladder(path, BASE)["honest"]
    assert (honest["correct"], honest["n"], honest["dropped"], honest["valid"]) == (15, 100, 0, True)


# --- every rung by hand ---


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Ten problems, of which each switch changes some: see the numbers in the test."""
    honest = spread({"correct": 5, "wrong": 2, "unparsed": 2, "truncated": 1})
    stripped = spread({"correct": 4, "wrong": 3, "unparsed": 3})
    both = spread({"correct": 3, "wrong": 4, "unparsed": 3})
    endless = spread({"correct": 2, "wrong": 7, "unparsed": 1})
    lines = []
    for i in range(10):
        spelled = {"parsed_answer": "4.0"} if i == 0 else {}  # equal to the gold answer, and spelled otherwise
        lines.append(record(ARM, problem(i), honest[i], **spelled))
        lines.append(variant(ARM, i, ["strip"], stripped[i], **spelled))
        lines.append(variant(ARM, i, ["strip", "no-end"], both[i], **spelled, finish_reason="length"))
        lines.append(variant(ARM, i, ["no-end"], endless[i], **spelled, finish_reason="length"))
    return asked(tmp_path / "r.jsonl", [ARM], 10, lines, EVERYTHING)


def test_every_rung_equals_what_is_worked_out_by_hand(whole: Path) -> None:
    """A switch that is counted twice, or from the wrong texts, gives a table that explains something else."""
    rungs = ladder(whole)
    expected = {  # right, n, dropped
        "honest": (5, 10, 0),
        "+ strip": (4, 10, 0),
        "+ no-end": (3, 10, 0),
        "+ drop-unparsed": (3, 7, 3),
        "+ string-match": (2, 7, 3),
        "strip alone": (4, 10, 0),
        "no-end alone": (2, 10, 0),
        "drop-unparsed alone": (5, 8, 2),  # the truncated one has an answer: it stays, and is wrong
        "string-match alone": (4, 10, 0),
    }
    assert {name: (r["correct"], r["n"], r["dropped"]) for name, r in rungs.items()} == expected
    assert list(rungs) == list(expected)
    for name, (right, n, _) in expected.items():
        assert rungs[name]["difference"] == pytest.approx(right / n - 0.5)
        assert rungs[name]["valid"] is (name == "honest")
    strip = rungs["strip alone"]
    pairs = Pairs(4, 1, 0, 5)
    assert (strip["difference_low"], strip["difference_high"]) == pytest.approx(tango(pairs))
    assert strip["p"] == mcnemar(1, 0).exact
    assert rungs["+ no-end"]["switches"] == ["strip", "no-end"] and rungs["+ no-end"]["added"]


def test_a_text_that_no_end_token_ended_counts_by_its_answer(whole: Path) -> None:
    """All of them reach the limit: were that a truncation as elsewhere, the switch would make every answer wrong."""
    (experiment,) = read_runs([whole])
    outcomes = [row.outcome for row in experiment.compat_rows[variant_name(ARM.name, ["no-end"])].values()]
    assert sorted(set(outcomes)) == ["correct", "unparsed", "wrong"]


def test_an_honest_number_is_the_same_with_and_without_variants(
    cli: Callable[..., Outcome], whole: Path, tmp_path: Path
) -> None:
    """Variants that slip into a table, a correlation, a group or a plot are what this is built to prevent."""
    lines = [json.loads(line) for line in whole.read_text().splitlines()]
    del lines[0]["header"]["compat"]
    alone = write_lines(tmp_path / "alone.jsonl", [line for line in lines if "compat" not in line])
    reports = [json.loads(cli("report", "--json", path)[1])["experiments"][0] for path in (whole, alone)]
    for report in reports:
        del report["files"]
    ladders = reports[0].pop("compat")
    (note,) = set(reports[0].pop("notes")) - set(reports[1].pop("notes"))
    assert "30 more records are compat: not a valid measure" in note
    assert reports[0] == reports[1]
    assert ladders["label"] == NOT_VALID and list(ladders["switches"]) == EVERYTHING


def test_variants_that_lag_behind_take_no_problem_from_the_honest_arms(
    cli: Callable[..., Outcome], whole: Path, tmp_path: Path
) -> None:
    """With --common, as while a grid runs: variants are written last, and would leave nothing to show."""
    lines = [json.loads(line) for line in whole.read_text().splitlines()]
    late = [line for line in lines if "compat" not in line or line["problem_id"] == "p0"]
    path = write_lines(tmp_path / "late.jsonl", late)
    (report,) = json.loads(cli("report", "--common", "--json", path)[1])["experiments"]
    assert report["problems"] == 10 and report["arms"][0]["n"] == 10


def test_a_switch_for_which_nothing_was_run_is_left_out(tmp_path: Path) -> None:
    """A line over no records would say 0 %, or that the switch changes nothing."""
    lines = [record(arm, problem(i), "correct" if i < 3 else "wrong") for arm in (ARM, OTHER, BASE) for i in range(6)]
    lines += [variant(ARM, i, ["no-end"], "wrong", finish_reason="length") for i in range(4)]
    path = asked(tmp_path / "r.jsonl", [ARM, OTHER, BASE], 6, lines, ["strip", "no-end", "string-match"])
    assert list(ladder(path)) == ["honest", "+ no-end", "+ string-match", "no-end alone", "string-match alone"]
    assert [rung["missing"] for rung in ladder(path).values()] == [0, 2, 2, 2, 0]
    assert list(ladder(path, OTHER)) == ["honest", "+ string-match", "string-match alone"]
    # The base alone hands nothing on: what strip does there is known without a run.
    assert ladder(path, BASE)["strip alone"]["difference"] == 0


def test_without_being_asked_for_there_is_no_ladder(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """An honest report must not bring up a way of counting that is no valid measure."""
    lines = [record(ARM, problem(i), "unparsed") for i in range(3)]
    path = write_lines(tmp_path / "r.jsonl", [header([ARM], [problem(i) for i in range(3)]), *lines])
    for options in ([], ["--json"], ["--csv", str(tmp_path / "csv")], ["--html", str(tmp_path / "r.html")]):
        code, out, err = cli("report", path, *options)
        assert code == 0 and "compat" not in out + err
    assert "compat" not in (tmp_path / "r.html").read_text()
    assert not (tmp_path / "csv" / "compat.csv").exists()


def test_all_dropped_is_no_score(tmp_path: Path) -> None:
    """Nothing of nothing must be neither a division by zero nor 0 %."""
    lines = [record(ARM, problem(i), "unparsed") for i in range(3)]
    path = asked(tmp_path / "r.jsonl", [ARM], 3, lines, ["drop-unparsed"])
    rung = ladder(path)["+ drop-unparsed"]
    assert (rung["accuracy"], rung["n"], rung["dropped"], rung["difference"]) == (None, 0, 3, None)
    (experiment,) = read_runs([path])
    assert draw(make_section(experiment, "t"))[-1].name == "compat-ladder"


# --- labels ---


def test_the_label_stands_wherever_something_of_it_is_shown(
    cli: Callable[..., Outcome], whole: Path, tmp_path: Path
) -> None:
    """A number that is copied from one of these places must not pass for a measurement."""
    code, out, _ = cli(
        *("report", whole, "--csv", tmp_path / "csv", "--html", tmp_path / "r.html", "--plots", tmp_path / "plots")
    )
    assert code == 0 and NOT_VALID in out
    page = (tmp_path / "r.html").read_text()
    assert f"<h3>{NOT_VALID}" in page and f'alt="{NOT_VALID}' in page
    rows = list(csv.DictReader((tmp_path / "csv" / "compat.csv").open()))
    assert {row["counted"]: row["label"] for row in rows}["honest"] == ""
    assert {row["label"] for row in rows if row["counted"] != "honest"} == {NOT_VALID}
    assert (tmp_path / "plots" / "compat-ladder.png").exists()
    (experiment,) = read_runs([whole])
    picture = draw(make_section(experiment, "title"))[-1]
    assert picture.title.startswith(NOT_VALID)
    assert all(NOT_VALID in arm.name for arm in experiment.compat_arms)
    assert len(experiment.compat_arms) == 3 and len(experiment.arms) == 1


def test_compare_refuses_to_take_a_variant_for_an_arm(cli: Callable[..., Outcome], whole: Path) -> None:
    """A paired test against texts that were mangled on purpose says nothing of the arms."""
    code, _, err = cli("compare", whole, "--arm-a", ARM.name, "--arm-b", variant_name(ARM.name, [STRIP]))
    assert code == 2 and "it is no valid measure" in err


def test_variants_alone_are_neither_compared_nor_shown_as_arms(
    cli: Callable[..., Outcome], whole: Path, tmp_path: Path
) -> None:
    """A file of them, taken out of its folder, still says what it is."""
    lines = [json.loads(line) for line in whole.read_text().splitlines()]
    alone = write_lines(tmp_path / "variants.jsonl", [line for line in lines if "header" in line or "compat" in line])
    code, _, err = cli("compare", whole, alone)
    assert code == 2 and f"{NOT_VALID}, and are not compared" in err
    code, out, _ = cli("report", alone)
    assert code == 0 and "30 more records are compat: not a valid measure" in out and "which are not here" in out
    assert "%" not in out[: out.index("Accuracy")] and " 0 records" in out


# --- the interval where runs are dropped ---


def test_with_nothing_dropped_the_interval_is_that_of_differences() -> None:
    """The two must meet, or a single dropped run makes a jump."""
    draw = random.Random(0)
    honest = [draw.random() < 0.5 for _ in range(80)]
    right = [draw.random() < 0.6 for _ in range(80)]
    difference, interval = moved(honest, right, [True] * 80)
    plain = [int(b) - int(a) for a, b in zip(honest, right, strict=True)]
    assert difference == pytest.approx(sum(plain) / 80)
    assert interval == pytest.approx(clustered_difference(plain))


def test_the_interval_holds_what_other_problems_would_have_given() -> None:
    """Against the bootstrap over problems, which knows nothing of linearisation."""
    draw = np.random.default_rng(0)
    honest = draw.random(400) < 0.4
    right = np.where(draw.random(400) < 0.9, honest, ~honest)
    kept = (draw.random(400) < 0.8) | right
    difference, interval = moved(list(honest), list(right), list(kept))
    chosen = draw.integers(0, 400, (4000, 400))
    rates = (right & kept)[chosen].sum(1) / kept[chosen].sum(1) - honest[chosen].mean(1)
    low, high = np.quantile(rates, [0.025, 0.975])
    assert difference == pytest.approx((right & kept).sum() / kept.sum() - honest.mean())
    assert interval.low == pytest.approx(low, abs=0.006) and interval.high == pytest.approx(high, abs=0.006)


def test_the_interval_never_has_zero_width_or_leaves_its_range() -> None:
    """Three of three right in both counts is no proof that nothing moves."""
    for honest, right, kept in [
        ([True] * 3, [True] * 3, [True] * 3),
        ([False] * 5, [False] * 5, [True, True, False, False, False]),
        ([True] * 20, [False] * 20, [True] + [False] * 19),
    ]:
        difference, (low, high) = moved(honest, right, kept)
        assert -1 <= low < high <= 1 and -1 <= difference <= 1
    assert math.isnan(moved([True, False], [True, False], [False, False]).difference)
    assert moved([], [], []).interval == (-1, 1)
    with pytest.raises(ValueError, match="problems"):
        moved([True], [True, False], [True])
