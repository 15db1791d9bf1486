"""The trace: every token of a run, one Parquet row each, with its source, signals and the oracle's view of it.

The columns are ``trace_schema.COLUMNS``; where a model has not looked at a position, or a signal was not asked for, the
value is null. Settings that are the same for a whole sequence are columns too: they compress to nothing, and a row is
then complete by itself. The rows of a sequence follow each other, in one row group, in the order of their positions.

The file's metadata holds ``dodona_trace_schema`` (the schema's version) and what the file's sequences have in common:
``base_model_id``, ``oracle_model_id``, and further names that whoever writes it adds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dodona.engine.errors import DodonaError
from dodona.engine.result import Result
from dodona.engine.sequence import BASE, ORACLE
from dodona.engine.trace_schema import COLUMNS, READABLE, SCHEMA, SCHEMA_VERSION, VERSION_KEY
from dodona.engine.trace_writer import TableWriter

__all__ = ["COLUMNS", "SCHEMA", "SCHEMA_VERSION", "Columns", "TraceWriter", "model_metadata", "open_trace"]
__all__ += ["plain_columns", "read_metadata", "read_traces", "trace_table", "trace_tables"]

Columns = dict[str, np.ndarray[Any, Any]]


def trace_table(
    result: Result, sequence: int = 0, *, problem_id: str | None = None, arm: str | None = None
) -> pa.Table:
    """The rows of one result, as an Arrow table with ``SCHEMA``; by default the problem's id is the request's."""
    length, request, signals = len(result.ids), result.request, result.signals
    starts = np.array(result.cheat_positions, dtype=np.int64)
    consult = np.searchsorted(starts, np.arange(length), side="right") - 1
    constants = {
        "sequence": sequence,
        "problem_id": request.id if problem_id is None else problem_id,
        "arm": arm,
        "seed": request.seed,
        "sample": request.sample,
        "c": float(result.c),
        "k": float(request.k),
        "trigger": request.parsed_trigger.text,
        "when": request.when,
        "step_size": request.parsed_trigger.step_size or request.step_size,
        "max_new_tokens": request.max_new_tokens,
        "max_oracle_tokens": request.max_oracle_tokens,
        "prompt_tokens": len(result.prompt_ids),
        "finish_reason": result.finish_reason,
    }
    values: dict[str, Any] = {
        name: _repeated(value, SCHEMA.field(name).type, length) for name, value in constants.items()
    }
    values |= {
        "position": np.arange(length),
        "token_id": np.array(result.ids, dtype=np.int64),
        "token": _texts(result),
        "source": pa.DictionaryArray.from_arrays(pa.array(result.sources, pa.int32()), pa.array([BASE, ORACLE])),
        "consult": pa.array(consult, mask=result.sources == 0),
        "u": result.draws,
    }
    for name, kind in COLUMNS:
        if name in values:
            continue
        if (signal := signals.get(name)) is None:
            values[name] = pa.nulls(length, kind)
            continue
        unseen = np.isnan(signal)
        plain = signal if pa.types.is_floating(kind) else np.where(unseen, 0, signal).astype(np.int64)
        values[name] = pa.array(plain == 1 if name == "agree" else plain, mask=unseen)
    return pa.table({name: _cast(values[name], kind) for name, kind in COLUMNS}, schema=SCHEMA)


def _texts(result: Result) -> pa.Array:
    unique, places = np.unique(np.array(result.ids, dtype=np.int64), return_inverse=True)
    texts = [result.token_text(int(token)).encode("utf-8", "replace").decode() for token in unique]
    return pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), pa.array(texts, pa.string()))


def model_metadata(result: Result) -> dict[str, str]:
    """The names of the two models, as a trace's metadata holds them."""
    names = {"base_model_id": result.base_model_id, "oracle_model_id": result.oracle_model_id}
    return {name: value for name, value in names.items() if value is not None}


class TraceWriter:
    """Writes results to a Parquet file, which appears under its name when it is complete.

    Raises:
        DodonaError: the path cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._sequences = 0
        self._writer = TableWriter(path)  # which finds out now whether the path can be written

    def write(self, result: Result) -> None:
        """Append one result's tokens."""
        if not self._sequences:  # only now are the models known
            self._writer.abandon()
            self._writer = TableWriter(self.path, model_metadata(result))
        self._writer.write(trace_table(result, self._sequences))
        self._sequences += 1

    def close(self) -> None:
        """Finish the file and give it its name."""
        self._writer.close()

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is not None and not self._sequences:
            self._writer.abandon()  # an earlier trace is worth more than an empty one
        else:
            self.close()


def open_trace(path: str | Path) -> pq.ParquetFile:
    """A trace's file, with its schema checked.

    Raises:
        DodonaError: no trace, or one of a version that is not known.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DodonaError(f"cannot read the trace {path}: {' '.join(str(error).split())}") from error
    version = (file.schema_arrow.metadata or {}).get(VERSION_KEY)
    if version not in [str(known).encode() for known in READABLE]:
        file.close()
        if version is None:
            raise DodonaError(f"{path} is a Parquet file, but no trace of dodona")
        raise DodonaError(f"{path} has trace schema {version!r}, this is version {SCHEMA_VERSION}")
    return file


def read_metadata(path: str | Path) -> dict[str, str]:
    """What the file says of all of its sequences.

    Raises:
        DodonaError: as ``open_trace``.
    """
    with open_trace(path) as file:
        metadata = file.schema_arrow.metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items() if not key.startswith(b"ARROW:")}


def trace_tables(path: str | Path, columns: Collection[str] | None = None) -> Iterator[pa.Table]:
    """The row groups of a trace, whole sequences each; of the columns those that are asked for, in ``COLUMNS``' order.

    Raises:
        DodonaError: as ``open_trace``.
    """
    wanted = [(name, kind) for name, kind in COLUMNS if columns is None or name in columns]
    with open_trace(path) as file:
        there = set(file.schema_arrow.names)
        try:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=[name for name, _ in wanted if name in there])
                for place, (name, kind) in enumerate(wanted):
                    if name not in there:
                        table = table.add_column(place, name, pa.nulls(len(table), kind))
                yield table
        except (OSError, pa.ArrowException) as error:
            raise DodonaError(f"cannot read the trace {path}: {' '.join(str(error).split())}") from error


def plain_columns(table: pa.Table) -> Columns:
    """A table's columns in NumPy: null is NaN in numeric columns and None in texts; ``agree`` with nulls is object."""
    return {name: _plain(table[name]).to_numpy() for name in table.column_names}


def read_traces(path: str | Path) -> Iterator[Columns]:
    """The sequences of a trace file one by one, as columns; null is NaN in the numeric ones.

    Raises:
        DodonaError: as ``open_trace``.
    """
    for table in trace_tables(path):
        columns = plain_columns(table)
        edges = np.flatnonzero(np.diff(columns["sequence"], prepend=-1))
        for start, stop in zip(edges, [*edges[1:], len(table)], strict=True):
            yield {name: column[start:stop] for name, column in columns.items()}


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A dictionary column as text: an all-null one has no dictionary to look up in."""
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _repeated(value: Any, kind: pa.DataType, length: int) -> pa.Array:
    if value is None:
        return pa.nulls(length, kind)
    if not pa.types.is_dictionary(kind):
        return pa.repeat(pa.scalar(value, kind), length)
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), length), pa.array([str(value)]))


def _cast(values: Any, kind: pa.DataType) -> pa.Array:
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return array if array.type == kind else array.cast(kind)
