"""The trace beside a file of records: whatever ends the process, each recorded run has its rows, and has them once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dodona.engine import trace_store
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.recording import read_recording
from dodona.engine.records import RecordFile
from dodona.engine.request import Request
from dodona.engine.trace import read_metadata, read_traces
from dodona.engine.trace_store import JOURNAL, TRACE, RunKey, TraceStore, journal_tables, recorded_runs, trace_paths
from dodona.engine.trace_writer import TableWriter

ARM = "c=1 k=2"


@pytest.fixture(scope="module")
def results():
    engine = Engine(device="cpu")
    requests = [
        Request(prompt=f"Work out {number} + 5.", id=f"p{number}", c=1, k=2, trigger="every(5)", max_new_tokens=24)
        for number in range(6)
    ]
    return sorted(engine.generate(requests), key=lambda result: result.request.id)


class Writer:
    """Records and traces as an experiment writes them."""

    def __init__(self, folder: Path, results) -> None:
        self.path, self.results = folder / "arm.jsonl", results
        self.trace, self.journal = trace_paths(self.path)

    def store(self) -> TraceStore:
        return TraceStore(self.path, {"config_hash": "abc"})

    def write(self, store: TraceStore, *numbers: int, records: bool = True) -> None:
        with RecordFile(self.path) as file:
            for number in numbers:
                result = self.results[number]
                store.append(result, arm=ARM, problem_id=result.request.id)
                if records:
                    file.append(result.record() | {"arm": ARM})

    def problems(self) -> list[str]:
        """Of the trace, in its order; each with the rows of its result."""
        found = []
        for number, columns in enumerate(read_traces(self.trace)):
            (result,) = (r for r in self.results if r.request.id == columns["problem_id"][0])
            assert [int(i) for i in columns["token_id"]] == result.ids
            assert set(columns["sequence"]) == {number} and set(columns["arm"]) == {ARM}
            found.append(result.request.id)
        return found


@pytest.fixture
def writer(tmp_path, results) -> Writer:
    return Writer(tmp_path, results)


def test_rows_are_on_the_disk_before_the_record_and_a_parquet_file_after_the_end(writer):
    """Rows that only exist in memory until the end, or a journal that stays."""
    store = writer.store()
    writer.write(store, 0)
    assert writer.journal.exists() and not writer.trace.exists()
    assert [table["problem_id"][0].as_py() for table in journal_tables(writer.journal)] == ["p0"]
    writer.write(store, 1, 2)
    store.close()
    assert writer.problems() == ["p0", "p1", "p2"]
    assert sorted(file.name for file in writer.path.parent.iterdir()) == ["arm.jsonl", "arm.trace.parquet"]
    metadata = read_metadata(writer.trace)
    assert metadata["config_hash"] == "abc" and metadata["base_model_id"] == "arith-base"
    store.close()
    assert writer.problems() == ["p0", "p1", "p2"]


def test_a_second_session_adds_and_keeps_what_was_there(writer):
    """A resumed run that replaces the trace, or writes runs again."""
    for numbers in ((0, 1), (2,), (3, 4, 5)):
        store = writer.store()
        writer.write(store, *numbers)
        store.close()
    assert writer.problems() == [f"p{number}" for number in range(6)]


def test_a_run_without_a_record_is_dropped_and_may_come_again(writer):
    """A process that died between the two: the run will be done again, and must not be there twice."""
    store = writer.store()
    writer.write(store, 0, 1)
    writer.write(store, 2, records=False)  # and here it died
    store = writer.store()
    assert writer.problems() == ["p0", "p1"] and not writer.journal.exists()
    writer.write(store, 2, 3)
    store.close()
    assert writer.problems() == ["p0", "p1", "p2", "p3"]


def test_a_journal_that_is_torn_anywhere_keeps_the_frames_before(writer):
    """A torn frame that hides the whole ones, or is read as one."""
    store = writer.store()
    writer.write(store, 0)
    first = writer.journal.stat().st_size
    writer.write(store, 1)
    data = writer.journal.read_bytes()
    with RecordFile(writer.path) as file:
        file.append(writer.results[2].record() | {"arm": ARM})
    for size in [0, 1, 7, 8, 19, 20, first - 1, first, first + 1, first + 20, len(data) - 1, len(data)]:
        for tail in (b"", b"\0" * 64):
            torn = data[:size] + tail  # zeros, as a power failure leaves them, may be the very bytes that were there
            writer.journal.write_bytes(torn)
            expected = ["p0", "p1"][: (torn[:first] == data[:first]) + (torn[: len(data)] == data)]
            assert [table["problem_id"][0].as_py() for table in journal_tables(writer.journal)] == expected
            writer.trace.unlink(missing_ok=True)
            writer.store()
            assert not writer.journal.exists()
            assert (writer.problems() if writer.trace.exists() else []) == expected


def test_a_byte_that_changed_on_the_disk_ends_the_journal(writer):
    """Rows that were garbled, as signals."""
    store = writer.store()
    writer.write(store, 0, 1)
    data = bytearray(writer.journal.read_bytes())
    data[-100] ^= 1
    writer.journal.write_bytes(data)
    assert [table["problem_id"][0].as_py() for table in journal_tables(writer.journal)] == ["p0"]


def test_a_journal_of_a_version_that_lacked_a_column_is_merged(writer, monkeypatch):
    """Rows that an update of the program would lose, where a process died before it and the next one starts after."""
    lacking, frame = ["prompt_tokens", "trigger"], trace_store._frame
    store = writer.store()
    with monkeypatch.context() as patch:
        patch.setattr(trace_store, "_frame", lambda table: frame(table.drop_columns(lacking)))
        writer.write(store, 0)
    writer.write(store, 1)
    old, new = journal_tables(writer.journal)
    assert old.schema.equals(new.schema)
    assert [old[name].null_count for name in lacking] == [len(old)] * 2
    store.close()
    assert writer.problems() == ["p0", "p1"]


def test_a_death_between_the_new_trace_and_the_end_of_its_journal_doubles_nothing(writer, monkeypatch):
    """Rows that are in both."""
    store = writer.store()
    writer.write(store, 0, 1)
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.close()
    monkeypatch.undo()
    assert writer.trace.exists() and writer.journal.exists()
    read = read_recording([writer.trace, writer.journal])
    assert [run.problem_id for run in read.runs] == ["p0", "p1"] and read.duplicates == 2
    store = writer.store()
    writer.write(store, 2)
    store.close()
    assert writer.problems() == ["p0", "p1", "p2"]


def test_a_merge_that_fails_leaves_everything_for_the_next_one(writer, monkeypatch):
    """A full disk that costs the journal or the old trace."""
    store = writer.store()
    writer.write(store, 0)
    store.close()
    writer.write(store, 1)

    def full(self, table):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TableWriter, "write", full)
    with pytest.raises(DodonaError, match="cannot be written: No space left on device"):
        store.close()
    monkeypatch.undo()
    assert writer.problems() == ["p0"] and not list(writer.path.parent.glob("*.partial"))
    store.close()
    assert writer.problems() == ["p0", "p1"]


def test_a_full_disk_leaves_nothing_of_the_run(writer, monkeypatch):
    """Half a frame, after which nothing can be read."""
    store = writer.store()
    writer.write(store, 0)
    size = writer.journal.stat().st_size
    write = os.write

    def full(fd, data):
        if len(data) > 100:
            return write(fd, data[:100])
        raise OSError(28, "No space left on device")

    data = trace_store._frame(trace_store.trace_table(writer.results[1]))
    monkeypatch.setattr(os, "write", lambda fd, data: full(fd, data if len(data) > 1000 else data[:50]))
    with pytest.raises(DodonaError, match="No space left"):
        store.append(_short(writer.results[1], monkeypatch, data[:150]), arm=ARM, problem_id="p1")
    monkeypatch.undo()
    assert writer.journal.stat().st_size == size
    writer.write(store, 1)
    store.close()
    assert writer.problems() == ["p0", "p1"]


def _short(result, monkeypatch, frame: bytes):
    monkeypatch.setattr(trace_store, "_frame", lambda table: frame)
    return result


def test_a_failed_run_without_a_token_leaves_no_rows(writer):
    """An empty frame that a reader stumbles over."""
    engine = Engine(device="cpu")
    (failed,) = engine.generate([Request(prompt="x" * 5000, id="long")])
    assert failed.error is not None and not failed.ids
    store = writer.store()
    store.append(failed, arm=ARM, problem_id="long")
    assert not writer.journal.exists()
    store.close()


def test_records_say_which_runs_there_are(writer):
    """Headers, or a torn last line, taken for runs."""
    store = writer.store()
    with RecordFile(writer.path) as file:
        file.append({"header": {"schema": 2}})
    writer.write(store, 0)
    with writer.path.open("ab") as file:
        file.write(b'{"arm": "c=1 k=2", "problem')
    assert recorded_runs(writer.path) == {RunKey(ARM, "p0", 0)}
    assert recorded_runs(writer.path.with_name("missing.jsonl")) == set()


def test_runs_that_have_a_record_and_no_trace_are_counted(writer):
    """A run that went on with --trace, and whose first half has none without a word."""
    store = writer.store()
    assert store.untraced() == 0
    with RecordFile(writer.path) as file:
        for number in (0, 1):
            file.append(writer.results[number].record() | {"arm": ARM})
        file.append(writer.results[2].record() | {"arm": ARM, "total_tokens_generated": 0})
    assert store.untraced() == 2
    writer.write(store, 3)
    assert store.untraced() == 2
    store.close()
    assert store.untraced() == 2


def test_a_shard_has_a_trace_of_its_own():
    """Two processes that write one file."""
    assert trace_paths(Path("d/arm.1.jsonl")) == (Path(f"d/arm.1{TRACE}"), Path(f"d/arm.1{JOURNAL}"))


def test_what_is_no_journal_is_refused(writer):
    """A foreign file that is taken for an empty journal and removed."""
    writer.journal.write_bytes(b"something else entirely")
    with pytest.raises(DodonaError, match="is no journal of a trace"):
        writer.store()
    assert writer.journal.exists()


@pytest.mark.slow
def test_kills_at_any_moment_leave_the_trace_of_a_run_that_was_never_killed(root, tmp_path):
    """Rows lost, doubled or torn by a kill, also in the middle of a merge."""
    script = [sys.executable, str(root / "tests/support/killed_traces.py"), "30", "0", str(tmp_path)]
    done = subprocess.run(
        script, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["kills"] == 30
