"""Labels of positions: where a consult would have been right, by three measures that are kept apart.

A label is 1, 0, or NaN where it is not known. Only positions that the base wrote and the oracle looked at are rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dodona.engine.recording import Recording

Array = np.ndarray[Any, Any]

NEAR_TIE: Final = 0.05  # of a probability: about one step of bfloat16 between two logits of 16 to 32 at p = 0.4
JS: Final = 0.1  # nats
CONFIDENT: Final = 0.5  # nats of entropy; a token of probability 0.9 has 0.33 and a little more


@dataclass(frozen=True, slots=True, eq=False)
class Label:
    """One measure of where the oracle matters."""

    name: str
    definition: str
    values: Array  # [N] float32: 1, 0 or NaN


@dataclass(frozen=True, slots=True)
class Limits:
    """Where continuous measures are cut."""

    near_tie: float = NEAR_TIE
    js: float = JS


def labels(recording: Recording, limits: Limits, changes: Array | None = None) -> dict[str, Label]:
    """Every label that this recording allows, by name, for all of its tokens.

    Args:
        changes: [N] what a consult at a position changes in the outcome, -1, 0, 1 or NaN (``outcomes.read_changes``).
    """
    found: dict[str, Label] = {}
    if (agree := recording.columns.get("agree")) is not None:
        differs = np.where(np.isnan(agree), np.nan, agree == 0).astype(np.float32)
        found["differs"] = Label("differs", "the two models have different first choices", differs)
        tie = near_tie(recording.columns, limits.near_tie)
        found["differs_clear"] = Label(
            "differs_clear",
            f"likewise, without rows where a model's two best probabilities are closer than {limits.near_tie:g}",
            np.where(tie, np.nan, differs).astype(np.float32),
        )
    if (js := recording.columns.get("js")) is not None:
        found["js"] = Label(
            "js",
            f"Jensen-Shannon divergence of the two models above {limits.js:g} nats",
            np.where(np.isnan(js), np.nan, js > limits.js).astype(np.float32),
        )
    if changes is not None:
        found["helps"] = Label(
            "helps",
            "a consult there turns a wrong answer into a right one",
            np.where(np.isnan(changes), np.nan, changes > 0).astype(np.float32),
        )
    return found


def near_tie(columns: Mapping[str, Array], threshold: float) -> Array:
    """[N] bool: whether either model's two largest probabilities are closer than that."""
    margins = [columns[name] for name in ("margin", "oracle_margin") if name in columns]
    with np.errstate(invalid="ignore"):
        tie: Array = np.any([margin < threshold for margin in margins], axis=0)
    return tie


def base_rows(recording: Recording) -> Array:
    """[N] bool: positions that the base wrote and the oracle has looked at."""
    looked = recording.columns.get("agree")
    if looked is None:
        return np.zeros(recording.tokens, dtype=bool)
    rows: Array = ~recording.oracle & ~np.isnan(looked)
    return rows


def decision_rows(recording: Recording) -> Array:
    """[N] bool: positions where a trigger could have been asked: those of the base, and each consult's first."""
    rows: Array = ~recording.oracle | recording.starts
    return rows


def first_of_context(recording: Recording) -> Array:
    """[N] bool: the first token of each context: problem and text before it, so that arms that share it count once.

    Contexts are compared by 64-bit hashes.
    """
    tokens = recording.token_id.astype(np.uint64)
    position = recording.position.astype(np.uint64)
    _, problem = recording.problems
    own = np.repeat(problem.astype(np.uint64), recording.lengths)
    with np.errstate(over="ignore"):
        written = _mixed(tokens * np.uint64(0x9E3779B97F4A7C15) + _mixed(position))
        total = np.concatenate(([np.uint64(0)], np.cumsum(written, dtype=np.uint64)))
        before = total[:-1] - np.repeat(total[recording.edges[:-1]], recording.lengths)
        keys = _mixed(before ^ _mixed(own * np.uint64(0xD1B54A32D192ED03) + position))
    first = np.zeros(recording.tokens, dtype=bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return first


def _mixed(values: Array) -> Array:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) on each value."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: Array = values ^ (values >> np.uint64(31))
    return mixed
