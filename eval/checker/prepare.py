r"""Brings an answer's spelling into one form before it is cut into tokens."""

from __future__ import annotations

import re
from typing import Final

from dodona.eval.checker.symbols import CHARACTERS, ONES, SUBSCRIPTS, SUPERSCRIPTS, TENS
from dodona.eval.checker.units import is_unit
from dodona.eval.checker.words import spelt_fraction, spelt_number

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
_LONGEST_SPELT: Final = 8  # words
_BETWEEN_WORDS: Final = re.compile(r"(\s*,\s*(?:and\s+|or\s+)?|\s+(?:and|or)\s+)")
_SIDE: Final = r"(?:[^\[\](),]|\([^()]*\))+"
_INTERVAL: Final = re.compile(rf"(?:\\left\s*)?([\[\](])({_SIDE},{_SIDE}?)(?:\\right\s*)?([\[\])])")
_OUTWARD: Final = re.compile(rf"(?:[A-Za-z]\s*\\in\s*)?{_INTERVAL.pattern}(?:\s*\\cup\s*{_INTERVAL.pattern})*")
_LETTER_UNION: Final = re.compile(r"(?<=[\])])\s*U\s*(?=[\[(\]])")
_NUMBER_WORD: Final = re.compile(rf"\b({'|'.join((*TENS, *ONES))})-(?=[a-z]{{3}})", re.IGNORECASE)
_BASE_WORD: Final = re.compile(rf"(?<=\d)_\s*\{{\s*({'|'.join(sorted(ONES, key=len, reverse=True))})\s*\}}")
_KIND_OF_ANSWER: Final = re.compile(  # the point (1, 2)
    r"(?:\\text\s*\{\s*)?(?:the\s+)?(?:ordered\s+(?:pair|triple)|point|interval|vector|matrix|set|number|value|"
    r"(?:final\s+)?answer)s?\s*:?\s*\}?\s*"
    r"(?=[\[({$\d]|\\(?:left|frac|\{|begin|langle|lbrace|\())",
    re.IGNORECASE,
)
_ROUND_CYCLE: Final = re.compile(r"(?<![\d.)])(\d+\.)\((\d+)\)")  # 0.(3)
_ALL_BUT: Final = re.compile(
    r"(?:\\text\s*\{\s*)?all (?:real numbers|reals)(?: x)?,? except(?: for)?\s*\}?\s*"
    r"(?:[a-z]\s*(?:=|\\neq?)\s*)?([^a-z]+)",
    re.IGNORECASE,
)
_RATIO_IN_WORDS: Final = re.compile(r"(\d+)\s*(?:to|\\text\s*\{\s*to\s*\})\s*(\d+)")
_US_DOLLARS: Final = re.compile(r"\bUSD?\s*(?=\\?\$)")
_RAISED_PRIMES: Final = re.compile(r"\^\s*(?:\{\s*((?:\\prime\s*|')+)\}|\\prime(?![A-Za-z]))")  # y^{\prime}
_PRIMES: Final = re.compile(r"(-?[\d./]*\d)\s*('{1,2})")  # 6' is 6 feet, and 6'' are inches
_SUPERSCRIPT: Final = re.compile(f"[{SUPERSCRIPTS}]+")
_SUBSCRIPT: Final = re.compile(f"[{SUBSCRIPTS}]+")
_SMALL: Final = str.maketrans(SUPERSCRIPTS + SUBSCRIPTS, "0123456789-+0123456789")
_LETTER_DEGREES: Final = re.compile(r"(?<=\d)\s*\^\s*(?:o(?![A-Za-z])|\{\s*o\s*\})")
_LAST_BACKSLASH: Final = re.compile(r"(?<!\\)\\\s*$")  # of 5\ at the end, without its space
_LEADING: Final = re.compile(r"(?:[=:\s]|\$(?=\s*(?:=|\\approx))|\\approx(?![A-Za-z]))+")
_SIGN_WORD: Final = re.compile(r"(?:negative|minus)\s+(?=\.?\d)", re.IGNORECASE)
_OUT_OF: Final = re.compile(  # _{10}C_3, and P for the ordered ones
    r"(?<![\w})\]'])(?:\{\s*\})?\s*[_^]\s*(?:\{\s*(\w+)\s*\}|(\w))\s*"
    r"(?:\\(?:mathrm|text|mathbf)\s*\{\s*([CP])\s*\}|([CP]))\s*_\s*(?:\{\s*(\w+)\s*\}|(\w))"
)
_OUT_OF_PLAIN: Final = re.compile(r"(\d+)()\s*()([CP])\s*(\d+)()")  # 10C3
_BASE_IN_WORDS: Final = re.compile(  # 101 (base 2)
    r"(?<=[0-9A-Z])\s*(?:_\s*\{\s*)?(?:\\(?:text|mathrm)\s*\{)?\s*\(?\s*(?:in\s+)?base\b[\s-]*\}?\s*"
    rf"(\d+|{'|'.join(sorted(ONES, key=len, reverse=True))})\s*\)?[\s}}]*$"
)
_FOLLOWED_BY_DOT: Final = re.compile(r"\\(left|right)\s*\.")


