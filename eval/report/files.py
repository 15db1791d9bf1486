"""Writes what a report gives out."""

from __future__ import annotations

from pathlib import Path

from dodona.engine.errors import DodonaError


def write_file(path: Path, content: str | bytes) -> Path:
    """Write a text as UTF-8, or bytes; the folder is made where it is missing.

    Halves of surrogate pairs, which JSON can say and UTF-8 cannot, become question marks.

    Raises:
        DodonaError: it cannot be written.
    """
    data = content.encode("utf-8", errors="replace") if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise DodonaError(f"{path} cannot be written: {error.strerror or error}") from error
    return path
