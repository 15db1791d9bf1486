"""A trace beside a file of records, which a run that is killed at any moment leaves whole.

Parquet has its index at the end of the file, so a file that is still being written is no file yet. Each run's rows
therefore go to a journal first, ``STEM.trace.journal`` beside ``STEM.jsonl``: they are on the disk before the run's
record is written. When the store is closed, or opened again after its process died, the journal is merged into
``STEM.trace.parquet``, which replaces the earlier one in one step. The records say what counts: rows without a record,
of the one run that was being written down when the process died, are dropped, and that run will be done again; rows
that are there already are not added twice.

A journal is a row of frames, one a run: a magic word, the length and the CRC-32 of what follows, and the run's table as
an Arrow stream. A torn frame at the end is left out.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
import pyarrow as pa

from dodona.engine.errors import DodonaError
from dodona.engine.records import read_records
from dodona.engine.result import Result
from dodona.engine.trace import model_metadata, read_metadata, trace_table, trace_tables
from dodona.engine.trace_schema import SCHEMA, VERSION_KEY
from dodona.engine.trace_writer import TableWriter

TRACE: Final = ".trace.parquet"
JOURNAL: Final = ".trace.journal"
_HEAD: Final = struct.Struct("<8sQI")  # magic, bytes, CRC-32
_MAGIC: Final = b"DODTRACE"


class RunKey(NamedTuple):
    """Which run of an experiment's file a sequence is."""

    arm: str | None
    problem_id: str | None
    sample: int


class TraceStore:
    """The trace beside a file of records; what an earlier process left in a journal is merged on construction.

    Only one process at a time writes to it: whoever may write the records.

    Args:
        records: the file of records.
        metadata: what its runs have in common, beside the models' names.

    Raises:
        DodonaError: the trace cannot be read or written.
    """

    def __init__(self, records: str | Path, metadata: Mapping[str, str] | None = None) -> None:
        self.records = Path(records)
        self.path, self.journal = trace_paths(self.records)
        self._metadata = dict(metadata or {})
        self.merge()

    def append(self, result: Result, *, arm: str | None, problem_id: str | None) -> None:
        """Add one run; its rows are on the disk when this returns. Its record is to be written after that.

        Raises:
            DodonaError: they cannot be written. Nothing of them is left.
        """
        table = trace_table(result, problem_id=problem_id, arm=arm)
        common = {**(table.schema.metadata or {}), **model_metadata(result), **self._metadata}
        table = table.replace_schema_metadata(common)
        if len(table) == 0:
            return
        try:
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            new = not self.journal.exists()
            with open(self.journal, "ab", buffering=0) as file:
                _append(file, _frame(table))
            if new:
                _sync_folder(self.journal.parent)
        except OSError as error:
            raise self._unwritable(error) from error

    def merge(self) -> None:
        """Bring what the journal holds into the trace, and take the journal away.

        Raises:
            DodonaError: the trace cannot be read or written; the journal stays.
        """
        if not self.journal.exists():
            return
        wanted = recorded_runs(self.records)
        metadata = read_metadata(self.path) if self.path.exists() else {}
        writer: TableWriter | None = None
        sequence = 0
        try:
            for key, table in _runs(self.path, self.journal):
                if key not in wanted:
                    continue
                wanted.remove(key)  # once each
                if writer is None:
                    own = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
                    common = {**own, **metadata, **self._metadata}
                    common.pop(VERSION_KEY.decode(), None)
                    writer = TableWriter(self.path, common)
                writer.write(_numbered(table, sequence))
                sequence += 1
            if writer is not None:
                writer.close()
                _sync_folder(self.path.parent)
            self.journal.unlink()
        except BaseException as error:
            if writer is not None:
                writer.abandon()
            if isinstance(error, OSError):
                raise self._unwritable(error) from error
            raise

    def close(self) -> None:
        """Merge the journal; closing again does nothing."""
        self.merge()

    def untraced(self) -> int:
        """Runs that have a record of some tokens and no rows: they were run without a trace.

        Raises:
            DodonaError: records or trace cannot be read.
        """
        recorded = recorded_runs(self.records, tokens=True)
        names = ("sequence", "arm", "problem_id", "sample")
        tables = list(trace_tables(self.path, names)) if self.path.exists() else []
        tables += journal_tables(self.journal) if self.journal.exists() else []
        return len(recorded.difference(key for table in tables for key, _ in split_runs(table)))

    def _unwritable(self, error: OSError) -> DodonaError:
        return DodonaError(f"the trace {self.path} cannot be written: {error.strerror or error}")