def prepared(text: str) -> str:
    r"""The answer without marks around it, with commands for other characters, and with odd ways of writing undone."""
    text = text.strip('*`" \t\r\n').translate(CHARACTERS)
    text = text[match.end() :] if (match := _LEADING.match(text)) else text
    text = _SIGN_WORD.sub("-", text, count=1) if _SIGN_WORD.match(text) else text
    dots = text.rstrip("$ ").endswith("...")
    if not dots:
        text = text.rstrip('*`". \t\r\n')
    if len(text) > 2 and text[0] == text[-1] == "'":
        text = text[1:-1]
    if text.startswith("__") and text.endswith("__"):
        text = text[2:-2]
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{match[0].translate(_SMALL)}}}", text)
    text = _SUBSCRIPT.sub(lambda match: f"_{{{match[0].translate(_SMALL)}}}", text)
    if not dots:
        text = _CLOSING_MARKS.sub("", text)
    text = _LAST_BACKSLASH.sub("", text.removesuffix("\\\\"))
    if _PRICE.match(text) and len(_DOLLAR.findall(text)) % 2:  # $5, where $5$ would be a formula
        text = text.replace("$", r"\$", 1)
    text = _UNIT_FRACTION.sub(r"\\text{ \1/\2\3}", _UNIT_IN_BRACES.sub(r"\1", text))
    text = _ROW_GAP.sub(r"\1", text)
    text = _FOLLOWED_BY_DOT.sub("", text)
    text = _ORDINAL.sub("", text)
    text = _TIME_OF_DAY.sub(r"\1m", text)
    text = _PLAIN_POWER.sub(r"\1^\2", text)
    text = _LETTER_TIMES.sub(r"\\times ", _LETTER_DEGREES.sub(r"^\\circ ", text))
    text = _LETTER_UNION.sub(r"\\cup ", _KIND_OF_ANSWER.sub("", text, count=1) if _KIND_OF_ANSWER.match(text) else text)
    if ("[" in text or "]" in text) and _OUTWARD.fullmatch(text):  # ]1, 2[
        text = _INTERVAL.sub(_inward, text)
    text = _OUT_OF_PLAIN.sub(_counted, text) if _OUT_OF_PLAIN.fullmatch(text) else _OUT_OF.sub(_counted, text)
    text = _BASE_IN_WORDS.sub(_base, text)
    text = _BASE_WORD.sub(lambda match: f"_{{{ONES[match[1]]}}}", _NUMBER_WORD.sub(r"\1 ", text))
    text = _RATIO_IN_WORDS.sub(r"\1:\2", text) if _RATIO_IN_WORDS.fullmatch(text) else text
    text = _in_digits(text)
    if except_for := _ALL_BUT.fullmatch(text):
        text = rf"\mathbb{{R}}\setminus\{{{except_for[1]}\}}"
    text = _US_DOLLARS.sub("", _ROUND_CYCLE.sub(r"\1\\overline{\2}", text))
    text = _RAISED_PRIMES.sub(lambda match: "'" * max(1, len(re.findall(r"\\prime|'", match[1] or ""))), text)
    if length := _PRIMES.fullmatch(text):
        text = f"{length[1]} {('ft', 'in')[len(length[2]) - 1]}"
    return _SPACED_THOUSANDS.sub(lambda match: match[1] + match[2].replace(" ", ""), text)


def _in_digits(text: str) -> str:
    """With the numbers of "fifteen percent", "one and a half" and "two and three" in digits."""
    if not text[:1].isalpha():
        return text
    if " and " in text and (whole := spelt_fraction(text)) is not None:
        return str(whole)
    items = _BETWEEN_WORDS.split(text)
    if len(items) > 1 and None not in (values := [spelt_fraction(item) for item in items[::2]]):
        return "".join(str(item if index % 2 else values[index // 2]) for index, item in enumerate(items))
    pieces = text.split(" ")
    for count in range(min(len(pieces) - 1, _LONGEST_SPELT), 0, -1):
        if pieces[count].startswith("percent") or is_unit(pieces[count]):
            value = spelt_number(" ".join(pieces[:count]))
            if value is not None:
                return " ".join([str(value), *pieces[count:]])
    return text


def _counted(match: re.Match[str]) -> str:
    """How many ways there are to take so many things out of so many, in order or not."""
    above, below = match[1] or match[2], match[5] or match[6]
    ordered = "P" in (match[3], match[4])
    return rf"\frac{{({above})!}}{{({above}-{below})!}}" if ordered else rf"\binom{{{above}}}{{{below}}}"


def _base(match: re.Match[str]) -> str:
    """A base as an index; text in which braces would be left over, as it is."""
    return f"_{{{match[1]}}}" if match[0].count("{") == match[0].count("}") else match[0]


def _inward(match: re.Match[str]) -> str:
    """The interval with round brackets where its own point outward."""
    opening, inner, closing = match.groups()
    return f"{'(' if opening == ']' else opening}{inner}{')' if closing == '[' else closing}"
