"""Writes sequences to a Parquet file with a trace's schema."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from dodona.engine.errors import DodonaError
from dodona.engine.trace_schema import FLOATS, SCHEMA

_GROUP: Final = 1 << 16  # rows of a row group, or the rows of one longer sequence


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
        if self.path.exists() and not self.path.is_file():  # a device that a file takes the place of is gone
            raise DodonaError(f"cannot write the trace {self.path}: it is no file")
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
