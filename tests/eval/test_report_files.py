"""Files that commands give out: whole or not at all, and never in place of recorded runs."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_lines import Outcome
from sample_runs import grid, rising, write_runs

from dodona.engine.errors import DodonaError
from dodona.engine.whole_file import write_whole
from dodona.eval.commands.forking import _ours
from dodona.eval.report.files import check_apart, write_file

HEADER = b'{"header": {"schema": 2}}\n'


def test_what_cannot_be_written_whole_leaves_the_earlier_file(tmp_path: Path) -> None:
    """A full disk in the middle leaves half a page in place of yesterday's, or a scratch file beside it."""
    page = tmp_path / "page.html"
    page.write_text("yesterday's")
    page.chmod(0o640)

    def lines() -> Iterator[bytes]:
        yield b"half of"
        raise OSError(28, "No space left on device")

    with pytest.raises(DodonaError, match=r"page\.html cannot be written: No space left on device"):
        write_whole(page, lines())
    assert page.read_text() == "yesterday's"
    write_file(page, "today's")
    assert page.read_text() == "today's"
    assert stat.S_IMODE(page.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [page]


def test_a_link_stays_a_link_and_its_folder_may_be_missing(tmp_path: Path) -> None:
    """Replacing the link's name cuts it off from the file that a server shows."""
    shown = tmp_path / "shown.html"
    shown.write_text("old")
    link = tmp_path / "link.html"
    link.symlink_to(shown)
    write_file(link, "new")
    assert link.is_symlink() and shown.read_text() == "new"
    assert write_file(tmp_path / "a" / "b.html", "new").read_text() == "new"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """`--output-file /dev/null` as root: a renamed file in place of the device breaks the whole machine. Looking into
    a pipe for an earlier file waits forever.
    """
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert _ours(pipe, "change")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_file(pipe, "text")
    reader.join(timeout=20)
    assert got == [b"text"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("content", [HEADER, b"PAR1\x15\x00"])
def test_records_and_traces_are_not_written_over(tmp_path: Path, content: bytes) -> None:
    """`--html` with the name of a file of records: hours of runs become a page."""
    kept = tmp_path / "kept"
    kept.write_bytes(content)
    with pytest.raises(DodonaError, match="kept holds records or a trace, and is left as it is"):
        write_file(kept, "a page")
    assert kept.read_bytes() == content


def test_the_outputs_of_commands_do_not_replace_records(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """A command that writes by another way than its neighbours, and over the records that it has just read."""
    records = write_runs(tmp_path / "r.jsonl", grid(), 4, rising)
    before = records.read_bytes()
    other = ("eval", "--dataset", "arith", "--c", "0", "--num-samples", "1")
    for command in (
        ("report", records, "--html", records),
        (*other, "--output-dir", tmp_path / "o", "--stats-file", records),
    ):
        code, _, err = cli(*command)
        assert code == 2
        assert err == f"dodona: error: {records} holds records or a trace, and is left as it is: name another file\n"
        assert records.read_bytes() == before
    code, _, err = cli(*other, "--output-file", tmp_path / "s.jsonl", "--stats-file", tmp_path / "o" / ".." / "s.jsonl")
    assert code == 2
    assert "--output-file and --stats-file are both" in err
    assert not (tmp_path / "s.jsonl").exists()
    code, _, err = cli(*other, "--base-model", "no/such@drop=1", "--stats-file", tmp_path / "s.json")
    assert code == 2 and "no/such" in err
    assert not (tmp_path / "s.json").exists()  # a table of nothing


def test_one_file_for_two_purposes_is_refused_by_both_names(tmp_path: Path) -> None:
    """The second writes over the first; options that are not given are not one file."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "a")
    check_apart({"--x": str(tmp_path / "a"), "--y": str(tmp_path / "b"), "--z": None, "--w": None})
    with pytest.raises(DodonaError, match=r"--x and --y are both .*link: name two files"):
        check_apart({"--x": str(tmp_path / "a"), "--y": str(link)})
