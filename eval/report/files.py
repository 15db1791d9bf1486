"""Writes what a report gives out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from dodona.engine.errors import DodonaError
from dodona.engine.whole_file import write_whole

_HEADER: Final = b'{"header"'  # how files of records begin, but for those of `dodona generate`
_RUNS: Final = (_HEADER, b'{"c": ', b"PAR1")  # how all files of records, and traces, begin


def write_file(path: Path, content: str | bytes) -> Path:
    """Write a text as UTF-8, or bytes, where no runs are recorded; the folder is made where it is missing.

    Halves of surrogate pairs, which JSON can say and UTF-8 cannot, become question marks.

    Raises:
        DodonaError: it cannot be written, or records or a trace are there.
    """
    data = content.encode("utf-8", errors="replace") if isinstance(content, str) else content
    check_no_runs(path)
    return write_whole(path, [data])


def check_no_runs(path: Path) -> None:
    """Refuse to write over what took models to make.

    Raises:
        DodonaError: records or a trace are there.
    """
    if _start(path).startswith(_RUNS):
        raise DodonaError(f"{path} holds records or a trace, and is left as it is: name another file")


def check_no_study(path: Path) -> None:
    """Refuse to append to the records of a study, which are all of one configuration.

    Raises:
        DodonaError: they are there.
    """
    if _start(path).startswith(_HEADER):
        raise DodonaError(f"{path} holds records of a study, and is left as it is: name another file")


def _start(path: Path) -> bytes:
    """How a file begins; of what is no file, or cannot be read, nothing."""
    if not path.is_file():
        return b""
    with suppress(OSError), open(path, "rb") as file:
        return file.read(max(map(len, _RUNS)))
    return b""


def check_apart(files: Mapping[str, str | None]) -> None:
    """Refuse one file for two purposes.

    Args:
        files: by option; None is none.

    Raises:
        DodonaError: two of them are one file.
    """
    seen: dict[str, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        other = seen.setdefault(os.path.realpath(path), option)
        if other != option:
            raise DodonaError(f"{other} and {option} are both {path}: name two files")
