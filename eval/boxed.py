r"""The answer in a worked solution: what its last ``\boxed{...}`` holds."""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = re.compile(r"(\\(?:boxed|fbox)\s*\{)|(\\.)|(\{)|(\})", re.DOTALL)
_MOST_BOXES = 64  # of those that a looping model wrote, the last ones; nested, all of them would cost the square
_INTEGER = re.compile(r"\s*([+-]?)\s*([0-9]+)\s*")


class Box(NamedTuple):
    r"""One ``\boxed{...}`` or ``\fbox{...}`` in a text."""

    start: int  # index of its backslash
    end: int  # index after its closing brace
    content: str  # untouched


def boxes(text: str) -> list[Box]:
    r"""Every box whose braces balance, in the order of their beginnings; boxes in boxes come too.

    Escaped braces (``\{``) are text and do not count. Of more than 64 boxes the last 64. Linear in the text.
    """
    opened: list[tuple[int, int] | None] = []  # where each open box and its contents begin; None for a mere brace
    found: list[tuple[int, int, int]] = []
    for match in _TOKEN.finditer(text):
        boxed, _, brace, closing = match.groups()
        if boxed:
            opened.append((match.start(), match.end()))
        elif brace:
            opened.append(None)
        elif closing and opened:
            box = opened.pop()
            if box is not None:
                found.append((*box, match.start()))
    return [Box(start, end + 1, text[begin:end]) for start, begin, end in sorted(found)[-_MOST_BOXES:]]


def last_boxed(text: str) -> str | None:
    r"""The contents of the last ``\boxed{...}`` whose braces balance, untouched; None where there is none.

    Of nested boxes the inner one is the last.
    """
    found = boxes(text)
    return found[-1].content if found else None


def same_integer(answer: str | None, gold: str) -> bool:
    """Whether both say the same integer; spaces around it, leading zeros and a plus sign are no difference."""
    return answer is not None and (number := _integer(answer)) is not None and number == _integer(gold)


def _integer(text: str) -> tuple[bool, str] | None:
    """Sign and digits (a number of any length), or None for what is no integer."""
    match = _INTEGER.fullmatch(text)
    if match is None:
        return None
    digits = match[2].lstrip("0") or "0"
    return match[1] == "-" and digits != "0", digits
