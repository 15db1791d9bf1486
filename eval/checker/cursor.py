"""Walks over the tokens of an answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dodona.eval.checker.lexer import Token, Unreadable
from dodona.eval.checker.nodes import Node

MOST_DEPTH = 50
END: Final = Token("end", "")


class Cursor:
    """Tokens, and which of them is next."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0
        self.bars = 0  # open | that a later one closes

    @property
    def next(self) -> Token:
        return self.tokens[self.at] if self.at < len(self.tokens) else END

    def sees(self, *texts: str) -> bool:
        return self.next.kind in ("sign", "command") and self.next.text in texts

    def takes(self, *texts: str) -> bool:
        if self.sees(*texts):
            self.at += 1
            return True
        return False

    def expect(self, *texts: str) -> str:
        if not self.sees(*texts):
            raise Unreadable(f"{' or '.join(texts)} is missing")
        self.at += 1
        return self.tokens[self.at - 1].text

    def deeper(self, part: Callable[[], Node]) -> Node:
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise Unreadable(f"nested more than {MOST_DEPTH} deep")
        node = part()
        self.depth -= 1
        return node
