"""What a piece of a part gives back: figures, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

PASSED, FAILED, NOT_RUN, SKIPPED, RUNNING = "passed", "failed", "not run", "skipped", "running"

Outcome = dict[str, Any]


def outcome(figures: Any, problems: Iterable[str] = ()) -> Outcome:
    """The result of a piece that ran to its end; it failed if there is a problem."""
    found = list(problems)
    return {"status": FAILED if found else PASSED, "problems": found, "figures": figures}


def skipped(why: str) -> Outcome:
    """The result of a piece that cannot run on this device."""
    return {"status": SKIPPED, "problems": [why], "figures": None}
