"""The record files of an experiment: where they lie, what they hold already, and how more is added.

A folder has one file an arm, ``<slug>.jsonl``; one file may hold all arms instead. Where several processes work on an
experiment, the first writes those files and process r files of its own beside them, ``<slug>.<r>.jsonl``. Whoever goes
on later, alone or with others, reads them all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from dodona.engine.errors import DodonaError
from dodona.engine.records import RecordFile, read_records
from dodona.eval.arms import Arm
from dodona.eval.header import Header, differences, new_header, read_header
from dodona.eval.lock import Lock
from dodona.eval.rows import Row, row_of
from dodona.eval.shard import WHOLE, Shard
from dodona.eval.tasks.problem import Problem

GRADED = ".graded.jsonl"  # what `dodona grade` writes beside records


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with a file an arm, or one file with all of them."""

    path: Path
    folder: bool = True
    setting: str | None = None  # what a user sets to have another, where it is none of the options

    @property
    def option(self) -> str:
        """What a user sets to have another."""
        return self.setting or ("--output-dir" if self.folder else "--output-file")

    @property
    def lock(self) -> Path:
        """The file whose lock keeps other processes out."""
        return self.path / ".lock" if self.folder else self.path.with_name(f".{self.path.name}.lock")

    def file(self, arm: Arm, shard: Shard = WHOLE) -> Path:
        """The file to which a process adds the records of an arm."""
        path = self.path / f"{arm.slug}.jsonl" if self.folder else self.path
        return path if shard.first else path.with_name(f"{path.stem}.{shard.index}.jsonl")

    def files(self) -> list[Path]:
        """The files of records that are there, in a stable order."""
        if self.folder:
            found = [path for path in self.path.glob("*.jsonl") if not path.name.endswith(GRADED)]
        else:
            shards = re.compile(re.escape(self.path.stem) + r"\.[0-9]+\.jsonl")
            found = [path for path in self.path.parent.glob("*.jsonl") if shards.fullmatch(path.name)]
            found += [self.path] if self.path.exists() else []
        return sorted(path for path in found if path.is_file())

    def prepare(self) -> None:
        """Make the folder.

        Raises:
            DodonaError: it cannot be made.
        """
        folder = self.path if self.folder else self.path.parent
        if not self.folder and self.path.is_dir():
            raise DodonaError(f"{self.path} is a folder, and --output-file needs a file: --output-dir takes folders")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise DodonaError(f"{folder} is a file, and {self.option} needs a folder there") from error
        except OSError as error:
            raise DodonaError(f"{self.path} cannot be written: {error.strerror or error}") from error


def default_place(dataset: str, models: Sequence[str]) -> Place:
    """``runs/<dataset>-<base>-<oracle>``, with what is no part of a file's name replaced."""
    return Place(Path("runs") / place_name(dataset, *models))


def place_name(*names: str) -> str:
    """Names of data sets and models as the name of a folder: of a path or a hub id its last part."""
    return "-".join(re.sub(r"[^\w.@=,-]+", "-", Path(name).name) for name in names)


