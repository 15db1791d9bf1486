"""How far the oracle is from the base at every token of the base's own texts: from their trace, or by reading again.

A trace of the base alone has it where it was made with --oracle-tail and --divergence. Other texts the base writes
again, token for token (greedily, or with the same draws), and the oracle then reads them in one forward. A text that
comes out otherwise, as rounding on a GPU may have it, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dodona.engine.engine import Engine
from dodona.engine.result import Result
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.texts import Text
from dodona.eval.causal.views import again, recorded_views
from dodona.eval.recorded import RecordedArm

Array = np.ndarray[Any, Any]


class Apart(NamedTuple):
    """How far the models are apart at each token of one text."""

    js: Array  # [tokens] float32, nats: Jensen-Shannon divergence of the two next-token distributions
    differs: Array  # [tokens] bool: whether the oracle's first choice is another token than the one written


def read_apart(
    origin: Origin,
    base: RecordedArm,
    texts: Mapping[str, Text],
    engine: Callable[[], Engine],
    step: Callable[[], None] = lambda: None,
) -> dict[str, Apart]:
    """How far the models are apart on texts of the base alone, by problem.

    Args:
        origin: whose records (and traces) have the texts.
        base: their arm.
        engine: called only if something has to be read again.
        step: called for each text that was.

    Raises:
        DodonaError: a trace cannot be read.
    """
    found = {}
    for name, view in recorded_views(origin, base, texts.values()).items():
        if "js" in view.columns:
            found[name] = Apart(view.columns["js"], view.columns["oracle_top1"] != np.asarray(view.ids))
    left = {name: text for name, text in texts.items() if name not in found and text.ids}
    if left:
        for result in engine().generate(again(origin, base, text, divergence=True) for text in left.values()):
            assert result.request.id is not None
            step()
            apart = apart_of(result, 0)
            if apart is not None and tuple(result.ids) == left[result.request.id].ids:
                found[result.request.id] = apart
    return {name: found[name] for name in texts if name in found}


def apart_of(result: Result, start: int) -> Apart | None:
    """How far the models are apart from a position of a result on; None where one of them has not looked.

    Args:
        result: of a request with ``divergence`` and ``oracle_tail``.
        start: the first position; positions are counted from there.
    """
    if result.error is not None:
        return None
    js, first = result.signals["js"][start:], result.signals["oracle_top1"][start:]
    if np.isnan(js).any() or np.isnan(first).any():
        return None
    return Apart(js, first != np.asarray(result.ids[start:]))
