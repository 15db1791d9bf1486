"""Records on disk: one JSON object a line, appended, one fsync a record, so that a killed run loses nothing it wrote.

A line is written by one ``write`` to a descriptor opened for appending. A run that is killed in the middle of it leaves
a torn last line, which the next opening drops. Only one process at a time writes to a file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from dodona.engine.errors import DodonaError

try:
    import fcntl
except ImportError:  # not POSIX: no lock
    fcntl = None  # type: ignore[assignment,unused-ignore]

_BLOCK = 1 << 16
_BEGINNINGS = (b"", b"{", b"\0", b"\xef")  # of a file of records: empty, an object, lost to a power failure, or marked


class RecordFile:
    """A file of records, open for appending from construction on; its folder is made if it is missing.

    Args:
        path: the file, new or with records in it.

    Raises:
        DodonaError: the file cannot be written, is being written by another process, or holds something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            raise DodonaError(f"{self.path} cannot be written: {_reason(error)}") from error
        try:
            self._lock()
            self._repair()
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; it is on the disk when this returns. NaN becomes null, an infinity the text ``inf``.

        Raises:
            DodonaError: the disk is full or fails, or the file was deleted. Nothing of the record is left in the file.
        """
        line = encode_record(record)
        status = os.fstat(self._fd)
        if not status.st_nlink and not self.path.exists():  # some file systems count no links at all
            raise DodonaError(f"{self.path} cannot be written: it was deleted meanwhile")
        try:
            written = os.write(self._fd, line)
            if written < len(line):  # the disk filled up in the middle; a second write names the reason
                os.write(self._fd, line[written:])
                raise OSError("the record was written in part only")
            os.fsync(self._fd)
        except OSError as error:
            with suppress(OSError):  # of a file system that is gone; the next opening drops what is torn
                os.ftruncate(self._fd, status.st_size)
            raise DodonaError(
                f"{self.path} cannot be written: {_reason(error)}; the records before are kept"
            ) from error

    def read(self) -> Iterator[dict[str, Any]]:
        """All records in the file, in order.

        Raises:
            DodonaError: a line that is not a JSON object, with its number.
        """
        yield from read_records(self.path)

    def close(self) -> None:
        """Close the file; closing again does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DodonaError(f"{self.path} is being written by another process") from error
        except OSError:
            pass  # a file system without locks

    def _repair(self) -> None:
        """Drop a torn last line; finish one that lacks its line end alone."""
        try:
            with open(self.path, "rb") as file:
                first = file.read(1)
                start, tail = _after_last_newline(file)
            if first not in _BEGINNINGS:
                raise DodonaError(f"{self.path} holds something else than records, and is left as it is")
            if not tail.strip(b"\0"):
                os.ftruncate(self._fd, start)  # nothing, or the zeros that a power failure leaves
            elif _is_object(tail):
                os.write(self._fd, b"\n")
            elif tail.startswith(b"{"):
                os.ftruncate(self._fd, start)
            else:
                raise DodonaError(f"{self.path} holds something else than records, and is left as it is")
        except OSError as error:
            raise DodonaError(f"{self.path} cannot be written: {_reason(error)}") from error


def read_records(path: str | Path) -> Iterator[dict[str, Any]]:
    """The records of a file, in order; a torn last line is left out.

    Raises:
        DodonaError: the file cannot be read, or a whole line is not a JSON object.
    """
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") and not _is_object(line):
                    return
                try:
                    record = json.loads(line)
                except ValueError as error:  # UnicodeDecodeError is one too
                    raise DodonaError(f"{path}, line {number}: not JSON ({error})") from error
                if not isinstance(record, dict):
                    raise DodonaError(f"{path}, line {number}: a record is a JSON object, and this is another value")
                yield record
    except OSError as error:
        raise DodonaError(f"{path} cannot be read: {_reason(error)}") from error


def encode_record(record: Mapping[str, Any], *, ascii_only: bool = False) -> bytes:
    """One record as a line of UTF-8 with its line end; ``ascii_only`` writes other characters as JSON escapes."""
    plain = _plain(record)
    try:
        return json.dumps(plain, ensure_ascii=ascii_only, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say and UTF-8 cannot
        return json.dumps(plain, allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    """The value with its floats as JSON can hold them."""
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _after_last_newline(file: BinaryIO) -> tuple[int, bytes]:
    """Where the last line end stops, and what comes after it."""
    position, tail = file.seek(0, os.SEEK_END), b""
    while position > 0:
        step = min(_BLOCK, position)
        position -= step
        file.seek(position)
        block = file.read(step)
        if (newline := block.rfind(b"\n")) >= 0:
            return position + newline + 1, block[newline + 1 :] + tail
        tail = block + tail
    return 0, tail


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
