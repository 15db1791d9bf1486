"""Shares of tokens or consults with intervals over problems."""

from __future__ import annotations

from typing import Any

import numpy as np

from dodona.eval.analysis.resample import Estimate, ratio
from dodona.eval.stats.intervals import wilson

Array = np.ndarray[Any, Any]


def share(part: Array, whole: Array, weights: Array) -> Estimate:
    """A share summed over problems, with a bootstrap over them.

    Resampling knows no doubt where all agree: then the interval is Wilson's, as if a problem were one trial.

    Args:
        part, whole: [P] each problem's.
        weights: [R, P] of ``problem_weights``.
    """
    found = ratio(part, whole, weights)
    if found.value not in (0, 1):
        return found
    problems = int((whole > 0).sum())
    return found._replace(interval=wilson(problems if found.value else 0, problems))
