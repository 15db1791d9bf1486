"""`dodona report`: what the tables, the JSON and the CSV files say of record files."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from command_lines import Outcome
from sample_runs import BASE, ORACLE, SampleArm, grid, header, problem, record, rising, write_lines, write_runs

from dodona.eval.report.contrast import contrast
from dodona.eval.report.official import official_scores
from dodona.eval.report.section import Section, make_section
from dodona.eval.report.table import engineering, plain
from dodona.eval.report.tables import section_tables
from dodona.eval.rows import row_of
from dodona.eval.runs import read_runs
from dodona.eval.stats.intervals import clustered, wilson
from dodona.eval.stats.paired import Pairs, mcnemar, tango

ARM = SampleArm(5, 10)


def report(cli: Callable[..., Outcome], *arguments: str | Path) -> dict[str, Any]:
    """The JSON of one experiment, its lines by name."""
    code, out, err = cli("report", "--json", *arguments)
    assert code == 0, err
    (experiment,) = json.loads(out)["experiments"]
    experiment["by_name"] = {line["arm"]: line for line in experiment["arms"]}
    return experiment


def section(path: Path) -> Section:
    (experiment,) = read_runs([path])
    return make_section(experiment, experiment.title)


def cells(section: Section, title: str, **options: Any) -> dict[str, dict[str, str]]:
    """A table as text by line and head."""
    (table,) = [table for table in section_tables(section, **options) if table.title == title]
    heads = [head.text for head in table.heads]
    return {row[0].text: dict(zip(heads, [cell.text for cell in row], strict=True)) for row in table.rows}


# --- accuracy ---


def test_the_denominator_is_every_problem_asked_for(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """15 right of the 88 that parsed was once reported for 15 of 100; a run without a record left the table, too."""
    kinds = ["correct"] * 3 + ["wrong", "unparsed", "truncated", "failed"] + [None] * 3
    path = write_runs(tmp_path / "a.jsonl", [BASE, ARM], 10, lambda arm, index: kinds[index] if arm == ARM else "wrong")
    line = report(cli, path)["by_name"][ARM.name]
    assert (line["correct"], line["n"], line["accuracy"]) == (3, 10, 0.3)
    assert (line["low"], line["high"]) == pytest.approx(wilson(3, 10))
    assert line["interval"] == "wilson"
    assert [line[name] for name in ("wrong", "unparsed", "truncated", "failed", "missing")] == [1, 1, 1, 1, 3]
    shown = cells(section(path), "Accuracy")[ARM.name]
    assert shown["accuracy [95 %]"] == "30.0 % [10.8, 60.3]" and shown["missing"] == "3" and shown["n"] == "10"
    assert "3 of 20 runs have no record; they count as wrong" in cli("report", path)[1]


def test_a_file_an_arm_has_the_denominator_of_all_problems(tmp_path: Path) -> None:
    """An arm that was asked only 4 of the 10 problems is 6 short, and not better for it."""
    problems = [problem(index) for index in range(10)]
    write_lines(tmp_path / "a.jsonl", [header([BASE], problems), *(record(BASE, asked) for asked in problems)])
    write_lines(tmp_path / "b.jsonl", [header([ARM], problems[:4]), *(record(ARM, asked) for asked in problems[:4])])
    shown = cells(section(tmp_path), "Accuracy")[ARM.name]
    assert (shown["right"], shown["n"], shown["missing"]) == ("4", "10", "6")


def test_common_compares_a_grid_that_still_runs(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Half of the arm that came last is missing; on request both are seen where both have records, and it is said."""
    path = write_runs(tmp_path / "a.jsonl", [BASE, ARM], 10, lambda arm, i: "correct" if arm == BASE or i < 4 else None)
    line = report(cli, path, "--common")["by_name"][ARM.name]
    assert (line["correct"], line["n"], line["missing"]) == (4, 4, 0)
    assert "only the 4 of 10 problems that every arm has a record of" in cli("report", path, "--common")[1]


