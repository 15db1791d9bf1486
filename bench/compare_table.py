"""The rows of ``dodona bench peers`` as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dodona.bench.tables import markdown, number

Line = Mapping[str, Any]

HEADS = ("what", "beside", "ms a token", "beside it", "ratio", "p20-p80", "same tokens")
CONSULT_HEADS = (
    "what", "beside", "trigger to first oracle token, ms", "beside it", "ratio", "to the burst's end, ms", "beside it",
)  # fmt: skip
HOP_HEADS = ("what", "beside", "consults", "prompts changed", "bursts changed", "ids the base read again")


def peers(lines: Sequence[Line]) -> dict[str, list[str]]:
    """The tables: speed, consults, what text hops did to the ids, and what was not measured or is wrong."""
    timed = [line for line in lines if "ratio" in line]
    found = {"ratios": markdown(HEADS, [_ratio_row(line) for line in timed])} if timed else {}
    if consults := [line for line in timed if "first_ms" in line]:
        found["consults"] = markdown(CONSULT_HEADS, [_consult_row(line) for line in consults])
    if hops := [line for line in timed if "prompts_changed" in line.get("facts", {})]:
        found["hops"] = markdown(HOP_HEADS, [_hop_row(line) for line in hops])
    if notes := [note for line in lines for note in _notes(line)]:
        found["notes"] = notes
    return found


def _ratio_row(line: Line) -> tuple[str, ...]:
    ours, theirs, ratio = line["ms_per_token"]["ours"], line["ms_per_token"]["theirs"], line["ratio"]
    spread = f"{ratio['p20']:.2f}-{ratio['p80']:.2f}"
    same = "yes" if line["same_tokens"] else "no"
    cells = (number(ours["p50"]), number(theirs["p50"]), f"{ratio['p50']:.2f}", spread, same)
    return (*_names(line), *cells)


def _consult_row(line: Line) -> tuple[str, ...]:
    first, burst = line["first_ms"], line["burst_ms"]
    figures = (first["ours"]["p50"], first["theirs"]["p50"])
    ends = (burst["ours"]["p50"], burst["theirs"]["p50"])
    return (*_names(line), *map(number, figures), f"{line['first_ratio']:.2f}", *map(number, ends))


def _hop_row(line: Line) -> tuple[str, ...]:
    facts = line["facts"]
    names = ("consults", "prompts_changed", "bursts_changed", "ids_read_again")
    return (*_names(line), *(number(facts[name]) for name in names))


def _names(line: Line) -> tuple[str, str]:
    what = line["name"] if line["name"] == line["part"] else f"{line['part']}, {line['name']}"
    return f"{what}, {line['lengths']['tokens']} tokens", line["peer"]


def _notes(line: Line) -> list[str]:
    where = f"{line['peer']} ({line['name']})"
    notes = [f"not measured: {where}: {line['skipped']}"] if "skipped" in line else []
    return notes + [f"wrong: {where}: {fault}" for fault in line.get("faults", ())]