class Records:
    """What lies in a place, checked to belong to one configuration. Iterating reads it anew.

    Args:
        place: which may be empty or not be there yet.
        config: of the experiment.
        ours: files that must hold our records; any other one without a header is passed over.
        unknown: entries of the configuration that are not known, and not compared.
    """

    def __init__(
        self, place: Place, config: Mapping[str, Any], ours: Collection[Path] = (), unknown: Collection[str] = ()
    ) -> None:
        self.place, self.config, self.ours, self.unknown = place, config, ours, unknown
        self.headers: dict[Path, Header] = {}  # of the files read so far

    def __iter__(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """The runs' records, each with its file.

        Raises:
            DodonaError: a file that belongs to another experiment, or cannot be read.
        """
        self.headers = {}
        for path in self.place.files():
            if self.place.folder and path not in self.ours and not _has_header(path):
                continue
            for record in read_records(path):
                if "header" in record:
                    self.headers[path] = self._checked(record, path)
                elif path in self.headers:
                    yield path, record
                else:
                    raise DodonaError(
                        f"{path} holds records that `dodona eval` did not write: give another {self.place.option}"
                    )

    def _checked(self, record: Mapping[str, Any], path: Path) -> Header:
        try:
            header = read_header(record, path, self.headers.get(path))
        except DodonaError as error:
            raise DodonaError(f"{error}: give another {self.place.option}") from error
        there, here = (
            {name: value for name, value in config.items() if name not in self.unknown}
            for config in (header.config, self.config)
        )
        if there != here:
            raise DodonaError(
                f"{path} was written with other settings: {differences(there, here)}; go on with its own, "
                f"or give another {self.place.option}"
            )
        return header


class Store:
    """An experiment's records: open for adding to from construction on.

    Args:
        place: where they lie; made where it is missing.
        config: what all of its runs share.
        arms, problems: the runs that are asked for: each arm on each problem.
        shard: this process, which adds to files of its own.
        compat: the switches of the first experiments over which a ladder is asked for.

    Raises:
        DodonaError: what is there belongs to another experiment or is being written by somebody else, or nothing can be
            written there.
    """

    def __init__(
        self,
        place: Place,
        config: Mapping[str, Any],
        arms: Sequence[Arm],
        problems: Sequence[Problem],
        shard: Shard = WHOLE,
        compat: Sequence[str] = (),
    ) -> None:
        self.place, self.arms, self.problems, self.shard = place, arms, problems, shard
        self._compat = tuple(compat)
        self.rows: dict[tuple[str, str], Row] = {}  # of the runs that are asked for, by arm and problem id
        self._files: dict[Path, RecordFile] = {}
        self._paths = {arm.name: place.file(arm, shard) for arm in arms}
        ours = {place.file(arm, part) for arm in arms for part in (WHOLE, shard)}
        self._records = Records(place, config, ours)
        place.prepare()
        self._lock = Lock(place.lock, place.path, shard)
        try:
            self.read()
            self._open()
        except BaseException:
            self.close()
            raise

    def read(self) -> None:
        """Learn what is on the disk, from this process and from all others."""
        wanted = {(arm.name, problem.problem_id) for arm in self.arms for problem in self.problems}
        self.rows = {}
        for path, record in self._records:
            row = checked_row(record, path)
            if (row.arm, row.problem_id) in wanted:
                self.rows.setdefault((row.arm, row.problem_id), row)
        self._check_problems()

    def left(self, arm: Arm) -> list[Problem]:
        """What this process has still to do of an arm."""
        return [problem for problem in self.shard.of(self.problems) if (arm.name, problem.problem_id) not in self.rows]

    def append(self, record: Mapping[str, Any]) -> Row:
        """Write a run's record; it is on the disk when this returns.

        Raises:
            DodonaError: it cannot be written.
        """
        row = row_of(record)
        self._files[self._paths[row.arm]].append(record)
        self.rows[row.arm, row.problem_id] = row
        return row

    def kept(self) -> int:
        """Records on the disk, of runs that are asked for and of others; counted there, not from memory.

        Ctrl-C may come between a record's arrival on the disk and everything after it.
        """
        return sum(_count_runs(path) for path in {*self._records.headers, *self._files} if path.exists())

    def close(self) -> None:
        """Close the files; closing again does nothing."""
        for file in self._files.values():
            file.close()
        self._lock.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_problems(self) -> None:
        """A problem that was changed since would be one question for some arms and another for the rest."""
        for path, header in self._records.headers.items():
            for problem in self.problems:
                asked = header.problems.get(problem.problem_id)
                if asked is not None and asked.digest not in (None, problem.digest):
                    raise DodonaError(
                        f"{path}: {problem.problem_id} has another prompt or gold answer there than here; "
                        f"give another {self.place.option}"
                    )

    def _open(self) -> None:
        """Open this process's files, each with a header that says what is asked for now."""
        by_path: dict[Path, list[Arm]] = {}
        for arm in self.arms:
            by_path.setdefault(self._paths[arm.name], []).append(arm)
        _allow_files(len(by_path))
        new = new_header(self._records.config, (), self.problems)
        for path, arms in by_path.items():
            if not self.shard.first and not any(self.left(arm) for arm in arms):
                continue
            file = self._files[path] = RecordFile(path)
            header = self._records.headers.get(path)
            if header is None or not header.covers(arms, self.problems, self._compat):
                file.append(replace(new, arms={arm.name: arm for arm in arms}, compat=self._compat).line())


def checked_row(record: Mapping[str, Any], path: Path) -> Row:
    """The row of a record that was read from a file.

    Raises:
        DodonaError: it is no record of a run.
    """
    try:
        return row_of(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DodonaError(f"{path} holds a record that cannot be read ({type(error).__name__}: {error})") from error


def _count_runs(path: Path) -> int:
    """Whole lines of a file but for the headers."""
    with open(path, "rb") as file:
        return sum(line.endswith(b"\n") and not line.startswith(b'{"header"') for line in file)


def _has_header(path: Path) -> bool:
    """Whether a file begins as files of records do."""
    with open(path, "rb") as file:
        line = file.readline()
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and "header" in first


def _allow_files(count: int) -> None:
    """Let this process have so many more files open, as far as the system lets it."""
    try:
        import resource
    except ImportError:  # not POSIX
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # opening a file says what is wrong
            resource.setrlimit(
                resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
            )
