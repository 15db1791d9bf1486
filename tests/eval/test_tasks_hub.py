"""Data sets of the hub: what is asked of `datasets`, what is said where they cannot be had, and local copies."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from datasets.arrow_writer import ArrowWriter
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from dodona.engine.errors import DodonaError
from dodona.eval.tasks.hub import PUBLISHED
from dodona.eval.tasks.names import task_named
from dodona.eval.tasks.problem import Selection

MATH_ROW = {"problem": "1+1", "level": "Level 2", "type": "Algebra", "solution": "\\boxed{2}"}
GSM8K_ROW = {"question": "1+1", "answer": "#### 2"}
GPQA_ROW = {
    "Question": "?",
    "Correct Answer": "a",
    "Incorrect Answer 1": "b",
    "Incorrect Answer 2": "c",
    "Incorrect Answer 3": "d",
    "Record ID": "rec1",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str | None], dict[str, list[dict[str, Any]]]]:
    """A hub that answers; its sets are to be filled in, as {(id, config): {split: rows}}."""
    there: dict[tuple[str, str | None], dict[str, list[dict[str, Any]]]] = {}

    def load(repository: str, config: str | None = None, **more: Any) -> datasets.DatasetDict:
        logging.getLogger("datasets").warning("noise of datasets")
        return datasets.DatasetDict(
            {split: datasets.Dataset.from_list(rows) for split, rows in there[repository, config].items()}
        )

    monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", lambda *args, **more: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return there


def refuse(monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception]) -> None:
    def check(*args: Any, **more: Any) -> None:
        raise error()

    monkeypatch.setattr(huggingface_hub.HfApi, "auth_check", check)


def fault_of(name: str, **options: Any) -> str:
    with pytest.raises(DodonaError) as caught:
        task_named(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_math_is_all_seven_subjects_in_a_mixed_order(hub: Any) -> None:
    """Catches --num-samples 100 that is algebra only, and ids that depend on the order."""
    configs = PUBLISHED["math"].configs
    for config in configs:
        rows = [{**MATH_ROW, "problem": f"{config} {i}", "type": config} for i in range(40)]
        hub["EleutherAI/hendrycks_math", config] = {"train": [MATH_ROW] * 99, "test": rows}
    task = task_named("math")
    problems = task.load()
    assert len(configs) == 7 and len(problems) == 280
    assert {p.subject for p in task.load(Selection(30))} == set(configs)
    for problem in problems:
        config, number = problem.question.split()
        assert problem.problem_id == f"math-{config}-{number}"
    assert task.load() == problems == task_named("math").load()
    assert (task.name, task.recipe.name, task.official["1B"]) == ("math", "math", 30.6)
    assert problems[0].level == 2 and problems[0].gold == "2"


@pytest.mark.parametrize(
    ("name", "repository", "config", "split", "row", "problem_id"),
    [
        (
            "math-500",
            "HuggingFaceH4/MATH-500",
            None,
            "test",
            {**MATH_ROW, "answer": "2", "unique_id": "test/1"},
            "test/1",
        ),
        ("gsm8k", "openai/gsm8k", "main", "test", GSM8K_ROW, "gsm8k-0"),
        ("gpqa", "Idavidrein/gpqa", "gpqa_main", "train", GPQA_ROW, "rec1"),
        ("gpqa-diamond", "Idavidrein/gpqa", "gpqa_diamond", "train", GPQA_ROW, "rec1"),
        ("gpqa-extended", "Idavidrein/gpqa", "gpqa_extended", "train", GPQA_ROW, "rec1"),
    ],
)
def test_the_named_sets_are_where_their_authors_put_them(
    name: str, repository: str, config: str | None, split: str, row: dict[str, Any], problem_id: str, hub: Any
) -> None:
    """Catches a wrong config or split: GPQA has only a train split, GSM8K's other config has other solutions."""
    hub[repository, config] = {split: [row]}
    task = task_named(name)
    assert (task.name, [p.problem_id for p in task.load()]) == (name, [problem_id])
    assert bool(task.official) is (name in ("math-500", "gpqa"))


