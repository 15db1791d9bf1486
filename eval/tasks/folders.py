"""Reads a folder of rows: what `save_to_disk` wrote, a copy of a hub data set, or any folder of data files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dodona.engine.errors import DodonaError
from dodona.eval.tasks.files import EXTENSIONS, extension_of, read_file
from dodona.eval.tasks.table import Row, numbered

DEFAULT_SPLITS: Final = ("test", "latest")  # the second is what Meta's evals have, beside one a date
_SPLITS: Final = ("train", "validation", "valid", "val", "dev", "test")
_NOT_ROWS: Final = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "package.json")


def read_folder(folder: Path, config: str | None, split: str | None) -> list[Row]:
    """The rows of a folder's data files, in the order of their names.

    Args:
        config: a folder in it, as hub data sets have one for each of their configurations.
        split: of files whose names or folders say one (``test.jsonl``, ``test-00000-of-00001.parquet``,
            ``test/algebra/1.json``) only these; None is test, where there is such.

    Raises:
        DodonaError: no data files; a config or a split that is not there; a file that cannot be read.
    """
    if config is not None:
        if not (folder / config).is_dir():
            inside = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
            raise DodonaError(f"--dataset-config: {folder} has no folder {config!r}: {_those(inside)}")
        folder = folder / config
    elif (folder / "main").is_dir():  # copies of hub data sets have several versions in folders, as GSM8K's socratic
        folder = folder / "main"
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return _saved(folder, split)
    files = _chosen(folder, data_files(folder), split)
    rows: list[Row] = []
    for file in files:
        prefix = f"{file.relative_to(folder).as_posix()}, " if len(files) > 1 else ""
        rows += [Row(prefix + row.place, row.values) for row in read_file(file)]
    return rows


def data_files(folder: Path) -> list[Path]:
    """Every file of rows below a folder, by name (10.json after 9.json); hidden ones and metadata left out."""
    files = [
        path
        for path in folder.rglob("*")
        if extension_of(path)
        and path.name not in _NOT_ROWS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    if not files:
        raise DodonaError(f"{folder} has no data files in it ({', '.join(EXTENSIONS)})")
    return sorted(files, key=lambda path: _natural(path.relative_to(folder).as_posix()))


def pick_split(there: Sequence[str], split: str | None, source: str) -> str:
    """The split that is meant: the one named, else test, else latest, else the only one.

    Raises:
        DodonaError: it is not there, or there are several and no test.
    """
    if split is not None:
        if split not in there:
            raise DodonaError(f"--split: {source} has no split {split!r}: {_those(there)}")
        return split
    for default in (*DEFAULT_SPLITS, *(there if len(there) == 1 else ())):
        if default in there:
            return default
    raise DodonaError(f"{source} has no split {DEFAULT_SPLITS[0]!r}: say one with --split: {_those(there)}")


def _saved(folder: Path, split: str | None) -> list[Row]:
    """What Dataset.save_to_disk or DatasetDict.save_to_disk wrote; the files are mapped, nothing is copied."""
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(folder))
    except Exception as error:  # datasets and pyarrow raise whatever the broken file led them to
        reason = " ".join(str(error).split())[:200]
        raise DodonaError(f"{folder} was written by save_to_disk but cannot be read: {reason}") from error
    if isinstance(saved, DatasetDict):
        saved = saved[pick_split(list(saved), split, str(folder))]
    elif split is not None and str(saved.split) != split:
        raise DodonaError(f"--split: {folder} has no splits, or only {saved.split}")
    return numbered(saved.with_format(None).to_list())


def _chosen(folder: Path, files: Sequence[Path], split: str | None) -> list[Path]:
    """The files of one split; all of them where no name says a split."""
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file.relative_to(folder)), []).append(file)
    named = [name for name in by_split if name]
    if not named:
        if split is not None:
            raise DodonaError(f"--split: no file in {folder} has {split!r} in its name")
        return list(files)
    return by_split[pick_split(named, split, str(folder))]


def _split_of(path: Path) -> str:
    """The split that a path names, by a folder's name or a word of the file's; empty where it names none."""
    words = [part.lower() for part in path.parts[:-1]]
    words += re.split(r"[^a-z]+", path.name.split(".")[0].lower())
    found = [word for word in words if word in _SPLITS]
    return found[0] if found else ""


def _natural(name: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"([0-9]+)", name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _those(names: Sequence[str]) -> str:
    return f"it has {', '.join(names)}" if names else "it has none"