def test_seeds_are_shown_alone_and_pooled_with_a_clustered_interval(
    cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Wilson's interval over 3 x 40 runs that say the same thing three times is too narrow by the root of three."""
    arms = [BASE, *(SampleArm(5, 10, seed=seed) for seed in range(3))]
    path = write_runs(tmp_path / "a.jsonl", arms, 40, lambda arm, index: "correct" if index % 4 == 0 else "wrong")
    found = report(cli, path)
    pooled = found["by_name"]["c=5 k=10 random before [3 seeds]"]
    assert pooled["seeds"] == [0, 1, 2] and (pooled["correct"], pooled["n"]) == (30, 120)
    assert (pooled["low"], pooled["high"]) == pytest.approx(clustered([3, 0, 0, 0] * 10, 3))
    assert pooled["interval"] == "clustered" and pooled["high"] - pooled["low"] > 0.2
    names = [line["arm"] for line in found["arms"]]
    assert names == [BASE.name, *(arm.name for arm in arms[1:]), pooled["arm"]]
    assert pooled["levels"]["1"]["n"] == 3 * 14


def test_levels_and_subjects_add_up(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """A level whose problems have no record must not look easy, and none may be counted twice or lost."""
    path = write_runs(tmp_path / "a.jsonl", grid(), 30, rising)
    found = report(cli, path)
    for line in found["arms"]:
        for kind, names in (("levels", ["1", "2", "3"]), ("subjects", ["algebra", "geometry"])):
            groups = line[kind]
            assert list(groups) == names
            assert sum(group["n"] for group in groups.values()) == line["n"] == 30
            assert sum(group["correct"] for group in groups.values()) == line["correct"]
            for group in groups.values():
                assert (group["low"], group["high"]) == pytest.approx(wilson(group["correct"], group["n"]))
    assert cells(section(path), "Accuracy by level")[BASE.name]["level 2 (n=10)"].endswith("]")


def test_levels_of_any_kind_have_an_order(tmp_path: Path) -> None:
    """MATH says "Level 5", arith 5, and some data sets nothing: sorting them together is a TypeError."""
    levels: list[Any] = ["Level 2", 10, None, 2, "Level 1"]
    problems = [{"problem_id": f"p{i}", "level": level, "subject": None} for i, level in enumerate(levels)]
    write_lines(tmp_path / "a.jsonl", [header([BASE], problems), *(record(BASE, asked) for asked in problems)])
    found = section(tmp_path)
    assert list(found.lines[0].summary.levels) == [2, 10, "Level 1", "Level 2", None]
    assert "level (none) (n=1)" in cells(found, "Accuracy by level")[BASE.name]
    assert not [table for table in section_tables(found) if table.title == "Accuracy by subject"]


def test_many_subjects_get_a_line_each(tmp_path: Path) -> None:
    """Twenty columns of intervals fit no terminal."""
    problems = [{"problem_id": f"p{i}", "level": 1, "subject": f"subject {i % 20:02}"} for i in range(40)]
    write_lines(tmp_path / "a.jsonl", [header([BASE], problems), *(record(BASE, asked) for asked in problems)])
    (table,) = [table for table in section_tables(section(tmp_path)) if table.title == "Accuracy by subject"]
    assert len(table.rows) == 20 and [cell.text for cell in table.rows[3]][1::2] == ["subject 03", "2"]


# --- cost ---


def test_costs_are_means_over_the_runs_that_did_not_fail(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """A run that failed at once costs nothing, and would make its arm look cheap."""
    kinds = ["correct", "wrong", "failed", None]
    path = write_runs(tmp_path / "a.jsonl", [ARM], 4, lambda arm, index: kinds[index])
    line = report(cli, path)["by_name"][ARM.name]
    assert (line["consults"], line["budget_share"], line["tokens"]) == (2, 2 / 5, 30)
    assert line["oracle_share"] == pytest.approx(20 / 30)
    assert (line["base_forwards"], line["oracle_forwards"]) == (31, 20)
    assert (line["base_fed"], line["oracle_fed"]) == (12 + 10 + 20, 20 + 18)
    assert (line["flops"], line["base_flops"], line["oracle_flops"]) == (7e6, 1e6, 6e6)
    assert line["ms"] == 2 + 5
    shown = cells(section(path), "What the oracle did, and what a run cost")[ARM.name]
    assert (shown["consults"], shown["of budget"], shown["oracle tokens"]) == ("2.00", "40.0 %", "66.7 %")
    assert (shown["FLOP"], shown["ms"]) == ("7.00 M", "7.0")
    run = record(ARM, problem(0))
    run["ledger"]["shared_flops"] = 5e5  # which count as if it had read its prompt alone
    assert row_of(run).cost.flops == 7.5e6


def test_what_has_no_value_is_said_so(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """A share of an infinite budget, and the cost of an arm without a run, are not 0; NaN is not JSON."""
    path = write_runs(tmp_path / "a.jsonl", [BASE, ARM, ORACLE], 2, lambda arm, i: None if arm == ARM else "wrong")
    code, out, _ = cli("report", "--json", path)
    found = {line["arm"]: line for line in json.loads(out, parse_constant=pytest.fail)["experiments"][0]["arms"]}
    assert code == 0 and found[ORACLE.name]["c"] == "inf"
    assert found[ORACLE.name]["budget_share"] is None and found[BASE.name]["budget_share"] is None
    assert found[ARM.name]["tokens"] is None and found[ARM.name]["flops"] is None
    shown = cells(section(path), "What the oracle did, and what a run cost")
    assert shown[ARM.name]["tokens"] == shown[ORACLE.name]["of budget"] == "-"


# --- against the base ---


def test_each_arm_is_paired_with_the_base(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """17 against 15 of 100 is no effect: the flips decide, and not the two rates."""
    path = write_runs(tmp_path / "a.jsonl", grid(), 60, rising)
    (experiment,) = read_runs([path])
    solved = {
        arm: [rows[asked.problem_id].outcome == "correct" for asked in experiment.problems]
        for arm, rows in experiment.rows.items()
    }
    found = report(cli, path)
    assert found["base"] == BASE.name and found["oracle"] == ORACLE.name
    assert found["by_name"][BASE.name]["against_base"] is None
    for name, right in solved.items():
        if name == BASE.name:
            continue
        table = [sum((a, b) == cell for a, b in zip(solved[BASE.name], right, strict=True)) for cell in
                 ((True, True), (True, False), (False, True), (False, False))]  # fmt: skip
        pairs = Pairs(*table)
        against = found["by_name"][name]["against_base"]
        assert [against[key] for key in ("both", "only_a", "only_b", "neither")] == table
        assert against["difference"] == pytest.approx((sum(right) - sum(solved[BASE.name])) / 60)
        assert (against["low"], against["high"]) == pytest.approx(tango(pairs))
        assert (against["p"], against["mid_p"]) == pytest.approx(mcnemar(pairs.only_a, pairs.only_b))


def test_arms_are_paired_with_the_base_of_their_seed(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """With common random numbers seed 1 of an arm belongs to seed 1 of the base; a seed without one takes the first."""
    arms = [SampleArm(0, 0, "never", seed=seed) for seed in (0, 1)] + [SampleArm(5, 10, seed=s) for s in (0, 1, 2)]
    path = write_runs(tmp_path / "a.jsonl", arms, 10, lambda arm, index: "correct" if index < arm.seed * 3 else "wrong")
    found = report(cli, path)["by_name"]
    by_seed = [found[f"c=5 k=10 random before seed={seed}"]["against_base"] for seed in (0, 1, 2)]
    assert [against["difference"] for against in by_seed] == [0, 0, 0.6]
    pooled = found["c=5 k=10 random before [3 seeds]"]["against_base"]
    assert pooled["difference"] == pytest.approx(0.3 - 0.15) and pooled["mid_p"] is None


def test_holms_correction_counts_each_guided_arm_once(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Three seeds of an arm are one test and the oracle alone is none; with too few tests it corrects too little."""
    arms = [BASE, ORACLE, *(SampleArm(5, 10, seed=seed) for seed in range(3)), SampleArm(1, 1), SampleArm(2, 1)]
    path = write_runs(tmp_path / "a.jsonl", arms, 40, rising)
    found = report(cli, path)["by_name"]
    corrected = {name: line["against_base"]["p_holm"] for name, line in found.items() if line["against_base"]}
    tested = ["c=5 k=10 random before [3 seeds]", SampleArm(1, 1).name, SampleArm(2, 1).name]
    assert [name for name, p in corrected.items() if p is not None] == sorted(tested, key=list(corrected).index)
    smallest = min(found[name]["against_base"]["p"] for name in tested)
    assert min(corrected[name] for name in tested) == pytest.approx(min(1, 3 * smallest))
    assert "p (Holm)" not in cli("report", path)[1]
    assert "p (Holm)" in cli("report", path, "--holm")[1]


def test_without_the_base_there_is_no_difference(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """The first arm must not silently take the base's place."""
    path = write_runs(tmp_path / "a.jsonl", [ARM, ORACLE], 5, rising)
    assert all(line["against_base"] is None for line in report(cli, path)["arms"])
    out = cli("report", path)[1]
    assert "Against the base alone" not in out and "no arm is the base alone (c=0)" in out


def test_a_contrast_of_several_seeds_counts_problems(tmp_path: Path) -> None:
    """Ten seeds of one problem are one problem."""
    found = contrast([0, 1, 2, 2, 0], [2, 1, 2, 0, 0], 2, 2)
    assert found.pairs == Pairs(both=2, only_a=1, only_b=1, neither=1) and found.n == 5
    assert found.difference == 0 and found.p == 1 and math.isnan(found.mid_p)
    with pytest.raises(ValueError):
        contrast([1], [1, 0])


# --- correlations ---


def test_correlations_equal_scipys_over_the_runs_they_name(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """The base belongs to c and not to k, the oracle alone to neither: each slip moves rho."""
    path = write_runs(tmp_path / "a.jsonl", grid(), 80, rising)
    (experiment,) = read_runs([path])
    found = {(line["variable"], line["over"]): line for line in report(cli, path)["correlations"]}

    def expected(variable: str, keep: Callable[[Any], bool]) -> float:
        values, right = [], []
        for arm in experiment.arms:
            if keep(arm):
                rows = experiment.rows[arm.name]
                values += [getattr(arm, variable)] * 80
                right += [rows[asked.problem_id].outcome == "correct" for asked in experiment.problems]
        return float(scipy.stats.spearmanr(values, right).statistic)

    random = "random before"
    for key, keep in {
        ("c", random): lambda arm: arm.c == 0 or arm.trigger == "random",
        ("c", f"{random}, k=5"): lambda arm: arm.c == 0 or (arm.trigger == "random" and arm.k == 5),
        ("k", random): lambda arm: arm.trigger == "random",
        ("k", f"{random}, c=2"): lambda arm: arm.trigger == "random" and arm.c == 2,
        ("c", "all triggers"): lambda arm: not arm.oracle_alone,
        ("k", "all triggers"): lambda arm: not arm.oracle_alone and arm.c > 0,
    }.items():
        assert found[key]["rho"] == pytest.approx(expected(key[0], keep), abs=1e-12)
        assert found[key]["low"] < found[key]["rho"] < found[key]["high"]
    assert report(cli, path)["correlations"] == list(found.values())


def test_a_correlation_that_is_undefined_is_not_shown_as_zero(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """All runs right says nothing about c; and without two values of k there is no line for k."""
    path = write_runs(tmp_path / "a.jsonl", [BASE, SampleArm(1, 5), SampleArm(2, 5)], 9, lambda arm, i: "correct")
    (line,) = report(cli, path)["correlations"]
    assert (line["variable"], line["rho"], line["low"], line["arms"]) == ("c", None, None, 3)
    shown = cells(section(path), "Correlation of c and of k with the score")["c: random before"]
    assert shown["rho [95 %]"] == "-"


# --- the rest of the command ---


def test_reasons_of_errors_are_listed(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """A hundred runs that failed for one reason are one line, the most frequent first."""
    reasons = ["too long"] * 2 + ["NaN logits"] * 3
    lines = [record(ARM, problem(i), "failed", error=reason) for i, reason in enumerate(reasons)]
    lines.append(record(ARM, problem(5), "failed", error=None, finish_reason="cancelled"))
    path = write_lines(tmp_path / "a.jsonl", [header([ARM], [problem(i) for i in range(6)]), *lines])
    assert list(report(cli, path)["errors"].items()) == [("NaN logits", 3), ("too long", 2), ("cancelled", 1)]
    assert "Errors by reason" in cli("report", path)[1]


def test_several_experiments_are_sections(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Of each its own table, with what they differ in for a title."""
    write_runs(tmp_path / "a.jsonl", [BASE], 3, rising)
    write_runs(tmp_path / "b.jsonl", [BASE], 4, rising, dtype="bfloat16")
    code, out, _ = cli("report", tmp_path)
    assert code == 0
    assert "arith: arith-base with arith-oracle, dtype=float32\n===" in out
    assert "arith: arith-base with arith-oracle, dtype=bfloat16\n===" in out
    assert out.endswith("\n") and not out.endswith("\n\n")


def test_csv_holds_plain_values(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """One value a cell: an interval in brackets cannot be plotted."""
    path = write_runs(tmp_path / "a.jsonl", grid(), 12, rising)
    code, out, err = cli("report", path, "--csv", tmp_path / "out" / "arms.csv")
    assert code == 0 and f"written: {tmp_path / 'out' / 'arms.csv'}" in err and "Accuracy" in out
    with open(tmp_path / "out" / "arms.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["arm"] for line in lines] == [line["arm"] for line in report(cli, path)["arms"]]
    guided = lines[4]
    assert float(guided["low"]) < float(guided["accuracy"]) < float(guided["high"])
    assert float(guided["against_base_p_holm"]) >= float(guided["against_base_p"])
    assert lines[0]["against_base_p"] == "" and lines[-1]["c"] == "inf" and guided["dataset"] == "arith"
    cli("report", path, "--csv", tmp_path / "folder")
    names = {file.name for file in (tmp_path / "folder").iterdir()}
    assert names == {"arms.csv", "groups.csv", "correlations.csv", "errors.csv"}
    assert (tmp_path / "folder" / "arms.csv").read_bytes() == (tmp_path / "out" / "arms.csv").read_bytes()
    with open(tmp_path / "folder" / "groups.csv", newline="") as file:
        assert sum(int(line["n"]) for line in csv.DictReader(file) if line["kind"] == "level") == 12 * len(lines)


def test_json_is_the_only_thing_on_standard_output(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """`dodona report --json ... | jq` fails on a note in between."""
    write_runs(tmp_path / "a.jsonl", [BASE, ARM], 3, lambda arm, index: None if index else "wrong")
    (tmp_path / "other.jsonl").write_text("{}\n")
    code, out, err = cli("report", tmp_path, "--json", "--csv", tmp_path / "x.csv")
    assert code == 0 and json.loads(out)["bootstrap"] == {"resamples": 2000, "seed": 0}
    assert "other.jsonl is passed over" in err and "written" in err
    assert json.loads(out)["experiments"][0]["notes"] == ["4 of 6 runs have no record; they count as wrong"]


def test_the_same_records_give_the_same_report(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """A bootstrap without a seed gives other intervals each time."""
    path = write_runs(tmp_path / "a.jsonl", grid(), 25, rising)
    assert cli("report", path, "--json") == cli("report", path, "--json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report"], "the following arguments are required: PATH"),
        (["report", "nothing.jsonl"], "there is no file or folder nothing.jsonl"),
        (["report", "a.jsonl", "--csv", "a.jsonl/x.csv"], "a.jsonl/x.csv cannot be written"),
        (["report", "a.jsonl", "--html", "."], ". cannot be written"),
        (["report", "a.jsonl", "--plots", "a.jsonl"], "cannot be written"),
        (["report", "a.jsonl", "--plot", "x"], "unknown option --plot; did you mean --plots?"),
    ],
)
def test_a_mistake_is_one_clear_line(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    """A traceback hides what was wrong."""
    monkeypatch.chdir(tmp_path)
    write_runs(tmp_path / "a.jsonl", [BASE, ARM], 2, rising)
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("dodona: error: ") and message in err and err.count("\n") == 1


def test_texts_from_records_cannot_move_the_cursor(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """An error message with an escape sequence would clear the screen."""
    reason = "bad \x1b[2J token\nsecond line \ud800"
    lines = [header([ARM], [problem(0)]), record(ARM, problem(0), "failed", error=reason)]
    out = cli("report", write_lines(tmp_path / "a.jsonl", lines))[1]
    assert "\x1b" not in out and "bad \\x1b[2J token\\nsecond line \\ud800" in out
    assert plain("plain ∞ text") == "plain ∞ text"


def test_the_report_does_not_load_torch(root: Path, tmp_path: Path) -> None:
    """Reading a table must not take as long as loading a model."""
    write_runs(tmp_path / "a.jsonl", grid(), 5, rising)
    code = (
        "import sys\nfrom dodona.cli import main\n"
        f"assert main(['report', {str(tmp_path)!r}]) == 0\n"
        "assert not {'torch', 'transformers', 'matplotlib', 'scipy', 'pandas'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# --- published scores ---


@pytest.mark.parametrize(
    ("dataset", "base", "oracle", "expected"),
    [
        ("math", "meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.1-8B-Instruct", [30.6, 51.9]),
        ("math-500", "1B", "70B", [30.6, 68.0]),
        ("gpqa", "3B", "405B", [32.8, 51.1]),
        ("gpqa-shuffle-3", "models/Meta-Llama-3.1-8B-Instruct", None, [32.8]),
        ("Llama-3.2-1B-Instruct-evals__math__details", "1B", None, [30.6]),
        ("math", "1B@drop=3", "meta-llama/Llama-3.3-70B-Instruct", []),
        ("math", "unsloth/Llama-3.2-1B-Instruct-bnb-4bit", "meta-llama/Llama-3.2-1B", []),
        ("gpqa-diamond", "1B", "8B", []),
        ("gsm8k", "1B", "8B", []),
        ("metamathqa", "1B", "8B", []),
        ("arith", "arith-base", "arith-oracle", []),
    ],
)
def test_published_scores_are_those_of_the_same_models_and_problems(
    dataset: str, base: str, oracle: str | None, expected: list[float]
) -> None:
    """A line at another model's score would be read as a result that cannot be reproduced."""
    config = {"dataset": dataset, "base_model_id": base, "oracle_model_id": oracle}
    assert [100 * score.accuracy for score in official_scores(config)] == pytest.approx(expected)


def test_large_numbers_are_short() -> None:
    """A FLOP count of fifteen digits cannot be read; 999.9 M is not 1e+03 M."""
    values = [0, 0.5, 12, 999.4, 1234, 999_960_000, 2.5e9, 3.21e12, 7e15]
    shown = ["0.00", "0.500", "12.0", "999", "1.23 k", "1.00 G", "2.50 G", "3.21 T", "7.00 P"]
    assert [engineering(value) for value in values] == shown
    assert np.isfinite(values).all()
