"""Reads record files back: any mix of files and folders, as the experiments whose runs they hold.

An experiment is one configuration. Its arms and problems are those that the headers of its files ask for, and those of
its records; every arm counts on every problem. Of each record only what tables need is kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from dodona.engine.errors import DodonaError
from dodona.engine.records import read_records
from dodona.eval.compat.switches import in_order
from dodona.eval.recorded import Asked, Experiment, RecordedArm
from dodona.eval.rows import row_of, shortened

SCHEMAS: Final = (1, 2)  # those of 1 have neither arms nor problems in their header
_LONGEST_GOLD: Final = 200  # characters kept
_ENTRY_TYPES: Final = (int, str, type(None))


def read_runs(paths: Iterable[str | Path], note: Callable[[str], None] | None = None) -> list[Experiment]:
    """The experiments in these files and folders, in the order of their first file.

    A folder stands for the ``*.jsonl`` files in it and below, in the order of their names, without ``*.graded.jsonl``.
    What else lies there is passed over, and ``note`` is told; a file that was named must hold records. With it come its
    shards, the files ``STEM.1.jsonl``, ``STEM.2.jsonl``, ... of the other processes.

    Raises:
        DodonaError: no such path, no records, a file that `dodona eval` did not write, or one that is damaged.
    """
    experiments: dict[str, Experiment] = {}
    arms: dict[str, dict[str, RecordedArm]] = {}
    problems: dict[str, dict[str, Asked]] = {}
    for path, named in _files(paths):
        if (reason := _foreign(path)) is not None:
            if named:
                raise DodonaError(f"{path} {reason}")
            if note is not None:
                note(f"{path} is passed over: it {reason}")
            continue
        _read_file(path, experiments, arms, problems)
    if not experiments:
        raise DodonaError(f"no records of `dodona eval` in {', '.join(map(str, paths))}")
    for key, experiment in experiments.items():
        found = sorted(arms[key].values(), key=lambda arm: arm.order)
        experiment.arms = [arm for arm in found if not arm.compat]
        experiment.compat_arms = [arm for arm in found if arm.compat]
        experiment.problems = list(problems[key].values())
    return list(experiments.values())


def _files(paths: Iterable[str | Path]) -> Iterator[tuple[Path, bool]]:
    """Each file once, with whether it was named itself."""
    seen: set[Path] = set()
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*.jsonl") if not file.name.endswith(".graded.jsonl"))
            if not found:
                raise DodonaError(f"{path} has no files of records (*.jsonl) in it")
        elif path.exists():
            found = [path, *_shards(path)]
        else:
            raise DodonaError(f"there is no file or folder {path}")
        for file in found:
            if (real := file.resolve()) not in seen:
                seen.add(real)
                yield file, file == path


def _shards(path: Path) -> list[Path]:
    """What the other processes of a run wrote beside this file."""
    numbered = re.compile(re.escape(path.stem) + r"\.([0-9]+)\.jsonl")
    found = [(int(match[1]), file) for file in path.parent.iterdir() if (match := numbered.fullmatch(file.name))]
    return [file for _, file in sorted(found)]


def _foreign(path: Path) -> str | None:
    """Why a file holds no records of ours, by its first line; None where it does."""
    try:
        with open(path, "rb") as file:
            line = file.readline()
    except OSError as error:
        raise DodonaError(f"{path} cannot be read: {error.strerror or error}") from error
    if not line:
        return "is empty"
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        return "does not begin with a line of JSON, as files of `dodona eval` do"
    if not isinstance(first, dict) or not isinstance(header := first.get("header"), dict):
        return "does not begin with a header, as files of `dodona eval` do"
    if header.get("schema") not in SCHEMAS:
        return f"was written by another version of dodona (schema {header.get('schema')!r})"
    return None


def _read_file(
    path: Path,
    experiments: dict[str, Experiment],
    arms: dict[str, dict[str, RecordedArm]],
    problems: dict[str, dict[str, Asked]],
) -> None:
    """Add one file. A header holds for the records after it."""
    experiment: Experiment | None = None
    number = 0
    try:
        for line in read_records(path):
            number += 1
            if "header" in line:
                key, header = _header_key(line["header"])
                experiment = experiments.setdefault(key, Experiment(key, header["config"]))
                _add_header(experiment, header, arms.setdefault(key, {}), problems.setdefault(key, {}))
                if str(path) not in experiment.files:
                    experiment.files.append(str(path))
                continue
            assert experiment is not None  # the first line is a header
            row = row_of(line)
            rows = (experiment.compat_rows if line.get("compat") else experiment.rows).setdefault(row.arm, {})
            if row.problem_id in rows:
                experiment.duplicates += 1
                continue
            rows[row.problem_id] = row
            if row.arm not in arms[key]:
                arms[key][row.arm] = _arm(line)
            if row.problem_id not in problems[key]:
                problems[key][row.problem_id] = _asked(line)
            if row.problem_id not in experiment.gold:
                experiment.gold[row.problem_id] = shortened(str(line["ground_truth"]), _LONGEST_GOLD)
    except KeyError as error:
        raise DodonaError(f"{path}, line {number}: no record of `dodona eval`, for it has no {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise DodonaError(f"{path}, line {number}: no record of `dodona eval` ({error})") from error
    except RecursionError as error:
        raise DodonaError(f"{path}, line {number + 1}: nested too deeply to be a record") from error


def _header_key(header: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    if header["schema"] not in SCHEMAS:
        raise ValueError(f"a header of schema {header['schema']!r}, which is another version's")
    if not isinstance(header["config"], dict):
        raise TypeError("a header whose config is no object")
    canonical = json.dumps(header["config"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return str(header.get("config_hash") or hashlib.sha256(canonical.encode()).hexdigest()[:16]), header


def _add_header(
    experiment: Experiment, header: Mapping[str, Any], arms: dict[str, RecordedArm], problems: dict[str, Asked]
) -> None:
    for entry in header.get("arms", ()):
        arm = _arm(entry)
        arms.setdefault(arm.name, arm)
    for entry in header.get("problems", ()):
        problem = _asked(entry)
        problems[problem.problem_id] = problem
        experiment.listed = True
    experiment.compat = in_order({*experiment.compat, *header.get("compat", ())})
    _add_once(experiment.dodona, header.get("dodona"))
    _add_once(experiment.commits, header.get("git_commit"))
    for package, version in (header.get("versions") or {}).items():
        _add_once(experiment.versions.setdefault(str(package), []), version)


def _add_once(values: list[str], value: object) -> None:
    if value is not None and str(value) not in values:
        values.append(str(value))


def _arm(entry: Mapping[str, Any]) -> RecordedArm:
    """The arm of a header's entry, or of a record."""
    c, k = (_budget(entry[name]) for name in ("c", "k"))
    compat = in_order(entry.get("compat", ()))
    return RecordedArm(str(entry["arm"]), c, k, str(entry["trigger"]), str(entry["when"]), int(entry["seed"]), compat)


def _budget(value: object) -> float:
    if value == "inf":
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a budget of {value!r}")
    return value


def _asked(entry: Mapping[str, Any]) -> Asked:
    level, subject = entry.get("level"), entry.get("subject")
    if not isinstance(level, _ENTRY_TYPES):
        raise TypeError(f"a level of {level!r}")
    return Asked(str(entry["problem_id"]), level, None if subject is None else str(subject))
