"""`dodona eval --compat`: what it runs, writes and prints, and that honest runs are as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_lines import Outcome

from dodona.engine.engine import Engine
from dodona.engine.records import read_records
from dodona.eval.arms import Arm
from dodona.eval.compat.switches import NOT_VALID, read_switches, variant_name
from dodona.eval.run import Experiment, Run
from dodona.eval.store import Place, Store
from dodona.eval.tasks.names import task_named
from dodona.eval.tasks.problem import Selection

HONEST = "c=3 k=4 random before seed=0"
GRID = ("--dataset", "arith", "--c", "0,3", "--k", "4", "--max-new-tokens", "110", "--start-index", "2")
STABLE = (
    "arm",
    "problem_id",
    "result",
    "interleaved_outputs",
    "cheat_positions",
    "parsed_answer",
    "correct",
    "trigger",
)
EVERYTHING = read_switches(["guided-inference"])
NAMES = {
    "c=0 seed=0",
    HONEST,
    variant_name("c=0 seed=0", ("no-end",)),
    variant_name(HONEST, ("strip",)),
    variant_name(HONEST, ("strip", "no-end")),
    variant_name(HONEST, ("no-end",)),
}


def recorded(place: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Every record by arm and problem, of a file or a folder."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(place.glob("*.jsonl")) if place.is_dir() else [place]:
        for line in read_records(path):
            if "header" not in line:
                key = line["arm"], line["problem_id"]
                assert key not in found, "a run was recorded twice"
                found[key] = line
    return found


def stable(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in STABLE}


def test_the_variants_are_arms_of_their_own_beside_honest_ones_that_stay_as_they_were(
    cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    """Honest records from before are used again, none of them is touched, and none is written twice."""
    place = tmp_path / "runs"
    command = ("eval", *GRID, "--num-samples", "4", "--output-dir", place)
    assert cli(*command)[0] == 0
    before = {path.name: path.read_bytes() for path in place.glob("*.jsonl")}
    code, out, err = cli(*command, "--compat", "guided-inference")
    assert code == 0, err
    assert "24 runs, 8 of them there already" in err
    honest, ladder = out.split(NOT_VALID, 1)
    assert NOT_VALID not in honest and "+ string-match" in ladder and "no-end alone" in ladder

    found = recorded(place)
    assert {arm for arm, _ in found} == NAMES and len(found) == 24
    for name, content in before.items():
        now = (place / name).read_bytes()
        assert now.startswith(content)
        (added,) = now[len(content) :].splitlines()
        assert json.loads(added)["header"]["compat"] == list(EVERYTHING)
    for (arm, _), record in found.items():
        assert (NOT_VALID in arm) == ("compat" in record) == (record.get("note") == NOT_VALID)
        if "no-end" in record.get("compat", ()):
            assert record["finish_reason"] == "length" and record["total_tokens_generated"] == 110
            assert record["error"] is None
    ended = [record["finish_reason"] for record in found.values() if "no-end" not in record.get("compat", ())]
    assert ended.count("eos") >= 6
    (config,) = {json.dumps(json.loads(path.open().readline())["header"]["config"]) for path in place.glob("*.jsonl")}
    assert "compat" not in config and "ignore_eos" not in config

    code, again, err = cli(*command, "--compat", "guided-inference")
    assert code == 0 and "nothing was left to run" in again and recorded(place) == found
    code, plain, _ = cli(*command)
    assert code == 0 and NOT_VALID not in plain
    report = cli("report", place)[1]
    assert report.count("+ string-match") == 2 and report.index("Against the base alone") < report.index(
        f"{NOT_VALID}. The first"
    )


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    """Variants that are written by text are made in another stream: it must know as well what is done."""
    engine = Engine(device="cpu", max_batch=4)
    task = task_named("arith")
    problems = task.load(Selection(num_samples=3, start_index=2))
    base = [Arm(0, 0, "never", "before", 0), Arm(3, 4, "random", "before", 0)]
    arms = base + [variant for arm in base for variant in arm.variants(EVERYTHING)]
    assert {arm.name for arm in arms} == NAMES
    experiment = Experiment(task, problems, arms, {"max_new_tokens": 110}, EVERYTHING)

    def go_on(path: Path, most: int) -> int:
        place = Place(path, folder=False)
        with Store(place, experiment.config(engine), arms, problems, compat=EVERYTHING) as store:
            run = Run(experiment, store)
            going = run.finish(engine)
            for _, _done in zip(range(most), going, strict=False):
                pass
            going.close()
            return run.left

    assert go_on(tmp_path / "whole.jsonl", 100) == 0
    left = 18
    while left:
        left, before = go_on(tmp_path / "pieces.jsonl", 4), left
        assert left < before
    whole, pieces = recorded(tmp_path / "whole.jsonl"), recorded(tmp_path / "pieces.jsonl")
    assert {key: stable(record) for key, record in pieces.items()} == {
        key: stable(record) for key, record in whole.items()
    }
    headers = [line for line in read_records(tmp_path / "pieces.jsonl") if "header" in line]
    assert len(headers) == 1


def test_single_switches_run_what_they_need_and_no_more(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Counting otherwise must not cost a run, and a ladder has the switches that were asked for."""
    place = tmp_path / "r.jsonl"
    command = ("eval", *GRID, "--num-samples", "2", "--output-file", place)
    code, out, _ = cli(*command, "--compat", "string-match,drop-unparsed")
    assert code == 0 and {arm for arm, _ in recorded(place)} == {"c=0 seed=0", HONEST}
    assert "+ string-match" in out and "strip alone" not in out and "no-end" not in out
    assert "drop-unparsed alone" in cli("report", place)[1]

    report = json.loads(cli(*command, "--compat", "strip", "--json")[1])
    assert [arm["arm"] for arm in report["arms"]] == ["c=0 seed=0", HONEST]
    rungs = {ladder["arm"]: [r["counted"] for r in ladder["rungs"]] for ladder in report["compat"]["ladders"]}
    assert rungs == {name: ["honest", "+ strip", "strip alone"] for name in ("c=0 seed=0", HONEST)}
    assert {arm for arm, _ in recorded(place)} == {"c=0 seed=0", HONEST, variant_name(HONEST, ("strip",))}
    # The report shows all that was ever asked for here.
    names = ["honest", "+ strip", "+ drop-unparsed", "+ string-match"]
    (section,) = json.loads(cli("report", "--json", place)[1])["experiments"]
    assert [r["counted"] for r in section["compat"]["ladders"][1]["rungs"]][:4] == names


