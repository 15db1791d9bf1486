"""The trace: every token of a run, one Parquet row each, with its source, signals and the oracle's view of it.

The columns are ``COLUMNS`` below; where a model has not looked at a position, or a signal was not asked for, the value
is null. Settings that are the same for a whole sequence are columns too: they compress to nothing, and a row is then
complete by itself. The rows of a sequence follow each other, in one row group, in the order of their positions.

The file's metadata holds ``dodona_trace_schema`` (the schema's version) and what the file's sequences have in common:
``base_model_id``, ``oracle_model_id``, and further names that whoever writes it adds.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dodona.engine.errors import DodonaError
from dodona.engine.result import Result
from dodona.engine.sequence import BASE, ORACLE

SCHEMA_VERSION: Final = 2
READABLE: Final = (1, SCHEMA_VERSION)  # version 1 lacks some columns, which read as null
VERSION_KEY: Final = b"dodona_trace_schema"
_TEXT = pa.dictionary(pa.int32(), pa.string())
COLUMNS: Final[tuple[tuple[str, pa.DataType], ...]] = (
    ("sequence", pa.int32()),  # ordinal of the sequence in this file
    ("problem_id", _TEXT),
    ("arm", _TEXT),  # name of the experiment's cell; null outside of experiments
    ("seed", pa.int64()),
    ("sample", pa.int32()),
    ("position", pa.int32()),  # generated-token index
    ("token_id", pa.int32()),
    ("token", _TEXT),  # the token's own text; bytes that are no UTF-8 by themselves are U+FFFD
    ("source", _TEXT),  # base or oracle
    ("consult", pa.int32()),  # which consult wrote the token; null for the base's
    ("entropy", pa.float32()),  # of the base's distribution, nats; likewise below
    ("varentropy", pa.float32()),
    ("top_prob", pa.float32()),
    ("margin", pa.float32()),
    ("logprob", pa.float32()),
    ("base_top1", pa.int32()),
    ("attn_entropy", pa.float32()),  # of the base's attention; null unless it was asked for, likewise below
    ("attn_varentropy", pa.float32()),
    ("agreement", pa.float32()),
    ("interaction_strength", pa.float32()),
    ("oracle_logprob", pa.float32()),  # of the written token, nats
    ("oracle_rank", pa.int32()),  # 1 = the oracle's own first choice
    ("oracle_top1", pa.int32()),
    ("oracle_entropy", pa.float32()),
    ("oracle_margin", pa.float32()),
    ("agree", pa.bool_()),  # both models have the same argmax
    ("kl", pa.float32()),  # of base from oracle, nats; null unless it was asked for
    ("js", pa.float32()),
    ("u", pa.float32()),  # the trigger's uniform draw
    ("c", pa.float32()),
    ("k", pa.float32()),
    ("trigger", _TEXT),
    ("when", _TEXT),
    ("step_size", pa.int32()),
    ("max_new_tokens", pa.int32()),
    ("max_oracle_tokens", pa.int32()),
    ("prompt_tokens", pa.int32()),
    ("finish_reason", _TEXT),
)
SCHEMA = pa.schema(COLUMNS, metadata={VERSION_KEY: str(SCHEMA_VERSION)})
FLOATS: Final = tuple(name for name, kind in COLUMNS if pa.types.is_floating(kind))
_GROUP: Final = 1 << 16  # rows of a row group, or the rows of one longer sequence

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


class TableWriter:
    """Writes tables with ``SCHEMA`` to a Parquet file, each sequence's rows in one row group.

    The file appears under its name, complete and on the disk, when it is closed; until then it has another one.

    Args:
        metadata: what the sequences have in common.

    Raises:
        DodonaError: the path cannot be written.
    """

    def __init__(self, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
        self.path = Path(path)
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._waiting: list[pa.Table] = []
        self._rows = 0  # that wait
        self._schema = SCHEMA.with_metadata({**(SCHEMA.metadata or {}), **(metadata or {})})
        floats = [name for name in FLOATS if name not in ("c", "k")]
        try:
            self._writer = pq.ParquetWriter(
                self._partial,
                self._schema,
                compression="zstd",
                use_dictionary=[name for name in self._schema.names if name not in floats],
            )
        except OSError as error:
            raise self._unwritable(error) from error

    def write(self, table: pa.Table) -> None:
        """Append the rows of one sequence."""
        self._waiting.append(table.replace_schema_metadata(self._schema.metadata))
        self._rows += len(table)
        if self._rows >= _GROUP:
            self._flush()

    def close(self) -> None:
        """Finish the file and give it its name."""
        self._flush()
        try:
            self._writer.close()
            with open(self._partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(self._partial, self.path)
        except OSError as error:
            raise self._unwritable(error) from error

    def abandon(self) -> None:
        """Leave nothing of it."""
        self._writer.close()
        self._partial.unlink(missing_ok=True)

    def _flush(self) -> None:
        if not self._rows:
            return
        try:
            table = pa.concat_tables(self._waiting).unify_dictionaries()
            self._writer.write_table(table, row_group_size=max(self._rows, 1))
        except OSError as error:
            raise self._unwritable(error) from error
        self._waiting, self._rows = [], 0

    def _unwritable(self, error: OSError) -> DodonaError:
        return DodonaError(f"cannot write the trace {self.path}: {error.strerror or error}")


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
        self.close()


def open_trace(path: str | Path) -> pq.ParquetFile:
    """A trace's file, with its schema checked.

    Raises:
        DodonaError: no trace, or one of a version that is not known.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DodonaError(f"cannot read the trace {path}: {error}") from error
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
            raise DodonaError(f"cannot read the trace {path}: {error}") from error


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
