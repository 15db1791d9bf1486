r"""Cuts an answer in LaTeX or plain text into tokens; what only changes its looks is left out."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final, NamedTuple

from dodona.eval.checker.units import SINGLE_LETTERS, is_unit

MOST_CHARACTERS = 1000
MOST_TOKENS = 400
MOST_DIGITS = 400
MOST_EXPONENT = 2000  # of ten, in 1e2000


class Unreadable(Exception):
    """The text is not in the grammar, or is larger than what is read."""


class Token(NamedTuple):
    """One token of an answer."""

    kind: str  # number, based, letter, word, unit, command, sign
    text: str
    spaced: bool = False  # white space comes before it
    value: Fraction | None = None  # of a number
    places: int | None = None  # of a number with a decimal point: digits after it
    digits: int = 0  # of a number: significant digits


_CHARACTERS: Final = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "﹣": "-", "－": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
        "∙": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "√": r"\sqrt ", "∞": r"\infty ", "≤": r"\leq ", "≥": r"\geq ",
        "≠": r"\neq ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ",
        "°": r"^\circ ", "º": r"^\circ ", "˚": r"^\circ ", "²": "^2", "³": "^3", "⁴": "^4", "⁵": "^5", "⁶": "^6",
        "⁷": "^7", "⁸": "^8", "⁹": "^9", "¹": "^1", "⁰": "^0", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅛": r"\frac{1}{8}", "θ": r"\theta ",
        "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "λ": r"\lambda ", "μ": r"\mu ",
        "σ": r"\sigma ", "φ": r"\phi ", "ω": r"\omega ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
        "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "⟨": r"\langle ", "⟩": r"\rangle ", "’": "'",
        "′": "'", "“": '"', "”": '"', "⁄": "/", "∕": "/", "％": "%", "，": ",", "（": "(", "）": ")", "…": r"\ldots ",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "\ufeff": "", "≡": r"\equiv ", "∠": r"\angle ",
        "△": r"\triangle ",
    }
)  # fmt: skip
_SAME: Final = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "le": "leq", "ge": "geq",
    "leqslant": "leq", "geqslant": "geq", "ne": "neq", "ast": "times", "lbrace": "{", "rbrace": "}", "lbrack": "[",
    "rbrack": "]", "lvert": "vert", "rvert": "vert", "varnothing": "emptyset", "oslash": "emptyset", "bigcup": "cup",
    "bigcap": "cap", "setminus": "setminus", "backslash": "setminus", "thickapprox": "approx", "simeq": "approx",
    "sim": "approx", "degree": "circ", "colon": ":", "lg": "log", "Reals": "R_set", "dotsc": "ldots", "dots": "ldots",
    "cdots": "ldots", "lparen": "(", "rparen": ")", "cosec": "csc", "arccosec": "arccsc", "exponentialE": "e",
    "nolimits": "",
}  # fmt: skip
_SIGN_COMMANDS: Final = {
    "leq": "<=", "geq": ">=", "lt": "<", "gt": ">", "neq": "!=", "times": "*", "cdot": "*", "div": "/", "colon": ":",
    "vert": "|", "mid": "|", "equiv": "=", "{": r"\{", "}": r"\}", "[": "[", "]": "]", ":": ":", "(": "(", ")": ")",
}  # fmt: skip
FUNCTIONS: Final = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch arsinh arcosh "
    "artanh arcsinh arccosh arctanh ln log exp gcd lcm max min".split()
)
_GREEK: Final = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho varrho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell hbar".split()
)
# In plain text these words are mathematics.
_PLAIN: Final = {
    **{word: word for word in FUNCTIONS - {"min", "max"}},
    **{"sqrt": "sqrt", "pi": "pi", "infinity": "infty", "inf": "infty", "oo": "infty", "percent": "%", "pct": "%"},
    **{"percentage": "%", "union": "cup", "theta": "theta", "alpha": "alpha", "beta": "beta", "and": ",", "or": "or"},
    **{"asin": "arcsin", "acos": "arccos", "atan": "arctan", "cbrt": "cbrt", "pm": "pm"},
}
_ACCENTS: Final = frozenset("overline bar vec hat widehat tilde overrightarrow overleftrightarrow dot overarc".split())
_FACES: Final = frozenset("mathbf mathit mathcal boldsymbol bm mathsf mathfrak pmb symbf operatorname".split())
_TEXTS: Final = frozenset("text textbf textit textrm textnormal textsf texttt mbox hbox mathrm emph textup".split())

_MATCH: Final = re.compile(
    r"""
      (?P<space>(?:\s|~|\\[,;:!>\ ]|\$
        |\\(?:left|right|[bB]igg?[lrm]?|quad|qquad|displaystyle|textstyle|scriptstyle|limits|nolimits
            |thinspace|enspace|mathop|mathrel|mathord|rm|bf|it|hfill)(?![A-Za-z])
        |\\[hv]space\*?\{[^{}]*\}|\\\(|\\\)|\\\[|\\\](?!\s*\d*\.?\d+(?:pt|em|ex|mm)))+)
    | (?P<repeating>(?P<whole>\d*)\.(?P<fixed>\d*)\\(?:overline|bar|dot)\s*(?:\{(?P<cycle>\d+)\}|(?P<digit>\d)))
    | (?P<number>
        (?:(?P<grouped>\d{1,3}(?:(?:\{,\}|\{\\,\}|,\\!|\\,|\\!|\\;|\\\ |~)\s*\d{3}(?!\d))+)
          |(?P<commas>\d{1,3}(?:,\d{3}(?!\d))+)|\d+)
        (?:\.\d+)?|\.\d+)(?P<exponent>[eE][+-]?\d+(?![\w]))?
    | (?P<word>[A-Za-z]+)
    | \\(?P<env>begin|end)\s*\{\s*(?P<kind>[A-Za-z]+)\*?\s*\}
    | \\(?P<command>[A-Za-z]+)
    | \\(?P<escaped>\\|[{}%$|\#&_])
    | (?P<sign>\*\*|<=|>=|!=|==|[-+*/^_=<>()\[\]{}|,;:!&'%.])
    | (?P<money>[£€¥₹¢])
    """,
    re.VERBOSE | re.ASCII,
)
_ROW_GAP: Final = re.compile(r"(\\\\)\s*\[\s*-?\d*\.?\d+\s*(?:pt|em|ex|mm|cm)\s*\]")
_SPACED_THOUSANDS: Final = re.compile(r"(-?\s*\\?\$?\s*)(\d{1,3}(?: \d{3})+)(?=(?:\.\d+)?\s*\\?\$?\s*$)", re.ASCII)
_LETTER_TIMES: Final = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))", re.ASCII)
_FOLLOWED_BY_DOT: Final = re.compile(r"\\(left|right)\s*\.")


def tokenize(text: str, *, commas: bool = True) -> list[Token]:
    r"""The tokens of an answer.

    Args:
        commas: whether 1,234 outside of brackets is one number; inside of ( ) [ ] \{ \} it never is.

    Raises:
        Unreadable: a character or a size that no answer has.
    """
    if len(text) > MOST_CHARACTERS:
        raise Unreadable(f"longer than {MOST_CHARACTERS} characters")
    return _Lexer(_prepared(text), commas).run()


def _prepared(text: str) -> str:
    text = text.strip().strip("*`").strip().translate(_CHARACTERS)
    text = re.sub(r"[\s.,;:]+(?=\$*\s*$)", "", text) if not text.endswith("...") else text
    text = _ROW_GAP.sub(r"\1", text)
    text = _FOLLOWED_BY_DOT.sub("", text)
    text = _LETTER_TIMES.sub(r"\\times ", text)
    return _SPACED_THOUSANDS.sub(lambda match: match[1] + match[2].replace(" ", ""), text)


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
                self.spaced = self.spaced or "left" not in match[0] and "right" not in match[0]
                continue
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
        elif match["repeating"]:
            self.repeating(match)
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
        self.tokens.append(Token("number", digits, self.spaced, value, places, significant))

    def repeating(self, match: re.Match[str]) -> None:
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
            self.put("letter", word)
        elif lower in ("min", "max") and self.text[self.at : self.at + 1] == "(":
            self.put("command", lower)
        elif lower in _PLAIN and not (word.isupper() and lower in ("or", "inf", "oo")):
            self.plain(_PLAIN[lower])
        elif before is not None and (before.kind in ("unit", "word") or _ends_value(before) and self.is_unit(word)):
            self.put("unit", word)
        elif lower[:-1] in FUNCTIONS and len(word) > 3 and not self.is_unit(word):
            self.put("command", lower[:-1])
            self.put("letter", word[-1])
        elif lower == "no" or len(word) >= 3 and (before is None or before.kind == "word"):
            self.put("word", word)
        else:
            for letter in word:
                self.put("letter", letter)
                self.spaced = False

    def is_unit(self, word: str) -> bool:
        return is_unit(word) or self.spaced and len(word) >= 3

    def plain(self, meaning: str) -> None:
        if meaning in (",", "%"):
            self.put("sign", meaning)
        else:
            self.put("command", meaning)

    def command(self, command: str) -> None:
        if command in _TEXTS:
            self.words(self.braced(), command)
        elif command in _ACCENTS:
            self.put("letter", f"{command}:{re.sub(r'[^A-Za-z0-9]', '', self.braced())}")
        elif command in _FACES:
            inner = self.braced()
            if inner in FUNCTIONS:
                self.put("command", inner)
            elif re.fullmatch(r"[A-Za-z]{1,12}", inner):
                self.put("letter", inner)
            else:
                raise Unreadable(f"\\{command} of more than a name")
        elif command == "mathbb":
            self.put("command", f"{self.braced()[:1]}_set")
        elif command in ("angle", "triangle"):
            self.put("command", command)
        elif command in _GREEK:
            self.put("letter", command)
        else:
            command = _SAME.get(command, command)
            if command in _SIGN_COMMANDS:
                self.sign(_SIGN_COMMANDS[command])
            elif command:
                self.put("command", command)

    def braced(self) -> str:
        """The group or the one character that a command takes as its argument."""
        match = re.compile(r"\s*(?:\{((?:[^{}]|\{[^{}]*\})*)\}|(\\[A-Za-z]+|[^\s{}]))").match(self.text, self.at)
        if match is None:
            raise Unreadable("an argument is missing")
        self.at = match.end()
        return match[1] if match[1] is not None else match[2]

    def words(self, content: str, command: str) -> None:
        r"""What ``\text{...}`` holds: a separator, a unit, a single letter, or words."""
        content = content.replace("~", " ").replace("\\ ", " ").replace(r"\,", " ")
        words = re.sub(r"[\s,.;:]+", " ", content).strip()
        before = self.tokens[-1] if self.tokens else None
        if words == "":
            return
        if words.lower() in ("and", "or"):
            self.plain("or" if words.lower() == "or" else ",")
        elif words in ("%", r"\%") or words.lower() in ("percent", "pct"):
            self.put("sign", "%")
        elif before is not None and before.text == "^" and len(words) == 1:
            self.put("letter", words)
        elif before is not None and (before.kind == "unit" or _ends_value(before)) and self.is_measure(words, command):
            for part in re.findall(r"[^\s/^]+|/|\^-?\{?\d\}?", words):
                self.put("sign" if part == "/" else "unit", part.replace("{", "").replace("}", ""))
        elif re.fullmatch(r"\(?([A-Za-z])\)?", words):
            self.put("letter", words.strip("()"))
        elif words in FUNCTIONS:
            self.put("command", words)
        elif re.fullmatch(r"[-+]?[\d.,/]+", words):
            self.tokens += _Lexer(words, self.commas).run()
        else:
            self.put("word", words)

    def is_measure(self, words: str, command: str) -> bool:
        if len(words) == 1:
            return words in SINGLE_LETTERS and (command != "mathrm" or words not in "e i".split())
        return re.fullmatch(r"[A-Za-z][A-Za-z /'^{}\d-]*", words) is not None


def _ends_value(token: Token) -> bool:
    """Whether a number can end here, so that a word behind it is its unit."""
    if token.kind in ("number", "letter") or token.kind == "unit":
        return True
    return token.text in (")", "}", "]", "|", "%", "!", "circ", "pi", r"\}")
