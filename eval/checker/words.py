"""Answers in words: names, days, "no solution", numbers that are spelt out."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from dodona.eval.checker.symbols import CHARACTERS, FUNCTIONS, ONES, PARTS, SCALES, TENS, TEXTS

_TEXT: Final = re.compile(rf"\\(?:{'|'.join(sorted(TEXTS, reverse=True))})\s*\{{([^{{}}]*)\}}")
_SPACE: Final = re.compile(r"\\[,;:! ]|\\(?:q?quad|left|right)(?![A-Za-z])|\\[()\[\]]|~|\$")
_TIME_OF_DAY: Final = re.compile(r"\b([ap])\.\s?m\b\.?", re.IGNORECASE)
_PIECE: Final = re.compile(
    r"(?<![\w.,:])-?\d[\d.,:]*(?<![.,:])|[A-Za-z]{2,}(?:['-][A-Za-z]{2,})*(?:'s)?|[A-Za-z]", re.ASCII
)
_BETWEEN: Final = re.compile(r"[\s.,;:'\"&?]*", re.ASCII)
_MATHEMATICS: Final = FUNCTIONS | {"sqrt", "infinity", "theta", "alpha", "beta"}
_OPENING: Final = re.compile(r"(?:(?:it is|there (?:is|are)|on|at) )?", re.IGNORECASE)
_ARTICLE: Final = re.compile(r"\b(?:an?|the|and) (?=[a-z]{3})", re.IGNORECASE)
_SYNONYMS: Final = {
    **dict.fromkeys(
        ("no solutions", "no real solution", "no real solutions", "none", "empty set", "no such number exists"),
        "no solution",
    ),
    **dict.fromkeys(("does not exist", "dne", "not defined"), "undefined"),
    **dict.fromkeys(("all real number", "all reals", "real numbers", "all real x", "all real"), "all real numbers"),
}


def in_words(answer: str) -> str | None:
    """A text that is the same for the same words, whatever their spelling; None for an answer that is not in words."""
    text = _SPACE.sub(" ", _TEXT.sub(r" \1 ", answer.translate(CHARACTERS)))
    text = _TIME_OF_DAY.sub(r"\1m", text)
    if not _BETWEEN.fullmatch(_PIECE.sub("", text)):
        return None
    pieces = _PIECE.findall(text)
    spelt = {piece.lower() for piece in pieces if len(piece) > 2 and piece[0].isalpha()}
    if (not spelt and not {"am", "pm"} & {piece.lower() for piece in pieces}) or spelt & _MATHEMATICS:
        return None
    return meaning(" ".join(pieces))


def meaning(words: str) -> str:
    """Words without articles, in small letters where they have more than one; of some with one meaning, the first."""
    words = re.sub(r"(?<=[A-Za-z]{2})-(?=[A-Za-z]{2})", " ", words)
    words = " ".join(piece.lower() if len(piece) > 1 else piece for piece in words.split())
    words = _ARTICLE.sub("", _OPENING.sub("", words, count=1))
    if option := re.fullmatch("(?:choice|option|answer) ([A-Z])", words):
        return option[1]
    return _SYNONYMS.get(words, words)


def spelt_number(words: str) -> int | None:
    """The number that is spelt out, as in "twenty-one" or "three hundred"; None where it is none."""
    total, last = 0, 0
    pieces = words.lower().replace("-", " ").split()
    if pieces[:1] in (["minus"], ["negative"]) and len(pieces) > 1:
        value = spelt_number(" ".join(pieces[1:]))
        return None if value is None else -value
    for before, piece in zip(["", *pieces], pieces, strict=False):
        if piece == "and" and before in SCALES:  # one hundred and five
            continue
        if piece in SCALES and last:
            last *= SCALES[piece]
            if SCALES[piece] > 100:
                total, last = total + last, 0
        elif piece in TENS and last % 100 == 0:
            last += TENS[piece]
        elif piece in ONES and last % 10 == 0 and (last % 100 != 10 or ONES[piece] == 0):
            last += ONES[piece]
        else:
            return None
    return total + last if pieces else None


def spelt_fraction(words: str) -> Fraction | None:
    """The number that is spelt out, also a fraction, as in "two thirds" or "one and a half"; None where it is none."""
    whole = spelt_number(words)
    if whole is not None:
        return Fraction(whole)
    before, joined, rest = words.lower().replace("-", " ").rpartition(" and ")
    *pieces, part = rest.split() or [""]
    below = PARTS.get(part, PARTS.get(part.removesuffix("s")))
    above = 1 if pieces in ([], ["a"]) else spelt_number(" ".join(pieces))
    added = spelt_number(before) if joined else 0
    if below is None or above is None or added is None or (not pieces and not joined and part != "half"):
        return None
    return added + Fraction(above, below)
