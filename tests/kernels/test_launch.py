"""The tuning table and the checks before a launch, as they are on a GPU."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dodona.kernels import launch

DEFAULT = {"BLOCK": 1024, "num_warps": 4}
GPU = torch.device("cuda", 0)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with a GPU called Lyra, which the table knows at one shape of one op."""
    path = tmp_path / "tuning.json"
    path.write_text(json.dumps({"Lyra": {"sample": {"4096x8": {"BLOCK": 512}, "1x1": {"BLOKC": 1}}}}), encoding="utf-8")
    monkeypatch.setattr(launch, "TUNING_TABLE", path)
    monkeypatch.setattr(launch, "interpreting", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Lyra")
    launch._table.cache_clear()
    launch._table_entry.cache_clear()
    yield
    launch._table.cache_clear()
    launch._table_entry.cache_clear()


def test_an_entry_replaces_what_it_names(table: None) -> None:
    """An entry that sets the block must not lose the default's warps."""
    assert launch.config_for("sample", (4096, 8), GPU, DEFAULT) == {"BLOCK": 512, "num_warps": 4}


def test_a_missing_entry_takes_the_default_and_says_so_once(table: None, caplog: pytest.LogCaptureFixture) -> None:
    """Silence hides a table made for another machine; a line a launch would be millions."""
    with caplog.at_level(logging.INFO, logger=launch.__name__):
        for _ in range(3):
            assert launch.config_for("sample", (1, 2), GPU, DEFAULT) == DEFAULT
    assert [record.getMessage() for record in caplog.records] == [
        "no tuned block sizes for sample at 1x2 on Lyra: the default is used"
    ]


def test_an_entry_with_an_unknown_name_is_refused(table: None) -> None:
    """A misspelt block size would be ignored, and the default measured in its place."""
    with pytest.raises(ValueError, match="BLOKC"):
        launch.config_for("sample", (1, 1), GPU, DEFAULT)


def test_tensors_of_two_devices_are_refused() -> None:
    """A kernel that is given a pointer of another device ends the process."""
    with pytest.raises(ValueError, match="different devices"):
        launch.check_device(x=torch.empty(1), y=torch.empty(1, device="meta"), absent=None)


def test_a_cpu_tensor_is_refused_where_kernels_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to do, where Triton's own speaks of pointers."""
    monkeypatch.setattr(launch, "interpreting", lambda: False)
    with pytest.raises(ValueError, match="TRITON_INTERPRET"):
        launch.check_device(x=torch.empty(1))
