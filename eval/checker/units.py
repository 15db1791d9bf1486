"""Units of measure: which words are units, and what they measure."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final, NamedTuple

Dimensions = tuple[tuple[str, int], ...]  # ("length", 2) for an area

_MILE = Fraction("1609.344")

# Each unit by its names; a plural's s may be added. The factor turns it into the first of its dimension.
_NAMES: Final[tuple[tuple[str, Fraction, str], ...]] = (
    ("length", Fraction(1), "m meter metre"),
    ("length", Fraction(1000), "km kilometer kilometre"),
    ("length", Fraction(1, 100), "cm centimeter centimetre"),
    ("length", Fraction(1, 1000), "mm millimeter millimetre"),
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
    ("volume", Fraction(1), "L liter litre"),
    ("volume", Fraction(1, 1000), "mL ml milliliter millilitre"),
    ("volume", Fraction("3.785411784"), "gal gallon"),
    ("money", Fraction(1), "$ dollar USD buck"),
    ("money", Fraction(1, 100), "¢ cent penny pennies"),
    ("euro", Fraction(1), "€ euro EUR"),
    ("sterling", Fraction(1), "£ GBP"),
    ("yen", Fraction(1), "¥ yen JPY"),
    ("rupee", Fraction(1), "₹ rupee INR"),
    ("angle", Fraction(1), "° deg degree"),
    ("celsius", Fraction(1), "°C celsius"),
    ("fahrenheit", Fraction(1), "°F fahrenheit"),
    ("temperature", Fraction(1), "K kelvin"),
    ("force", Fraction(1), "N newton"),
    ("energy", Fraction(1), "J joule"),
    ("energy", Fraction(1000), "kJ kilojoule"),
    ("charge", Fraction(1), "eV"),
    ("power", Fraction(1), "W watt"),
    ("voltage", Fraction(1), "V volt"),
    ("current", Fraction(1), "A amp ampere"),
    ("frequency", Fraction(1), "Hz hertz"),
    ("pressure", Fraction(1), "Pa pascal"),
    ("amount", Fraction(1), "mol mole"),
)
_COMPOUND: Final = {"mph": ("mi", "h"), "kph": ("km", "h"), "kmh": ("km", "h"), "kmph": ("km", "h")}
_POWERS: Final = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
_PART: Final = re.compile(r"[/*]|\^-?[0-9]|[^\s/*^]+")


class Measure(NamedTuple):
    """What a unit measures."""

    dimensions: Dimensions  # sorted; empty: no known unit
    factor: Fraction  # one of it in base units


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


def is_unit(word: str) -> bool:
    """Whether a word is a unit that is known here, or says its power."""
    return word in _KNOWN or word.lower() in _KNOWN.keys() - SINGLE_LETTERS or word in _COMPOUND or word in _POWERS


def measure(label: str) -> Measure:
    """What a label such as ``km / h``, ``square cm``, ``cm ^2`` or ``apples`` measures; unknown words say nothing."""
    powers: dict[str, int] = {}
    factor, sign, next_power = Fraction(1), 1, 1
    last: tuple[str, Fraction, int] | None = None

    def add(dimension: str, scale: Fraction, power: int) -> None:
        nonlocal factor
        powers[dimension] = powers.get(dimension, 0) + power
        factor *= scale**power

    for part in _PART.findall(label):
        if part in ("/", "per"):
            sign = -1
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
    dimensions = tuple(sorted((dimension, power) for dimension, power in powers.items() if power))
    return Measure(dimensions, factor)
