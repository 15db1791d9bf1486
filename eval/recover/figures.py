"""Pictures of a study: solve rates, recovery against the straight shot, by difficulty, by fraction, and signals.

The same records give the same files, byte for byte, under the same version of matplotlib.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from dodona.eval.recover.findings import ERROR, Findings, Group
from dodona.eval.recover.partings import partings, profile
from dodona.eval.recover.rates import Pooled, against, pooled
from dodona.eval.recover.rows import EDITED, OFF, ON, RIGHT
from dodona.eval.recover.series import Series, prefix_series, straight_series
from dodona.eval.recover.settings import STRONG, WEAK
from dodona.eval.report.picture import Picture, check_matplotlib, filled

# Okabe and Ito's palette, which people with any colour vision can tell apart.
_COLORS: Final[Mapping[str, str]] = MappingProxyType(
    {OFF: "#D55E00", ON: "#CC79A7", EDITED: "#E69F00", RIGHT: "#009E73", STRONG: "#000000", WEAK: "#777777"}
)
_RECOVERED, _LOST = "#0072B2", "#D55E00"
_SMALLEST, _SIZE = 10.0, 1000.0  # square points of a bubble of no problem, and what all of them add


def draw(findings: Findings) -> list[Picture]:
    """Every picture for which there is something to show.

    Raises:
        DodonaError: there is no matplotlib.
    """
    check_matplotlib("a plot")
    pictures = [filled("solve-rates", "Solve rates of the appraisal", (5.4, 3.2), lambda f: _histogram(f, findings))]
    if not findings.groups or not findings.completions_asked:
        return pictures
    kinds = list(dict.fromkeys(group.kind for group in findings.groups))
    width = 1.2 + 3.1 * len(kinds)
    fractions = findings.fractions
    wide = 2.6 + 3.4 * len(fractions)
    size = (width, 0.6 + 3.1 * len(fractions))
    pictures.append(
        filled("scatter", "Recovery against the straight shot", size, lambda f: _scatter(f, findings, kinds))
    )
    pictures.append(filled("bins", "Recovery by difficulty", (wide, 4.0), lambda f: _bins(f, findings)))
    pictures.append(filled("fractions", "Recovery by fraction", (7.4, 3.8), lambda f: _fractions(f, findings)))
    if any(len(run.signals) for runs in findings.completions.values() for run in runs):
        pictures.append(filled("signals", "Entropy after the cut", (8.6, 3.4), lambda f: _signals(f, findings)))
    return pictures


def _histogram(figure: Any, findings: Findings) -> None:
    axes = figure.subplots()
    places = np.arange(findings.samples + 1)
    for offset, role in ((-0.2, STRONG), (0.2, WEAK)):
        solved = Counter(count.right for count in findings.appraised[role].values())
        axes.bar(places + offset, [solved[int(right)] for right in places], 0.4, color=_COLORS[role], label=role)
    axes.set_xticks(places)
    axes.set_xlabel(f"samples of {findings.samples} that solve the problem")
    axes.set_ylabel("problems")
    axes.legend()


def _scatter(figure: Any, findings: Findings, kinds: Sequence[str]) -> None:
    """A bubble for the problems of one straight-shot rate and one recovery rate, as large as they are many."""
    fractions = findings.fractions
    panels = figure.subplots(len(fractions), len(kinds), squeeze=False, sharex=True, sharey=True)
    for row, fraction in zip(panels, fractions, strict=True):
        for axes, kind in zip(row, kinds, strict=True):
            group = Group(kind, fraction)
            points: Counter[tuple[float, float]] = Counter()
            for pid, count in findings.tally(findings.of(group), STRONG).items():
                shot = findings.shots[STRONG][pid]
                points[shot.right / shot.n, count.right / count.n] += 1
            listed = sorted(points.items())
            axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.9, linestyle="--")
            axes.scatter(
                [x for (x, _), _ in listed],
                [y for (_, y), _ in listed],
                s=[_SMALLEST + _SIZE * number / len(findings.problems) for _, number in listed],
                color=_COLORS[kind],
                alpha=0.55,
                linewidth=0,
            )
            axes.set_title(f"{group.name}: {sum(points.values())} problems")
            axes.set_xlim(-0.1, 1.1)
            axes.set_ylim(-0.1, 1.1)
        row[0].set_ylabel("recovery rate of the problem")
    for axes in panels[-1]:
        axes.set_xlabel("straight shot, drawn anew")


def _bins(figure: Any, findings: Findings) -> None:
    fractions = findings.fractions
    panels = figure.subplots(1, len(fractions), squeeze=False, sharex=True, sharey=True)[0]
    centers = [(low + high) / 2 for low, high in pairwise(findings.edges)]
    for axes, fraction in zip(panels, fractions, strict=True):
        series = [*straight_series(findings), *prefix_series(findings, fraction)]
        for place, one in enumerate(series):
            shift = (place - (len(series) - 1) / 2) * 0.012
            rates = [pooled(one.tally, weights) for weights in findings.bins]
            _line(axes, [x + shift for x in centers], rates, one.name, _look(one))
        axes.set_title(f"cut at {100 * fraction:g} %")
        axes.set_xticks(findings.edges, [f"{100 * edge:g}" for edge in findings.edges])
        axes.set_xlabel("strong model's solve rate, %\n(bins with a problem's weight at least)")
        axes.set_ylim(-3, 103)
    panels[0].set_ylabel("ends on the right answer, %")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center")


def _line(axes: Any, x: Sequence[float], rates: Sequence[Pooled], label: str, look: Mapping[str, Any]) -> None:
    """A line through the rates of one problem's weight at least, with their intervals."""
    known = [(place, value) for place, value in zip(x, rates, strict=True) if value.weight >= 0.9995]
    if not known:
        return
    heights = [100 * value.rate for _, value in known]
    low = [max(0.0, 100 * (value.rate - value.interval.low)) for _, value in known]
    high = [max(0.0, 100 * (value.interval.high - value.rate)) for _, value in known]
    places = [place for place, _ in known]
    axes.errorbar(
        places, heights, yerr=[low, high], label=label, linewidth=1.2, markersize=4.5, capsize=2, elinewidth=0.9, **look
    )


