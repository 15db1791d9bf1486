"""The drawing of one picture: a panel a rule, a colour a series, bars, and lines for the base and the oracle alone."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from dodona.eval.report.section import Line, Section
from dodona.eval.report.table import plain

# Okabe and Ito's palette, which people with any colour vision can tell apart, without its yellow and black.
_COLORS: Final = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
_MARKERS: Final = "osD^vPX*<>hd"
_BASE, _ORACLE = "#777777", "#000000"
_PANELS_A_ROW: Final = 3


class Figure(NamedTuple):
    """One picture to draw."""

    name: str  # of its files
    title: str
    x_label: str
    x: Callable[[Line], float]  # of a line
    series: str  # which budget has a colour: c or k
    kind: str  # budget, share or cost: how the axis runs


FIGURES: Final = (
    Figure("accuracy-c", "Accuracy against c", "c, consults allowed", lambda line: line.arm.c, "k", "budget"),
    Figure("accuracy-k", "Accuracy against k", "k, tokens a consult", lambda line: line.arm.k, "c", "budget"),
    Figure(
        "accuracy-oracle-share",
        "Accuracy against the oracle's share of the tokens",
        "tokens that the oracle wrote, %",
        lambda line: 100 * line.summary.oracle_share,
        "k",
        "share",
    ),
    Figure(
        "accuracy-flops",
        "Accuracy against cost in FLOP",
        "FLOP of both models, mean of a run",
        lambda line: line.summary.cost.flops,
        "k",
        "cost",
    ),
    Figure(
        "accuracy-ms",
        "Accuracy against cost in milliseconds",
        "ms of both models' forwards, mean of a run",
        lambda line: line.summary.cost.ms,
        "k",
        "cost",
    ),
)


def make_canvas(section: Section, figure: Figure) -> Any:
    """The picture as a `matplotlib.figure.Figure`, under whatever settings matplotlib has now."""
    from matplotlib.figure import Figure as Canvas

    rules = list(dict.fromkeys(line.arm.rule for line in section.guided))
    columns = min(len(rules), _PANELS_A_ROW)
    rows = -(-len(rules) // columns)
    canvas = Canvas(figsize=(max(5.8, 3.6 * columns), 3.1 * rows + 0.9), layout="constrained")
    grid = canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    axes = list(grid.flat)
    for spare in axes[len(rules) :]:
        spare.set_visible(False)
    values = sorted({getattr(line.arm, figure.series) for line in section.guided})
    style = {value: series_style(index, len(values)) for index, value in enumerate(values)}
    scale = _Scale(section, figure)
    for index, (axis, rule) in enumerate(zip(axes, rules, strict=False)):
        lines = [line for line in section.guided if line.arm.rule == rule]
        _references(axis, section, figure, scale)
        for place, value in enumerate(values):
            shift = scale.step * (place - (len(values) - 1) / 2)
            chosen = [line for line in lines if getattr(line.arm, figure.series) == value]
            _series(axis, section, figure, scale, chosen, style[value], f"{figure.series}={_budget(value)}", shift)
        first = lines[0].arm
        title = textwrap.fill(f"{' '.join(plain(first.trigger).split())}, {first.when}", 46)
        axis.set_title(title, parse_math=False)
        if index >= len(rules) - columns:
            axis.set_xlabel(figure.x_label)
            axis.xaxis.set_tick_params(labelbottom=True)
        if index % columns == 0:
            axis.set_ylabel("accuracy, %")
        scale.apply(axis)
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(max(-1.0, low), min(101.0, high))
    heading = f"{plain(section.title)}, n={len(section.experiment.problems)}"
    canvas.suptitle(f"{figure.title}\n{textwrap.fill(heading, 40 * columns + 20)}", fontsize=10, parse_math=False)
    _legend(canvas, axes[: len(rules)], columns, "" if figure.kind == "budget" else "a line joins rising c")
    return canvas


def _legend(canvas: Any, axes: Sequence[Any], columns: int, title: str) -> None:
    """One legend for all panels, the reference lines last."""
    handles: dict[str, Any] = {}
    for axis in axes:
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    order = sorted(handles, key=lambda label: label.startswith(("base", "oracle", "published")))
    legend = canvas.legend(
        [handles[label] for label in order],
        order,
        loc="outside lower center",
        ncols=min(len(order), 2 * columns + 3),
        frameon=False,
        fontsize=8,
        title=title or None,
        title_fontsize=8,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


class _Scale:
    """Where a value stands on the axis. Budgets stand at log2(1 + value), infinity one step to the right of them."""

    def __init__(self, section: Section, figure: Figure) -> None:
        self.kind = figure.kind
        found = {figure.x(line) for line in section.guided}
        if figure.name == "accuracy-c" and section.base is not None:
            found.add(0)
        self.values = sorted(value for value in found if not math.isnan(value))
        finite = [math.log2(1 + value) for value in self.values if math.isfinite(value)]
        self.end = (finite[-1] if finite else 0.0) + 1
        width = (self.end if math.inf in self.values else self.end - 1) - (finite[0] if finite else 0.0)
        self.step = 0.012 * max(1.0, width) if self.kind == "budget" else 0.0  # between series, so that bars show

    def position(self, value: float) -> float:
        if self.kind != "budget":
            return value
        return math.log2(1 + value) if math.isfinite(value) else self.end

    def apply(self, axis: Any) -> None:
        if self.kind == "budget":
            axis.set_xticks([self.position(value) for value in self.values], [_budget(value) for value in self.values])
            axis.minorticks_off()
        elif self.kind == "cost":
            from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
            axis.xaxis.set_minor_formatter(NullFormatter())


def _series(
    axis: Any,
    section: Section,
    figure: Figure,
    scale: _Scale,
    lines: Sequence[Line],
    style: dict[str, Any],
    label: str,
    shift: float,
) -> None:
    """One line with bars; against c it begins at the base alone."""
    points = [(figure.x(line), line) for line in lines]
    points = [point for point in points if not math.isnan(point[0]) and (scale.kind != "cost" or point[0] > 0)]
    if scale.kind == "budget":
        points.sort(key=lambda point: point[0])
    if not points:
        return
    x = [scale.position(value) + shift for value, _ in points]
    y = [100 * line.summary.rate.accuracy for _, line in points]
    ends = [line.summary.rate.interval for _, line in points]
    low = [max(0.0, value - 100 * end.low) for value, end in zip(y, ends, strict=True)]
    high = [max(0.0, 100 * end.high - value) for value, end in zip(y, ends, strict=True)]
    if figure.name == "accuracy-c" and section.base is not None:
        axis.plot(
            [scale.position(0), x[0]],
            [100 * section.base.summary.rate.accuracy, y[0]],
            color=style["color"],
            linewidth=1,
            linestyle=":",
        )
    axis.errorbar(
        x, y, yerr=[low, high], label=label, linewidth=1.2, markersize=4.5, capsize=2, elinewidth=0.9, **style
    )


def _references(axis: Any, section: Section, figure: Figure, scale: _Scale) -> None:
    """The base alone and the oracle alone as lines with bands, and as points where they have a place on the axis."""
    marks = ((section.base, "base alone", _BASE, "-", "s"), (section.oracle, "oracle alone", _ORACLE, "-.", "*"))
    for line, label, color, dashes, marker in marks:
        if line is None:
            continue
        accuracy, interval = 100 * line.summary.rate.accuracy, line.summary.rate.interval
        axis.axhspan(100 * interval.low, 100 * interval.high, color=color, alpha=0.08, linewidth=0)
        axis.axhline(accuracy, color=color, linestyle=dashes, linewidth=1, label=label)
        x = figure.x(line)
        if figure.kind != "budget" and not math.isnan(x) and (figure.kind == "share" or x > 0):
            axis.plot([x], [accuracy], color=color, marker=marker, markersize=6, linestyle="none")
        elif figure.name == "accuracy-c" and line is section.base:
            axis.plot([scale.position(0)], [accuracy], color=color, marker=marker, markersize=5, linestyle="none")
    for score in section.official:
        label = f"published: {score.model} ({score.role})"
        color = _BASE if score.role == "base" else _ORACLE
        axis.axhline(100 * score.accuracy, color=color, linestyle="--", linewidth=0.8, alpha=0.7, label=label)


def series_style(index: int, count: int) -> dict[str, Any]:
    """Colour and marker of a series: of few from the palette, of many along a scale from dark to light."""
    marker = _MARKERS[index % len(_MARKERS)]
    if count <= len(_COLORS):
        return {"color": _COLORS[index], "marker": marker}
    from matplotlib import colormaps

    return {"color": colormaps["viridis"](0.9 * index / (count - 1)), "marker": marker}


def _budget(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:g}"
