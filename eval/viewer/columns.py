"""Signals of traces as scaled whole numbers, and what the page says of each.

A signal's numbers are its values times 10**decimals, rounded; three numbers at the ends of the range of 32 bits stand
for no value and the two infinities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.eval.viewer.runs import Array, Trace

NO_VALUE: Final = -(2**31)
MINUS_INFINITY: Final = -(2**31) + 1
INFINITY: Final = 2**31 - 1
TOP1: Final = "_top1"  # ends the names of columns that hold token ids
_LARGEST: Final = 2**31 - 2

# Columns of a trace that are no signals: who, where, and settings.
_OTHER: Final = frozenset(
    (
        *("sequence", "problem_id", "arm", "seed", "sample", "position", "token_id", "token", "source", "consult"),
        *("c", "k", "trigger", "when", "step_size", "max_new_tokens", "max_oracle_tokens", "prompt_tokens"),
        "finish_reason",
    )
)


class About(NamedTuple):
    """What the page says of a signal, and how it shades."""

    unit: str
    text: str
    dark: str = "high"  # which values are shaded: those where the base, or the agreement of the two, is in doubt


_KNOWN: Final[Mapping[str, About]] = {
    "entropy": About("nats", "entropy of the base's distribution"),
    "varentropy": About("nats²", "variance of the surprise under the base"),
    "top_prob": About("", "the base's largest probability", "low"),
    "margin": About("", "the base's largest minus second largest probability", "low"),
    "logprob": About("nats", "ln p of the written token under the base", "low"),
    "kl": About("nats", "Kullback-Leibler divergence of base from oracle"),
    "js": About("nats", "Jensen-Shannon divergence of base and oracle"),
    "oracle_logprob": About("nats", "ln p of the written token under the oracle", "low"),
    "oracle_rank": About("", "the written token's rank under the oracle; 1 is its first choice"),
    "oracle_entropy": About("nats", "entropy of the oracle's distribution"),
    "oracle_margin": About("", "the oracle's largest minus second largest probability", "low"),
    "agree": About("", "whether both models have the same first choice", "low"),
    "attn_entropy": About("nats", "mean over heads of the last query's attention entropy"),
    "attn_varentropy": About("nats²", "variance over heads of the attention entropies"),
    "agreement": About("", "mean distance of the heads' attention from their mean: a disagreement"),
    "interaction_strength": About("", "mean of abs(q.k/sqrt(d)) over heads and live keys"),
    "u": About("", "the trigger's uniform draw"),
}
_ORDER: Final = {name: place for place, name in enumerate(_KNOWN)}


def encode(traces: Sequence[tuple[Trace, int]]) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """What the page is told of each signal in these traces, and its scaled column over all of them.

    Args:
        traces: one sequence's columns each, with its length.
    """
    names = list(dict.fromkeys(name for trace, _ in traces for name in trace if is_signal(name)))
    about: list[dict[str, Any]] = []
    columns: dict[str, Array] = {}
    for name in sorted(names, key=lambda name: (_ORDER.get(name, len(_ORDER)), names.index(name))):
        values = joined([column_of(trace, name, length) for trace, length in traces])
        if np.isnan(values).all():
            continue
        is_bool = name == "agree"
        decimals = 0 if is_bool or name.endswith("_rank") else _decimals(values)
        columns[name] = _scaled(values, decimals)
        about.append(_about(name, columns[name], decimals, is_bool=is_bool))
    return about, columns


def is_signal(name: str) -> bool:
    """Whether a trace's column of this name may be a signal, and no setting and no token."""
    return name not in _OTHER and not name.endswith(TOP1)


def column_of(trace: Trace, name: str, length: int) -> Array:
    """A column as float64; NaN where it is null, missing, or holds something else than numbers."""
    values = trace.get(name)
    if values is not None and values.dtype == object:
        if all(value is None or isinstance(value, bool | int | float | np.number) for value in values):
            return np.array([np.nan if value is None else float(value) for value in values])
    elif values is not None and values.dtype.kind in "fiub":
        return values.astype(np.float64)
    return np.full(length, np.nan)


def _decimals(values: Array) -> int:
    """Four, or more where all values are small: four digits of the largest one; less where it would not fit."""
    finite = np.abs(values[np.isfinite(values)])
    if not finite.size or not finite.max() or np.array_equal(finite, np.rint(finite)):
        return 0
    largest = float(finite.max())
    wanted = max(4, 3 - int(np.floor(np.log10(largest))))
    fitting = int(np.floor(np.log10(_LARGEST / largest)))
    return max(-30, min(wanted, fitting, 30))


def _scaled(values: Array, decimals: int) -> Array:
    """Whole numbers in the range of 32 bits, see the top of this file."""
    rounded = np.rint(np.nan_to_num(values, nan=0, posinf=0, neginf=0) * 10.0**decimals)
    scaled = np.clip(rounded, -_LARGEST, _LARGEST).astype(np.int64)
    scaled[np.isnan(values)] = NO_VALUE
    scaled[np.isneginf(values)] = MINUS_INFINITY
    scaled[np.isposinf(values)] = INFINITY
    return scaled


def _about(name: str, scaled: Array, decimals: int, *, is_bool: bool) -> dict[str, Any]:
    """Name, unit and the range over which it shades: from the hundredth to the ninety-ninth of a hundred values."""
    base = name if name in _KNOWN else next((known for known in _KNOWN if name.startswith(f"{known}_")), name)
    about = _KNOWN.get(base, About("", ""))
    finite = scaled[(scaled > MINUS_INFINITY) & (scaled < INFINITY)] / 10.0**decimals
    low, high = (float(value) for value in np.quantile(finite, (0.01, 0.99))) if finite.size else (0.0, 1.0)
    if about.dark == "high" and low >= 0:
        low = 0.0
    if about.dark == "low" and high <= 0:
        high = 0.0
    if is_bool or name.endswith(("_prob", "margin")) or name == "u":
        low, high = 0.0, 1.0
    kind = "bool" if is_bool else "rank" if name.endswith("_rank") else "number"
    if kind == "rank":
        low, high = 1.0, max(high, 2.0)
    return {
        "name": name,
        "unit": about.unit,
        "about": about.text,
        "dark": about.dark,
        "kind": kind,
        "decimals": decimals,
        "low": low,
        "high": high if high > low else low + 1.0,
    }


def joined(parts: Sequence[Array]) -> Array:
    """One column after the other."""
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def planes(column: Array) -> bytes:
    """32-bit integers as four planes of bytes, the lowest first."""
    rows = column.astype("<i4").view(np.uint8).reshape(-1, 4)
    return np.ascontiguousarray(rows.T).tobytes()
