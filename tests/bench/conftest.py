"""A tiny pair of models on disk."""

from __future__ import annotations

import pytest
from bench_subjects import tiny_pair


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Names of a base and an oracle."""
    return tiny_pair(tmp_path_factory.mktemp("pair"))
