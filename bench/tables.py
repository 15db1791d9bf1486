"""Markdown tables from result files, and the places of a page where they stand.

A page marks a place with ``<!-- bench:NAME -->`` and ``<!-- /bench:NAME -->``; what stands between is replaced by the
tables of ``NAME.jsonl`` or ``NAME.json`` in the folder of results. ``NAME/SECTION`` is one of that file's tables alone.
A file that was appended to several times shows the last line of each measure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dodona.bench.birth import described
from dodona.bench.lines import read_results
from dodona.engine.errors import DodonaError

Line = Mapping[str, Any]
Sections = dict[str, list[str]]  # Markdown lines of each table, by its name

_MARK = re.compile(r"<!-- bench:(?P<name>[\w./-]+) -->\n(?P<body>.*?)<!-- /bench:(?P=name) -->", re.DOTALL)
_ANY_MARK = re.compile(r"<!-- /?bench:[\w./-]+ -->")
_NOT_SHOWN = frozenset({"schema", "bench", "subject", "birth"})


def number(value: float | str | None, digits: int = 3) -> str:
    """A number for people: so many significant digits and no exponent; nothing where there is none."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, int) or float(value).is_integer():
        return f"{value:.0f}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    text = f"{value:.{digits}g}"
    return text if "e" not in text else f"{value:.6f}".rstrip("0").rstrip(".")


def percent(share: float | None) -> str:
    """A share in percent."""
    return "" if share is None else f"{100 * share:.1f}"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (heads, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|---" * len(heads) + "|", *lines[1:]]


def lengths(line: Line) -> str:
    """What lengths a line is about."""
    return ", ".join(f"{name} {number(value)}" for name, value in line.get("lengths", {}).items())


def plain(lines: Sequence[Line]) -> Sections:
    """Any other lines: a column for each figure; of percentiles the median."""
    rows = [dict(_flat({name: value for name, value in line.items() if name not in _NOT_SHOWN})) for line in lines]
    heads = list(dict.fromkeys(name for row in rows for name in row))
    return {"rows": markdown(heads, [[_cell(row.get(name)) for name in heads] for row in rows])}


def sections(lines: Sequence[Line]) -> Sections:
    """The tables of one benchmark's lines, all about one subject."""
    bench = lines[0].get("bench")
    if bench == "peers":
        from dodona.bench.compare_table import peers

        return peers(lines)
    if bench == "scaling":
        from dodona.bench.scaling_table import scaling

        return scaling(lines)
    from dodona.bench.step_tables import TABLES

    return TABLES.get(str(bench), plain)(lines)


def table(lines: Sequence[Line], section: str | None = None) -> list[str]:
    """The Markdown of a result file's lines: for each benchmark and subject its tables, and where they come from.

    Raises:
        DodonaError: there is no such section.
    """
    if lines and lines[0].get("bench") == "gpu":
        from dodona.bench.gpu.report import sections as gpu_sections

        found = gpu_sections(lines[-1])
        return _joined([*(found.values() if section is None else [_chosen(found, section)]), [_caption(lines[-1])]])
    blocks: list[list[str]] = []
    groups = _groups(lines)
    for members in groups:
        found = sections(members)
        subject = members[-1].get("subject", {})
        if len(groups) > 1 or subject:
            blocks.append([f"{members[-1].get('bench', '')}: {_subject(subject)}"])
        blocks += found.values() if section is None else [_chosen(found, section)]
        blocks.append([_caption(members[-1])])
    return _joined(blocks)


def filled(page: str, folder: Path) -> str:
    """A page with the tables of a folder's result files in the places that it marks.

    Raises:
        DodonaError: a mark without its end, or a result that is not there.
    """
    if left := _ANY_MARK.findall(_MARK.sub("", page)):
        raise DodonaError(f"{left[0]} stands alone: a table's place begins with <!-- bench:NAME --> and ends with "
                          "<!-- /bench:NAME -->, each on a line of its own")  # fmt: skip

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        body = "\n".join(table(*_found(name, folder)))
        return f"<!-- bench:{name} -->\n{body}\n<!-- /bench:{name} -->"

    return _MARK.sub(fill, page)


def _found(name: str, folder: Path) -> tuple[list[dict[str, Any]], str | None]:
    """A mark's result lines, and the section that it names."""
    stem, _, section = name.partition("/")
    for path in (folder / f"{stem}.jsonl", folder / f"{stem}.json"):
        if path.is_file():
            return read_results(path), section or None
    raise DodonaError(f"there is no {stem}.jsonl or {stem}.json in {folder} for the mark bench:{name}")


def _groups(lines: Sequence[Line]) -> list[list[Line]]:
    """Lines by benchmark and subject, and of each measure the last."""
    groups: dict[str, dict[str, Line]] = {}
    for line in lines:
        subject = {name: value for name, value in line.get("subject", {}).items() if name != "ceilings"}
        measure = [line.get(name) for name in ("part", "lengths", "batch", "c", "k", "rate", "phase", "name", "peer")]
        groups.setdefault(repr((line.get("bench"), sorted(subject.items(), key=str))), {})[repr(measure)] = line
    return [list(members.values()) for members in groups.values()]


def _subject(subject: Mapping[str, Any]) -> str:
    models = " + ".join(f"`{subject[name]}`" for name in ("base", "oracle") if subject.get(name))
    how = [str(subject[name]) for name in ("dtype", "device") if subject.get(name)]
    how += [f"{name} {subject[name]}" for name in ("ops", "loop") if subject.get(name)]
    return ", ".join([models, *how]) if models else ", ".join(how)


def _caption(line: Line) -> str:
    birth, subject = line.get("birth"), line.get("subject", {})
    if not birth:
        return "(no birth certificate)"
    read = subject.get("ceilings", {}).get("read_gb_s")
    facts = described(birth)
    if read:
        facts.insert(1, f"read ceiling {read:.1f} GB/s")
    return "; ".join(facts[:-1]) + f"; `{facts[-1]}`"


def _chosen(found: Sections, section: str) -> list[str]:
    if section not in found:
        raise DodonaError(f"there is no table {section!r} in these results: choose among {', '.join(found)}")
    return found[section]


def _joined(blocks: Iterable[list[str]]) -> list[str]:
    lines: list[str] = []
    for block in blocks:
        lines += ([""] if lines else []) + block
    return lines


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping) and "p50" in item:
            yield prefix + name, item["p50"]
        elif isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{name} ")
        elif not isinstance(item, list):
            yield prefix + name, item


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value or "")
