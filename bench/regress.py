"""``dodona bench check``: whether a ratio against a peer, measured in the same run, has fallen since a baseline.

Times change with the machine and with what else runs on it; a ratio of two that ran in turn changes with the code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Line = Mapping[str, Any]

RATIOS = ("ratio", "first_ratio")
_MEASURE = ("bench", "part", "name", "peer", "lengths", "batch", "c", "k", "trigger")


class Finding(NamedTuple):
    """One ratio, then and now."""

    what: str
    ratio: str  # which of the row's ratios
    before: float
    now: float | None  # None: it was not measured
    reason: str | None  # why it is no pass; None: it is one


def findings(baseline: Iterable[Line], new: Iterable[Line], tolerance: float) -> list[Finding]:
    """Every ratio of the baseline beside the new one, and every fault of the new rows.

    Args:
        baseline: result lines; of a measure that is there twice, the last counts.
        new: likewise.
        tolerance: the share that a ratio may fall by.
    """
    before, now = _by_measure(baseline), _by_measure(new)
    found = []
    for key, old in before.items():
        line = now.get(key)
        for name in RATIOS:
            was = value(old, name)
            if was is None:
                continue
            current = None if line is None else value(line, name)
            found.append(Finding(key, name, was, current, _reason(line, was, current, tolerance)))
    found += [
        Finding(key, "", 1.0, None, str(fault)) for key, line in now.items() for fault in line.get("faults") or ()
    ]
    return found


def value(line: Line, name: str) -> float | None:
    """A ratio of a line, a spread's median; None where it has none."""
    found = line.get(name)
    found = found.get("p50") if isinstance(found, Mapping) else found
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def described(line: Line) -> str:
    """What a line measures, which is also what makes two lines comparable."""
    subject = line.get("subject") or {}
    models = " + ".join(str(subject[name]) for name in ("base", "oracle") if subject.get(name))
    how = [str(subject[name]) for name in ("dtype", "device", "backend", "ops", "loop") if subject.get(name)]
    how += [f"{subject['threads']} threads"] if subject.get("threads") else []
    lengths = ", ".join(f"{name} {length}" for name, length in (line.get("lengths") or {}).items())
    parts = [str(line[name]) for name in _MEASURE if name not in ("lengths", "bench") and line.get(name) is not None]
    return "; ".join(part for part in (models, ", ".join(how), ", ".join(dict.fromkeys(parts)), lengths) if part)


def _by_measure(lines: Iterable[Line]) -> dict[str, Line]:
    return {f"{line.get('bench', '')} {described(line)}": line for line in lines}


def _reason(line: Line | None, was: float, current: float | None, tolerance: float) -> str | None:
    if line is None:
        return "not measured again"
    if current is None:
        return str(line.get("skipped") or "not measured again")
    if current < was * (1 - tolerance):
        return f"fell by {100 * (1 - current / was):.0f} %, more than {100 * tolerance:.0f} %"
    return None
