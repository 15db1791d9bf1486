"""Pictures of studies: the accuracy of every line with its interval, and where the consults lie.

The same records give the same files, byte for byte, under the same version of matplotlib.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from dodona.eval.placebo.arms import HINDSIGHT, OWN_ORACLE, STEPWISE, TWIN
from dodona.eval.placebo.comparison import ARM, BASE, ORACLE, Line
from dodona.eval.placebo.study import Study
from dodona.eval.report.picture import Picture, check_matplotlib, drawn
from dodona.eval.report.table import plain

# Okabe and Ito's palette, which people with any colour vision can tell apart.
_COLORS: Final = MappingProxyType(
    {
        **{BASE: "#777777", ARM: "#0072B2", TWIN: "#E69F00", OWN_ORACLE: "#56B4E9"},
        **{HINDSIGHT: "#009E73", STEPWISE: "#D55E00", ORACLE: "#000000"},
    }
)
_PANELS_A_ROW: Final = 3
_BINS: Final = 30


def draw(studies: Sequence[Study]) -> list[Picture]:
    """Both pictures, a panel an arm.

    Raises:
        DodonaError: there is no matplotlib.
    """
    check_matplotlib("a plot")
    pictures = [drawn("accuracy", "Accuracy of the arm and its placebos", partial(_accuracy, studies))]
    if any(_scheduled(study) for study in studies):
        pictures.append(drawn("positions", "Where the consults lie", partial(_positions, studies)))
    return pictures


def _accuracy(studies: Sequence[Study]) -> Any:
    canvas, axes = _panels(studies, 0.9 + 0.3 * max(len(study.lines) for study in studies))
    for axis, study in zip(axes, studies, strict=False):
        for place, one in enumerate(study.lines):
            _bar(axis, -place, one)
        axis.set_yticks([-place for place in range(len(study.lines))])
        names = [_label(one) for one in study.lines]
        axis.set_yticklabels(names, parse_math=False)
        axis.grid(visible=False, axis="y")
        axis.set_xlabel("accuracy, %")
        axis.set_title(_title(study), parse_math=False)
    return canvas


def _bar(axis: Any, y: float, one: Line) -> None:
    x = 100 * one.rate.accuracy
    low, high = (100 * end for end in one.rate.interval)
    reach = [[max(0.0, x - low)], [max(0.0, high - x)]]
    color = _COLORS[one.side.kind]
    axis.errorbar([x], [y], xerr=reach, color=color, marker="o", markersize=5, capsize=2.5, elinewidth=1.2)
    for single in one.draws:
        axis.plot([100 * single.rate.accuracy], [y - 0.28], color=color, marker="|", markersize=6, alpha=0.7)


def _positions(studies: Sequence[Study]) -> Any:
    canvas, axes = _panels(studies, 2.9)
    handles: dict[str, Any] = {}
    for axis, study in zip(axes, studies, strict=False):
        shown = [one for one in study.lines if one.side.kind == ARM or one in _scheduled(study)]
        end = max((max(one.side.positions, default=0) for one in shown), default=0) + 1
        edges = np.linspace(0, end, min(_BINS, end) + 1)
        for one in shown:
            heights, _ = np.histogram(one.side.positions, edges)
            heights = heights / (len(one.side.draws) * study.problems)
            label = _label(one)
            style = {"linewidth": 2.2, "alpha": 0.5} if one.side.kind == ARM else {"linewidth": 1.1}
            handles[label] = axis.stairs(heights, edges, color=_COLORS[one.side.kind], label=label, **style)
        axis.set_xlabel("position of the consult, generated tokens")
        axis.set_ylabel("consults a run")
        axis.set_title(_title(study), parse_math=False)
    canvas.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    return canvas


def _panels(studies: Sequence[Study], height: float) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    columns = min(len(studies), _PANELS_A_ROW)
    rows = -(-len(studies) // columns)
    canvas = Figure(figsize=(max(6.4, 4.3 * columns), height * rows + 0.5), layout="constrained")
    axes = list(canvas.subplots(rows, columns, sharex=True, squeeze=False).flat)
    for spare in axes[len(studies) :]:
        spare.set_visible(False)
    return canvas, axes


def _scheduled(study: Study) -> list[Line]:
    """The placebos whose consults were fixed before."""
    return [one for one in study.lines if one.asked is not None]


def _label(one: Line) -> str:
    """Short; the page's tables have the names."""
    return (
        one.side.kind
        if one.asked is None or len(one.side.draws) == 1
        else f"{one.side.kind}, {len(one.side.draws)} draws"
    )


def _title(study: Study) -> str:
    return textwrap.fill(f"{plain(study.arm)}, n={study.problems}", 40)
