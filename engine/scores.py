"""What a model's head gives a step: statistics of each row, log-probabilities of given ids, and the next tokens.

Shape suffixes: M groups (one a sequence) of w rows, N = M * w rows, V vocabulary. A group's rows are consecutive
positions of one sequence, and the token after its last row is the one that may be written next.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from dodona.engine.sampling import Settings, draw
from dodona.engine.signals import Statistics, logprob, statistics


class Choice(NamedTuple):
    """How the token after each group's last row is drawn; one of temperature 0 is the most likely."""

    settings: Settings  # of M rows
    keys_M2: Tensor  # [M, 2] int64: each sequence's Philox key
    positions_M: Tensor  # [M] int64, the tokens' indices among those generated


class Scores(NamedTuple):
    """What ``Llama.score`` returns; log-probabilities are at temperature 1 and unfiltered."""

    stats: Statistics  # [N] each
    given_Mw: Tensor  # [M, w] float32, nats: of the given ids
    token_M: Tensor  # [M] int64: the model's choice after each group's last row
    token_logprob_M: Tensor  # [M] float32, nats
    logits_NV: Tensor | None  # [N, V] in the model's dtype, where they were asked for


def plain_scores(logits_NV: Tensor, ids_Mw: Tensor, choice: Choice | None) -> Scores:
    """The scores of logits, in plain PyTorch."""
    stats = statistics(logits_NV)
    last_MV = last_rows(logits_NV, ids_Mw)
    token_M = last_rows(stats.top1, ids_Mw)
    if choice is not None:
        token_M = draw(last_MV, token_M, *choice)
    return Scores(
        stats,
        logprob(logits_NV, stats.lse, ids_Mw.flatten()).view_as(ids_Mw),
        token_M,
        logprob(last_MV, last_rows(stats.lse, ids_Mw), token_M),
        logits_NV,
    )


def last_rows(rows_N: Tensor, groups_Mw: Tensor) -> Tensor:
    """The last row of each group, ``[M, ...]``, as a view."""
    return rows_N.view(*groups_Mw.shape, *rows_N.shape[1:])[:, -1]
