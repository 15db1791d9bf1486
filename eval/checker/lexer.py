r"""Cuts an answer in LaTeX or plain text into tokens; what only changes its looks is left out."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final, NamedTuple

from dodona.eval.checker.prepare import prepared
from dodona.eval.checker.symbols import (
    ACCENTS,
    CURRENCIES,
    CURRENCY_CODES,
    DECORATIONS,
    FACES,
    FUNCTIONS,
    GREEK,
    HIDDEN,
    IN_TEXT,
    ORDINALS,
    PLAIN,
    SAME,
    SCALES,
    SIGN_COMMANDS,
    TEXTS,
)
from dodona.eval.checker.units import LETTERS_IN_TEXT, SINGLE_LETTERS, is_unit

MOST_CHARACTERS = 1000
MOST_TOKENS = 400
MOST_DIGITS = 400
MOST_EXPONENT = 2000  # of ten, in 1e2000


class Unreadable(Exception):
    """The text is not in the grammar, or is larger than what is read."""


class Token(NamedTuple):
    r"""One token of an answer."""

    kind: str  # number, digits (of a base), letter, word, text (of \text), unit, command, sign
    text: str
    spaced: bool = False  # white space comes before it
    value: Fraction | None = None  # of a number
    places: int | None = None  # of a number with a decimal point: digits after it
    digits: int = 0  # of a number: significant digits


_MATCH: Final = re.compile(
    r"""
      (?P<space>(?:\s|~|\\[,;:!>\ ]|\$
        |\\(?:left|right|[bB]igg?[lrm]?|quad|qquad|displaystyle|textstyle|scriptstyle|limits|nolimits
            |thinspace|enspace|mathop|mathrel|mathord|rm|bf|it|hfill
            |[lL]arge|LARGE|[hH]uge|small|tiny|normalsize|footnotesize|scriptsize)(?![A-Za-z])
        |\\[hv]space\*?\{[^{}]*\}|\\\(|\\\)|\\\[|\\\](?!\s*\d*\.?\d+(?:pt|em|ex|mm)))+)
    | (?P<digits>(?=[A-F]*\d|[A-F]{2})(?=\d*[A-F])(?=(?P<run>[0-9A-F]+))(?P=run)
        (?=\s*_\s*\{?\s*(?:1[1-9]|2\d|3[0-6])\b))
    | (?P<repeating>(?P<whole>\d*)\.(?P<fixed>\d*)\\(?:overline|bar|dot)\s*(?:\{(?P<cycle>\d+)\}|(?P<digit>\d)))
    | (?P<dotted>(?P<start>\d*\.\d*?)(?P<again>\d)(?P=again){2,}\s*(?:\.\.\.|\\[lc]?dots(?![A-Za-z])))
    | (?P<number>
        (?:(?P<grouped>\d{1,3}(?:(?:\{,\}|\{\\,\}|(?:\\!)?,\\!|\\,|\\!|\\;|\\\ |~)\s*\d{3}(?!\d))+)
          |(?P<commas>\d{1,3}(?:,\d{3}(?!\d))+)|\d+)
        (?:\.\d+)?|\.\d+)(?P<exponent>[eE][+-]?\d+(?![\w]))?
    | (?P<word>[A-Za-z]+)
    | \\(?P<env>begin|end)\s*\{\s*(?P<kind>[A-Za-z]+)\*?\s*\}
    | \\(?P<command>[A-Za-z]+)
    | \\(?P<escaped>\\|[{}%$|\#&_])
    | (?P<sign>\*\*|<=|>=|(?<![\d)])!=|==|[-+*/^_=<>()\[\]{}|,;:!&'%.])
    | (?P<money>[£€¥₹¢])
    """,
    re.VERBOSE | re.ASCII,
)


_FACE: Final = re.compile(
    rf"\\(?:{'|'.join(sorted(FACES, reverse=True))})(?![A-Za-z])|[\s{{}}]"
)  # of the letter under an accent
_ARGUMENT: Final = re.compile(r"\s*(?:\{((?:[^{}]|\{[^{}]*\})*)\}|(\\[A-Za-z]+|[^\s{}]))")


def tokenize(text: str, *, commas: bool = True) -> list[Token]:
    r"""The tokens of an answer.

    Args:
        commas: whether 1,234 outside of brackets is one number; inside of ( ) [ ] \{ \} it never is.

    Raises:
        Unreadable: a character or a size that no answer has.
    """
    if len(text) > MOST_CHARACTERS:
        raise Unreadable(f"longer than {MOST_CHARACTERS} characters")
    return _Lexer(prepared(text), commas).run()


class _Lexer:
    def __init__(self, text: str, commas: bool) -> None:
        self.text, self.commas = text, commas
        self.at = 0
        self.depth = 0  # of ( ) [ ] \{ \}, where commas separate
        self.spaced = False
        self.tokens: list[Token] = []

    def run(self) -> list[Token]:
        while self.at < len(self.text):
            match = _MATCH.match(self.text, self.at)
            if match is None:
                raise Unreadable(f"{self.text[self.at]!r} has no meaning here")
            self.at = match.end()
            if match["space"]:
                self.spaced = self.spaced or ("left" not in match[0] and "right" not in match[0])
            else:
                self.take(match)
                self.spaced = False
            if len(self.tokens) > MOST_TOKENS:
                raise Unreadable(f"more than {MOST_TOKENS} tokens")
        return self.tokens

    def put(self, kind: str, text: str) -> None:
        self.tokens.append(Token(kind, text, self.spaced))

    def take(self, match: re.Match[str]) -> None:
        if match["number"]:
            self.number(match)
        elif match["repeating"] or match["dotted"]:
            self.repeating(match)
        elif match["digits"]:
            self.put("digits", match["digits"])
        elif match["word"]:
            self.word(match["word"])
        elif match["env"]:
            self.put("command", f"{match['env']}:{match['kind']}")
        elif match["command"]:
            self.command(match["command"])
        elif match["money"]:
            self.put("unit", match["money"])
        elif match["escaped"]:
            self.escaped(match["escaped"])
        else:
            self.sign({"**": "^", "==": "="}.get(match["sign"], match["sign"]))

    def sign(self, sign: str) -> None:
        if sign in ("(", "[", r"\{"):
            self.depth += 1
        elif sign in (")", "]", r"\}"):
            self.depth -= 1
        self.put("sign", sign)

    def escaped(self, char: str) -> None:
        if char in "{}":
            self.sign("\\" + char)
        elif char == "\\":
            self.put("sign", "\\\\")
        elif char == "$":
            self.put("unit", "$")
        elif char in "%&|":
            self.put("sign", {"|": "||"}.get(char, char))
        else:
            raise Unreadable(f"\\{char} has no meaning here")

    def number(self, match: re.Match[str]) -> None:
        digits, exponent = match["number"], match["exponent"] or ""
        if match["commas"] and (not self.commas or self.depth > 0):
            digits = digits.split(",")[0]
            self.at, exponent = match.start() + len(digits), ""
        digits = re.sub(r"[^\d.]", "", digits)
        if len(digits) > MOST_DIGITS or len(exponent) > 6 or abs(int(exponent[1:] or 0)) > MOST_EXPONENT:
            raise Unreadable("a number is too long")
        whole, point, fraction = digits.partition(".")
        significant = len((whole + fraction).lstrip("0"))
        places = len(fraction) - int(exponent[1:] or 0) if point else None
        value = Fraction(digits.removesuffix(".") + exponent)
        self.tokens.append(Token("number", digits + exponent, self.spaced, value, places, significant))

    def repeating(self, match: re.Match[str]) -> None:
        if match["dotted"]:
            (whole, _, fixed), cycle = match["start"].partition("."), match["again"]
        else:
            whole, fixed, cycle = match["whole"], match["fixed"], match["cycle"] or match["digit"]
        if len(match[0]) > MOST_DIGITS:
            raise Unreadable("a number is too long")
        value = Fraction(int(whole or 0)) + Fraction(int(fixed or 0), 10 ** len(fixed))
        value += Fraction(int(cycle), (10 ** len(cycle) - 1) * 10 ** len(fixed))
        self.tokens.append(Token("number", match[0], self.spaced, value))

    def word(self, word: str) -> None:
        before = self.tokens[-1] if self.tokens else None
        lower = word.lower()
        if len(word) == 1:
            last = self.spaced and not self.text[self.at :].strip(" $")
            self.put("unit" if last and word in SINGLE_LETTERS and self.is_number() else "letter", word)
        elif word in CURRENCY_CODES and before is None:
            self.put("unit", word)
        elif lower in ("min", "max") and self.text[self.at : self.at + 1] == "(":
            self.put("command", lower)
        elif lower == "sec" and before is not None and before.kind == "number" and self.spaced:
            self.put("unit", word)
        elif lower in PLAIN and not (word.isupper() and lower in ("or", "inf", "oo")):
            self.plain(PLAIN[lower])
        elif lower == "in" and re.match(r"\s*\$?(?:[\[({]|\\)", self.text[self.at :]):
            self.put("command", "in")
        elif before is not None and lower.removesuffix("s") in SCALES and _ends_value(before):
            self.scale(lower)
        elif before is not None and before.kind == "number" and not self.spaced and lower in ORDINALS:
            pass
        elif before is not None and (self.in_unit() or (_ends_value(before) and self.is_unit(word, before))):
            self.put("unit", word)
        elif lower[:-1] in FUNCTIONS and len(word) > 3:
            self.put("command", lower[:-1])
            self.put("letter", word[-1])
        elif self.is_prose(word, before):
            self.put("word", word)
        else:
            for letter in word:
                self.put("letter", letter)
                self.spaced = False

    def is_prose(self, word: str, before: Token | None) -> bool:
        """Whether it is a word of a language, and no product of letters."""
        first = before is None or before.kind in ("word", "text")
        if (word.lower() == "no" and (first or word != "NO")) or (len(word) >= 3 and first):  # NO is also a length
            return True
        return len(word) > 3 and self.spaced and before is not None and before.kind == "letter"

    def is_number(self) -> bool:
        """Whether a number stands before this, with no letter that it multiplies: 3, and not the 2 of x^2."""
        if not self.tokens or self.tokens[-1].kind != "number":
            return False
        for token in reversed(self.tokens):
            if token.kind == "letter" or token.text in ("=", ","):
                return token.kind != "letter"
        return True

    def in_unit(self) -> bool:
        """Whether a unit stands before this, perhaps with a stroke or a dot between."""
        last = self.tokens[-1:]
        if last and last[0].text in ("/", "*"):
            last = self.tokens[-2:-1]
        return bool(last) and last[0].kind == "unit"

    def is_unit(self, word: str, before: Token) -> bool:
        """Whether a word of plain text is a unit; any longer word is, where a number stands before it."""
        return is_unit(word) or (self.spaced and len(word) >= 3 and before.kind != "letter")

    def scale(self, word: str) -> None:
        """3 million"""
        value = SCALES[word.removesuffix("s")]
        self.put("sign", "*")
        self.tokens.append(Token("number", str(value), False, Fraction(value), None, len(str(value))))

    def plain(self, meaning: str) -> None:
        if meaning:
            self.put("sign" if meaning in ",;:%" else "command", meaning)

    def command(self, command: str) -> None:
        if command in TEXTS:
            self.words(self.braced(), command)
        elif command in ACCENTS:
            inner = _FACE.sub("", self.braced()).replace(r"\imath", "i").replace(r"\jmath", "j")
            if not re.fullmatch(r"[A-Za-z0-9]+", inner):
                raise Unreadable(f"\\{command} of more than a name")
            arrow = command in ("vec", "hat") and len(inner) == 1
            self.put("letter", inner if arrow else f"{command}:{inner}")
        elif command in HIDDEN:
            self.braced()
        elif command in FACES:
            start = self.at
            inner = self.braced() if _ARGUMENT.match(self.text, self.at) else ""
            if inner in FUNCTIONS:
                self.put("command", inner)
            elif re.fullmatch(r"[A-Za-z]{1,12}", inner):
                self.put("letter", inner)
            else:
                self.at = start  # its group is read as if the command were not there
        elif command == "mathbb":
            self.put("command", f"{self.braced()[:1]}_set")
        elif command in GREEK:
            self.put("letter", command.removeprefix("var"))
        elif command in CURRENCIES:
            self.put("unit", command)
        elif command not in DECORATIONS:
            command = SAME.get(command, command)
            if command in SIGN_COMMANDS:
                self.sign(SIGN_COMMANDS[command])
            elif command:
                self.put("command", command)

    def braced(self) -> str:
        """The group or the one character that a command takes as its argument."""
        match = _ARGUMENT.match(self.text, self.at)
        if match is None:
            raise Unreadable("an argument is missing")
        self.at = match.end()
        return match[1] if match[1] is not None else match[2]

    def words(self, content: str, command: str) -> None:
        r"""What ``\text{...}`` holds: a separator, a unit, a letter, numbers, or words."""
        content = content.replace("~", " ").replace("\\ ", " ").replace(r"\,", " ").strip()
        before = self.tokens[-1] if self.tokens else None
        bare = re.sub(r"[\s,.;:]+", " ", content).strip()
        meaning = IN_TEXT.get(content.lower(), IN_TEXT.get(bare.lower()))
        if meaning is not None:
            self.plain(meaning)
        elif bare in ("$", r"\$"):
            self.put("unit", "$")
        elif joined := re.fullmatch(r"(.*\S)\s+(and|or)", content):  # \text{ cm and }
            self.words(joined[1], command)
            self.plain(IN_TEXT[joined[2]])
        elif says := re.fullmatch(r"(?:(.*\S)\s+)?(?:is|are|equals):?", content):
            self.tokens += [Token("text", says[1])] * bool(says[1]) + [Token("sign", "=")]
        elif re.fullmatch("[ap] ?m", bare.lower()):
            self.put("unit", bare.lower().replace(" ", ""))
        elif before is not None and before.text == "^" and len(bare) == 1:
            self.put("letter", bare)
        elif self.is_measure(bare, before, command):
            self.measure(bare)
        elif re.fullmatch(r"\(?[A-Za-z]\)?", bare):
            self.put("letter", bare.strip("()"))
        elif bare in FUNCTIONS:
            self.put("command", bare)
        elif re.match(r"[-+(\[]?(?:\\?\$)?\.?\d|\$|\\(?:[dt]?frac|sqrt)|[A-Za-z]\s?[=<>+]", content):
            self.tokens += _Lexer(prepared(content), self.commas).run()
        elif bare:
            self.listed(content.strip(" ,.;:"))

    def is_measure(self, words: str, before: Token | None, command: str) -> bool:
        """Whether the words are what a number before them counts; after a letter only known units are."""
        if before is None or not (self.in_unit() or _ends_value(before)):
            return False
        if len(words) == 1:
            return words in LETTERS_IN_TEXT and (command != "mathrm" or words not in ("e", "i"))
        if before.kind == "letter" and not is_unit(words.split()[0]):
            return False
        return re.fullmatch(r"\(?[A-Za-z][A-Za-z /'^{}\d-]*\)?", words) is not None

    def measure(self, words: str) -> None:
        words = words.strip("()")
        first, _, rest = words.partition(" ")
        if first.lower().removesuffix("s") in SCALES:
            self.scale(first.lower())
            words = rest
        for part in re.findall(r"[^\s/^]+|/|\^\{?-?\d\}?", words):
            self.put("sign" if part == "/" else "unit", part.replace("{", "").replace("}", ""))

    def listed(self, words: str) -> None:
        """Ann, Bob and Carl"""
        for index, part in enumerate(re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+", words)):
            if index > 0:
                self.put("sign", ",")
            part = re.sub(r"[\s.;:]+", " ", part).strip()
            self.put("letter" if len(part) == 1 and part.isalpha() else "text", part)


def _ends_value(token: Token) -> bool:
    """Whether a number can end here, so that a word behind it is its unit."""
    if token.kind in ("number", "letter", "unit"):
        return True
    return token.text in (")", "}", "]", "|", "%", "!", "circ", "pi", r"\}")
