"""Files that are written whole or not at all, so that a kill or a full disk leaves what there was."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dodona.engine.errors import DodonaError


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


def check_writable(path: Path) -> None:
    """Find out now whether a file can be written; its folder is made, and nothing else is left there.

    Raises:
        DodonaError: it cannot.
    """
    there = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
        if not there:
            path.unlink()
    except OSError as error:
        raise DodonaError(f"{path} cannot be written: {error.strerror or error}") from error
