"""Reads one file of rows: JSON lines, JSON, CSV, Parquet or Arrow.

Text files are read here and not by `datasets`: it guesses types from the first rows (007 becomes 7, the answer "None"
becomes nothing), says of a broken file neither line nor column, and keeps a copy that outlives the file. Nothing is
kept here, so a file that changed is read as it is now.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dodona.engine.errors import DodonaError
from dodona.eval.tasks.table import Row, numbered

EXTENSIONS: Final = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
_SPELLINGS: Final = {".ndjson": ".jsonl", ".jsonlines": ".jsonl", ".pq": ".parquet", ".feather": ".arrow"}
_COMPRESSED: Final = (".gz", ".gzip")
_GZIP_MAGIC: Final = b"\x1f\x8b"


def extension_of(path: Path) -> str | None:
    """The kind of file by its name, as one of EXTENSIONS; None where it is no file of rows."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    suffix = _SPELLINGS.get(suffixes[-1], suffixes[-1]) if suffixes else ""
    return suffix if suffix in EXTENSIONS else None


def stem_of(path: Path) -> str:
    """The file's name without what ``extension_of`` reads."""
    name = path.name
    for extension in (*_COMPRESSED, *EXTENSIONS, *_SPELLINGS):
        if len(name) > len(extension) and name.lower().endswith(extension):
            name = name[: -len(extension)]
    return name


def read_file(path: Path) -> list[Row]:
    """The rows of a file.

    Raises:
        DodonaError: it cannot be read, its extension is unknown, or it is not what its extension says; with the line.
    """
    extension = extension_of(path)
    if extension is None:
        raise DodonaError(f"{path}: a data set is a file that ends in {', '.join(EXTENSIONS)}, or a folder of them")
    try:
        content = path.read_bytes()
        # By the content, not the name: the files called .parquet.gzip are Parquet that is compressed inside.
        if content.startswith(_GZIP_MAGIC):
            content = gzip.decompress(content)
    except OSError as error:
        raise DodonaError(f"{path} cannot be read: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise DodonaError(f"{path} is not a whole gzip file: {error}") from error
    if not content.strip():
        raise DodonaError(f"{path} is empty")
    if extension == ".parquet":
        return _parquet(path, content)
    if extension == ".arrow":
        return _arrow(path, content)
    text = _decoded(path, content)
    if extension == ".jsonl":
        return _json_lines(path, text)
    if extension == ".json":
        return _json(path, text)
    return _csv(path, text, delimiter="\t" if extension == ".tsv" else ",")


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DodonaError(f"{path}, line {line}: the file is not UTF-8 (byte 0x{content[error.start]:02x})") from error


def _json_lines(path: Path, text: str) -> list[Row]:
    rows: list[Row] = []
    # Not splitlines(): it also breaks at U+2028 and form feeds, which JSON allows inside a text.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DodonaError(f"{path}, line {number} is not JSON: {_reason(error)}") from error
        if not isinstance(values, dict):
            raise DodonaError(f'{path}, line {number} is JSON but no object: a row is {{"problem": ..., ...}}')
        rows.append(Row(_place(len(rows) + 1, number), values))
    return rows


def _json(path: Path, text: str) -> list[Row]:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _json_lines(path, text)  # JSON lines under the name .json are common
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise DodonaError(f"{path}{line} is not JSON: {_reason(error)}") from error
    if isinstance(whole, dict):
        lists = [value for value in whole.values() if _is_rows(value)]
        whole = lists[0] if len(lists) == 1 else [whole]
    if not isinstance(whole, list):
        raise DodonaError(f'{path} is JSON but no list of rows, as in [{{"problem": ..., "answer": ...}}, ...]')
    for number, values in enumerate(whole, 1):
        if not isinstance(values, dict):
            raise DodonaError(f'{path}, row {number} is no object: a row is {{"problem": ..., ...}}')
    return numbered(whole)


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _csv(path: Path, text: str, delimiter: str) -> list[Row]:
    csv.field_size_limit(max(len(text), csv.field_size_limit()))  # a cell of the file is no longer than the file
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            place, line = line, reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = _header(path, cells)
                continue
            if len(cells) != len(header):
                raise DodonaError(
                    f"{path}, {_place(len(rows) + 1, place)} has {len(cells)} cells where the first line names "
                    f"{len(header)} columns; a cell with a comma or a line break in it needs quotes"
                )
            rows.append(Row(_place(len(rows) + 1, place), dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        fault = "a quote is not closed" if "end of data" in str(error) else str(error)
        raise DodonaError(f"{path}, the row that begins at line {line} is not CSV: {fault}") from error
    return rows


def _header(path: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    # A column without a name is what pandas writes for its row numbers; two of one name cannot be told apart.
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DodonaError(f"{path} has two columns of the name {twice[0]!r}")
    return names


def _parquet(path: Path, content: bytes) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise DodonaError(f"{path} is not a Parquet file: {_reason(error)}") from error
    return _arrow_rows(path, table)


def _arrow(path: Path, content: bytes) -> list[Row]:
    import pyarrow as pa

    source = pa.BufferReader(content)
    try:
        opened = pa.ipc.open_file(source) if content.startswith(b"ARROW1") else pa.ipc.open_stream(source)
        table = opened.read_all()
    except (pa.ArrowException, OSError) as error:
        raise DodonaError(f"{path} is not an Arrow file: {_reason(error)}") from error
    return _arrow_rows(path, table)


def _arrow_rows(path: Path, table: Any) -> list[Row]:
    try:
        rows: list[Mapping[str, Any]] = table.to_pylist()
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a date beyond Python's
        raise DodonaError(f"{path} has a value in it that cannot be read: {_reason(error)}") from error
    return numbered(rows)


def _place(row: int, line: int) -> str:
    return f"row {row} (line {line})"


def _reason(error: BaseException) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split())[:200] or type(error).__name__
