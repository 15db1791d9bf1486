"""Which signal tells where to consult: every signal, and the position alone, against one label.

The direction of a signal is fixed here, before any data: an AUROC below 0.5 says that it points the other way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.engine.recording import Recording
from dodona.eval.analysis.labels import Label
from dodona.eval.analysis.resample import Estimate, Ranking, difference, problem_weights, rank

Array = np.ndarray[Any, Any]

RATES: Final = (0.01, 0.02, 0.05, 0.10)
POSITION: Final = "position"
LENGTH: Final = "length"
# 1: a high value says consult; -1: a low one.
DIRECTIONS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "entropy": 1,
        "varentropy": 1,
        "top_prob": -1,
        "margin": -1,
        "logprob": -1,
        "attn_entropy": 1,
        "attn_varentropy": 1,
        "agreement": 1,  # by its formula a disagreement of the heads
        "interaction_strength": 1,
        POSITION: 1,
        LENGTH: 1,  # of the whole text, where a row is a problem
        "u": -1,  # the trigger's draw, which knows nothing: a control
    }
)


class SignalRow(NamedTuple):
    """One signal against one label."""

    signal: str
    direction: int
    ranking: Ranking | None  # None: undefined, and ``undefined`` says why
    undefined: str | None
    over_control: Estimate | None  # its AUROC less the one of the position alone

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        fields: dict[str, Any] = {
            "signal": self.signal,
            "consult_where": "high" if self.direction > 0 else "low",
            "undefined": self.undefined,
        }
        if self.ranking is None:
            return fields
        ranking = self.ranking
        fields |= {
            "rows": ranking.rows,
            "positives": ranking.positives,
            "auroc": ranking.auroc.as_dict(),
            "average_precision": ranking.average_precision.as_dict(),
            "recall": {f"{rate:g}": found.as_dict() for rate, found in zip(RATES, ranking.recalls, strict=True)},
            "auroc_over_control": None if self.over_control is None else self.over_control.as_dict(),
        }
        return fields


class SignalTable(NamedTuple):
    """All signals against one label."""

    label: Label
    rows: int  # with the label
    positives: int
    problems: int
    control: str  # what every signal is compared with: the position alone, or the length where a row is a problem
    signals: list[SignalRow]  # the highest AUROC first

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "label": self.label.name,
            "definition": self.label.definition,
            "rows": self.rows,
            "positives": self.positives,
            "problems": self.problems,
            "control": self.control,
            "signals": [row.as_dict() for row in self.signals],
        }


def signal_table(
    recording: Recording,
    label: Label,
    rows: Array,
    *,
    resamples: int,
    seed: int,
    confidence: float = 0.95,
    control: tuple[str, Array] | None = None,
) -> SignalTable:
    """The table of one label.

    Args:
        rows: [N] bool: the positions that count; those without the label are left out.
        resamples, seed: of the bootstrap over problems.
        control: a name and [N] what every signal is compared with; default the position alone.
    """
    chosen = np.flatnonzero(rows & ~np.isnan(label.values))
    positive = label.values[chosen] == 1
    _, number = recording.problems
    problems, problem = np.unique(np.repeat(number, recording.lengths)[chosen], return_inverse=True)
    weights = problem_weights(len(problems), resamples, seed)
    control_name, control_values = control or (POSITION, recording.position.astype(np.float32))
    values = {control_name: control_values[chosen]}
    values |= {name: recording.columns[name][chosen] for name in DIRECTIONS if name in recording.columns}
    found = {
        name: _ranked(DIRECTIONS[name] * scores, positive, problem, weights, confidence)
        for name, scores in values.items()
    }
    alone = found[control_name]
    table = []
    for name, ranking in found.items():
        over = None
        if isinstance(ranking, Ranking) and isinstance(alone, Ranking) and name != control_name:
            over = difference(ranking.auroc, alone.auroc, confidence)
        undefined = ranking if isinstance(ranking, str) else None
        table.append(SignalRow(name, DIRECTIONS[name], None if isinstance(ranking, str) else ranking, undefined, over))
    order = {name: place for place, name in enumerate(DIRECTIONS)}
    table.sort(key=lambda row: (-row.ranking.auroc.value if row.ranking else np.inf, order[row.signal]))
    return SignalTable(label, len(chosen), int(positive.sum()), len(problems), control_name, table)


def _ranked(
    scores: Array, positive: Array, problem: Array, weights: Array, confidence: float, rates: Sequence[float] = RATES
) -> Ranking | str:
    """The ranking, or why there is none."""
    known = ~np.isnan(scores)
    scores, positive, problem = scores[known], positive[known], problem[known]
    if reason := one_class(positive):
        return reason
    return rank(scores, positive, problem, weights, rates, confidence)


def one_class(positive: Array) -> str | None:
    """Why rows with these labels cannot be ranked; None: they can."""
    if not len(positive):
        return "no row has both the signal and the label"
    if positive.all() or not positive.any():
        return f"all {len(positive)} rows have the label {int(positive[0])}"
    return None
