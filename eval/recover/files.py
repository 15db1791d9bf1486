"""The files of a study: one of JSON lines for each stage, under a header, to which the same command adds.

A file's first line is a header: the stage, what all of its records depend on (config), what was asked for so far
(asked, problems), versions and commit. A later header may follow anywhere, where more was asked for: the configuration
stays the same, the rest adds up. A stage's configuration holds that of the stages before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from dodona import __version__
from dodona.engine.errors import DodonaError
from dodona.engine.records import RecordFile, read_records
from dodona.eval.header import SCHEMA, config_hash, differences, git_commit, versions
from dodona.eval.recover.rows import Asked

T = TypeVar("T")

STUDY: Final = "recover"


@dataclass(slots=True)
class Header:
    """What the headers of one file say together, or what is asked for now."""

    stage: str
    config: Mapping[str, Any]
    asked: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, Asked] = field(default_factory=dict)  # by id, in the order in which they were asked for
    dodona: str = __version__
    versions: Mapping[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    study: str = STUDY  # the command whose file it is

    def line(self) -> dict[str, Any]:
        """As a line of its file."""
        return {
            "header": {
                "schema": SCHEMA,
                "study": self.study,
                "stage": self.stage,
                "dodona": self.dodona,
                "config": dict(self.config),
                "config_hash": config_hash(self.config),
                "versions": dict(self.versions),
                "git_commit": self.git_commit,
                "arms": [],
                "asked": self.asked,
                "problems": [problem._asdict() for problem in self.problems.values()],
            }
        }

    def covers(self, other: Header) -> bool:
        """Whether nothing of the other would have to be added."""
        return self.problems.keys() >= other.problems.keys() and joined(self.asked, other.asked) == self.asked


def joined(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for at two times: the larger number, either flag, all fractions."""
    both = dict(there)
    for name, value in here.items():
        if isinstance(value, list):
            both[name] = sorted({*both.get(name, []), *value})
        else:
            both[name] = max(both.get(name, value), value)
    return both


def read_stage(path: Path, stage: str, study: str = STUDY) -> Iterator[Header | dict[str, Any]]:
    """A file's records, each after the headers that stand before it; a header comes with all earlier ones joined.

    Raises:
        DodonaError: it cannot be read, or is no file of this stage.
    """
    header: Header | None = None
    for record in read_records(path):
        if "header" in record:
            header = _read_header(record["header"], path, stage, header, study)
            yield header
        elif header is None:
            raise DodonaError(f"{path} is no file of `dodona {study}`: it does not begin with a header")
        else:
            yield record


def parsed_row(read: Callable[[Mapping[str, Any]], T], record: Mapping[str, Any], path: Path) -> T:
    """A record's row.

    Raises:
        DodonaError: it is no record of this stage.
    """
    try:
        return read(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DodonaError(f"{path} holds a record that cannot be read ({type(error).__name__}: {error})") from error


def stage_rows(path: Path, here: Header, read: Callable[[Mapping[str, Any]], T]) -> tuple[Header | None, dict[str, T]]:
    """The header of a file and its rows by their ids, of which the first record counts; nothing where there is no file.

    Raises:
        DodonaError: it holds something else, or records of other settings than those asked for here.
    """
    there: Header | None = None
    rows: dict[str, T] = {}
    for line in read_stage(path, here.stage, here.study) if path.exists() else ():
        if isinstance(line, Header):
            there = line
            _check(there, here, path)
        else:
            rows.setdefault(str(line.get("row_id")), parsed_row(read, line, path))
    return there, rows


class StageFile(Generic[T]):
    """A stage's file, open for adding to from construction on; what it holds already is in ``rows``.

    Args:
        path: the file, new or with records of this stage in it.
        header: what is asked for now.
        read: a record's row.

    Raises:
        DodonaError: as ``stage_rows``, or it cannot be written.
    """

    def __init__(self, path: Path, header: Header, read: Callable[[Mapping[str, Any]], T]) -> None:
        self.path, self._read = path, read
        there, self.rows = stage_rows(path, header, read)
        self._file = RecordFile(path)
        try:
            if there is None or not there.covers(header):
                # Here alone, for git takes its time.
                self._file.append(replace(header, versions=versions(), git_commit=git_commit()).line())
        except BaseException:
            self._file.close()
            raise

    def append(self, record: Mapping[str, Any]) -> T:
        """Write a record; it is on the disk when this returns.

        Raises:
            DodonaError: it cannot be written.
        """
        row = self._read(record)
        self._file.append(record)
        self.rows[str(record["row_id"])] = row
        return row

    def close(self) -> None:
        """Close the file; closing again does nothing."""
        self._file.close()

    def __enter__(self) -> StageFile[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check(there: Header, here: Header, path: Path) -> None:
    if dict(there.config) != dict(here.config):
        raise DodonaError(
            f"{path} was written with other settings: {differences(there.config, here.config)}; go on with its own, "
            "or give another --output-dir"
        )
    for problem in here.problems.values():
        asked = there.problems.get(problem.problem_id)
        if asked is not None and asked.digest != problem.digest:
            raise DodonaError(
                f"{path}: {problem.problem_id} has another prompt or gold answer there than here; give another "
                "--output-dir"
            )


def _read_header(content: Any, path: Path, stage: str, before: Header | None, study: str) -> Header:
    if not isinstance(content, Mapping) or content.get("study") != study:
        raise DodonaError(f"{path} holds records of something else than `dodona {study}`: give another --output-dir")
    if content.get("schema") != SCHEMA:
        raise DodonaError(f"{path} was written by another version of dodona")
    try:
        if content["stage"] != stage:
            raise DodonaError(f"{path} holds records of the stage {content['stage']!r}, and {stage!r} belongs there")
        problems = {str(entry["problem_id"]): Asked(**entry) for entry in content["problems"]}
        header = Header(
            stage=stage,
            config=dict(content["config"]),
            asked=joined(before.asked if before else {}, content["asked"]),
            problems={**(before.problems if before else {}), **problems},
            dodona=str(content["dodona"]),
            versions=dict(content["versions"]),
            git_commit=content["git_commit"],
            study=study,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DodonaError(f"{path} has a header that cannot be read ({type(error).__name__}: {error})") from error
    if before is not None and header.config != before.config:
        raise DodonaError(f"{path} holds rows of two configurations: {differences(before.config, header.config)}")
    return header
