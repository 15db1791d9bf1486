"""Command lines in tests: what one comes to, and how one is started in a process of its own."""

from __future__ import annotations

import sys

Outcome = tuple[int, str, str]  # exit code, standard output, standard error


def one_error_line(outcome: Outcome) -> str:
    """The error of a command that failed as it should."""
    code, out, err = outcome
    assert code == 2, err
    assert out == ""
    assert err.startswith("dodona: error: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err.removeprefix("dodona: error: ").strip()


def command(*arguments: str) -> list[str]:
    """What a shell would start."""
    return [sys.executable, "-m", "dodona", *arguments]
