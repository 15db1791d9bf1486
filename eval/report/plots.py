"""Accuracy as pictures: against c, against k, against the oracle's share of the tokens, and against the cost.

Every picture has one panel a rule (a trigger, with before or after), all with the same axes; one colour and marker a
value of k (of c, where k is on the axis); bars for the 95 % intervals; and the base alone and the oracle alone as lines
with bands. The same records give the same files, byte for byte, under the same version of matplotlib.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dodona.eval.compat import picture as ladder
from dodona.eval.report.files import write_file
from dodona.eval.report.panels import FIGURES, Figure, make_canvas
from dodona.eval.report.picture import Picture, check_matplotlib, drawn
from dodona.eval.report.section import Section


def write_plots(folder: Path, sections: Sequence[tuple[Section, Sequence[Picture]]]) -> list[Path]:
    """Every picture as ``NAME.png`` and ``NAME.svg``; of several sections each in its own folder.

    Raises:
        DodonaError: it cannot be written.
    """
    written = []
    for section, pictures in sections:
        place = folder / slug(section) if len(sections) > 1 else folder
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
            pictures.append(drawn(figure.name, figure.title, partial(make_canvas, section, figure)))
    if section.ladders:
        pictures.append(drawn(ladder.NAME, ladder.HEADING, partial(ladder.ladder_canvas, section)))
    return pictures
