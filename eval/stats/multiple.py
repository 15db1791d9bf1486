"""Many tests at once: p-values that keep the chance of any false alarm."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: below 0.05, the chance of even one false alarm is at most 5 %.

    Raises:
        ValueError: a p-value that is not in [0, 1].

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError("a p-value lies in [0, 1]")
    adjusted, floor = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        floor = max(floor, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = floor
    return adjusted
