"""Finds the rows of a data set: by a name of its own, in a file or a folder, or on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dodona.engine.errors import DodonaError
from dodona.eval.tasks.files import extension_of, read_file, stem_of
from dodona.eval.tasks.folders import data_files, read_folder
from dodona.eval.tasks.hub import HUB_ID, PUBLISHED, read_hub, read_published
from dodona.eval.tasks.spec import TaskSpec
from dodona.eval.tasks.table import Table

NAMES: Final = ("arith", *PUBLISHED)
_GPQA_SETS: Final = {"gpqa": "main", "gpqa-diamond": "diamond", "gpqa-extended": "extended"}


def read_table(spec: TaskSpec) -> Table:
    """The rows of a data set, wherever they are.

    Raises:
        DodonaError: there is no such data set, it cannot be downloaded or read, or it has no configs or splits.
    """
    name = spec.dataset
    if name in PUBLISHED:
        if spec.dataset_config is not None:
            raise DodonaError(
                f"--dataset-config: {name} is one config of {PUBLISHED[name].repository}: give that hub id"
            )
        return read_published(name, spec.split)
    path = Path(name)
    try:
        path = path.expanduser()
        is_folder, is_there = path.is_dir(), path.exists()
    except (OSError, ValueError, RuntimeError):  # too long a name, a zero byte, the home of an unknown user
        is_folder = is_there = False
    if is_folder:
        return _folder(path, spec)
    if is_there:
        if spec.split is not None or spec.dataset_config is not None:
            raise DodonaError(f"--split and --dataset-config are for folders and hub data sets, and {path} is a file")
        return Table(stem_of(path), str(path), read_file(path))
    if extension_of(path) is None and HUB_ID.fullmatch(name):
        return read_hub(name, spec.dataset_config, spec.split)
    raise DodonaError(
        f"--dataset: there is no file or folder {name}; the names are {', '.join(NAMES)}, and a hub id is owner/name"
    )


def _folder(path: Path, spec: TaskSpec) -> Table:
    if spec.dataset_config is None and spec.split is None and (file := _gpqa_file(path, spec.task)) is not None:
        return Table(stem_of(file), str(file), read_file(file))
    return Table(path.resolve().name, str(path), read_folder(path, spec.dataset_config, spec.split))


def _gpqa_file(folder: Path, task: str | None) -> Path | None:
    """Of a folder with several of GPQA's files, which hold each other's questions, the one that is meant."""
    stems = {f"gpqa_{part}": part for part in _GPQA_SETS.values()}
    files = {stems[stem_of(path)]: path for path in data_files(folder) if stem_of(path) in stems}
    if len(files) < 2:
        return None
    wanted = _GPQA_SETS.get(task or "")
    if wanted not in files:
        raise DodonaError(
            f"{folder} has several sets of GPQA in it: give one of the files, or say --task {', '.join(_GPQA_SETS)}"
        )
    return files[wanted]
