"""Published scores of the Llama models that an experiment runs, to draw beside its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

_VERSIONS: Final[Mapping[str, str]] = MappingProxyType(
    {"1B": "3.2", "3B": "3.2", "8B": "3.1", "70B": "3.1", "405B": "3.1"}
)
_MODEL: Final = re.compile(r"(?:Meta-)?Llama-(\d\.\d)-(\d+B)-Instruct")
# The data sets by their own names, by the hub's, and by those of the files that Meta published its own runs in.
_MATH: Final = re.compile(r"(hendrycks_)?math([-_]500)?|.*evals__math__details.*")
_GPQA: Final = re.compile(r"gpqa([-_]main)?(-shuffle-\d+)?|.*evals__gpqa__details.*")


class Official(NamedTuple):
    """A published score."""

    role: str  # base or oracle
    model: str  # 1B, 3B, 8B, 70B, 405B
    accuracy: float  # in [0, 1]


def official_scores(config: Mapping[str, Any]) -> list[Official]:
    """The published scores of the base and the oracle, where their task has some and they are the models meant.

    A model with layers left out (``1B@drop=3``), a quantised one and another version have none.
    """
    sizes = {role: _size(config.get(f"{role}_model_id")) for role in ("base", "oracle")}
    dataset = str(config.get("dataset")).lower()
    task = "math" if _MATH.fullmatch(dataset) else "gpqa" if _GPQA.fullmatch(dataset) else None
    if task is None or not any(sizes.values()):
        return []
    from dodona.eval.tasks.readers import OFFICIAL  # here, for it imports torch

    scores = OFFICIAL[task].percent
    return [Official(role, size, scores[size] / 100) for role, size in sizes.items() if size and size in scores]


def _size(model: object) -> str | None:
    """1B, 3B, ... if it is one of the models that the scores are of."""
    if not isinstance(model, str):
        return None
    if model in _VERSIONS:
        return model
    match = _MODEL.fullmatch(model.rpartition("/")[2])
    return match[2] if match and _VERSIONS.get(match[2]) == match[1] else None
