"""A dry run: what is left, and where each of its numbers comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_lines import Outcome
from kept_records import contents

from dodona.engine.engine import Engine
from dodona.engine.records import read_records
from dodona.eval.models import Models
from dodona.eval.plan import duration

GRID = ("eval", "--dataset", "arith", "--c", "0,1", "--k", "3", "--max-new-tokens", "40")


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: Models) -> Any:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Models, "load", load)


def plan(cli: Callable[..., Outcome], folder: Path, *more: str) -> dict[str, Any]:
    code, out, error = cli(*GRID, "--output-dir", str(folder), "--dry-run", "--json", *more)
    assert (code, error) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_a_dry_run_loads_no_model_and_writes_nothing(
    cli: Callable[..., Outcome], tmp_path: Path, nothing_loads: None
) -> None:
    """Its use is to be asked before a machine with a GPU is paid for."""
    code, out, error = cli(*GRID, "--num-samples", "5", "--output-dir", str(tmp_path / "x"), "--dry-run")
    assert (code, error) == (0, "")
    assert "2 arms x 5 problems = 10 runs: 0 done, 10 left" in out
    assert "tokens to write: at most 400\n" in out
    assert "time: unknown (no runs yet; --calibrate measures)" in out
    assert f"files: {tmp_path / 'x'}/, one an arm:\n  c=0_seed=0.jsonl (new)\n" in out
    assert list(tmp_path.iterdir()) == []


def test_prompts_are_counted_as_the_models_read_them(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """A prompt's turns and special tokens are most of a short one."""
    before = plan(cli, tmp_path, "--num-samples", "5")
    whole = plan(cli, tmp_path, "--num-samples", "5", "--max-new-tokens", "100000")
    assert cli(*GRID, "--num-samples", "5", "--output-dir", str(tmp_path))[0] == 0
    records = [r for path in tmp_path.glob("*.jsonl") for r in read_records(path) if "header" not in r]
    assert before["prompt_tokens"] == sum(record["prompt_tokens"] for record in records)
    engine = Engine("arith-base")
    assert whole["most_new_tokens"] == 10 * engine.context - before["prompt_tokens"]  # the context ends them
    assert all(r["prompt_tokens"] == len(engine.tokenizer.encode(r["prompt"], raw=False)) for r in records)


def test_records_that_are_there_say_how_it_goes_on(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """The limit alone overestimates by a factor of ten where texts end early."""
    assert cli(*GRID, "--num-samples", "4", "--output-dir", str(tmp_path))[0] == 0
    records = [r for path in sorted(tmp_path.glob("*.jsonl")) for r in read_records(path) if "header" not in r]
    written = {arm: [r["total_tokens_generated"] for r in records if r["arm"] == arm] for arm in names(records)}
    mean = sum(sum(counts) for counts in written.values()) / 8
    more = plan(cli, tmp_path, "--num-samples", "9", "--seed", "0,1")
    assert (more["runs"], more["done"], more["left"]) == (36, 8, 28)
    assert [(arm["done"], arm["left"]) for arm in more["arms"]] == [(4, 5), (0, 9), (4, 5), (0, 9)]
    expected = sum(5 * sum(counts) / 4 for counts in written.values()) + 18 * mean
    assert more["expected_new_tokens"] == round(expected)
    ms = sum(record["ledger"]["base_ms"] + record["ledger"]["oracle_ms"] for record in records)
    assert more["seconds"] == pytest.approx(ms * 28 / 8 / 1e3, abs=0.06)
    assert more["seconds_source"] == "by the ledgers of 8 runs here, which count the models' forwards only"
    assert plan(cli, tmp_path, "--num-samples", "4")["left"] == 0


def names(records: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(record["arm"] for record in records))


def test_a_finished_experiment_needs_no_models(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of what is done should not take the minutes that 70B needs to load."""
    grid = (*GRID, "--num-samples", "3", "--output-dir", str(tmp_path))
    _, first, _ = cli(*grid)
    monkeypatch.setattr(Models, "load", None)
    code, again, _ = cli(*grid)
    assert code == 0 and again.split("\n\n")[:2] == first.split("\n\n")[:2]
    assert again.endswith("nothing was left to run\n")
    code, out, _ = cli(*grid, "--dry-run", "--calibrate")
    assert code == 0 and out.endswith("nothing is left to run\n")


def test_a_calibration_measures_and_keeps_nothing(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """Without records the time is unknown, unless it is measured; what was written for that is no result."""
    found = plan(cli, tmp_path / "x", "--num-samples", "5", "--calibrate")
    assert found["seconds"] >= 0 and found["expected_new_tokens"] is None
    source = r"at \d+ tokens/s for the most tokens that they can be, timed now on 10 runs at once"
    assert re.match(source, found["seconds_source"])
    assert not (tmp_path / "x").exists()
    code, _, error = cli(*GRID, "--calibrate")
    assert code == 2 and "--calibrate belongs to --dry-run" in error


def test_models_that_are_not_here_are_not_downloaded(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_loads: None
) -> None:
    """`--dry-run` with 8B and 70B must not fetch 150 GB to say how many runs there are."""
    monkeypatch.setattr("dodona.eval.models.cached", lambda _: None)
    monkeypatch.setattr("dodona.eval.models.open_checkpoint", None)
    for models in (("8B", "70B"), ("org/base@drop=3", "org/oracle")):
        pair = ("--base-model", models[0], "--oracle-model", models[1])
        found = plan(cli, tmp_path, "--num-samples", "5", *pair)
        assert found["left"] == 10 and found["most_new_tokens"] == 400
        assert found["prompt_tokens_source"] == "at 4 characters a token, for the models are not here"
        assert 2 * 5 * 2 < found["prompt_tokens"] < 2 * 5 * 20


def test_a_dry_run_refuses_what_the_run_would_refuse(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """To be told by the run itself, a night later, is too late."""
    assert cli(*GRID, "--num-samples", "2", "--output-dir", str(tmp_path))[0] == 0
    code, out, error = cli(*GRID, "--temperature", "1", "--output-dir", str(tmp_path), "--dry-run")
    assert (code, out) == (2, "")
    assert "--temperature is 0 there and 1 here" in error
    assert len(contents(tmp_path)) == 4


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (45, "45 s"), (99, "99 s"), (200, "3 min"), (9000, "2.5 h"), (1e6, "11.6 days")],
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    """27361 s means nothing to anybody."""
    assert duration(seconds) == text
