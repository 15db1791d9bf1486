"""A log of what was found out about one experiment's texts: JSON lines with a header, one fsync each, gone on with.

It is no file of records, and its name does not end as theirs do, so that no command takes it for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from dodona.engine.errors import DodonaError
from dodona.engine.records import RecordFile, read_records
from dodona.eval.causal.origin import Origin
from dodona.eval.header import differences, new_header


class OriginLog:
    """Open for adding to from construction on.

    Args:
        path: made where it is missing.
        origin: the experiment.
        schema: what its lines are; a log of another schema is refused.
        option: what a user sets to have another file.

    Raises:
        DodonaError: it is of another experiment or kind, being written by another process, or cannot be written.
    """

    def __init__(self, path: Path, origin: Origin, schema: str, option: str) -> None:
        self.path, self.origin, self._schema, self._option = path, origin, schema, option
        self._file = RecordFile(path)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def entries(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Its lines but for the header, each with its number.

        Raises:
            DodonaError: a line that is no JSON object.
        """
        for number, record in enumerate(read_records(self.path), 1):
            if "header" not in record:
                yield number, record

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add a line; it is on the disk when this returns.

        Raises:
            DodonaError: it cannot be written.
        """
        self._file.append(entry)

    def damaged(self, number: int, error: Exception) -> DodonaError:
        """What to raise for a line that cannot be read."""
        return DodonaError(
            f"{self.path}, line {number}: it cannot be read ({type(error).__name__}: {error}); name another "
            f"{self._option}"
        )

    def close(self) -> None:
        """Close the file; closing again does nothing."""
        self._file.close()

    def __enter__(self) -> OriginLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> None:
        """Check the header, or write it where there is nothing yet."""
        first = next(read_records(self.path), None)
        own = new_header(self.origin.config, (), ()).line()["header"]
        own = {name: value for name, value in own.items() if name not in ("arms", "problems")} | {
            "schema": self._schema
        }
        if first is None:
            self._file.append({"header": own})
            return
        header = first.get("header")
        if not isinstance(header, Mapping) or header.get("schema") != self._schema:
            raise DodonaError(f"{self.path} is another kind of file: name another {self._option}")
        if header.get("config_hash") != own["config_hash"]:
            what = differences(header.get("config") or {}, own["config"])
            raise DodonaError(f"{self.path} is of another experiment: {what}; name another {self._option}")
