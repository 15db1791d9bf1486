"""What commands, characters and plain words mean in an answer."""

from __future__ import annotations

from typing import Final


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


CHARACTERS: Final = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-", "×": r"\times ",
        "·": r"\cdot ", "⋅": r"\cdot ",
        "∙": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "√": r"\sqrt ", "∞": r"\infty ", "≤": r"\leq ", "≥": r"\geq ",
        "≠": r"\neq ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ",
        "°": r"^\circ ", "º": r"^\circ ", "˚": r"^\circ ", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅛": r"\frac{1}{8}", "θ": r"\theta ",
        "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "λ": r"\lambda ", "μ": r"\mu ",
        "σ": r"\sigma ", "φ": r"\phi ", "ω": r"\omega ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
        "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "⟨": r"\langle ", "⟩": r"\rangle ", "’": "'",
        "′": "'", "“": '"', "”": '"', "⁄": "/", "∕": "/", "…": r"\ldots ",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "\ufeff": "", "≡": r"\equiv ", "∠": r"\angle ",
        "△": r"\triangle ", "‘": "'", "〈": r"\langle ", "〉": r"\rangle ", "∶": ":", "∖": r"\setminus ",
        "ϕ": r"\phi ", "ε": r"\epsilon ", "ϵ": r"\epsilon ", "ρ": r"\rho ", "τ": r"\tau ", "ψ": r"\psi ", "η": r"\eta ",
        "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}", "⅙": r"\frac{1}{6}",
        "⅚": r"\frac{5}{6}", "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}", "∛": r"\sqrt[3]",
    }
    | {chr(0xFF01 + offset): chr(0x21 + offset) for offset in range(94)}  # full width: １２（，）
)  # fmt: skip
SAME: Final = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "le": "leq", "ge": "geq",
    "leqslant": "leq", "geqslant": "geq", "ne": "neq", "ast": "times", "lbrace": "{", "rbrace": "}", "lbrack": "[",
    "rbrack": "]", "lvert": "vert", "rvert": "vert", "varnothing": "emptyset", "oslash": "emptyset", "bigcup": "cup",
    "bigcap": "cap", "setminus": "setminus", "backslash": "setminus", "thickapprox": "approx", "simeq": "approx",
    "sim": "approx", "degree": "circ", "colon": ":", "lg": "log", "Reals": "R_set", "dotsc": "ldots", "dots": "ldots",
    "cdots": "ldots", "lparen": "(", "rparen": ")", "cosec": "csc", "arccosec": "arccsc", "exponentialE": "e",
    "nolimits": "", "i": "imath", "R": "R_set", "Z": "Z_set", "N": "N_set", "Vert": "|", "lVert": "|", "rVert": "|",
    "sfrac": "frac", "nicefrac": "frac", "textdegree": "circ",
}  # fmt: skip
SIGN_COMMANDS: Final = {
    "leq": "<=", "geq": ">=", "lt": "<", "gt": ">", "neq": "!=", "times": "*", "cdot": "*", "div": "/", "colon": ":",
    "vert": "|", "mid": "|", "equiv": "=", "{": r"\{", "}": r"\}", "[": "[", "]": "]", ":": ":", "(": "(", ")": ")",
    "cr": r"\\",
}  # fmt: skip
FUNCTIONS: Final = words(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch arsinh "
    "arcosh artanh arcsinh arccosh arctanh ln log exp gcd lcm max min cis"
)
GREEK: Final = words(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho varrho "
    "sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell "
    "hbar"
)
_ONES: Final = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS: Final = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
ONES: Final = {word: value for value, word in enumerate(_ONES)}
TENS: Final = {word: 10 * value for value, word in enumerate(_TENS, 2)}
SCALES: Final = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
ORDINALS: Final = words("st nd rd th")
PARTS: Final = {  # of a fraction that is spelt out; most take an s for several
    **{"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7},
    **{"eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12, "hundredth": 100, "thousandth": 1000},
}
CURRENCY_CODES: Final = words("USD EUR GBP JPY INR")
SUPERSCRIPTS: Final = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺"
SUBSCRIPTS: Final = "₀₁₂₃₄₅₆₇₈₉"
# In plain text these words are mathematics.
PLAIN: Final = {
    **{word: word for word in FUNCTIONS - {"min", "max"}},
    **{"sqrt": "sqrt", "pi": "pi", "infinity": "infty", "inf": "infty", "oo": "infty", "percent": "%", "pct": "%"},
    **{"percentage": "%", "union": "cup", "theta": "theta", "alpha": "alpha", "beta": "beta", "and": ",", "or": "or"},
    **{"asin": "arcsin", "acos": "arccos", "atan": "arctan", "cbrt": "cbrt"},
}
# What words in \text{} mean; an empty meaning is none.
IN_TEXT: Final = {
    **{",": ",", ";": ";", ":": ":", "and": ",", "or": "or", "infinity": "infty", "inf": "infty"},
    **{"%": "%", r"\%": "%", "percent": "%", "pct": "%", r"\circ": "circ", r"^\circ": "circ"},
    **dict.fromkeys(("if", "for", "when", "where", ""), ""),
}
ACCENTS: Final = words("overline bar vec hat widehat tilde overrightarrow overleftrightarrow dot overarc")
FACES: Final = words("mathbf mathit mathcal boldsymbol bm mathsf mathfrak pmb symbf operatorname bold")
DECORATIONS: Final = words("checkmark blacksquare qed QED Box square ensuremath underline uline boxed fbox mathstrut")
HIDDEN: Final = words("color textcolor phantom hphantom vphantom label tag")  # with the group behind them
CURRENCIES: Final = words("pounds euro yen")
TEXTS: Final = words("text textbf textit textrm textnormal textsf texttt mbox hbox mathrm emph textup")
