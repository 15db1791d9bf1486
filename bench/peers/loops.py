"""Guided decoding with transformers, as people write it: the naive loop and the careful one.

``naive`` has no cache: whoever is to write a token reads the whole text again. ``careful`` has a ``DynamicCache`` for
each model and feeds it what it lacks, ids in and ids out: the same forwards as ours, without an engine around them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dodona.bench.peers.load import Setup, load
from dodona.bench.peers.work import Outcome, Work, timed, write_guided


class Naive:
    """A model that reads the whole text for every token."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def next(self, ids: Sequence[int]) -> int:
        """The greedy token after these ids."""
        whole = torch.tensor([ids], device=self.model.device)
        return int(self.model(whole, use_cache=False, logits_to_keep=1).logits[0, -1].argmax())


class Cached:
    """A model with a cache of what it has read."""

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache

        self.model, self.cache, self.read = model, DynamicCache(config=model.config), 0

    def next(self, ids: Sequence[int]) -> int:
        """The greedy token after these ids, of which those not read yet are read."""
        new = torch.tensor([ids[self.read :]], device=self.model.device)
        self.read = len(ids)
        out = self.model(new, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return int(out.logits[0, -1].argmax())


class Loop:
    """Both models, with the loop that all peers share."""

    def __init__(self, setup: Setup, kind: type[Naive] | type[Cached]) -> None:
        self.kind = kind
        self.base, self.oracle = load(setup, "base"), load(setup, "oracle")
        self.ends = {*setup.base_ends, *setup.oracle_ends}

    def run(self, work: Work, watch: bool) -> Outcome:
        """Do the work."""
        with torch.inference_mode():
            return timed(
                work,
                lambda prompt, outcome: write_guided(
                    work, prompt, self.kind(self.base), self.kind(self.oracle), self.ends, outcome
                ),
            )


def naive(setup: Setup) -> Loop:
    """The loop without a cache."""
    return Loop(setup, Naive)


def careful(setup: Setup) -> Loop:
    """The loop with two caches."""
    return Loop(setup, Cached)
