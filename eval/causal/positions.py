"""Which positions of recorded texts to try a consult at."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.eval.causal.texts import Text
from dodona.eval.causal.views import View

Array = np.ndarray[Any, Any]

MODES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "consults": "where the run consulted",
        "random": "drawn evenly from the positions that the base wrote",
        "entropy": "those of largest entropy",
        "differs": "those where the models' first choices differ",
        "all": "every position that the base wrote",
    }
)
WITH_VIEW: Final = frozenset({"entropy", "differs"})  # they need what the models said
MOST: Final[Mapping[str, int | None]] = MappingProxyType(
    {"consults": None, "random": 5, "entropy": 5, "differs": None, "all": None}
)  # of a problem, unless it is said


def positions(mode: str, text: Text, view: View | None, most: int | None, seed: int) -> list[int]:
    """The positions of one text, ascending. A problem's draw depends on its id and the seed alone.

    Args:
        mode: one of ``MODES``.
        view: of the text, for the modes that need one.
        most: not more than so many: of consults and differing positions the first ones, of all an even draw.

    Raises:
        DodonaError: consults are asked of a text that has none of its own to try, or a view is missing.
    """
    own = np.flatnonzero(np.frombuffer(text.sources, dtype=np.uint8) == 0)
    if mode == "consults":
        return list(text.starts[:most])
    if mode in ("random", "all"):
        if most is None or len(own) <= most:
            return [int(p) for p in own]
        return sorted(int(p) for p in _draws(seed, text.problem_id).choice(own, size=most, replace=False))
    if view is None:
        raise DodonaError(f"--positions {mode} needs both models' view of the texts")
    if mode == "differs":
        return [int(p) for p in view.diverging[:most]]
    # Equal entropies in the order of their positions.
    order = np.argsort(-view.columns["entropy"][own], kind="stable")
    return sorted(int(p) for p in own[order[:most]])


def _draws(seed: int, problem_id: str) -> np.random.Generator:
    digest = hashlib.sha256(problem_id.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
