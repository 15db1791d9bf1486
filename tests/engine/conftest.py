"""A tiny checkpoint on disk, to read or to break."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from checkpoint_files import EMBEDDED, TOKENIZER_FILES, hf_model


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
