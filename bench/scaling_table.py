"""The tables of ``dodona bench scaling``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dodona.bench.tables import Line, Sections, markdown, number, percent

# What a sweep's places count, and by how many of them a slope is given.
_UNITS = {
    "prefix": ("1000 tokens of context", 1000),
    "batch": ("sequence", 1),
    "c": ("consult", 1),
    "c and tokens": ("consult", 1),
    "k": ("token of a burst", 1),
}


SLOPE_HEADS = (
    "what changes", "from - to", "a token costs more by", "slope, us a token", "a", "predicted slope", "of attention",
    "of the rest",
)  # fmt: skip
CELL_HEADS = (
    "sweep", "prompt", "tokens", "at once", "c", "k", "oracle's share, %", "ms a token", "predicted",
    "predicted / measured",
)  # fmt: skip
READING_HEADS = ("model", "tokens read", "then in the cache", "ms", "ms a token")


def scaling(lines: Sequence[Line]) -> Sections:
    """Slopes, cells, what reading a prompt costs, and how good the predictions are."""
    found: Sections = {}
    parts: dict[str, list[Line]] = {}
    for line in lines:
        parts.setdefault(line["part"], []).append(line)
    if "line" in parts:
        found["slopes"] = markdown(SLOPE_HEADS, [_slope_row(line) for line in parts["line"]])
    if "cell" in parts:
        found["cells"] = markdown(CELL_HEADS, [_cell_row(line) for line in parts["cell"]])
    if "reading" in parts:
        found["reading"] = markdown(READING_HEADS, [_reading_row(line) for line in parts["reading"]])
    if sums := parts.get("prediction"):
        heads = ("cells", f"within {percent(sums[-1]['goal'])} %", "median error, %", "worst error, %")
        found["prediction"] = markdown(heads, [_sum_row(line) for line in sums])
    return found


def _slope_row(line: Line) -> tuple[str, ...]:
    sweep = line["name"].split(",")[0]
    unit, count = _UNITS[sweep]
    start, stop = line["range"]
    return (
        line["name"],
        f"{number(start)} - {number(stop)}",
        f"{percent(line['change'])} %",
        _slope(line["measured"], count, interval=True),
        unit,
        _slope(line["predicted"], count),
        _slope(line.get("attention"), count),
        _slope(line.get("rest"), count, interval=True),
    )


def _slope(line: Mapping[str, Any] | None, count: int, *, interval: bool = False) -> str:
    """A slope, and its 95 % interval where there is one."""
    if line is None:
        return ""

    def shown(value: float) -> str:
        return number(1e3 * count * value)

    ends = [float(line[name] or "inf") for name in ("low", "high")]  # of two points unknown, in a file null
    known = interval and all(map(math.isfinite, ends))
    return shown(line["slope"]) + (f" [{shown(line['low'])}, {shown(line['high'])}]" if known else "")


def _cell_row(line: Line) -> tuple[str, ...]:
    tokens = line["lengths"]["tokens"]
    return (
        line["name"],
        number(line["lengths"]["prompt"]),
        number(tokens),
        number(line["batch"]),
        number(line["c"]),
        number(line["k"]),
        percent(line["oracle_share"]),
        number(line["ms_per_token"]),
        number(line["predicted_ms"] / tokens),
        f"{line['predicted_share']:.2f}",
    )


def _reading_row(line: Line) -> tuple[str, ...]:
    lengths = line["lengths"]
    return (
        line["name"],
        number(lengths["tokens"]),
        number(lengths["prompt"]),
        number(line["ms"]),
        number(line["ms_per_token"]),
    )


def _sum_row(line: Line) -> tuple[str, ...]:
    return (number(line["cells"]), number(line["within_goal"]), percent(line["median"]), percent(line["worst"]))
