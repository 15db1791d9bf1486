"""A tiny checkpoint to read or to break, and engines with either loop on a tiny pair and on the embedded one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import EMBEDDED, TOKENIZER_FILES, hf_model
from tiny_models import save_tiny

from dodona.engine.engine import Engine

LOOPS = [{"loop": "host"}, {"loop": "device", "lookahead": 3}]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in one file, with the embedded tokenizer. Not to be changed: take a ``copy``."""
    folder = tmp_path_factory.mktemp("saved")
    hf_model().save_pretrained(folder)
    for file in TOKENIZER_FILES:
        shutil.copy(EMBEDDED / file, folder)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """The same model, to be changed at will."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base and an oracle."""
    folder = tmp_path_factory.mktemp("pair")
    return save_tiny(folder / "base", "gqa-tied", seed=3, layers=2), save_tiny(folder / "oracle", "mha-untied", seed=4)


@pytest.fixture(scope="module", params=LOOPS, ids=("host", "device"))
def loop(request: pytest.FixtureRequest) -> Any:
    """Options of the engine that say who decides a step."""
    return request.param


@pytest.fixture(scope="module")
def engine(folders: tuple[Path, Path], loop: Any) -> Engine:
    """The tiny pair."""
    return Engine(folders[0], oracle=folders[1], device="cpu", page_size=8, **loop)


@pytest.fixture(scope="module")
def embedded(loop: Any) -> Engine:
    """The embedded pair."""
    return Engine(device="cpu", **loop)
