"""From paths to a page: reads what is there, and puts it together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dodona import __version__
from dodona.engine.errors import DodonaError
from dodona.eval.viewer.document import make_page
from dodona.eval.viewer.names import keep, name_all
from dodona.eval.viewer.payload import Payload, Summary, make_payload
from dodona.eval.viewer.runs import read_runs
from dodona.eval.viewer.sources import find_sources
from dodona.eval.viewer.traces import attach
from dodona.eval.viewer.vocabulary import Tokenizers


class View(NamedTuple):
    """A page, and what to say of it."""

    page: bytes
    summary: Summary
    notes: list[str]


def make_view(
    paths: Sequence[str | Path],
    *,
    arms: Sequence[str] = (),
    limit: int | None = None,
    tokenizer: str | None = None,
) -> View:
    """The page that shows these runs.

    Args:
        paths: folders, files of records, traces; each is a run of its own, and arms of the same name stay apart.
        arms: parts of names; only arms with one of them are shown. None given: all.
        limit: only so many problems.
        tokenizer: the model whose tokenizer gives the tokens' texts; None: the one that the records name.

    Raises:
        DodonaError: nothing to show, or something that cannot be read.
    """
    payload, title, notes = load(paths, arms=arms, limit=limit, tokenizer=tokenizer)
    return View(make_page(payload.data, title), payload.summary, notes)


def load(
    paths: Sequence[str | Path],
    *,
    arms: Sequence[str] = (),
    limit: int | None = None,
    tokenizer: str | None = None,
) -> tuple[Payload, str, list[str]]:
    """Data, title and notes of the page; arguments and errors as ``make_view``."""
    notes: list[str] = []

    def note(text: str) -> None:
        if text not in notes:
            notes.append(text)

    sources = find_sources(paths, note)
    collection = read_runs(sources, note)
    collection.notes = notes
    attach(collection, note)
    keep(collection, arms, limit)
    if not collection.runs:
        raise DodonaError(f"{', '.join(str(source.path) for source in sources)}: no run is recorded there yet")
    name_all(collection)
    traced = sum(run.trace is not None for run in collection.runs.values())
    written = sum(bool(run.pieces) for run in collection.runs.values())
    if 0 < traced < written:
        note(f"{written - traced} of {written} texts have no trace, and show who wrote what without signals")
    title = ", ".join(_title(source.path) for source in sources)
    payload = make_payload(collection, Tokenizers(tokenizer), title, f"dodona {__version__}", note)
    return payload, title, notes


def _title(path: Path) -> str:
    whole = path.resolve()
    return whole.name if path.is_dir() else whole.stem.removesuffix(".trace")
