"""The records and traces behind the paths that a user names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from dodona.engine.errors import DodonaError
from dodona.engine.records import read_records
from dodona.engine.trace_schema import VERSION_KEY
from dodona.engine.trace_store import JOURNAL, trace_paths
from dodona.eval.runs import SCHEMAS


class Files(NamedTuple):
    """What there is to read."""

    records: list[Path]
    traces: list[Path]  # Parquet files, and after them the journals of runs that were not finished


def find_files(paths: Iterable[str | Path], note: Callable[[str], None]) -> Files:
    """The files behind each path, each once and in a stable order; ``note`` is told what is passed over.

    A folder stands for the records (``*.jsonl``, without ``*.graded.jsonl``), the traces (``*.parquet``) and the
    journals of traces in it and below. A file of records brings its shards along, and the traces beside them. A file
    that is named must be a trace or hold records.

    Raises:
        DodonaError: no such path, one that is something else, or no trace in all of them.
    """
    named = list(map(Path, paths))
    records: dict[Path, Path] = {}
    traces: dict[Path, Path] = {}
    journals: dict[Path, Path] = {}
    for path in named:
        for file in _behind(path):
            if file.suffix == ".jsonl":
                if _has_records(file):
                    records.setdefault(file.resolve(), file)
                elif file == path:
                    raise DodonaError(f"{file} holds no records of runs")
                else:
                    note(f"{file} is passed over: it holds no records of runs")
            elif file.name.endswith(JOURNAL):
                if file.resolve() not in journals:
                    note(f"{file} is of a run that has not ended, or was killed: what it holds so far is read, too")
                journals.setdefault(file.resolve(), file)
            elif file == path or _is_trace(file):
                traces.setdefault(file.resolve(), file)
            else:
                note(f"{file} is passed over: it is no trace of dodona")
    if not traces and not journals:
        raise DodonaError(
            f"no trace in {', '.join(map(str, named))}: `dodona eval --trace` writes one beside the records, and "
            "`dodona generate --trace FILE` to a file"
        )
    return Files(list(records.values()), [*traces.values(), *journals.values()])


def _behind(path: Path) -> Iterator[Path]:
    if path.is_dir():
        endings = (".jsonl", ".parquet", JOURNAL)
        found = (file for file in path.rglob("*") if file.name.endswith(endings) and file.is_file())
        yield from sorted(file for file in found if not file.name.endswith(".graded.jsonl"))
        return
    if not path.exists():
        raise DodonaError(f"there is no file or folder {path}")
    if path.suffix == ".jsonl":
        numbered = re.compile(re.escape(path.stem) + r"\.[0-9]+\.jsonl")
        for file in (path, *sorted(other for other in path.parent.iterdir() if numbered.fullmatch(other.name))):
            yield file
            yield from (trace for trace in trace_paths(file) if trace.is_file())
        return
    yield path


def _has_records(path: Path) -> bool:
    """Whether a file's first line is the header of runs, or the record of one."""
    try:
        first = next(read_records(path), {})
    except DodonaError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return False
    header = first.get("header")
    return (isinstance(header, dict) and header.get("schema") in SCHEMAS) or "interleaved_outputs" in first


def _is_trace(path: Path) -> bool:
    import pyarrow.parquet as pq

    try:
        return VERSION_KEY in (pq.read_schema(path).metadata or {})
    except (OSError, ValueError):  # Arrow's own errors are ValueErrors
        return False
