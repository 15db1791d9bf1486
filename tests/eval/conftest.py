"""What several tests of experiments share."""

from __future__ import annotations

import os

import pytest
from viewer_runs import tokenizer

from dodona.engine.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokens() -> Tokenizer:
    """The embedded pair's."""
    return tokenizer()


@pytest.fixture
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """For thousands of records, in tests that do not take the power away."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
