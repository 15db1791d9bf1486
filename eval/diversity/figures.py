"""Pictures of a study: accuracy by sample size, correlations, buckets, and accuracy kept by pruned batches.

The same findings give the same files, byte for byte, under the same version of matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from dodona.eval.analysis.resample import Estimate
from dodona.eval.diversity.findings import NUMBER, Findings, Frame
from dodona.eval.diversity.pool import COVERAGE, LEXICAL, MAJORITY, RIGHT, SEMANTIC
from dodona.eval.diversity.pruning import LIKELY, RANDOM
from dodona.eval.diversity.tables import at, label
from dodona.eval.report.picture import Picture, check_matplotlib, filled

# Okabe and Ito's palette, which people with any colour vision can tell apart.
_COLORS: Final[Mapping[str, str]] = MappingProxyType(
    {MAJORITY: "#0072B2", SEMANTIC: "#009E73", LEXICAL: "#E69F00", COVERAGE: "#000000", RIGHT: "#999999"}
)
_OTHERS: Final = ("#D55E00", "#CC79A7", "#56B4E9", "#F0E442")
_MARKS: Final = "osD^vPX*"


def draw(findings: Findings) -> list[Picture]:
    """Every picture for which there is something to show.

    Raises:
        DodonaError: there is no matplotlib.
    """
    check_matplotlib("a plot")
    panels = len(findings.temperatures)
    wide = 2.4 + 2.7 * panels
    pictures: list[Picture] = []

    def add(name: str, title: str, size: tuple[float, float], fill: Callable[[Any], None]) -> None:
        pictures.append(filled(name, title, size, fill))

    if len(findings.sizes) > 1:
        add("sizes", "Accuracy by sample size", (wide, 3.4), partial(_sizes, findings=findings))
    if findings.correlated:
        height = 1.2 + 0.32 * len(findings.measures)
        add(
            "correlations", "Correlations of measures with accuracy", (9.6, height), partial(_forest, findings=findings)
        )
    if findings.buckets:
        frame = next(frame for frame in findings.frames if frame.size == findings.batch)
        count = len(frame.measures)
        size = (2.5 * min(4, count) + 0.6, 2.3 * math.ceil(count / 4) + 0.4)
        add("buckets", "Accuracy by buckets of each measure", size, partial(_buckets, findings=findings, frame=frame))
    if findings.pruned:
        add("pruning", "Accuracy kept by pruned batches", (wide, 5.6), partial(_pruning, findings=findings))
    return pictures


def color(rule: str, rules: Sequence[str]) -> str:
    """A rule's colour; those by rewards have one each."""
    others = [name for name in rules if name not in _COLORS]
    return _COLORS.get(rule) or _OTHERS[others.index(rule) % len(_OTHERS)]


def _sizes(figure: Any, findings: Findings) -> None:
    panels = figure.subplots(1, len(findings.temperatures), squeeze=False, sharey=True)[0]
    for axes, temperature in zip(panels, findings.temperatures, strict=True):
        lines = [line for line in findings.lines if line.temperature == temperature]
        for place, rule in enumerate(findings.rules):
            shade = color(rule, findings.rules)
            known = [(line.size, line.rules[rule]) for line in lines]
            _series(axes, known, shade, _MARKS[place % len(_MARKS)], rule, 1 + 0.02 * (place - len(findings.rules) / 2))
        axes.set_xscale("log", base=2)
        axes.set_xticks(findings.sizes, [str(size) for size in findings.sizes])
        axes.set_xlabel("samples")
        axes.set_title(at(temperature).removeprefix(", ") or "all samples")
    panels[0].set_ylabel("% correct")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")


def _series(
    axes: Any, known: Sequence[tuple[int, Estimate]], shade: str, mark: str, name: str, shift: float = 1.0
) -> None:
    """A line through estimates with bars for their intervals, a little aside so that bars do not hide each other."""
    points = [(size * shift, value) for size, value in known if not math.isnan(value.value)]
    if not points:
        return
    xs, ys = [x for x, _ in points], [100 * value.value for _, value in points]
    axes.plot(xs, ys, color=shade, marker=mark, markersize=3.5, linewidth=1.1, label=name)
    for x, value in points:
        if value.interval is not None:
            axes.plot([x, x], [100 * end for end in value.interval], color=shade, linewidth=0.8, alpha=0.6)


