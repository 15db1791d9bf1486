"""Replaying a trigger over a recorded trace: the same text, the same decisions, without a model.

At every position where the run asked its trigger, the counters are rebuilt from what was written before it, and the
program runs over all positions at once. With the run's own trigger and budget the result is the consults that happened;
with another trigger it is exact up to the first consult that differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dodona.engine.trigger import Trigger, ema_column, ema_step, parse_trigger

Array = np.ndarray[Any, Any]


def decision_mask(trace: Mapping[str, Array]) -> Array:
    """Bool by position: whether a trigger was asked there.

    Before the commit, that is everywhere but inside a burst; after it, at base tokens that did not end the text.
    """
    oracle = trace["source"] == "oracle"
    if trace["when"][0] == "after":
        asked: Array = ~oracle
        asked[-1] = False
        return asked
    consult = np.where(oracle, trace["consult"], -1)
    first: Array = oracle & (np.diff(consult, prepend=-1) != 0)
    either: Array = ~oracle | first
    return either


def counters(trace: Mapping[str, Array], step_size: int | None = None) -> dict[str, Array]:
    """The trigger's counters at every position, float32, as they were in the run."""
    oracle = trace["source"] == "oracle"
    position = np.arange(len(oracle))
    consult = np.where(oracle, trace["consult"], -1)
    starts = oracle & (np.diff(consult, prepend=-1) != 0)
    last_start = _previous(np.where(starts, position, -1))
    last_oracle = _previous(np.where(oracle, position, -1))
    base_run = position - last_oracle - 1
    columns: dict[str, Array] = {
        "position": position,
        "max_new_tokens": trace["max_new_tokens"],
        "since_consult": np.where(last_start >= 0, position - last_start, np.inf),
        "consults": np.cumsum(starts) - starts,
        "c": trace["c"],
        "boundary": base_run % (step_size or int(trace["step_size"][0])) == 0,
        "base_run": base_run,
        "u": trace["u"],
    }
    return {name: np.asarray(column, dtype=np.float32) for name, column in columns.items()}


def fired(trace: Mapping[str, Array], trigger: str | Trigger) -> Array:
    """Bool by position: whether the trigger says to consult there, were it asked."""
    when = str(trace["when"][0])
    program = parse_trigger(trigger, when="after" if when == "after" else "before", offline=True)
    columns = counters(trace, program.step_size)
    columns |= {name: np.asarray(trace[name], dtype=np.float32) for name in program.names if name not in columns}
    for signal, decay in program.emas:
        columns[ema_column(signal, decay)] = _ema(np.asarray(trace[signal], dtype=np.float32), decay)
    result: Array = program.decide(columns)
    return result


def replay(trace: Mapping[str, Array], trigger: str | Trigger | None = None) -> list[int]:
    """Generated-token index of the first oracle token of each consult that the trigger would have made.

    Args:
        trace: one sequence's columns (``trace.read_traces``).
        trigger: default the run's own.
    """
    asked = decision_mask(trace) & fired(trace, str(trace["trigger"][0]) if trigger is None else trigger)
    columns = counters(trace)
    oracle = trace["source"] == "oracle"
    cap = float(trace["max_oracle_tokens"][0])
    room = np.full(len(oracle), trace["k"][0] > 0)
    if cap == cap:
        room &= (np.cumsum(oracle) - oracle) < cap
    asked &= room & (columns["consults"] < columns["c"])
    after = trace["when"][0] == "after"
    return [int(position) + int(after) for position in np.flatnonzero(asked)]


def _previous(marks: Array) -> Array:
    """The largest mark at an earlier position, -1 where there is none."""
    return np.concatenate(([-1], np.maximum.accumulate(marks)[:-1])) if len(marks) else marks


def _ema(values: Array, decay: float) -> Array:
    out = np.empty_like(values)
    previous = np.float32(np.nan)
    for index, value in enumerate(values):
        out[index] = previous = ema_step(previous, value, decay)
    return out
