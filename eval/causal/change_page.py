"""What consults change, as one page: the share that helps and hurts by signal, the tables, and the consults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dodona.engine.result import json_number
from dodona.eval.analysis.resample import NARROW
from dodona.eval.causal.change_tables import Bins, Summary, tables
from dodona.eval.causal.page import framed, mark
from dodona.eval.report.html import escaped
from dodona.eval.report.picture import Picture, filled

MOST: Final = 300  # consults shown
_HELPS, _HURTS = "#0072b2", "#d55e00"


def page(made: Summary, rows: Sequence[Mapping[str, Any]]) -> str:
    """The page as a text.

    Args:
        rows: the lines of what was found (``change_rows.lines``).
    """
    found = made.found
    says = [
        f"Consults of k={json_number(found.k)} {found.where}, in the texts of the arm {found.arm.name}. From the "
        "same token ids the text goes on with the consult and without it; both go on by the base alone to the end, and "
        "both are graded. Later consults of the run are left out of both.",
        f"{found.problems} problems, {len(found.changes)} consults, {len(found.outcomes)} forks run. Intervals are by "
        f"bootstrap over problems ({made.resamples} resamples, seed {made.seed}); where all consults agree, Wilson's "
        f"with a problem as one trial; {NARROW}.",
    ]
    pictures = [_drawn(one) for one in made.bins if one.groups]
    title = f"What a consult changes: {found.origin.experiment.title}"
    return framed(title, says, pictures, tables(made), _texts(rows), found.origin)


def _drawn(bins: Bins) -> Picture:
    def fill(figure: Any) -> None:
        axes = figure.subplots()
        for shift, name, color in ((-0.12, "helps", _HELPS), (0.12, "hurts", _HURTS)):
            for place, group in enumerate(bins.groups):
                share = getattr(group, name)
                if share.interval is not None:
                    axes.plot([place + shift] * 2, [100 * end for end in share.interval], color=color, linewidth=1.4)
            values = [100 * getattr(group, name).value for group in bins.groups]
            axes.plot([p + shift for p in range(len(values))], values, "o", color=color, markersize=4, label=name)
        names = [f"{group.name}\nn = {group.consults}" for group in bins.groups]
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_ylim(0, None)
        axes.set_xlabel(bins.signal)
        axes.set_ylabel("% of the consults")
        axes.legend(loc="best")

    return filled("bins", f"What consults change, by {bins.signal}", (6.2, 3.8), fill)


def _texts(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The consults that changed the outcome."""
    changed = [row for row in rows if row["change"]]
    some = f", the first {MOST} of {len(changed)}" if len(changed) > MOST else ""
    yield f"<h2>Consults that changed the outcome{some}</h2>"
    if not changed:
        yield "<p>None did.</p>"
    for row in changed[:MOST]:
        yield _text(row)


def _text(row: Mapping[str, Any]) -> str:
    helps = row["change"] > 0
    signals = ", ".join(f"{name} {value:.3g}" for name, value in row["signals"].items())
    level = "" if row["level"] is None else f"<span>level {escaped(row['level'])}</span>"
    point = mark("causal", "\u25b8", signals)
    ends = (f"{row[f'outcome_{way}']} ({escaped(row[f'answer_{way}'] or 'no answer')})" for way in ("with", "without"))
    with_it, without = ends
    after = row["with"].removeprefix(row["oracle_wrote"])
    return (
        f'<div class="text{" helps" if helps else ""}"><div class="text-head"><b>{escaped(row["row_id"])}</b>{level}'
        f"<span>{'helps' if helps else 'hurts'}</span><span>the answer: {escaped(row['ground_truth'])}</span></div>"
        f"<pre>{escaped(row['before'])}{point}"
        f'<span class="oracle">{escaped(row["oracle_wrote"])}</span>'
        f'<span class="rest">{escaped(after)}</span></pre><p>with it: {with_it}</p>'
        f'<pre>{escaped(row["before"])}{point}<span class="rest">{escaped(row["without"])}</span></pre>'
        f'<p>without: {without}</p><p class="soft">{escaped(signals)}</p></div>'
    )
