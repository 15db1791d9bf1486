"""The files of a study: JSON lines under a header, to which the same command adds.

A study's folder has ``answers-a.jsonl`` and ``answers-b.jsonl`` where models answer, and ``verdicts.jsonl``, which is
every judge's cache by content hash; ``judgements.jsonl``, ``log.txt`` and ``pairs.html`` are written anew at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

from dodona import __version__
from dodona.engine.errors import DodonaError
from dodona.engine.records import RecordFile, read_records
from dodona.eval.header import SCHEMA, config_hash, differences, git_commit, versions

T = TypeVar("T")

STUDY: Final = "judge"
VERDICTS: Final = "verdicts.jsonl"
JUDGEMENTS: Final = "judgements.jsonl"


def header_line(stage: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The first line of a file."""
    return {
        "header": {
            "schema": SCHEMA,
            "study": STUDY,
            "stage": stage,
            "dodona": __version__,
            "config": dict(config),
            "config_hash": config_hash(config),
            "versions": versions(),
            "git_commit": git_commit(),
            "arms": [],
            "problems": [],
        }
    }


def read_stage(path: Path, stage: str) -> Iterator[dict[str, Any]]:
    """A file's header and then its records.

    Raises:
        DodonaError: it cannot be read, or is no file of this stage.
    """
    first = True
    for record in read_records(path):
        if first or "header" in record:
            content = record.get("header")
            if not isinstance(content, Mapping) or content.get("study") != STUDY or content.get("stage") != stage:
                raise DodonaError(f"{path} does not hold {stage} of `dodona judge`: give another --output-dir")
            if content.get("schema") != SCHEMA or not isinstance(content.get("config"), Mapping):
                raise DodonaError(f"{path} was written by another version of dodona")
            first = False
        yield record


class StageFile:
    """A file of a stage, open for adding to from construction on.

    Args:
        path: the file, new or with records of this stage in it.
        stage: what it holds: answers or verdicts.
        config: what all of its records depend on.

    Raises:
        DodonaError: it holds something else or records of another configuration, or cannot be written.
    """

    def __init__(self, path: Path, stage: str, config: Mapping[str, Any]) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []  # that were there
        headed = False
        for record in read_stage(path, stage) if path.exists() else ():
            if "header" not in record:
                self.records.append(record)
                continue
            headed = True
            there = record["header"]["config"]
            if dict(there) != dict(config):
                raise DodonaError(
                    f"{path} was written with other settings: {differences(there, config)}; go on with its own, or "
                    "give another --output-dir"
                )
        self._file = RecordFile(path)
        try:
            if not headed:
                self._file.append(header_line(stage, config))
        except BaseException:
            self._file.close()
            raise

    def append(self, record: Mapping[str, Any]) -> None:
        """Write a record; it is on the disk when this returns.

        Raises:
            DodonaError: it cannot be written.
        """
        self._file.append(record)

    def close(self) -> None:
        """Close the file; closing again does nothing."""
        self._file.close()

    def __enter__(self) -> StageFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def parsed(read: Callable[[Mapping[str, Any]], T], record: Mapping[str, Any], path: Path) -> T:
    """What a record says.

    Raises:
        DodonaError: it is damaged.
    """
    try:
        return read(record)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DodonaError(f"{path} holds a record that cannot be read ({type(error).__name__}: {error})") from error


def kept(folder: Path) -> int:
    """Records on the disk that a later run goes on from, counted there."""
    count = 0
    for path in (folder / VERDICTS, *folder.glob("answers-*.jsonl")):
        if path.exists():
            with open(path, "rb") as file:
                count += sum(line.endswith(b"\n") and not line.startswith(b'{"header"') for line in file)
    return count
