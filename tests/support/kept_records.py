"""What a killed, divided or continued run left on the disk, in a form that can be compared."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dodona.engine.records import read_records

# What the ledger says of the reading of a prompt depends on who else was there to share it, and all of its times on the
# machine. What a run itself wrote does not.
OF_THE_BATCH = {"base_ms", "oracle_ms", "base_flops", "oracle_flops", "base_forwards", "oracle_forwards"}
OF_THE_BATCH |= {"shared_flops"}
OF_THE_BATCH |= {"prefill_tokens", "sync_tokens", "shared_tokens", "recomputed_tokens", "base_steps", "catch_up_tokens"}


def contents(place: Path) -> list[str]:
    """The records of a file or a folder, sorted, without what depends on the clock and on batch mates."""
    files = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
    records = [record for file in files for record in read_records(file) if "header" not in record]
    keys = [(record["arm"], record["problem_id"]) for record in records]
    assert len(keys) == len(set(keys)), "a run was recorded twice"
    for record in records:
        record["ledger"] = {name: value for name, value in record["ledger"].items() if name not in OF_THE_BATCH}
    return sorted(json.dumps(record, sort_keys=True) for record in records)


def lines(folder: Path, pattern: str = "*.jsonl") -> int:
    """Whole lines in the files of a folder."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob(pattern))


def missing_lock(folder: Path) -> bool:
    """Whether no lock was left behind."""
    return not [path for path in folder.rglob(".*") if path.name.endswith("lock")]


def environment(root: Path, **more: str) -> dict[str, str]:
    """For a process that runs this checkout."""
    return {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **more}


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """A limit on a file's size makes the kernel fail a write in the middle, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
