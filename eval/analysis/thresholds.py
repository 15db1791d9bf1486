"""Triggers with a threshold to be filled in: a grid of values, or the one that spends a given consult rate."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.eval.analysis.signal_table import DIRECTIONS, LENGTH

Array = np.ndarray[Any, Any]

WORD: Final = "threshold"
_WORD: Final = re.compile(rf"\b{WORD}\b(?!\s*=(?!=))")  # a preset's argument of this name is not it
_LARGEST: Final = 1e38  # within float32, with every text that stands for it
_MOST: Final = 10_000  # values of a grid


class Calibration(NamedTuple):
    """A threshold that was found."""

    threshold: float
    rate: float  # that it spends where it was found
    steps: int  # rates that were tried


def template_of(text: str) -> str:
    """A trigger's text with the word `threshold` in it; a signal's name alone stands for it beyond the threshold.

    Raises:
        DodonaError: there is nothing to fill in.
    """
    if _WORD.search(text):
        return text
    if (name := text.strip()) in DIRECTIONS and name != LENGTH:
        return f"{name} {'>' if DIRECTIONS[name] > 0 else '<'} {WORD}"
    raise DodonaError(
        f"--trigger {text!r} has no threshold to fill in: write the word {WORD} where it goes, as in "
        f"'entropy > {WORD}', or a signal's name alone"
    )


def has_threshold(text: str) -> bool:
    """Whether a text has the word to be filled in."""
    return _WORD.search(text) is not None


def filled(template: str, threshold: float) -> str:
    """The trigger with this threshold, rounded to a float32 as the trigger computes with."""
    return _WORD.sub(threshold_text(threshold), template)


def threshold_text(threshold: float) -> str:
    """The shortest text that reads back as the same float32."""
    return str(np.float32(threshold))


def read_grid(text: str) -> list[float]:
    """Values with commas between them, or START:STOP:STEP with both ends.

    Raises:
        ValueError: neither, or none or too many values.
    """
    if ":" not in text:
        values = [float(part) for part in text.split(",")]
    else:
        start, stop, step = (float(part) for part in text.split(":"))
        if not step > 0 or not all(map(math.isfinite, (start, stop, step))) or stop < start:
            raise ValueError(text)
        count = math.floor((stop - start) / step + 1e-9) + 1
        if count > _MOST:
            raise ValueError(text)
        values = [round(start + place * step, 12) for place in range(count)]
    if not all(abs(value) <= _LARGEST for value in values):  # NaN, too
        raise ValueError(text)
    return values


def calibrate(rate: Callable[[float], float], target: float) -> Calibration:
    """The threshold at which the rate is closest to the target: bisection over all float32 numbers.

    The rate must rise or fall with the threshold. Budgets and bursts can make it step back a little on the way; then
    this is one of the places where it passes the target.

    Raises:
        DodonaError: the threshold changes nothing, or no threshold spends so much or so little.
    """
    low, high = _ordinal(-_LARGEST), _ordinal(_LARGEST)
    rates = {low: rate(-_LARGEST), high: rate(_LARGEST)}
    if rates[low] == rates[high]:
        raise DodonaError(f"the threshold makes no difference: {rates[low]:.4g} whatever it is")
    least, most = sorted(rates.values())
    if not least <= target <= most:
        raise DodonaError(f"--calibrate {target:g} is out of reach: thresholds spend from {least:.4g} to {most:.4g}")
    falling = rates[low] > rates[high]
    while high - low > 1:
        middle = (low + high) // 2
        rates[middle] = rate(_number(middle))
        if (rates[middle] >= target) == falling:
            low = middle
        else:
            high = middle
    best = min((low, high), key=lambda place: (abs(rates[place] - target), rates[place]))
    return Calibration(_number(best), rates[best], len(rates))


def _ordinal(value: float) -> int:
    """Whole numbers in the order of the float32 numbers, neighbours for neighbours."""
    bits = int(np.float32(value).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _number(ordinal: int) -> float:
    bits = ordinal if ordinal >= 0 else -ordinal | 0x80000000
    return float(np.uint32(bits).view(np.float32))
