"""The GPU check for people: a Markdown page with the targets first, and the same tables for other pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dodona.bench import step_tables, tables
from dodona.bench.birth import described
from dodona.bench.gpu.piece import FAILED, PASSED
from dodona.bench.gpu.targets import figures, reached
from dodona.bench.tables import Sections, number, percent

SCHEMA = 1

Report = Mapping[str, Any]


def sections(report: Report) -> Sections:
    """The report's tables by name; what was not measured has none."""
    found: Sections = {}
    if targets := reached(report):
        found["targets"] = tables.markdown(
            ("target", "unit", "good", "goal", "measured", ""),
            [
                (each.target.name, each.target.unit, number(each.target.good), number(each.target.goal),
                 number(each.value), each.verdict)
                for each in targets
            ],
        )  # fmt: skip
    found["parts"] = tables.markdown(
        ("part", "result", "pieces passed", "seconds", ""),
        [
            (part["title"], part["status"], f"{_passed(part)} of {len(part['pieces'])}" if part["pieces"] else "",
             number(part["seconds"]), part["reason"] or "")
            for part in report["parts"]
        ],
    )  # fmt: skip
    for make in (_machine, _logits, _tokens, _replays, _times, _batches):
        found |= make(report)
    return found


def markdown(report: Report) -> str:
    """The whole page."""
    lines = ["# GPU check", "", *(f"- {text}" for text in described(report["birth"]))]
    lines.append(f"- {report['base']} consults {report['oracle']} on {report['device']}; {summary(report)[0]}")
    for name, table in sections(report).items():
        lines += ["", f"## {name.capitalize()}", "", *table]
    if wrong := failures(report):
        lines += ["", "## What went wrong", "", *(f"- {text}" for text in wrong)]
    return "\n".join(lines) + "\n"


def summary(report: Report) -> list[str]:
    """In a few lines how it went."""
    parts = report["parts"]
    head = f"{sum(part['status'] == PASSED for part in parts)} of {len(parts)} parts passed"
    others = [f"{part['name']} {part['status']}" for part in parts if part["status"] != PASSED]
    lines = [", ".join([head, *others]) + ("" if report["finished"] else "; not finished")]
    for each in reached(report):
        target = each.target
        value = f"{number(each.value)} {target.unit}".strip() if each.value is not None else "-"
        limits = f"good {number(target.good)}, goal {number(target.goal)}"
        lines.append(f"  {each.verdict:13} {target.name}: {value} ({limits})")
    return lines


def failures(report: Report) -> list[str]:
    """Everything that went wrong."""
    found = []
    for part in report["parts"]:
        if part["status"] == FAILED and not part["pieces"]:
            found.append(f"{part['name']}: {part['reason']}")
        for piece in part["pieces"]:
            if piece["status"] == FAILED:
                found += [f"{part['name']}, {piece['name']}: {text}" for text in piece["problems"]]
    return found


def _passed(part: Report) -> int:
    return sum(piece["status"] == PASSED for piece in part["pieces"])


def _named(report: Report, part: str, prefix: str = "") -> list[tuple[str, Any]]:
    """Names and figures of a part's pieces that have figures, failed ones too."""
    for record in report["parts"]:
        if record["name"] == part:
            return [
                (piece["name"], piece["figures"])
                for piece in record["pieces"]
                if piece["figures"] is not None and piece["name"].startswith(prefix)
            ]
    return []


def _machine(report: Report) -> Sections:
    rows = []
    for found in figures(report, "machine", "ceilings"):
        rows.append(("read", f"{number(found['read_gb_s'], 4)} GB/s"))
        rows.append(("copy (read + written)", f"{number(found['copy_gb_s'], 4)} GB/s"))
    rows += [
        (f"bfloat16 product of {row['size']} x {row['size']}", f"{number(row['tflop_s'])} TFLOP/s")
        for row in figures(report, "machine", "matrix product")
    ]
    return {"ceilings": tables.markdown(("ceiling", "measured"), rows)} if rows else {}


def _logits(report: Report) -> Sections:
    rows = []
    for name, row in _named(report, "logits"):
        for who in (key for key, value in row.items() if isinstance(value, Mapping)):
            error, between = row[who], who == "between"
            rows.append(
                (
                    name,
                    "the two" if between else who,
                    "each other" if between else "float32",
                    number(error["max_abs"]),
                    number(error["relative"]),
                    percent(error["agreement"]),
                    percent(error["clear_agreement"]),
                    number(error["entropy"]),
                )
            )
    heads = (
        "logits", "of", "against", "largest error", "relative error", "same argmax, %", "where it is clear, %",
        "largest error of entropy, nats",
    )  # fmt: skip
    return {"logits": tables.markdown(heads, rows)} if rows else {}


def _tokens(report: Report) -> Sections:
    rows = [
        (name, number(row["texts"]), number(row["tokens"]), number(row["consults"]), number(row["equal"]))
        for name, row in _named(report, "tokens")
    ]
    heads = ("in float32", "texts", "tokens", "consults", "texts with equal tokens")
    return {"tokens": tables.markdown(heads, rows)} if rows else {}


def _replays(report: Report) -> Sections:
    rows = []
    for _, row in _named(report, "replays", "replay against"):
        rows.append(("captured programs, replays", f"{row['captures']}, {row['replays']}"))
        rows.append((f"{row['tokens']} guided tokens captured", f"{number(row['captured_ms'])} ms"))
        rows.append(("the same launch by launch", f"{number(row['uncaptured_ms'])} ms"))
        rows.append(("largest difference of a signal between them, nats", number(row["signal_gap"])))
    for _, row in _named(report, "replays", "one token"):
        rows.append(("programs of one token by the kernel and by torch", number(row["programs"])))
    for _, row in _named(report, "replays", "frozen"):
        rows.append(("programs run on frozen seats", number(row["programs"])))
    for _, runs in _named(report, "replays", "host"):
        for name, row in runs.items():
            calls = ", ".join(f"{call} {number(value)}" for call, value in row["calls_a_token"].items())
            rows.append((f"waits of the host a token, {name}", f"{number(row['waits_a_token'])} ({calls})"))
    return {"replays": tables.markdown(("what", ""), rows)} if rows else {}


def _times(report: Report) -> Sections:
    lines: list[Any] = []
    eager: list[Any] = []
    for name, row in _named(report, "times"):
        (eager if name.startswith("eager") else lines).extend(row if isinstance(row, list) else [row])
    found = {} if not lines else {name: table for name, table in step_tables.latency(lines).items() if len(table) > 2}
    if eager:
        found["eager steps"] = step_tables.latency(eager)["steps"]
    return found


def _batches(report: Report) -> Sections:
    rows = sorted((row for _, row in _named(report, "batches")), key=lambda row: (row["part"], row["batch"]))
    return {"throughput": step_tables.throughput(rows)["arms"]} if rows else {}
