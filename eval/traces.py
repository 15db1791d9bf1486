"""The traces of an experiment: one beside each of its record files, written run by run as the records are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from dodona.engine.result import Result
from dodona.engine.trace import read_metadata
from dodona.engine.trace_store import TraceStore, trace_paths
from dodona.eval.arms import Arm
from dodona.eval.header import config_hash
from dodona.eval.shard import Shard
from dodona.eval.store import Place


class Traces:
    """Open from construction on, while this process holds the place's lock.

    What a process left unfinished that was killed is brought in order: by its successor of the same number, or by a
    process that works alone.

    Args:
        config: what all runs share.

    Raises:
        DodonaError: a trace cannot be read or written.
    """

    def __init__(self, place: Place, arms: Sequence[Arm], config: Mapping[str, Any], shard: Shard) -> None:
        by_path = {
            place.file(arm, shard): [one for one in arms if place.file(one, shard) == place.file(arm, shard)]
            for arm in arms
        }
        shared = {"config_hash": config_hash(config), "config": json.dumps(config, sort_keys=True)}
        stores = {}
        for path, its_arms in by_path.items():
            trace = trace_paths(path)[0]
            before = json.loads(read_metadata(trace).get("arms", "[]")) if trace.exists() else []
            entries = {entry["arm"]: entry for entry in [*before, *(arm.as_dict() for arm in its_arms)]}
            stores[path] = TraceStore(path, {**shared, "arms": json.dumps(list(entries.values()))})
        self._stores = {arm.name: stores[place.file(arm, shard)] for arm in arms}
        if shard.whole:
            for path in place.files():
                if path not in stores:
                    TraceStore(path, shared)

    def append(self, arm: Arm, problem_id: str, result: Result) -> None:
        """Write a run's rows; they are on the disk when this returns, and its record is to be written after that.

        Raises:
            DodonaError: they cannot be written.
        """
        self._stores[arm.name].append(result, arm=arm.name, problem_id=problem_id)

    def untraced(self) -> int:
        """Runs in these files that have a record and no trace."""
        return sum(store.untraced() for store in set(self._stores.values()))

    def close(self) -> None:
        """Finish the files.

        Raises:
            DodonaError: one cannot be written.
        """
        for store in dict.fromkeys(self._stores.values()):
            store.close()

    def __enter__(self) -> Traces:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
