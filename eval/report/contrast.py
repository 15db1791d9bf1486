"""Two arms, or two groups of seeds, on the same problems: the difference, its interval, and the test of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dodona.eval.stats.intervals import Interval
from dodona.eval.stats.paired import Pairs, clustered_difference, mcnemar, sign_flip, tango


@dataclass(frozen=True, slots=True)
class Contrast:
    """B less A. With one run a problem ``pairs`` is McNemar's table; with several it counts problems by who did better.

    ``both`` and ``neither`` are then the problems on which they did equally well, and not at all.
    """

    n: int  # problems
    pairs: Pairs
    difference: float  # B's accuracy less A's; NaN without problems
    interval: Interval
    p: float  # McNemar's exact test; with several runs of a problem the sign-flip test by problem
    mid_p: float  # McNemar's mid-p; NaN with several runs of a problem

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "problems": self.n,
            "difference": None if math.isnan(self.difference) else self.difference,
            "low": self.interval.low,
            "high": self.interval.high,
            **self.pairs._asdict(),
            "p": self.p,
            "mid_p": None if math.isnan(self.mid_p) else self.mid_p,
        }


def contrast(a: Sequence[int], b: Sequence[int], samples_a: int = 1, samples_b: int = 1) -> Contrast:
    """The contrast of two lists of right runs by problem, in the same order.

    Raises:
        ValueError: lists of different lengths.
    """
    differences = [samples_a * right_b - samples_b * right_a for right_a, right_b in zip(a, b, strict=True)]
    pairs = Pairs(
        both=sum(d == 0 and right > 0 for d, right in zip(differences, a, strict=True)),
        only_a=sum(d < 0 for d in differences),
        only_b=sum(d > 0 for d in differences),
        neither=sum(d == 0 and right == 0 for d, right in zip(differences, a, strict=True)),
    )
    if samples_a == samples_b == 1:
        p, mid_p = mcnemar(pairs.only_a, pairs.only_b)
        return Contrast(len(a), pairs, pairs.difference, tango(pairs), p, mid_p)
    scale = samples_a * samples_b
    difference = sum(differences) / (scale * len(a)) if a else math.nan
    interval = clustered_difference([d / scale for d in differences])
    return Contrast(len(a), pairs, difference, interval, sign_flip(differences), math.nan)