def test_an_analysis_of_signals_leaves_the_variants_out(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Their traces lie beside the honest ones; pooled with them they would be half of every table."""
    place = tmp_path / "runs"
    command = ("eval", *GRID, "--num-samples", "2", "--output-dir", place, "--trace", "--oracle-tail")
    assert cli(*command, "--compat", "strip,no-end")[0] == 0
    code, out, err = cli("analyze", place, "--json", "--resamples", "20")
    assert code == 0, err
    (study,) = json.loads(out)["studies"]
    assert study["runs"] == 4 and "no-end" not in json.dumps(study["arms"])
    named = variant_name(HONEST, ("strip",))
    (study,) = json.loads(cli("analyze", place, "--json", "--resamples", "20", "--arm", named)[1])["studies"]
    assert study["runs"] == 2 and NOT_VALID in json.dumps(study["arms"])


def test_grading_again_keeps_a_text_that_nothing_ended(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """`dodona grade` knows truncation as well, and would make all of them wrong."""
    place = tmp_path / "r.jsonl"
    assert cli("eval", *GRID, "--num-samples", "6", "--output-file", place, "--compat", "no-end")[0] == 0
    code, out, _ = cli("grade", place)
    assert code == 0 and "0 verdicts changed" in out
    endless = [record for (arm, _), record in recorded(place).items() if "no-end" in arm]
    assert all(record["finish_reason"] == "length" for record in endless)
    assert any(record["parsed_answer"] is not None for record in endless)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--compat", "guidedinference"), "did you mean guided-inference?"),
        (("--compat", ""), "--compat takes guided-inference, strip, no-end, drop-unparsed, string-match"),
        (("--compat", "strip,,no-end"), "not ''"),
        (("--ignore-eos",), "--ignore-eos"),  # an honest run always ends at an end token
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    cli: Callable[..., Outcome], options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    """Before a model is loaded, and with what would be right."""
    code, out, err = cli("eval", *GRID, "--num-samples", "1", "--output-dir", tmp_path / "r", *options)
    assert code == 2 and out == "" and message in err.splitlines()[-1]
    assert not (tmp_path / "r").exists()


def test_a_plan_has_the_variants_with_their_label(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """They cost as many runs again as the honest arms, or thrice: that must be known before."""
    code, out, _ = cli(
        *("eval", *GRID, "--num-samples", "3", "--output-dir", tmp_path / "r", "--dry-run"),
        *("--compat", "guided-inference", "--json"),
    )
    plan = json.loads(out)
    assert code == 0 and plan["runs"] == 18
    assert {arm["arm"] for arm in plan["arms"]} == NAMES
    assert {Path(arm["file"]).name.startswith("compat_not_a_valid_measure") for arm in plan["arms"]} == {True, False}
