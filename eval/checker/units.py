"""Units of measure: which words are units, and what they measure."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final, NamedTuple

from dodona.eval.checker.symbols import words

Dimensions = tuple[tuple[str, int], ...]  # ("length", 2) for an area

_MILE = Fraction("1609.344")

# Each unit by its names; a plural's s may be added. The factor turns it into the first of its dimension.
_NAMES: Final[tuple[tuple[str, Fraction, str], ...]] = (
    ("length", Fraction(1), "m meter metre"),
    ("length", Fraction(1000), "km kilometer kilometre"),
    ("length", Fraction(1, 10), "dm decimeter decimetre"),
    ("length", Fraction(1, 100), "cm centimeter centimetre"),
    ("length", Fraction(1, 1000), "mm millimeter millimetre"),
    ("length", Fraction(1, 10**9), "nm nanometer nanometre"),
    ("length", Fraction("0.0254"), "in inch inches"),
    ("length", Fraction("0.3048"), "ft foot feet"),
    ("length", Fraction("0.9144"), "yd yard"),
    ("length", _MILE, "mi mile"),
    ("time", Fraction(1), "s sec second"),
    ("time", Fraction(1, 1000), "ms millisecond"),
    ("time", Fraction(60), "min minute"),
    ("time", Fraction(3600), "h hr hour"),
    ("time", Fraction(86400), "day"),
    ("time", Fraction(604800), "week"),
    ("months", Fraction(1), "month"),
    ("months", Fraction(12), "yr year"),
    ("mass", Fraction(1), "kg kilogram"),
    ("mass", Fraction(1, 1000), "g gram"),
    ("mass", Fraction(1, 10**6), "mg milligram"),
    ("mass", Fraction("0.45359237"), "lb pound"),
    ("mass", Fraction("0.028349523125"), "oz ounce"),
    ("length^3", Fraction(1, 1000), "L liter litre"),
    ("length^3", Fraction(1, 10**6), "mL ml milliliter millilitre"),
    ("length^3", Fraction("0.003785411784"), "gal gallon"),
    ("money", Fraction(1), "$ dollar USD buck"),
    ("money", Fraction(1, 100), "¢ cent penny pennies"),
    ("euro", Fraction(1), "€ euro EUR"),
    ("sterling", Fraction(1), "£ GBP"),
    ("yen", Fraction(1), "¥ yen JPY"),
    ("rupee", Fraction(1), "₹ rupee INR"),
    ("angle", Fraction(1), "° deg degree"),
    ("celsius", Fraction(1), "°C °c celsius"),
    ("fahrenheit", Fraction(1), "°F °f fahrenheit"),
    ("temperature", Fraction(1), "K kelvin"),
    ("force", Fraction(1), "N newton"),
    ("energy", Fraction(1), "J joule"),
    ("energy", Fraction(1000), "kJ kilojoule"),
    ("energy", Fraction("1.602176634e-19"), "eV"),
    ("charge", Fraction(1), "coulomb"),
    ("resistance", Fraction(1), "ohm"),
    ("power", Fraction(1), "W watt"),
    ("voltage", Fraction(1), "V volt"),
    ("current", Fraction(1), "A amp ampere"),
    ("frequency", Fraction(1), "Hz hertz"),
    ("pressure", Fraction(1), "Pa pascal"),
    ("amount", Fraction(1), "mol mole"),
    ("morning", Fraction(1), "am AM"),
    ("afternoon", Fraction(1), "pm PM"),
)
# Words that say nothing about what is counted.
_ANYTHING: Final = words(
    "way choice possibility combination arrangement permutation outcome option solution number integer value unit "
    "total time item object thing piece step of the per each old in all more or so different possible long tall wide "
    "high deep away left altogether together only exactly about approximately around a an and to for by from on at"
)
_IRREGULAR: Final = {"people": "person", "persons": "person", "children": "child", "men": "man", "women": "woman"}
_COMPOUND: Final = {"mph": ("mi", "h"), "kph": ("km", "h"), "kmh": ("km", "h"), "kmph": ("km", "h")}
_POWERS: Final = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
_TEMPERATURE: Final = re.compile(r"\bdeg(?:ree)?s? ([CF])(?:elsius|ahrenheit)?\b", re.IGNORECASE)
_PART: Final = re.compile(r"[/*]|\^-?[0-9]|[^\s/*^]+")


class Measure(NamedTuple):
    """What a unit measures."""

    dimensions: Dimensions  # sorted; empty: no known unit
    factor: Fraction = Fraction(1)  # one of it in base units
    things: frozenset[str] = frozenset()  # other words: what is counted, one of each, but for words such as "ways"

    def contradicts(self, other: Measure) -> bool:
        """Whether both have units, and these measure different things, or count them."""
        if self.things and other.things and not self.things & other.things:
            return True
        return self.says and other.says and self.dimensions != other.dimensions

    @property
    def says(self) -> bool:
        """Whether it says what is measured or counted."""
        return bool(self.dimensions or self.things)


def _table() -> dict[str, tuple[str, Fraction]]:
    known = {}
    for dimension, factor, names in _NAMES:
        for word in names.split():
            known[word] = dimension, factor
            if len(word) > 2:
                known[word + "s"] = dimension, factor
                known[word.lower()] = known[word.lower() + "s"] = dimension, factor
    for word, alone in (("lbs", "lb"), ("yds", "yd"), ("mins", "min"), ("hrs", "hr"), ("secs", "sec"), ("yrs", "yr")):
        known[word] = known[alone]
    return known


_KNOWN: Final = _table()
SINGLE_LETTERS: Final = frozenset(word for word in _KNOWN if len(word) == 1 and word.isalpha())
LETTERS_IN_TEXT: Final = SINGLE_LETTERS | {"C", "F", "H", "T"}  # coulomb, farad, henry, tesla; else these are variables
_WORDS: Final = _KNOWN.keys() - SINGLE_LETTERS


def is_unit(word: str) -> bool:
    """Whether a word is a unit that is known here, or says its power."""
    lower = word.lower()
    written = word in (lower, lower.capitalize(), word.upper())  # hR is a product
    return word in _KNOWN or (written and lower in _WORDS) or word in _COMPOUND or word in _POWERS


def measure(label: str) -> Measure:
    """What a label such as ``km / h``, ``square cm``, ``cm ^2`` or ``apples`` measures; unknown words say nothing."""
    powers: dict[str, int] = {}
    things: set[str] = set()
    factor, sign, next_power = Fraction(1), 1, 1
    last: tuple[str, Fraction, int] | None = None

    def add(dimension: str, scale: Fraction, power: int) -> None:
        nonlocal factor
        dimension, _, exponent = dimension.partition("^")
        powers[dimension] = powers.get(dimension, 0) + power * int(exponent or 1)
        factor *= scale**power

    for part in _PART.findall(_TEMPERATURE.sub(r"°\1", label)):
        if part in ("/", "per", "*"):
            sign = 1 if part == "*" else -1
        elif part[0] == "^" or part in ("squared", "cubed"):
            power = int(part[1:]) if part[0] == "^" else _POWERS[part]
            if last is not None:
                add(last[0], last[1], last[2] * (power - 1))
                last = None
        elif part in _POWERS:
            next_power = _POWERS[part]
        elif part in _COMPOUND:
            for word, power in zip(_COMPOUND[part], (1, -1), strict=True):
                add(*_KNOWN[word], power)
        elif found := _KNOWN.get(part) or _KNOWN.get(part.lower()):
            add(*found, sign * next_power)
            last = (*found, sign)
            next_power = 1
        elif (thing := _one_of(part.lower())) not in _ANYTHING:
            things.add(thing)
    dimensions = tuple(sorted((dimension, power) for dimension, power in powers.items() if power))
    return Measure(dimensions, factor, frozenset(things))


def _one_of(word: str) -> str:
    """A word in the singular, or as near to it as makes two spellings equal."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("ches", "shes", "xes", "sses")) else word.removesuffix("s")
