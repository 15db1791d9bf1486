r"""Brings an answer's spelling into one form before it is cut into tokens."""

from __future__ import annotations

import re
from typing import Final

from dodona.eval.checker.symbols import CHARACTERS, SUBSCRIPTS, SUPERSCRIPTS

_CLOSING_MARKS: Final = re.compile(r"(?<!\\)[\s.,;:]+(?=(?:\$|\\\)|\\\]|\s)*$)")
_ROW_GAP: Final = re.compile(r"(\\\\)\s*\[\s*-?\d*\.?\d+\s*(?:pt|em|ex|mm|cm)\s*\]")
_SPACED_THOUSANDS: Final = re.compile(r"(-?\s*\\?\$?\s*)(\d{1,3}(?: \d{3})+)(?=(?:\.\d+)?\s*\\?\$?\s*$)", re.ASCII)
_LETTER_TIMES: Final = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))", re.ASCII)
_ORDINAL: Final = re.compile(r"(?<=\d)\s*\^?\s*\{?\s*\\(?:text|mathrm|textrm|mbox)\s*\{\s*(?:st|nd|rd|th)\s*\}\}?")
_PRICE: Final = re.compile(r"[-+\s]*\$\s?\.?\d")
_DOLLAR: Final = re.compile(r"(?<!\\)\$")
_UNIT_IN_BRACES: Final = re.compile(r"(?<=\d)\s*\{\s*(\\(?:text|mbox|mathrm)\s*\{[^{}]*\})\s*\}")
_UNIT_FRACTION: Final = re.compile(
    r"\\[dt]?frac\s*\{\s*\\(?:text|mathrm)\s*\{([^{}]*)\}\s*\}\s*\{\s*\\(?:text|mathrm)\s*\{([^{}]*)\}\s*(\^\{?\d\}?)?\s*\}"
)
_TIME_OF_DAY: Final = re.compile(r"(?<=\d)(\s*[AaPp])\.\s?[Mm]\b\.?")
_PLAIN_POWER: Final = re.compile(r"(?<=\d)(\s*(?:\\text\s*\{\s*)?(?:[cmkd]?m|in|ft|yd|mi))([23])(?![\d.])")  # 5 cm2
_OUTWARD: Final = re.compile(r"\](-?[^\[\](){}]+,[^\[\](){}]+)\[")
_SUPERSCRIPT: Final = re.compile(f"[{SUPERSCRIPTS}]+")
_SUBSCRIPT: Final = re.compile(f"[{SUBSCRIPTS}]+")
_SMALL: Final = str.maketrans(SUPERSCRIPTS + SUBSCRIPTS, "0123456789-+0123456789")
_LETTER_DEGREES: Final = re.compile(r"(?<=\d)\s*\^\s*(?:o(?![A-Za-z])|\{\s*o\s*\})")
_FOLLOWED_BY_DOT: Final = re.compile(r"\\(left|right)\s*\.")


def prepared(text: str) -> str:
    r"""The answer without marks around it, with commands for other characters, and with odd ways of writing undone."""
    text = text.strip('*`" \t\r\n').lstrip("=:").translate(CHARACTERS)
    if not text.endswith("..."):
        text = text.rstrip('*`". \t\r\n')
    if len(text) > 2 and text[0] == text[-1] == "'":
        text = text[1:-1]
    if text.startswith("__") and text.endswith("__"):
        text = text[2:-2]
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{match[0].translate(_SMALL)}}}", text)
    text = _SUBSCRIPT.sub(lambda match: f"_{{{match[0].translate(_SMALL)}}}", text)
    if not text.endswith("..."):
        text = _CLOSING_MARKS.sub("", text)
    text = text.removesuffix("\\\\")
    if _PRICE.match(text) and len(_DOLLAR.findall(text)) % 2:  # $5, where $5$ would be a formula
        text = text.replace("$", r"\$", 1)
    text = _UNIT_FRACTION.sub(r"\\text{ \1/\2\3}", _UNIT_IN_BRACES.sub(r"\1", text))
    text = _ROW_GAP.sub(r"\1", text)
    text = _FOLLOWED_BY_DOT.sub("", text)
    text = _ORDINAL.sub("", text)
    text = _TIME_OF_DAY.sub(r"\1m", text)
    text = _PLAIN_POWER.sub(r"\1^\2", text)
    text = _LETTER_TIMES.sub(r"\\times ", _LETTER_DEGREES.sub(r"^\\circ ", text))
    if outward := _OUTWARD.fullmatch(text):  # ]1, 2[
        text = f"({outward[1]})"
    return _SPACED_THOUSANDS.sub(lambda match: match[1] + match[2].replace(" ", ""), text)
