"""The rows of the operator benchmark for people: lines on a terminal, a Markdown page, a summary, goals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from dodona.bench.birth import described
from dodona.bench.ops import ERROR, FAILED, PASSED, PEERS

WIDTHS = {"op": 17, "case": 42, "check": 7, "us": 9, "p20-p80": 19, "GB/s": 6, "% read": 7}
WIDTHS |= {**dict.fromkeys(PEERS, 9), "moved": 0}
UNTIMED = ("op", "case", "check", "moved")

NOTES = (
    "*us* is the median of one call in a CUDA graph. *GB/s* counts the bytes that must be moved at least, and *% read*",
    "is that over the read ceiling measured in the same run; cases marked *L2* find their inputs in the cache, as they",
    "do after the kernel before, so theirs may exceed 100. The other columns are microseconds of the peers: plain",
    "torch, torch.compile, the product alone by cuBLAS (F.linear), and the product alone by our own linear.",
)


def cells(row: Mapping[str, Any], ceilings: Mapping[str, Any]) -> dict[str, str]:
    """A row's cells by column."""
    found = dict.fromkeys(WIDTHS, "")
    found |= {"op": row["op"], "case": row["shape"], "check": row["check"]["status"]}
    if ours := row["ours"]:
        us, percent = ours["us"], percent_of_read(row, ceilings)
        found["us"], found["p20-p80"] = f"{us['p50']:.2f}", f"{us['p20']:.2f}-{us['p80']:.2f}"
        found["GB/s"], found["% read"] = f"{ours['gb_s']:.0f}", "" if percent is None else f"{percent:.1f}"
    moved = ", ".join(f"{name} {_size(size)}" for name, size in row.get("moved", {}).items())
    found["moved"] = moved + (" (L2)" if moved and not row["from_memory"] else "")
    return found | {name: _peer(row, name) for name in PEERS}


def header(*, timed: bool) -> str:
    """The names of the columns."""
    return _columns({name: name for name in WIDTHS}, timed)


def line(row: Mapping[str, Any], ceilings: Mapping[str, Any], *, timed: bool) -> str:
    """A row on a terminal; what is wrong with it on lines of their own."""
    return "\n    ".join([_columns(cells(row, ceilings), timed), *problems(row)])


def _columns(texts: Mapping[str, str], timed: bool) -> str:
    return " ".join(texts[name].ljust(WIDTHS[name]) for name in (WIDTHS if timed else UNTIMED)).rstrip()


def problems(row: Mapping[str, Any]) -> list[str]:
    """Everything that went wrong in a row."""
    found = [f"{row['check']['status']}: {problem}" for problem in _problem(row["check"])]
    for name, peer in row["peers"].items():
        if "error" in peer:
            found.append(f"peer {name}: {peer['error']}")
        found += [f"peer {name} gives something else: {problem}" for problem in _problem(peer.get("check"))]
    return found


def percent_of_read(row: Mapping[str, Any], ceilings: Mapping[str, Any]) -> float | None:
    """A case's bytes a second over what the machine can read."""
    return 100 * row["ours"]["gb_s"] / ceilings["read_gb_s"] if row["ours"] and "read_gb_s" in ceilings else None


def reached(row: Mapping[str, Any], ceilings: Mapping[str, Any]) -> tuple[str, bool] | None:
    """What a row reached of its goal, in words, and whether that is enough; None without a goal or without a figure."""
    goal, ours = row["goal"], row["ours"]
    if not goal or not ours:
        return None
    us, limit = ours["us"]["p50"], goal["value"]
    if goal["kind"] == "us":
        return f"{us:.2f} us, goal {limit:g}", us <= limit
    if goal["kind"] == "over_product_us":
        product = row["peers"].get("product", {}).get("figures")
        if product is None:
            return None
        over = us - product["us"]["p50"]
        return f"{over:.2f} us beyond the product, goal {limit:g}", over <= limit
    percent = percent_of_read(row, ceilings)
    return None if percent is None else (f"{percent:.1f} % of the read ceiling, goal {limit:g}", percent >= limit)


def summary(report: Mapping[str, Any]) -> list[str]:
    """Counts, goals, and why there are no times where there are none."""
    rows, ceilings = report["rows"], report["ceilings"]
    counts = Counter(row["check"]["status"] for row in rows)
    lines = [f"{len(rows)} cases: {counts[PASSED]} passed, {counts[FAILED]} failed, {counts[ERROR]} could not run"]
    if report["not_timed"]:
        lines.append(f"not timed: {report['not_timed']}")
    goals = [(row, result) for row in rows if (result := reached(row, ceilings))]
    if goals:
        lines.append(f"goals: {sum(met for _, (_, met) in goals)} of {len(goals)} met")
        lines += [f"  {'met' if met else 'missed':7}{row['op']} {row['shape']}: {text}" for row, (text, met) in goals]
    return lines


def ceiling_line(ceilings: Mapping[str, Any]) -> str:
    """The ceilings in words."""
    if "read_gb_s" not in ceilings:
        return f"ceilings could not be measured: {ceilings['error']}" if "error" in ceilings else ""
    return (
        f"read ceiling {ceilings['read_gb_s']:.0f} GB/s, copy ceiling {ceilings['copy_gb_s']:.0f} GB/s (read + written)"
    )


def markdown(report: Mapping[str, Any]) -> str:
    """A page with the table."""
    lines = ["# Kernels, one by one", "", *(f"- {text}" for text in described(report["birth"]))]
    if ceiling := ceiling_line(report["ceilings"]):
        lines.append(f"- {ceiling}")
    names = UNTIMED if report["not_timed"] else tuple(WIDTHS)
    lines += ["", *([] if report["not_timed"] else [*NOTES, ""]), f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in report["rows"]:
        texts = cells(row, report["ceilings"])
        lines.append(f"| {' | '.join(texts[name] for name in names)} |")
    lines += ["", *summary(report)[:1]]
    lines += [f"- {text.strip()}" for text in summary(report)[1:]]
    wrong = [f"- {row['op']} {row['shape']}: {text}" for row in report["rows"] for text in problems(row)]
    return "\n".join([*lines, *(["", "## What went wrong", "", *wrong] if wrong else [])]) + "\n"


def _size(size: int) -> str:
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} B"


def _problem(check: Mapping[str, Any] | None) -> list[str]:
    if check is None or check["status"] == PASSED:
        return []
    if check["status"] == ERROR:
        return [check["error"]]
    worst = check["worst"]
    size = "not comparable" if worst["error"] is None else f"{worst['error']:.3g} times what is allowed"
    return [f"{worst['output']}, {size}"]


def _peer(row: Mapping[str, Any], name: str) -> str:
    peer = row["peers"].get(name)
    if peer is None:
        return ""
    if figures := peer.get("figures"):
        return f"{figures['us']['p50']:.2f}"
    if "error" in peer:
        return "error"
    return "differs" if _problem(peer.get("check")) else ""
