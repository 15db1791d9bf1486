"""What the user names to look at: folders and files of records, and traces beside them or alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dodona.engine.errors import DodonaError
from dodona.engine.records import read_records

_PARQUET = b"PAR1"  # a Parquet file's first four bytes


@dataclass(frozen=True, slots=True)
class Source:
    """One path of the command line."""

    path: Path
    records: list[Path] = field(default_factory=list)
    traces: list[Path] = field(default_factory=list)

    @property
    def is_trace(self) -> bool:
        """Whether it is a trace that was named itself."""
        return not self.records and self.traces == [self.path]


def find_sources(paths: Sequence[str | Path], note: Callable[[str], None]) -> list[Source]:
    """The files behind each path, in stable order; ``note`` is told what is passed over.

    A folder stands for the ``*.jsonl`` files (without ``*.graded.jsonl``) and the ``*.parquet`` files in it and below.
    A file of records brings ``<stem>.trace.parquet`` and ``<stem>.parquet`` along where they lie beside it.

    Raises:
        DodonaError: no such path, or nothing in it to look at.
    """
    sources, seen = [], set()
    for path in map(Path, paths):
        if (real := path.resolve()) in seen:
            note(f"{path} is named twice, and shown once")
            continue
        seen.add(real)
        sources.append(_folder(path, note) if path.is_dir() else _file(path))
    return sources


def _folder(path: Path, note: Callable[[str], None]) -> Source:
    found = sorted(file for file in path.rglob("*.jsonl") if not file.name.endswith(".graded.jsonl"))
    records = []
    for file in found:
        if (reason := foreign(file)) is None:
            records.append(file)
        else:
            note(f"{file} is passed over: it {reason}")
    traces = []
    for file in sorted(path.rglob("*.parquet")):
        if _is_parquet(file):
            traces.append(file)
        else:
            note(f"{file} is passed over: it is no Parquet file, or an empty or unfinished one")
    if not records and not traces:
        raise DodonaError(f"{path} has neither records (*.jsonl) nor a trace (*.parquet) in it")
    return Source(path, records, traces)


def _file(path: Path) -> Source:
    if not path.exists():
        raise DodonaError(f"there is no file or folder {path}")
    if _is_parquet(path):
        return Source(path, traces=[path])
    if path.suffix == ".parquet":
        raise DodonaError(f"{path} is no Parquet file, or one that was never finished")
    if (reason := foreign(path)) is not None:
        raise DodonaError(f"{path} {reason}")
    beside = [path.with_name(f"{path.stem}{ending}") for ending in (".trace.parquet", ".parquet")]
    return Source(path, [path], [file for file in beside if file.is_file()])


def foreign(path: Path) -> str | None:
    """Why a file holds no records of runs, by its first line; None where it does.

    Raises:
        DodonaError: it cannot be read.
    """
    try:
        first = next(read_records(path), None)
    except DodonaError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return "holds no records: its first line is no JSON object"
    except RecursionError:
        return "holds no records: its first line is nested too deeply"
    if first is None:
        return "is empty"
    if "header" not in first and not is_run(first):
        return "holds no records of runs: its first line has no interleaved_outputs"
    return None


def is_run(record: dict[str, Any]) -> bool:
    """Whether a line of a records file is a run's record."""
    return isinstance(record.get("interleaved_outputs"), list)


def _is_parquet(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(_PARQUET)) == _PARQUET
    except OSError as error:
        raise DodonaError(f"{path} cannot be read: {error.strerror or error}") from error
