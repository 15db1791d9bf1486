"""Step programs of one token a seat by the kernels: two launches beside the forward's, where torch would make hundreds.

What the kernels cannot do (longer feeds, moving averages, functions that round, a user's own trigger class, many
triggers at once) falls back to ``Step``, whose results are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence as Items

import torch
from torch import Tensor

from dodona.engine.sampling import Settings
from dodona.engine.scores import Choice
from dodona.engine.signals import rank
from dodona.engine.step import FEW_TRIGGERS, Shape, Step, Watch
from dodona.engine.trigger import ExpressionTrigger
from dodona.kernels.settle import Scored, Seated, feed, settle
from dodona.kernels.trigger import Code, code_of

_log = logging.getLogger(__name__)


class KernelStep(Step):
    """Like ``Step``; see there."""

    def run(self, shape: Shape, rows_M: Tensor, watched: Items[Watch]) -> Tensor:
        """Advance the seats ``rows_M``; returns their record."""
        code = self._code(watched)
        if shape.tokens > 1 or code is None or self.ema_places:
            return super().run(shape, rows_M, watched)
        seats, is_base = self.seats, self.is_base
        fed = feed(seats.numbers, seats.ids, rows_M, is_base=is_base)
        grid = self.runner.grid(fed.slot_M, fed.start_M, 1, shape.pages)
        hidden_ME = self.runner.model(fed.token_M, grid, None)
        choice = None
        if shape.drawn:
            temperature, top_p, min_p = seats.sampling[rows_M, 0 if is_base else 1].T.contiguous()
            top_k = seats.numbers[rows_M, self.top_k]
            settings = Settings(temperature, top_k, top_p, min_p, shape.ordered, shape.min_p)
            choice = Choice(settings, fed.keys_M2, fed.position_M)
        scores = self.runner.model.score(
            hidden_ME, fed.given_M.unsqueeze(1), choice, want_logits=bool(code) or not is_base
        )
        ranks = None
        if not is_base:
            assert scores.logits_NV is not None
            due = fed.start_M + 1 == fed.position_M + seats.numbers[rows_M, self.prompt]
            ranks = rank(scores.logits_NV, torch.where(due, scores.token_M, fed.given_M)).float()
        scored = Scored(
            *(scores.stats.lse, scores.stats.entropy, scores.stats.varentropy, scores.stats.top_prob),
            *(scores.stats.margin, scores.stats.top1, scores.token_M, scores.token_logprob_M),
            scores.given_Mw.squeeze(1),
            ranks,
        )
        seated = Seated(
            *(seats.numbers, seats.ids, seats.base, seats.oracle, seats.draws, seats.pending, seats.pending_lse),
            self.eos,
        )
        return settle(seated, rows_M, scored, scores.logits_NV, code, is_base=is_base)

    def _code(self, watched: Items[Watch]) -> Code | None:
        programs = [(watch.number, watch.trigger) for watch in watched]
        expressions = [(number, t.program) for number, t in programs if isinstance(t, ExpressionTrigger)]
        if len(expressions) < len(programs) or len(programs) > FEW_TRIGGERS:
            return None
        code = code_of(expressions)
        if code is None:
            _log.info("a trigger of %s is not for the kernel: the step runs by torch's operations", self.runner.name)
        return code
