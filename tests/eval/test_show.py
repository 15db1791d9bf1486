"""Who wrote what is visible on every kind of output, and the text itself is not changed."""

from __future__ import annotations

import io

import pytest

from dodona.engine.result import Segment
from dodona.eval.show import marked, marks_for

SEGMENTS = [Segment("base", "so 2", [1]), Segment("oracle", " + 2\n", [2]), Segment("oracle", "= 4", [3])]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_a_terminal_gets_colours() -> None:
    """Base red, oracle blue, and every colour ended, or the shell's prompt is blue afterwards."""
    text = marked(SEGMENTS, marks_for(Terminal(), "auto"))
    assert text == "\x1b[31mso 2\x1b[0m\x1b[94m + 2\n\x1b[0m\x1b[94m= 4\x1b[0m"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_user_who_wants_no_colours_gets_brackets(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """https://no-color.org: any value that is not empty; --color always still wins."""
    monkeypatch.setenv(name, value)
    assert marked(SEGMENTS, marks_for(Terminal(), "auto")) == "so 2⟦ + 2\n⟧⟦= 4⟧"
    assert "\x1b[31m" in marked(SEGMENTS, marks_for(Terminal(), "always"))


def test_a_file_gets_brackets_and_every_consult_its_own() -> None:
    """Two consults one after the other must not look like one."""
    assert marked(SEGMENTS, marks_for(io.StringIO(), "auto")) == "so 2⟦ + 2\n⟧⟦= 4⟧"
    assert marked(SEGMENTS, marks_for(Terminal(), "never")) == "so 2⟦ + 2\n⟧⟦= 4⟧"


def test_an_output_without_the_brackets_gets_others() -> None:
    """In a Latin-1 log the run would end with a UnicodeEncodeError at its first consult."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    assert marked(SEGMENTS, marks_for(stream, "auto")) == "so 2[[ + 2\n]][[= 4]]"


def test_an_empty_segment_leaves_no_mark() -> None:
    """A lone end token has no text; an empty pair of brackets looks like a fault."""
    assert marked([Segment("oracle", "", [2])], marks_for(io.StringIO(), "auto")) == ""
