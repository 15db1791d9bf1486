"""Text whose author shows: the oracle's in blue and the base's in red, or the oracle's in brackets without colours."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple, TextIO

from dodona.engine.result import Segment
from dodona.engine.sequence import ORACLE

COLOR_CHOICES = ("auto", "always", "never")


class Marks(NamedTuple):
    """What is written before and after each author's text."""

    base: tuple[str, str]
    oracle: tuple[str, str]
    legend: str

    def of(self, source: str) -> tuple[str, str]:
        """The marks of one author."""
        return self.oracle if source == ORACLE else self.base


_COLORS = Marks(
    ("\x1b[31m", "\x1b[0m"), ("\x1b[94m", "\x1b[0m"), "\x1b[31mred: the base\x1b[0m, \x1b[94mblue: the oracle\x1b[0m"
)
_BRACKETS = Marks(("", ""), ("⟦", "⟧"), "⟦in brackets: the oracle⟧")
_ASCII_BRACKETS = Marks(("", ""), ("[[", "]]"), "[[in brackets: the oracle]]")


def uses_color(stream: TextIO, choice: str) -> bool:
    """Whether to colour: as chosen, and for ``auto`` on a terminal, unless NO_COLOR is set (https://no-color.org)."""
    if choice != "auto":
        return choice == "always"
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def marks_for(stream: TextIO, choice: str) -> Marks:
    """Colours or brackets, whichever the stream can show."""
    if uses_color(stream, choice):
        return _COLORS
    try:
        "⟦⟧".encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return _ASCII_BRACKETS
    return _BRACKETS


def marked(segments: Iterable[Segment], marks: Marks) -> str:
    """The text of the segments, each between its author's marks."""
    parts = []
    for segment in segments:
        before, after = marks.of(segment.source)
        parts.append(f"{before}{segment.text}{after}" if segment.text else "")
    return "".join(parts)
