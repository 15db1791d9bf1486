"""Accuracy as pictures: against c, against k, against the oracle's share of the tokens, and against the cost.

Every picture has one panel a rule (a trigger, with before or after), all with the same axes; one colour and marker a
value of k (of c, where k is on the axis); bars for the 95 % intervals; and the base alone and the oracle alone as lines
with bands. The same records give the same files, byte for byte, under the same version of matplotlib.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dodona.engine.errors import DodonaError
from dodona.eval.compat import picture as ladder
from dodona.eval.report.files import write_file
from dodona.eval.report.panels import FIGURES, Figure, make_canvas
from dodona.eval.report.section import Section


def check_matplotlib(option: str) -> None:
    """Find out that there is no matplotlib before anything is read.

    Raises:
        DodonaError: there is none.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise DodonaError(
            f"{option} needs matplotlib, which is in the extra `plots`: pip install 'dodona[plots]'"
        ) from error


class Picture(NamedTuple):
    """A picture that was drawn."""

    name: str
    title: str
    svg: bytes
    png: bytes


def write_plots(folder: Path, drawn: Sequence[tuple[Section, Sequence[Picture]]]) -> list[Path]:
    """Every picture as ``NAME.png`` and ``NAME.svg``; of several sections each in its own folder.

    Raises:
        DodonaError: it cannot be written.
    """
    written = []
    for section, pictures in drawn:
        place = folder / slug(section) if len(drawn) > 1 else folder
        for picture in pictures:
            written.append(write_file(place / f"{picture.name}.png", picture.png))
            written.append(write_file(place / f"{picture.name}.svg", picture.svg))
    return written


def slug(section: Section) -> str:
    """A section's name for a folder; the hash tells apart what is called alike."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", section.experiment.title).strip("-.")[:80]
    return f"{name}-{section.experiment.config_hash[:8]}"


def draw(section: Section, figures: Sequence[Figure] = FIGURES) -> list[Picture]:
    """Every picture of a section for which there is something to show: guided arms, and a cost that was counted.

    Raises:
        DodonaError: there is no matplotlib.
    """
    check_matplotlib("a plot")
    pictures = []
    for figure in figures if section.guided else ():
        counted = any(figure.x(line) > 0 for line in section.guided)
        if counted or figure.kind != "cost":
            pictures.append(_picture(figure.name, figure.title, partial(make_canvas, section, figure)))
    if section.ladders:
        pictures.append(_picture(ladder.NAME, ladder.HEADING, partial(ladder.ladder_canvas, section)))
    return pictures


def _picture(name: str, title: str, make: Callable[[], Any]) -> Picture:
    with _settings():
        canvas = make()
        svg = _saved(canvas, format="svg", metadata={"Date": None, "Creator": None})
        canvas.set_layout_engine("none")  # found once, it holds for the other format too
        png = _saved(canvas, format="png", dpi=150, metadata={"Software": None})
    return Picture(name, title, svg, png)


def _saved(canvas: Any, **options: Any) -> bytes:
    data = io.BytesIO()
    canvas.savefig(data, **options)
    return data.getvalue()


@contextmanager
def _settings() -> Iterator[None]:
    """matplotlib's own defaults, whatever the user has set, and nothing that changes from run to run."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that the font lacks
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.hashsalt": "dodona",
                "font.size": 9,
                "axes.titlesize": 9,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "grid.color": "#e4e4e4",
                "grid.linewidth": 0.6,
                "axes.axisbelow": True,
            }
        )
        yield
