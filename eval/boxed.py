r"""The answer in a worked solution: what its last ``\boxed{...}`` holds."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"(\\boxed\s*\{)|(\\.)|(\{)|(\})", re.DOTALL)
_INTEGER = re.compile(r"\s*([+-]?)\s*([0-9]+)\s*")


def last_boxed(text: str) -> str | None:
    r"""The contents of the last ``\boxed{...}`` whose braces balance, untouched; None where there is none.

    Escaped braces (``\{``) are text and do not count. Of nested boxes the inner one is the last. Linear in the text.
    """
    opened: list[int | None] = []  # where each open brace's contents begin; None for a brace that is no box
    best: tuple[int, int] | None = None
    for match in _TOKEN.finditer(text):
        boxed, _, brace, closing = match.groups()
        if boxed:
            opened.append(match.end())
        elif brace:
            opened.append(None)
        elif closing and opened:
            start = opened.pop()
            if start is not None and (best is None or start > best[0]):
                best = start, match.start()
    return None if best is None else text[best[0] : best[1]]


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
