"""Pictures of an analysis: how well each signal ranks, its curves, and where the models differ.

The same traces give the same files, byte for byte, under the same version of matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from dodona.eval.analysis.curves import groups, recall_points, roc_points
from dodona.eval.analysis.disagreement import DisagreementMap, Grid
from dodona.eval.analysis.signal_table import SignalTable
from dodona.eval.analysis.study import Study
from dodona.eval.report.picture import Picture, check_matplotlib, filled

Array = np.ndarray[Any, Any]

_POINTS: Final = 400  # of a curve
_AGREE, _DIFFER = "#8fb4d8", "#c8553d"


def draw(study: Study) -> list[Picture]:
    """Every picture of a study for which there is something to show.

    Raises:
        DodonaError: there is no matplotlib.
    """
    check_matplotlib("a plot")
    pictures = []
    tables = [table for table in study.tables if any(row.ranking for row in table.signals)]
    if tables:
        width = 3.0 + 3.2 * len(tables)
        pictures.append(filled("auroc", "AUROC of each signal", (width, 3.6), lambda f: _forest(f, tables)))
        for name, title, points in (
            ("roc", "ROC curves", roc_points),
            ("recall", "Positives found by consult rate", recall_points),
        ):
            pictures.append(
                filled(name, title, (width, 3.9), partial(_curves, study=study, tables=tables, points=points))
            )
    if (found := study.disagreements) is not None:
        pictures.append(filled("entropy", "Disagreement by entropy", (8.4, 3.4), lambda f: _by_entropy(f, found)))
        if (grid := found.grid) is not None and grid.counts.any():
            title = f"Entropy by {grid.measure}"
            pictures.append(filled("map", title, (6.4, 4.4), lambda f: _heat(f, grid)))
    return pictures


def _forest(figure: Any, tables: Sequence[SignalTable]) -> None:
    for axes, table in zip(figure.subplots(1, len(tables), squeeze=False, sharex=True)[0], tables, strict=True):
        shown = [row for row in table.signals if row.ranking is not None][::-1]
        for place, row in enumerate(shown):
            assert row.ranking is not None
            value, interval, _ = row.ranking.auroc
            if interval is not None:
                axes.plot(interval, [place, place], color="#1f4e79", linewidth=1.4)
            axes.plot([value], [place], "o", color="#1f4e79", markersize=4)
        axes.axvline(0.5, color="#888888", linewidth=0.9, linestyle="--")
        axes.set_yticks(range(len(shown)), [row.signal for row in shown])
        axes.set_xlabel("AUROC with 95 % interval")
        axes.set_title(table.label.name)


def _curves(
    figure: Any,
    *,
    study: Study,
    tables: Sequence[SignalTable],
    points: Callable[[Array, Array], tuple[Array, Array]],
) -> None:
    names = sorted({row.signal for table in tables for row in table.signals})
    colors = {name: f"C{place % 10}" for place, name in enumerate(names)}
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, table in zip(panels, tables, strict=True):
        chosen = np.flatnonzero(study.rows & ~np.isnan(table.label.values))
        positive = table.label.values[chosen] == 1
        for row in table.signals:
            if row.ranking is None:
                continue
            scores = row.direction * _values(study, row.signal)[chosen]
            known = ~np.isnan(scores)
            x, y = points(*groups(scores[known], positive[known]))
            shown = _thinned(x)
            style = ":" if row.signal in ("u", table.control) else "-"
            axes.plot(x[shown], y[shown], style, color=colors[row.signal], linewidth=1.2, label=row.signal)
        chance = np.append(0.0, np.geomspace(1e-4, 1, 100))
        axes.plot(chance, chance, color="#888888", linewidth=0.8, linestyle="--")
        axes.set_title(table.label.name)
        if points is recall_points:
            axes.set_xscale("log")
            axes.set_xlim(1e-3, 1)
            axes.set_xlabel("consult rate (share of the rows)")
            axes.set_ylabel("share of the positives found")
        else:
            axes.set_xlabel("false positive rate")
            axes.set_ylabel("true positive rate")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center")


def _values(study: Study, signal: str) -> Array:
    recording = study.recording
    return recording.columns[signal] if signal in recording.columns else recording.position.astype(np.float32)


def _thinned(x: Array) -> Array:
    """Points of a curve that are enough for a plot: evenly in x, and evenly in its logarithm."""
    if len(x) <= 2 * _POINTS:
        return np.arange(len(x))
    even = np.linspace(0, 1, _POINTS)
    wanted = np.concatenate((even, 10 ** np.linspace(-4, 0, _POINTS)))
    return np.unique(np.concatenate(([0, len(x) - 1], np.clip(np.searchsorted(x, wanted), 0, len(x) - 1))))


def _by_entropy(figure: Any, found: DisagreementMap) -> None:
    left, right = figure.subplots(1, 2)
    places = np.arange(len(found.bins))
    names = [f"{one.low:g}–{one.high:g}" if math.isfinite(one.high) else f"≥ {one.low:g}" for one in found.bins]
    agree = [one.rows - one.differ for one in found.bins]
    left.bar(places - 0.2, agree, 0.4, color=_AGREE, label="same first choice")
    left.bar(places + 0.2, [one.differ for one in found.bins], 0.4, color=_DIFFER, label="different")
    left.set_yscale("symlog", linthresh=1)
    left.set_ylabel("positions")
    left.legend(loc="upper right")
    for place, one in enumerate(found.bins):
        if not math.isnan(one.share.value):
            if one.share.interval is not None:
                right.plot([place, place], [100 * end for end in one.share.interval], color=_DIFFER, linewidth=1.4)
            right.plot([place], [100 * one.share.value], "o", color=_DIFFER, markersize=4)
    right.set_ylabel("% of the positions that differ")
    right.set_ylim(0, None)
    for axes in (left, right):
        confident = sum(one.high <= found.threshold for one in found.bins)
        axes.axvspan(-0.5, confident - 0.5, color="#f3efe2", zorder=0)
        axes.set_xlim(-0.5, len(places) - 0.5)
        axes.set_xticks(places, names, rotation=45, ha="right")
        axes.set_xlabel("entropy, nats (shaded: confident)")


def _heat(figure: Any, grid: Grid) -> None:
    from matplotlib.colors import LogNorm

    axes = figure.subplots()
    counts = np.where(grid.counts > 0, grid.counts, np.nan).T
    image = axes.imshow(counts, origin="lower", aspect="auto", cmap="viridis", norm=LogNorm(vmin=1))
    for edges, set_ticks in ((grid.entropy, axes.set_xticks), (grid.apart, axes.set_yticks)):
        names = ["" if math.isinf(edge) else f"{edge:g}" for edge in edges]
        set_ticks(np.arange(len(edges)) - 0.5, names)
    axes.set_xlabel("entropy of the base, nats")
    measure = "Jensen-Shannon divergence" if grid.measure == "js" else "-ln p of the written token under the oracle"
    axes.set_ylabel(f"{measure}, nats")
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="positions")