def _look(series: Series) -> dict[str, Any]:
    """Colour, marker and line: straight shots are dashed."""
    role = STRONG if series.name.startswith(STRONG) else WEAK
    if series.straight:
        return {"color": _COLORS[role], "marker": "s", "linestyle": "--"}
    if role == WEAK:
        return {"color": _COLORS[WEAK], "marker": "v", "linestyle": ":"}
    kind = next((kind for kind in (OFF, ON, EDITED) if kind in series.name), RIGHT)
    if ERROR in series.name:
        return {"color": _COLORS[kind], "marker": "x", "linestyle": ":"}
    return {"color": _COLORS[kind], "marker": "^" if kind == RIGHT else "o", "linestyle": "-"}


def _fractions(figure: Any, findings: Findings) -> None:
    """Recovery by fraction; each kind with the straight shot on its own problems beside it."""
    axes = figure.subplots()
    kinds = list(dict.fromkeys(group.kind for group in findings.groups))
    look: dict[str, Any]
    for place, kind in enumerate(kinds):
        groups = [group for group in findings.groups if group.kind == kind]
        shift = (place - (len(kinds) - 1) / 2) * 0.6
        x = [100 * group.fraction + shift for group in groups]
        tallies = [findings.tally(findings.of(group), STRONG) for group in groups]
        look = {"color": _COLORS[kind], "marker": "o", "linestyle": "-"}
        _line(axes, x, [pooled(tally) for tally in tallies], f"{kind}: wrong prefix", look)
        rights = [findings.tally(findings.right_of(findings.of(group)), STRONG) for group in groups]
        look = {"color": _COLORS[kind], "marker": "^", "linestyle": "-.", "alpha": 0.6}
        _line(axes, x, [pooled(tally) for tally in rights], f"{kind}: right prefix beside it", look)
        shots = [100 * against(tally, findings.shots[STRONG]).reference for tally in tallies]
        look = {"color": _COLORS[kind], "marker": "s", "linestyle": "--", "alpha": 0.6}
        axes.plot(x, shots, label=f"{kind}: straight shot, same problems", markersize=4, linewidth=1, **look)
    own = [(f, findings.of(Group(OFF, f))) for f in findings.fractions if findings.of(Group(OFF, f))]
    if own:
        look = {"color": _COLORS[WEAK], "marker": "v", "linestyle": ":"}
        rates = [pooled(findings.tally(prefixes, WEAK)) for _, prefixes in own]
        _line(axes, [100 * fraction for fraction, _ in own], rates, "weak, own wrong prefix", look)
    axes.set_xlabel("share of the solution that is given, %")
    axes.set_ylabel("ends on the right answer, %")
    axes.set_xlim(0, 100)
    axes.set_ylim(-3, 103)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")


def _signals(figure: Any, findings: Findings) -> None:
    """Entropy by tokens after the cut, and its distribution where recovered and lost completions part."""
    left, right = figure.subplots(1, 2)
    wrong = [prefix for prefix in findings.prefixes.values() if prefix.kind != RIGHT]
    for recovered, color, label in ((True, _RECOVERED, "recovered"), (False, _LOST, "lost")):
        means, counts = profile(findings, wrong, "entropy", recovered)
        enough = counts >= 5
        left.plot(np.flatnonzero(enough), means[enough], color=color, label=label, linewidth=1.2)
    left.set_xlabel("tokens after the cut")
    left.set_ylabel("entropy of the strong model, mean, nats")
    left.legend()
    there = np.sort([p.signals["entropy"] for p in partings(findings, wrong) if not math.isnan(p.signals["entropy"])])
    runs = findings.runs(wrong, STRONG)
    every = [run.signals["entropy"] for run in runs if "entropy" in run.signals]
    everywhere = np.sort(np.concatenate(every)) if every else np.zeros(0)
    everywhere = everywhere[~np.isnan(everywhere)]
    for values, color, label in ((there, "#000000", "where they part"), (everywhere, "#999999", "all positions")):
        if len(values):
            shown = values[np.linspace(0, len(values) - 1, min(len(values), 400)).astype(int)]
            height = 100 * (np.searchsorted(values, shown, side="right")) / len(values)
            right.step(shown, height, where="post", color=color, label=label, linewidth=1.2)
    right.set_xlabel("entropy, nats")
    right.set_ylabel("% of the positions at or below")
    right.legend(loc="lower right")
