"""Result files: JSON lines that are appended to, one line a measure, each with its birth certificate."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dodona.bench.birth import birth_certificate, clocks
from dodona.engine.errors import DodonaError

SCHEMA = 1


class ResultFile:
    """Where lines go: a file, or nowhere. Each line is on the disk before the next is measured.

    Raises:
        DodonaError: the file cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.open("a").close()
            except OSError as error:
                raise DodonaError(f"--out {path} cannot be written: {error.strerror}") from error

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line."""
        if self.path is None:
            return
        data = (json_text(line) + "\n").encode()
        with self.path.open("ab") as file:
            torn = file.tell() > 0 and not self._ends_with_newline()
            file.write((b"\n" if torn else b"") + data)
            file.flush()
            os.fsync(file.fileno())

    def _ends_with_newline(self) -> bool:
        assert self.path is not None
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


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
    """Replace a file as a whole, so that a run that is killed leaves what it had."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        scratch.write_text(json.dumps(_finite(value), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


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