def _forest(figure: Any, findings: Findings) -> None:
    """Pearson and the last partial correlation of each measure at the size of the bucket tables."""
    outcomes = (MAJORITY, COVERAGE, NUMBER)
    panels = figure.subplots(1, len(outcomes), squeeze=False, sharey=True, sharex=True)[0]
    names = findings.measures[::-1]
    for axes, outcome in zip(panels, outcomes, strict=True):
        found = {o.measure: o.found for o in findings.correlated if o.outcome == outcome and o.size == findings.batch}
        for place, name in enumerate(names):
            one = found.get(name)
            if one is None:
                continue
            held = one.partial[-1:] if one.partial else ()
            shown = [(one.pearson, 0.14, "#0072B2", "o", "Pearson"), (one.spearman, 0.0, "#E69F00", "D", "Spearman")]
            given = " and ".join(findings.controls[-1]) if findings.controls else ""
            shown += [(value, -0.14, "#D55E00", "s", f"given {given}") for value in held]
            for value, aside, shade, mark, text in shown:
                if math.isnan(value.value):
                    continue
                if value.interval is not None:
                    axes.plot(list(value.interval), [place + aside] * 2, color=shade, linewidth=1.2)
                axes.plot([value.value], [place + aside], mark, color=shade, markersize=3.5, label=text)
        axes.axvline(0, color="#888888", linewidth=0.8)
        axes.set_title(outcome)
        axes.set_xlabel(f"correlation, batches of {findings.batch}")
    panels[0].set_yticks(range(len(names)), [label(name) for name in names])
    handles, texts = panels[0].get_legend_handles_labels()
    unique = dict(zip(texts, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=3)


def _buckets(figure: Any, findings: Findings, frame: Frame) -> None:
    measures = list(frame.measures)
    columns = min(4, len(measures))
    rows = math.ceil(len(measures) / columns)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    rules = [rule for rule in frame.rules if rule in _COLORS]
    for axes, measure in zip(grid, measures, strict=False):
        lines = [line for line in findings.buckets if line.measure == measure and line.kind == "quantile"]
        for rule in rules:
            xs = [line.bucket.mean for line in lines]
            ys = [100 * line.rules[rule].value for line in lines]
            axes.plot(xs, ys, "o-", color=_COLORS[rule], markersize=3, linewidth=1, label=rule)
        axes.set_xlabel(label(measure))
    for axes in grid[len(measures) :]:
        axes.set_visible(False)
    for axes in grid[::columns]:
        axes.set_ylabel("% correct")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(rules))


def _pruning(figure: Any, findings: Findings) -> None:
    outcomes = (MAJORITY, COVERAGE)
    panels = figure.subplots(2, len(findings.temperatures), squeeze=False, sharex=True, sharey="row")
    methods = list(dict.fromkeys([RANDOM, LIKELY, *(one.method for one in findings.pruned)]))
    shades = ("#888888", "#D55E00", "#0072B2", "#009E73", "#E69F00")
    for row, outcome in zip(panels, outcomes, strict=True):
        for axes, temperature in zip(row, findings.temperatures, strict=True):
            for place, method in enumerate(methods):
                known = [
                    (one.size, one.outcomes[outcome])
                    for one in sorted(findings.pruned, key=lambda one: one.size)
                    if one.temperature == temperature and one.method == method
                ]
                shift = 1 + 0.03 * (place - len(methods) / 2)
                _series(axes, known, shades[place % len(shades)], _MARKS[place % len(_MARKS)], method, shift)
            axes.set_xscale("log", base=2)
            sizes = sorted({one.size for one in findings.pruned})
            axes.set_xticks(sizes, [str(size) for size in sizes])
            if outcome == MAJORITY:
                axes.set_title(at(temperature).removeprefix(", ") or "all samples")
            else:
                axes.set_xlabel(f"samples kept of {findings.n}")
        row[0].set_ylabel(f"{outcome}, %")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right center")
