"""The tokens of many recorded sequences, one after the other, as columns: what analyses and replays work on.

N tokens in all, S sequences. A column that no sequence has a value of is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa

from dodona.engine.errors import DodonaError
from dodona.engine.sequence import ORACLE
from dodona.engine.trace import Columns, plain_columns, read_metadata, trace_tables
from dodona.engine.trace_schema import COLUMNS
from dodona.engine.trace_store import JOURNAL, journal_tables

Array = np.ndarray[Any, Any]

_SETTINGS: Final = ("c", "k", "max_oracle_tokens", "step_size", "max_new_tokens", "prompt_tokens")
_TEXTS: Final = ("problem_id", "arm", "trigger", "when", "finish_reason")
_PLACES: Final = ("sequence", "seed", "sample", "position", "token", "token_id", "source", "consult")
# Numeric columns of the tokens.
SIGNALS: Final = tuple(name for name, _ in COLUMNS if name not in (*_SETTINGS, *_TEXTS, *_PLACES))


class RecordedRun(NamedTuple):
    """Which run a sequence is, and how it was run."""

    problem_id: str | None
    arm: str | None
    sample: int
    seed: int
    trigger: str
    when: str
    finish_reason: str | None
    base_model_id: str | None
    oracle_model_id: str | None
    config_hash: str | None  # of the experiment
    file: str


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Sequences one after the other; sequence s has the tokens ``edges[s]:edges[s + 1]``."""

    runs: Sequence[RecordedRun]  # S of them
    edges: Array  # [S + 1] int64
    columns: Mapping[str, Array]  # [N] float32 by name, NaN where there is no value
    token_id: Array  # [N] int32
    oracle: Array  # [N] bool: written by the oracle
    starts: Array  # [N] bool: the first token of a consult
    settings: Mapping[str, Array]  # [S] float32 by name; NaN where there is none, inf where there is no limit
    duplicates: int = 0  # sequences left out because their run was there already

    @property
    def tokens(self) -> int:
        """N."""
        return len(self.token_id)

    @property
    def lengths(self) -> Array:
        """[S] tokens of each sequence."""
        lengths: Array = np.diff(self.edges)
        return lengths

    @property
    def sequence(self) -> Array:
        """[N] the sequence of each token."""
        sequence: Array = np.repeat(np.arange(len(self.runs)), self.lengths)
        return sequence

    @property
    def position(self) -> Array:
        """[N] each token's generated-token index."""
        position: Array = np.arange(self.tokens) - np.repeat(self.edges[:-1], self.lengths)
        return position

    @property
    def after(self) -> Array:
        """[S] bool: whether the trigger decided after the commit."""
        return np.array([run.when == "after" for run in self.runs], dtype=bool)

    @property
    def problems(self) -> tuple[list[str], Array]:
        """The problems, and [S] the number of each sequence's; a sequence without an id is one of its own."""
        names = [f"\0{place}" if run.problem_id is None else run.problem_id for place, run in enumerate(self.runs)]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        return list(numbers), np.array([numbers[name] for name in names], dtype=np.int64)

    def column(self, name: str) -> Array:
        """[N] a column.

        Raises:
            DodonaError: the trace has no values of it.
        """
        if name not in self.columns:
            raise DodonaError(f"the trace has no values of {name}: it was not recorded")
        return self.columns[name]

    def select(self, chosen: Array) -> Recording:
        """The sequences where ``chosen`` ([S] bool) holds."""
        lengths = self.lengths
        tokens = np.repeat(chosen, lengths)
        return Recording(
            runs=[run for run, keep in zip(self.runs, chosen, strict=True) if keep],
            edges=np.concatenate(([0], np.cumsum(lengths[chosen]))).astype(np.int64),
            columns={name: values[tokens] for name, values in self.columns.items()},
            token_id=self.token_id[tokens],
            oracle=self.oracle[tokens],
            starts=self.starts[tokens],
            settings={name: values[chosen] for name, values in self.settings.items()},
        )


def read_recording(paths: Iterable[str | Path]) -> Recording:
    """All sequences of these traces and journals of traces; a run that several hold counts once, the first one.

    Raises:
        DodonaError: a file is no trace, or cannot be read.
    """
    reader = _Reader()
    for path in map(Path, paths):
        if path.name.endswith(JOURNAL):
            for table in journal_tables(path):
                reader.add(table, _decoded(table.schema.metadata), str(path))
            continue
        metadata = read_metadata(path)
        for table in trace_tables(path, [name for name, _ in COLUMNS if name != "token"]):
            reader.add(table, metadata, str(path))
    return reader.recording()


