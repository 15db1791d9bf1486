"""Records survive whatever ends the process that writes them."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dodona.engine.errors import DodonaError
from dodona.engine.records import RecordFile, encode_record, read_records

RECORDS = [{"a": 1}, {"a": 2, "text": "zwei\nlines \u2028 of text"}, {"a": 3}]


def write(path: Path, records: list[dict[str, object]]) -> None:
    with RecordFile(path) as file:
        for record in records:
            file.append(record)


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    """A record with a line end or a line separator in its text must stay one line."""
    path = tmp_path / "new" / "folder" / "r.jsonl"
    write(path, RECORDS[:1])
    write(path, RECORDS[1:])
    assert list(read_records(path)) == RECORDS
    assert path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("cut", range(1, len(encode_record(RECORDS[2])) - 1))
def test_a_torn_last_line_is_dropped_wherever_it_was_torn(tmp_path: Path, cut: int) -> None:
    """A record appended behind a torn line would make both unreadable."""
    path = tmp_path / "r.jsonl"
    write(path, RECORDS)
    path.write_bytes(path.read_bytes()[: -1 - cut])
    assert list(read_records(path)) == RECORDS[:2]
    write(path, [{"a": 4}])
    assert list(read_records(path)) == [*RECORDS[:2], {"a": 4}]


def test_a_last_line_that_lacks_its_line_end_alone_is_kept(tmp_path: Path) -> None:
    """The record is whole; dropping it would run its problem twice."""
    path = tmp_path / "r.jsonl"
    write(path, RECORDS)
    path.write_bytes(path.read_bytes()[:-1])
    assert list(read_records(path)) == RECORDS
    write(path, [{"a": 4}])
    assert list(read_records(path)) == [*RECORDS, {"a": 4}]


def test_zeros_after_a_power_failure_are_dropped(tmp_path: Path) -> None:
    """Some file systems grow a file before its data arrives."""
    path = tmp_path / "r.jsonl"
    write(path, RECORDS)
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    with RecordFile(path) as file:
        assert list(file.read()) == RECORDS


def test_a_long_torn_line_is_dropped_too(tmp_path: Path) -> None:
    """A search for the last line end that reads one block alone would drop every record before it."""
    path = tmp_path / "r.jsonl"
    write(path, RECORDS)
    path.write_bytes(path.read_bytes() + b'{"text": "' + b"x" * 200_000)
    with RecordFile(path) as file:
        assert list(file.read()) == RECORDS


def test_a_whole_line_that_is_not_json_is_an_error_with_its_number(tmp_path: Path) -> None:
    """Skipping it would silently shrink a denominator."""
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(DodonaError, match=r"r\.jsonl, line 2: not JSON"):
        list(read_records(path))
    path.write_bytes(b'{"a": 1}\n[1]\n')
    with pytest.raises(DodonaError, match=r"r\.jsonl, line 2: a record is a JSON object"):
        list(read_records(path))
    path.write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(DodonaError, match=r"r\.jsonl, line 1: not JSON"):
        list(read_records(path))


def test_a_file_that_is_no_record_file_is_left_as_it_is(tmp_path: Path) -> None:
    """`--output-file notes.txt` must not empty the notes as a torn line."""
    path = tmp_path / "notes.txt"
    for notes in ("remember the milk", "remember the milk\n", "milk\n{"):
        path.write_text(notes)
        with pytest.raises(DodonaError, match="holds something else than records"):
            RecordFile(path)
        assert path.read_text() == notes


def test_a_path_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    """Found at the first record, it would cost the whole generation before."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "r.jsonl", tmp_path):
        with pytest.raises(DodonaError, match="cannot be written: "):
            RecordFile(path)


def test_a_file_that_is_deleted_meanwhile_is_an_error(tmp_path: Path) -> None:
    """All that follows would be written to nowhere, and the command would end well."""
    with RecordFile(tmp_path / "r.jsonl") as file:
        file.append({"a": 1})
        file.path.unlink()
        with pytest.raises(DodonaError, match="deleted meanwhile"):
            file.append({"a": 2})


def test_two_processes_cannot_write_one_file(tmp_path: Path) -> None:
    """The same command started twice would write every record twice."""
    path = tmp_path / "r.jsonl"
    with RecordFile(path), pytest.raises(DodonaError, match="is being written by another process"):
        RecordFile(path)
    RecordFile(path).close()


def test_nan_becomes_null_and_infinity_a_text() -> None:
    """`NaN` and `Infinity` are not JSON; other readers refuse the whole file."""
    record = {"nan": math.nan, "deep": [{"c": math.inf}, (-math.inf, 1.5)]}
    assert json.loads(encode_record(record)) == {"nan": None, "deep": [{"c": "inf"}, ["-inf", 1.5]]}


def test_half_a_surrogate_pair_is_written_as_an_escape() -> None:
    """A prompt with one, from a damaged file name or command line, would end the run at its record."""
    assert json.loads(encode_record({"prompt": "\ud800ä"})) == {"prompt": "\ud800ä"}


@given(
    st.dictionaries(
        st.text(),
        st.recursive(st.none() | st.booleans() | st.integers() | st.text() | st.floats(), st.lists, max_leaves=5),
    )
)
def test_every_record_is_one_line_of_standard_json(record: dict[str, object]) -> None:
    """Any text and any number, not only those of the examples above."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not standard JSON")

    line = encode_record(record)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert json.loads(line, parse_constant=refuse).keys() == record.keys()


def test_each_record_is_one_write_and_one_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writes can be torn apart by a kill between them; without fsync a power failure takes finished records."""
    calls: list[str] = []
    real_write, real_fsync = os.write, os.fsync
    with RecordFile(tmp_path / "r.jsonl") as file:
        monkeypatch.setattr(os, "write", lambda fd, data: (calls.append("write"), real_write(fd, data))[1])
        monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), real_fsync(fd))[1])
        for record in RECORDS[:2]:
            file.append(record)
    assert calls == ["write", "fsync"] * 2


def test_a_failing_disk_leaves_whole_records_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-written record that is followed by others, after space was made, is a damaged file."""
    path = tmp_path / "r.jsonl"
    real_write = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) > 4:
            return real_write(fd, data[:4])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with RecordFile(path) as file:
        file.append({"a": 1})
        monkeypatch.setattr(os, "write", lambda fd, data: full(fd, data[:5]))
        with pytest.raises(DodonaError, match="the records before are kept"):
            file.append({"a": 2})
        monkeypatch.undo()
        file.append({"a": 3})
    assert list(read_records(path)) == [{"a": 1}, {"a": 3}]


_FILL = """
import sys
from dodona.engine.errors import DodonaError
from dodona.engine.records import RecordFile
with RecordFile(sys.argv[1]) as file:
    try:
        for n in range(100):
            file.append({"n": n, "text": "x" * 50})
    except DodonaError as error:
        print(error)
"""


def test_a_real_full_disk_is_one_clear_error(tmp_path: Path, root: Path) -> None:
    """The limit on a file's size makes the kernel fail the write in the middle, as a full disk does."""

    def limit() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    path = tmp_path / "r.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", _FILL, str(path)], cwd=root, preexec_fn=limit, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "File too large; the records before are kept" in done.stdout
    records = list(read_records(path))
    assert len(records) > 5
    assert [record["n"] for record in records] == list(range(len(records)))
