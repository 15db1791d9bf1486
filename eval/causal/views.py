"""What both models say of every token of a text: from the trace beside the records, or by writing the text again.

The base alone writes a text again token for token (greedily, or with the same draws), and with ``oracle_tail`` the
oracle then reads it in one forward. A text that comes out differently, as rounding on a GPU may have it, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.engine.engine import Engine
from dodona.engine.request import Request
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.signals import TextSignals, recorded
from dodona.eval.causal.texts import Text
from dodona.eval.recorded import RecordedArm

Array = np.ndarray[Any, Any]

NEEDED: Final = (
    *("entropy", "varentropy", "top_prob", "margin", "logprob"),
    *("oracle_logprob", "oracle_rank", "oracle_top1", "oracle_entropy", "agree"),
)
OPTIONAL: Final = ("js", "kl")


class View(NamedTuple):
    """Both models' view of one text."""

    ids: tuple[int, ...]
    columns: Mapping[str, Array]  # [tokens] float32 by name: all of ``NEEDED``, and of ``OPTIONAL`` what was asked for

    @property
    def diverging(self) -> Array:
        """[D] int64: the positions where the oracle's first choice is another token, ascending."""
        differs = self.columns["oracle_top1"] != np.asarray(self.ids, dtype=np.float32)
        positions: Array = np.flatnonzero(differs)
        return positions

    @property
    def signals(self) -> TextSignals:
        """The same, and where the models' first choices differ."""
        return TextSignals(self.columns, (self.columns["agree"] == 0).astype(np.float32))

    @property
    def divergence(self) -> Array:
        """[tokens] how far the models are apart, nats: JS where it is known, else the oracle's surprise."""
        values: Array = self.columns["js"] if "js" in self.columns else -self.columns["oracle_logprob"]
        return values


def recorded_views(origin: Origin, arm: RecordedArm, texts: Iterable[Text]) -> dict[str, View]:
    """The views that the traces beside the records hold, by problem.

    A text without a trace, or one of which the oracle has not seen every token, is not among them.

    Raises:
        DodonaError: a trace cannot be read.
    """
    texts = list(texts)
    traces = recorded(origin, arm, {text.problem_id: text for text in texts})
    if traces is None or any(name not in traces.recording.columns for name in NEEDED):
        return {}
    there = [text for text in texts if text.problem_id in traces.places]
    found = {text.problem_id: _view(text.ids, traces.signals(text.problem_id).columns) for text in there}
    return {name: view for name, view in found.items() if view is not None}


def written_again(
    origin: Origin, engine: Engine, arm: RecordedArm, texts: Mapping[str, Text]
) -> Iterator[tuple[str, View | None]]:
    """Problems and their views, in the order in which they are done; None for a text that came out otherwise."""
    for result in engine.generate(again(origin, arm, text) for text in texts.values()):
        assert result.request.id is not None
        text, ids = texts[result.request.id], tuple(result.ids)
        yield text.problem_id, _view(ids, result.signals) if result.error is None and ids == text.ids else None


def again(origin: Origin, arm: RecordedArm, text: Text, **changes: Any) -> Request:
    """The request of a run of the base alone, with the oracle's view of all of it."""
    raw = text.problem.raw or origin.options["raw"]
    options = {**origin.options, "raw": raw, "oracle_tail": True, "attention_layer": None}
    names = {"prompt": text.problem.prompt, "id": text.problem_id, "key": text.problem_id}
    return Request(**{**names, **origin.live(arm).fields(), **options, **changes})


def views_of(
    origin: Origin,
    arm: RecordedArm,
    texts: Mapping[str, Text],
    engine: Callable[[], Engine],
    step: Callable[[], None] = lambda: None,
) -> dict[str, View]:
    """The views of texts of the base alone by problem, from traces where there are some, else written again.

    Args:
        engine: called only if something has to be written again.
        step: called for each text that was.

    Raises:
        DodonaError: a trace cannot be read.
    """
    found = recorded_views(origin, arm, texts.values())
    left = {name: text for name, text in texts.items() if name not in found}
    if left:
        for name, view in written_again(origin, engine(), arm, left):
            step()
            if view is not None:
                found[name] = view
    return {name: found[name] for name in texts if name in found}


def _view(ids: tuple[int, ...], columns: Mapping[str, Array]) -> View | None:
    """The view, if both models have looked at every token."""
    if any(np.isnan(columns[name]).any() for name in NEEDED):
        return None
    chosen = [*NEEDED, *(name for name in OPTIONAL if name in columns and not np.isnan(columns[name]).any())]
    return View(ids, {name: np.asarray(columns[name], dtype=np.float32) for name in chosen})