def recording_of(trace: Mapping[str, Array]) -> Recording:
    """One sequence as ``trace.read_traces`` gives it; columns that it lacks are not known."""
    reader = _Reader()
    length = len(trace["source"])
    nulls = {name: np.full(length, None if name in _TEXTS else np.nan) for name, _ in COLUMNS if name not in trace}
    reader.add_columns({**nulls, **trace, "sequence": np.zeros(length, dtype=np.int64)}, {}, "")
    return reader.recording()


class _Reader:
    """Collects sequences."""

    def __init__(self) -> None:
        self.runs: list[RecordedRun] = []
        self.lengths: list[int] = []
        self.parts: dict[str, list[Array]] = {name: [] for name in (*SIGNALS, "token_id", "oracle", "starts")}
        self.settings: dict[str, list[Array]] = {name: [] for name in _SETTINGS}
        self.seen: set[RecordedRun] = set()
        self.duplicates = 0

    def add(self, table: pa.Table, metadata: Mapping[str, str], file: str) -> None:
        if len(table):
            self.add_columns(plain_columns(table), metadata, file)

    def add_columns(self, columns: Mapping[str, Array], metadata: Mapping[str, str], file: str) -> None:
        """Add whole sequences that follow each other."""
        edges = np.flatnonzero(np.diff(columns["sequence"], prepend=-1))
        lengths = np.diff(edges, append=len(columns["sequence"]))
        firsts: Columns = {name: columns[name][edges] for name in (*_TEXTS, *_SETTINGS, "seed", "sample")}
        keep = np.ones(len(edges), dtype=bool)
        for place in range(len(edges)):
            run = _run(firsts, place, metadata, file)
            identity = run._replace(file="")
            if run.config_hash is not None and run.problem_id is not None and identity in self.seen:
                keep[place] = False
                self.duplicates += 1
                continue
            self.seen.add(identity)
            self.runs.append(run)
            self.lengths.append(int(lengths[place]))
        tokens = slice(None) if keep.all() else np.repeat(keep, lengths)
        oracle = columns["source"] == ORACLE
        consult = np.where(oracle, columns["consult"], -1)
        # Sequences meet where one may end in the consult with which the next one begins.
        changed = np.diff(consult, prepend=-1) != 0
        changed[edges] = True
        own = {"token_id": columns["token_id"].astype(np.int32), "oracle": oracle, "starts": oracle & changed}
        for name, parts in self.parts.items():
            values = own[name] if name in own else columns[name].astype(np.float32)
            parts.append(values[tokens])
        for name, settings in self.settings.items():
            settings.append(firsts[name].astype(np.float32)[keep])

    def recording(self) -> Recording:
        joined = {name: np.concatenate(parts) for name, parts in self.parts.items() if parts}
        settings = {
            name: np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
            for name, parts in self.settings.items()
        }
        caps = settings["max_oracle_tokens"]
        settings["max_oracle_tokens"] = np.where(np.isnan(caps), np.float32(np.inf), caps)
        nothing = np.zeros(0, dtype=bool)
        return Recording(
            runs=self.runs,
            edges=np.concatenate(([0], np.cumsum(self.lengths))).astype(np.int64),
            columns={name: joined[name] for name in SIGNALS if name in joined and not np.isnan(joined[name]).all()},
            token_id=joined.get("token_id", nothing.astype(np.int32)),
            oracle=joined.get("oracle", nothing),
            starts=joined.get("starts", nothing),
            settings=settings,
            duplicates=self.duplicates,
        )


def _run(firsts: Columns, place: int, metadata: Mapping[str, str], file: str) -> RecordedRun:
    texts = {name: firsts[name][place] for name in _TEXTS}
    seed, sample = (firsts[name][place] for name in ("seed", "sample"))
    return RecordedRun(
        problem_id=texts["problem_id"],
        arm=texts["arm"],
        sample=0 if sample != sample else int(sample),
        seed=0 if seed != seed else int(seed),
        trigger=texts["trigger"] or "never",
        when=texts["when"] or "before",
        finish_reason=texts["finish_reason"],
        base_model_id=metadata.get("base_model_id"),
        oracle_model_id=metadata.get("oracle_model_id"),
        config_hash=metadata.get("config_hash"),
        file=file,
    )


def _decoded(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in (metadata or {}).items()}