def test_any_set_of_the_hub_can_be_named(hub: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches a list of sets that somebody else decided on, and the libraries' log on the terminal."""
    hub["some.one/of-theirs", None] = {"train": [MATH_ROW], "test": [MATH_ROW, MATH_ROW]}
    hub["some.one/of-theirs", "hard"] = {"dev": [MATH_ROW]}
    assert [p.problem_id for p in task_named("some.one/of-theirs").load()] == ["of-theirs-0", "of-theirs-1"]
    assert len(task_named("some.one/of-theirs", split="train").load()) == 1
    task = task_named("some.one/of-theirs", dataset_config="hard")
    assert (task.name, task.load()[0].problem_id) == ("of-theirs-hard", "of-theirs-hard-0")
    hub["meta-llama/L-evals", "L-evals__math__details"] = {"2024_01_01": [MATH_ROW] * 2, "latest": [MATH_ROW]}
    task = task_named("meta-llama/L-evals", dataset_config="L-evals__math__details")
    assert [p.problem_id for p in task.load()] == ["L-evals__math__details-0"]
    assert "has no split 'x': it has train, test" in fault_of("some.one/of-theirs", split="x")
    assert capfd.readouterr() == ("", "")


def test_a_config_that_must_be_named_is_asked_for(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a message of three lines that explains load_dataset to somebody who never called it."""

    def load(*args: Any) -> None:
        raise ValueError(
            "Config name is missing.\nPlease pick one among the available configs: ['a', 'b']\nExample: ..."
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert fault_of("x/y") == "--dataset-config must name one of the configs of x/y: a, b"
    assert "--dataset-config: gsm8k is one config of openai/gsm8k" in fault_of("gsm8k", dataset_config="main")


def test_a_gated_set_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches "401 Client Error" with a request id."""
    refuse(monkeypatch, lambda: GatedRepoError.__new__(GatedRepoError, "401"))
    assert fault_of("gpqa") == (
        "Idavidrein/gpqa is gated: accept its terms at https://huggingface.co/datasets/Idavidrein/gpqa and set "
        "HF_TOKEN to a token of that account, or give a local file as --dataset"
    )


def test_a_set_that_is_not_there_is_neither_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a mistyped path that is reported as a problem with a login."""
    refuse(monkeypatch, lambda: RepositoryNotFoundError.__new__(RepositoryNotFoundError, "404"))
    assert "x/y is neither a local file or folder nor a data set on the hub" in fault_of("x/y")


def test_without_a_network_it_is_one_line_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches the five retries of `datasets`, half a minute with a line each."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    refuse(monkeypatch, lambda: ConnectionRefusedError("no address"))
    for name, repository in (("math", "EleutherAI/hendrycks_math"), ("gpqa", "Idavidrein/gpqa"), ("x/y", "x/y")):
        assert fault_of(name) == (
            f"{repository} cannot be downloaded: the hub cannot be reached (ConnectionRefusedError), and there is no "
            "local copy from before; give a local file or folder as --dataset"
        )
    assert capfd.readouterr() == ("", "")
    assert datasets.config.HF_HUB_OFFLINE is huggingface_hub.constants.HF_HUB_OFFLINE


def test_without_a_network_what_was_downloaded_before_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Catches a machine without network that refuses what it has."""
    refuse(monkeypatch, lambda: ConnectionRefusedError("no address"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    for config in ("main", "socratic"):
        rows = datasets.Dataset.from_list([{**GSM8K_ROW, "question": config}])
        folder = tmp_path / "openai___gsm8k" / config / "0.0.0" / ("0" * 40)
        folder.mkdir(parents=True)
        with ArrowWriter(path=str(folder / "gsm8k-test.arrow"), features=rows.features) as writer:
            for row in rows:
                writer.write(row)
            writer.finalize()
        split = {"name": "test", "num_bytes": 1, "num_examples": 1, "dataset_name": "gsm8k"}
        datasets.DatasetInfo(
            features=rows.features,
            config_name=config,
            dataset_name="gsm8k",
            builder_name="parquet",
            version="0.0.0",
            splits={"test": split},
        ).write_to_directory(str(folder))
    assert [p.question for p in task_named("gsm8k").load()] == ["main"]
    assert "must name one of the configs of openai/gsm8k" in fault_of("openai/gsm8k")