def trace_paths(records: Path) -> tuple[Path, Path]:
    """Where the trace of a file of records lies, and the journal of what is not in it yet."""
    return records.with_name(records.stem + TRACE), records.with_name(records.stem + JOURNAL)


def recorded_runs(records: Path, *, tokens: bool = False) -> set[RunKey]:
    """The runs that have a record in this file, with ``tokens`` those with a text; none where there is no file.

    Raises:
        DodonaError: the file cannot be read.
    """
    if not records.exists():
        return set()
    return {
        RunKey(line.get("arm"), line.get("problem_id"), int(line.get("sample") or 0))
        for line in read_records(records)
        if "header" not in line and (not tokens or line.get("total_tokens_generated"))
    }


def journal_tables(path: Path) -> Iterator[pa.Table]:
    """The runs of a journal, a table each, up to where it is torn.

    Raises:
        DodonaError: it cannot be read, or is no journal.
    """
    try:
        with open(path, "rb") as file:
            if not _MAGIC.startswith(file.read(len(_MAGIC)).rstrip(b"\0")):  # zeros are what a power failure leaves
                raise DodonaError(f"{path} is no journal of a trace")
            file.seek(0)
            while (payload := _payload(file)) is not None:
                with pa.ipc.open_stream(payload, options=pa.ipc.IpcReadOptions(use_threads=False)) as reader:
                    table = reader.read_all()
                for place, name in enumerate(SCHEMA.names):  # written by a version that lacked a column
                    if name not in table.column_names:
                        table = table.add_column(place, name, pa.nulls(len(table), SCHEMA.field(name).type))
                yield table
    except OSError as error:
        raise DodonaError(f"the trace's journal {path} cannot be read: {error.strerror or error}") from error


def _payload(file: BinaryIO) -> bytes | None:
    """The next frame's content; None at the end, or where a frame is torn."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    magic, size, checksum = _HEAD.unpack(head)
    if magic != _MAGIC or not size or size > os.fstat(file.fileno()).st_size - file.tell():
        return None
    payload = file.read(size)
    return payload if zlib.crc32(payload) == checksum else None


def _frame(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)  # threads cost more than one run's table
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    payload: bytes = sink.getvalue().to_pybytes()
    return _HEAD.pack(_MAGIC, len(payload), zlib.crc32(payload)) + payload


def _append(file: Any, data: bytes) -> None:
    """Write and wait until it is on the disk; after an error the file is as it was."""
    size = os.fstat(file.fileno()).st_size
    try:
        written = os.write(file.fileno(), data)
        while written < len(data):  # a disk that is full names itself in the next write
            written += os.write(file.fileno(), data[written:])
        os.fsync(file.fileno())
    except OSError:
        os.ftruncate(file.fileno(), size)
        raise


def _runs(path: Path, journal: Path) -> Iterator[tuple[RunKey, pa.Table]]:
    """Every sequence of the trace and then of its journal."""
    if path.exists():
        for table in trace_tables(path):
            yield from split_runs(table)
    for table in journal_tables(journal):
        yield from split_runs(table)


def split_runs(table: pa.Table) -> Iterator[tuple[RunKey, pa.Table]]:
    """The sequences of a table that has ``sequence``, ``arm``, ``problem_id`` and ``sample`` among its columns."""
    sequence = table["sequence"].to_numpy()
    edges = np.flatnonzero(np.diff(sequence, prepend=-1))
    for start, stop in zip(edges, [*edges[1:], len(table)], strict=True):
        run = table.slice(int(start), int(stop - start))
        arm, problem, sample = (run[name][0].as_py() for name in ("arm", "problem_id", "sample"))
        yield RunKey(arm, problem, int(sample or 0)), run


def _numbered(table: pa.Table, sequence: int) -> pa.Table:
    numbers = pa.array([sequence] * len(table), pa.int32())
    return table.set_column(SCHEMA.get_field_index("sequence"), SCHEMA.field("sequence"), numbers)


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder outlive a power failure, where the system can."""
    if os.name != "posix":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
