"""A gold answer with predictions that are right or wrong."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """A gold answer with predictions."""

    gold: str
    right: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
