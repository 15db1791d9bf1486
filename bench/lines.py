"""Result files: JSON lines that are appended to, one line a measure, each with its birth certificate."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dodona.bench.birth import birth_certificate, clocks
from dodona.engine.errors import DodonaError
from dodona.engine.records import RecordFile
from dodona.engine.whole_file import write_whole

SCHEMA = 1


class ResultFile:
    """Where lines go: a file, or nowhere. Each line is on the disk before the next is measured.

    Raises:
        DodonaError: the file cannot be written, is being written by another process, or holds no lines.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else RecordFile(path)

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line.

        Raises:
            DodonaError: it cannot be written.
        """
        if self._file is not None:
            self._file.append(_finite(line))

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()


def json_text(value: Any) -> str:
    """JSON in one line; infinity is the text ``inf``, and NaN ``null``."""
    return json.dumps(_finite(value), allow_nan=False)


def lines_of(
    bench: str, rows: Iterable[Mapping[str, Any]], subject: Mapping[str, Any], command: str, device: torch.device
) -> Iterator[dict[str, Any]]:
    """Rows as the lines of a result file: what was measured, on what, and where the figure comes from."""
    birth = birth_certificate(command, device)
    for row in rows:
        if device.type == "cuda":
            birth = birth | {"clocks": clocks()}
        yield {"schema": SCHEMA, "bench": bench, **row, "subject": dict(subject), "birth": birth}


def read_results(path: Path) -> list[dict[str, Any]]:
    """The objects of a result file: JSON lines, or one JSON object. A torn last line is left out.

    Raises:
        DodonaError: it cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise DodonaError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        whole = json.loads(text)
        found = whole if isinstance(whole, list) else [whole]
    except json.JSONDecodeError:
        found = list(_lines(text, path))
    if not found or not all(isinstance(item, dict) for item in found):
        raise DodonaError(f"{path} holds no results: a result is a JSON object, one a line")
    return found


def write_json(path: Path, value: Any) -> None:
    """Write an object as JSON, as ``write_whole`` writes."""
    write_text(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a page or a table, as ``write_whole`` writes."""
    write_whole(path, [text.encode("utf-8")])


def _lines(text: str, path: Path) -> Iterator[Any]:
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) and not text.endswith("\n"):
                return
            if line.strip():
                raise DodonaError(f"{path}, line {number}, is not JSON: {error.msg}") from error


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else "inf" if value == float("inf") else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
