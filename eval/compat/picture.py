"""The ladders as a picture, labelled for what they are."""

from __future__ import annotations

import math
import textwrap
from typing import Any, Final

from dodona.eval.compat.ladder import Ladder
from dodona.eval.compat.switches import NOT_VALID, SWITCHES
from dodona.eval.report.panels import series_style
from dodona.eval.report.section import Section
from dodona.eval.report.table import plain

NAME: Final = "compat-ladder"  # of its files
HEADING: Final = f"{NOT_VALID}. The first experiments' way of counting"


def ladder_canvas(section: Section) -> Any:
    """The picture as a `matplotlib.figure.Figure`: a line an arm over the rungs that add up."""
    from matplotlib.figure import Figure as Canvas

    ladders = list(section.ladders)
    canvas = Canvas(figsize=(7.2, 4.2 + 0.17 * len(ladders)), layout="constrained")
    axis = canvas.subplots()
    names = ["honest", *(f"+ {switch}" for switch in SWITCHES)]
    names = [name for name in names if any(name == rung.name for ladder in ladders for rung in ladder.rungs)]
    for index, ladder in enumerate(ladders):
        _line(axis, ladder, names, index, len(ladders))
    axis.set_xticks(range(len(names)), names)
    axis.set_xlim(-0.4, len(names) - 0.6)
    axis.set_ylabel("right, % of the runs counted")
    low, high = axis.get_ylim()
    axis.set_ylim(max(-1.0, low), min(101.0, high))
    place: dict[str, Any] = {"ha": "center", "va": "center", "transform": axis.transAxes}
    axis.text(0.5, 0.5, NOT_VALID, fontsize=20, color="#f0d0d0", zorder=0, **place)
    heading = f"{plain(section.title)}, n={len(section.experiment.problems)}"
    canvas.suptitle(f"{HEADING}\n{textwrap.fill(heading, 90)}", fontsize=10, parse_math=False)
    legend = canvas.legend(loc="outside lower center", ncols=1 if len(ladders) < 8 else 2, frameon=False, fontsize=8)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return canvas


def _line(axis: Any, ladder: Ladder, names: list[str], index: int, count: int) -> None:
    shift = 0.5 * ((index + 0.5) / count - 0.5)  # so that bars show
    rungs = {rung.name: rung for rung in ladder.rungs if rung.added and not math.isnan(rung.rate.accuracy)}
    chosen = [(place + shift, rungs[name].rate) for place, name in enumerate(names) if name in rungs]
    y = [100 * rate.accuracy for _, rate in chosen]
    low = [max(0.0, value - 100 * rate.interval.low) for value, (_, rate) in zip(y, chosen, strict=True)]
    high = [max(0.0, 100 * rate.interval.high - value) for value, (_, rate) in zip(y, chosen, strict=True)]
    axis.errorbar(
        [place for place, _ in chosen],
        y,
        yerr=[low, high],
        label=plain(ladder.arm),
        linewidth=1,
        markersize=4.5,
        capsize=2,
        elinewidth=0.9,
        **series_style(index, count),
    )
