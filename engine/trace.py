"""The trace: every token of a run, one Parquet row each, with its source, signals and the oracle's view of it.

The columns are ``COLUMNS`` below; where a model has not looked at a position the value is null. Settings that are the
same for a whole sequence are columns too: they compress to nothing, and a row is then complete by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dodona.engine.errors import DodonaError
from dodona.engine.result import Result
from dodona.engine.sequence import BASE, ORACLE
from dodona.engine.signals import BASE_SIGNALS

SCHEMA_VERSION = 1
_TEXT = pa.dictionary(pa.int32(), pa.string())
COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("sequence", pa.int32()),  # ordinal of the sequence in this file
    ("problem_id", _TEXT),
    ("seed", pa.int64()),
    ("sample", pa.int32()),
    ("position", pa.int32()),  # generated-token index
    ("token_id", pa.int32()),
    ("source", _TEXT),  # base or oracle
    ("consult", pa.int32()),  # which consult wrote the token; null for the base's
    ("entropy", pa.float32()),  # of the base's distribution, nats; likewise below
    ("varentropy", pa.float32()),
    ("top_prob", pa.float32()),
    ("margin", pa.float32()),
    ("logprob", pa.float32()),
    ("base_top1", pa.int32()),
    ("oracle_logprob", pa.float32()),  # of the written token, nats
    ("oracle_rank", pa.int32()),  # 1 = the oracle's own first choice
    ("oracle_top1", pa.int32()),
    ("oracle_entropy", pa.float32()),
    ("oracle_margin", pa.float32()),
    ("agree", pa.bool_()),  # both models have the same argmax
    ("u", pa.float32()),  # the trigger's uniform draw
    ("c", pa.float32()),
    ("k", pa.float32()),
    ("trigger", _TEXT),
    ("when", _TEXT),
    ("step_size", pa.int32()),
    ("max_new_tokens", pa.int32()),
    ("max_oracle_tokens", pa.int32()),
    ("finish_reason", _TEXT),
)
SCHEMA = pa.schema(COLUMNS, metadata={"dodona_trace_schema": str(SCHEMA_VERSION)})


def trace_table(result: Result, sequence: int = 0) -> pa.Table:
    """The rows of one result, as an Arrow table with ``SCHEMA``."""
    length, request, signals = len(result.ids), result.request, result.signals
    starts = np.array(result.cheat_positions, dtype=np.int64)
    consult = np.searchsorted(starts, np.arange(length), side="right") - 1
    values: dict[str, Any] = {
        "sequence": _constant(sequence, length),
        "problem_id": _constant(request.id, length),
        "seed": _constant(request.seed, length),
        "sample": _constant(request.sample, length),
        "position": np.arange(length),
        "token_id": np.array(result.ids, dtype=np.int64),
        "source": [(BASE, ORACLE)[source] for source in result.sources],
        "consult": pa.array(consult, mask=result.sources == 0),
        "c": _constant(float(result.c), length),
        "k": _constant(float(request.k), length),
        "trigger": _constant(request.parsed_trigger.text, length),
        "when": _constant(request.when, length),
        "step_size": _constant(request.parsed_trigger.step_size or request.step_size, length),
        "max_new_tokens": _constant(request.max_new_tokens, length),
        "max_oracle_tokens": _constant(request.max_oracle_tokens, length),
        "finish_reason": _constant(result.finish_reason, length),
    }
    for name in (*BASE_SIGNALS, "oracle_logprob", "oracle_entropy", "oracle_margin"):
        values[name] = pa.array(signals[name], mask=np.isnan(signals[name]))
    values["u"] = result.draws
    for name in ("base_top1", "oracle_rank", "oracle_top1"):
        known = ~np.isnan(signals[name])
        values[name] = pa.array(np.where(known, signals[name], 0).astype(np.int64), mask=~known)
    values["agree"] = pa.array(signals["agree"] == 1, mask=np.isnan(signals["agree"]))
    return pa.table({name: _cast(values[name], kind) for name, kind in COLUMNS}, schema=SCHEMA)


class TraceWriter:
    """Writes results to a Parquet file, a row group each; the file appears under its name when it is complete.

    Raises:
        DodonaError: the path cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._sequences = 0
        try:
            self._writer = pq.ParquetWriter(self._partial, SCHEMA, compression="zstd")
        except OSError as error:
            raise DodonaError(f"cannot write the trace {self.path}: {error.strerror or error}") from error

    def write(self, result: Result) -> None:
        """Append one result's tokens."""
        try:
            self._writer.write_table(trace_table(result, self._sequences))
        except OSError as error:
            raise DodonaError(f"cannot write the trace {self.path}: {error.strerror or error}") from error
        self._sequences += 1

    def close(self) -> None:
        """Finish the file and give it its name."""
        self._writer.close()
        os.replace(self._partial, self.path)

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


def read_traces(path: str | Path) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """The sequences of a trace file one by one, as columns; null is NaN in the numeric ones.

    Raises:
        DodonaError: no trace, or one of another schema version.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DodonaError(f"cannot read the trace {path}: {error}") from error
    version = (table.schema.metadata or {}).get(b"dodona_trace_schema")
    if version != str(SCHEMA_VERSION).encode():
        raise DodonaError(f"{path} has trace schema {version!r}, this is version {SCHEMA_VERSION}")
    columns = {name: _plain(table[name]).to_numpy() for name in table.column_names}
    edges = np.flatnonzero(np.diff(columns["sequence"], prepend=-1))
    for start, stop in zip(edges, [*edges[1:], len(table)], strict=True):
        yield {name: column[start:stop] for name, column in columns.items()}


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A dictionary column as text: an all-null one has no dictionary to look up in."""
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _constant(value: Any, length: int) -> list[Any]:
    return [value] * length


def _cast(values: Any, kind: pa.DataType) -> pa.Array:
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return array.cast(kind) if not pa.types.is_dictionary(kind) else array.cast(pa.string()).cast(kind)
