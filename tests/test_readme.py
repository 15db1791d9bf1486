"""The README stays true: what it lists is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dodona.cli import COMMANDS
from dodona.engine.presets import ATTENTION, COUNTERS, PRESETS, SIGNALS
from dodona.engine.signals import BASE_SIGNALS, ORACLE_SIGNALS


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text()


def test_every_preset_signal_and_counter_is_in_the_tables(readme):
    """Catches a preset or a column that was added, renamed or removed without its reader being told."""
    names = {*PRESETS, *(set(SIGNALS) - ATTENTION), *COUNTERS, *BASE_SIGNALS, *ORACLE_SIGNALS}
    ticked = " ".join(re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", readme, flags=re.DOTALL)))
    missing = {name for name in names if not re.search(rf"\b{name}\b", ticked)}
    assert not missing


def test_every_command_shown_exists(readme):
    """Catches a README that advertises a subcommand nobody can run."""
    shown = set(re.findall(r"^ +dodona ([a-z]+)", readme, re.M)) | set(re.findall(r"`dodona ([a-z]+)", readme))
    assert shown and shown <= set(COMMANDS)


def test_links_lead_somewhere(readme, root: Path):
    """Relative links only, each to a file of the checkout."""
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        assert (root / target).exists(), target
