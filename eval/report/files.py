"""Writes what a report gives out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from dodona.engine.errors import DodonaError

_RUNS: Final = (b'{"header"', b"PAR1")  # how files of records and traces begin


def write_file(path: Path, content: str | bytes) -> Path:
    """Write a text as UTF-8, or bytes, where no runs are recorded; the folder is made where it is missing.

    Halves of surrogate pairs, which JSON can say and UTF-8 cannot, become question marks.

    Raises:
        DodonaError: it cannot be written, or records or a trace are there.
    """
    data = content.encode("utf-8", errors="replace") if isinstance(content, str) else content
    check_no_runs(path)
    return write_whole(path, [data])


def write_whole(path: Path, lines: Iterable[bytes], *, like: Path | None = None) -> Path:
    """Write all lines in place of what is there, or leave that as it is; a device or a pipe gets them as they come.

    Args:
        like: whose permissions a new file gets; None: the usual ones.

    Raises:
        DodonaError: it cannot be written.
    """
    target = Path(os.path.realpath(path))  # of a link, what it leads to
    if target.is_dir():
        raise DodonaError(f"{path} cannot be written: it is a folder")
    model = target if target.exists() else like
    part = target.parent / f".{target.name[:50]}.{os.getpid()}.tmp"
    try:
        if target.exists() and not target.is_file():
            with open(target, "wb") as device:
                device.writelines(lines)
            return path
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        if model is not None:
            with suppress(OSError):
                os.chmod(part, model.stat().st_mode & 0o777)
        os.replace(part, target)
    except OSError as error:
        raise DodonaError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink()
    return path


def check_no_runs(path: Path) -> None:
    """Refuse to write over what took models to make.

    Raises:
        DodonaError: records or a trace are there.
    """
    if not path.is_file():
        return
    with suppress(OSError), open(path, "rb") as file:
        if file.read(max(map(len, _RUNS))).startswith(_RUNS):
            raise DodonaError(f"{path} holds records or a trace, and is left as it is: name another file")


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
