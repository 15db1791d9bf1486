"""A picture in both of its formats, drawn the same way whatever the user's settings of matplotlib are.

The same data give the same files, byte for byte, under the same version of matplotlib.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from dodona.engine.errors import DodonaError


class Picture(NamedTuple):
    """A picture that was drawn."""

    name: str
    title: str
    svg: bytes
    png: bytes


def check_matplotlib(option: str) -> None:
    """Find out that there is no matplotlib before anything is read.

    Raises:
        DodonaError: there is none.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise DodonaError(
            f"{option} needs matplotlib, which is in the extra `plots`: pip install -e '.[plots]'"
        ) from error


def drawn(name: str, title: str, make: Callable[[], Any]) -> Picture:
    """The picture of a matplotlib figure that ``make`` makes."""
    with _settings():
        canvas = make()
        svg = _saved(canvas, format="svg", metadata={"Date": None, "Creator": None})
        canvas.set_layout_engine("none")  # found once, it holds for the other format too
        png = _saved(canvas, format="png", dpi=150, metadata={"Software": None})
    return Picture(name, title, svg, png)


def filled(name: str, title: str, size: tuple[float, float], fill: Callable[[Any], None]) -> Picture:
    """The picture of a figure of ``size`` (inches) that ``fill`` draws on."""

    def make() -> Any:
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        fill(figure)
        return figure

    return drawn(name, title, make)


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
                "legend.frameon": False,
            }
        )
        yield
