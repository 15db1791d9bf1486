"""The text of an answer without what only changes its looks."""

from __future__ import annotations

import re
from typing import Final

from dodona.eval.checker.lexer import Unreadable, tokenize

_LOOKS: Final = re.compile(r"\\(?:left|right|displaystyle|,|;|!|:)(?![A-Za-z])|\$")


def normal_text(answer: str) -> str:
    r"""A text that is the same for the same answer in another dress: spaces, ``\left``, ``\dfrac``, 10{,}000.

    Its tokens stay apart, so ``1 2/3`` never becomes ``12/3``; capitals count, but in words.
    """
    try:
        tokens = tokenize(answer)
    except Unreadable:
        return " ".join(_LOOKS.sub(" ", answer).split()).rstrip(".")
    if not tokens:
        return answer.strip()
    return "\x1f".join(token.text.lower() if token.kind == "word" else token.text for token in tokens)
