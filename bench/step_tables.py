"""The tables of ``dodona bench latency``, ``throughput`` and ``profile``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from dodona.bench.tables import Line, Sections, lengths, markdown, number, percent


def latency(lines: Sequence[Line]) -> Sections:
    """Steps, consults, and shares of a step."""
    timed = [line for line in lines if line["part"] in ("first token", "base step", "oracle step", "sync")]
    found: Sections = {}
    found["steps"] = markdown(
        ("what", "of", "p20 ms", "p50 ms", "p80 ms", "p99 ms", "GB/s", "% of read ceiling", "in oracle steps"),
        [
            (
                line["part"],
                lengths(line),
                *(number(line["ms"][name]) for name in ("p20", "p50", "p80", "p99")),
                number(line.get("gb_s")),
                number(line.get("percent_of_read")),
                number(line.get("in_oracle_steps")),
            )
            for line in timed
        ],
    )
    if runs := [line for line in lines if line["part"] == "guided"]:
        found["guided"] = markdown(
            (
                "consult after", "k", "decision to first oracle token, ms", "in oracle steps", "burst, ms a token",
                "catch-up, ms", "run, ms", "formula / run", "host share, %",
            ),
            [
                (
                    f"{line['lengths']['every']} base tokens",
                    number(line["lengths"]["k"]),
                    number(line["consult_ms"]["p50"]),
                    number(line["consult_in_oracle_steps"]),
                    number((line["burst_ms"] or {}).get("p50")),
                    number((line["catch_up_ms"] or {}).get("p50")),
                    number(line["ms"]["p50"]),
                    number(line["formula_share"]),
                    percent(line["host_share"]),
                )
                for line in runs
            ],
        )  # fmt: skip
    if shares := [line for line in lines if line["part"].startswith("share of ")]:
        found["shares"] = markdown(
            ("part of a base step", "step with it, ms", "without it, ms", "share, %"),
            [
                (
                    line["part"].removeprefix("share of "),
                    number(line["with_ms"]),
                    number(line["without_ms"]),
                    percent(line["share"]),
                )
                for line in shares
            ],
        )
    return found


def throughput(lines: Sequence[Line]) -> Sections:
    """One row an arm."""
    heads = (
        "what", "at once", "c", "k", "consults a base token", "tokens/s", "p20-p80", "oracle's share, %",
        "consults", "host share, %", "memory, GB",
    )  # fmt: skip
    rows = []
    for line in lines:
        rate, memory = line["tokens_per_second"], line["memory"]
        guided = line["part"] == "guided"
        rows.append(
            (
                line["part"],
                number(line["batch"]),
                number(line["c"]) if guided else "",
                number(line["k"]) if guided else "",
                number(line["rate"]) if guided else "",
                number(rate["p50"]),
                f"{number(rate['p20'])}-{number(rate['p80'])}",
                percent(line["oracle_share"]),
                number(line["consults"]),
                percent(line["host_share"]),
                number(memory.get("peak", memory.get("resident", 0)) / 1e9),
            )
        )
    return {"arms": markdown(heads, rows)}


def profile(lines: Sequence[Line]) -> Sections:
    """Phases and kernels."""
    phases = [line for line in lines if line["part"] == "phase"]
    kernels = [line for line in lines if line["part"] == "kernel"]
    return {
        "phases": markdown(
            ("phase", "forwards", "tokens", "ms", "share, %", "MB a forward", "GB/s", "% of read ceiling"),
            [
                (
                    line["phase"],
                    number(line["forwards"]) if line["forwards"] else "",
                    number(line["tokens"]) if line["forwards"] else "",
                    number(line["ms"]),
                    percent(line["share"]),
                    number(line["bytes"] / line["forwards"] / 1e6) if "bytes" in line else "",
                    number(line.get("gb_s")),
                    number(line.get("percent_of_read")),
                )
                for line in phases
            ],
        ),
        "kernels": markdown(
            ("kernel", "phase", "calls", "ms", "share, %"),
            [
                (
                    f"`{line['name'][:80]}`",
                    line["phase"],
                    number(line["calls"]),
                    number(line["ms"]),
                    percent(line["share"]),
                )
                for line in kernels
            ],
        ),
    }


TABLES: Mapping[str, Callable[[Sequence[Line]], Sections]] = MappingProxyType(
    {"latency": latency, "throughput": throughput, "profile": profile}
)
