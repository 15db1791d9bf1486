"""One model with its KV cache: everything a model does here is ``forward``, a catch-up of its cache on some ids."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dodona.engine.attention_stats import Observed
from dodona.engine.cache import Feed, PagedBatch, PagedCache
from dodona.engine.config import LlamaConfig
from dodona.engine.flash import Flash, FlashGrid
from dodona.engine.llama import Attention, Llama
from dodona.engine.ops import Ops


class Runner:
    """A model, its cache, and the count of what it ran.

    Args:
        context: the most tokens that a sequence will have; None: what the model and the cache hold.
    """

    def __init__(
        self,
        name: str,
        model: Llama,
        ops: Ops,
        *,
        pages: int,
        page_size: int,
        context: int | None = None,
        flash: Flash | None = None,
    ) -> None:
        capacity = pages * page_size
        self.name, self.ops = name, ops
        self.model = model.prepare(ops, capacity if context is None else min(context, capacity))
        self.cache = PagedCache(
            model.config,
            pages=pages,
            page_size=page_size,
            dtype=model.dtype,
            device=model.device,
            layers=model.placement.layers,
        )
        self.flops_of_weights = self.config.flops_per_token(0)  # of one token, beside attention
        self.flops_of_a_key = self.config.flops_per_token(1) - self.flops_of_weights  # of one token, for each it sees
        self._flash = flash
        self.attention: dict[int, Tensor | None] = {}  # [4] signals by wanted row of the last forward, where asked for
        self.forwards = 0
        self.tokens = 0

    @property
    def config(self) -> LlamaConfig:
        """The model's shape."""
        return self.model.config

    def forward(self, feeds: Sequence[Feed], layers: Sequence[int | None] = ()) -> Tensor:
        """Feed new ids to their slots in one ragged forward.

        Args:
            layers: for each wanted row, the layer whose attention signals to leave in ``attention``; none named: none.

        Returns:
            What ``Llama.forward`` returns, ``[N, E]``, of each feed's last ``wanted`` ids, in the order of the feeds.
        """
        self.cache.begin(feeds)
        batch = self.ops.batch(self.cache, feeds)
        self.forwards += 1
        self.tokens += batch.tokens
        self.attention = {}
        places = [place for place, layer in enumerate(layers) if layer is not None]
        if places:
            batch.observed = self._observed(batch, feeds, places, layers)
        hidden: Tensor = self.model(batch.ids_T, batch, batch.wanted_N)
        if batch.observed is not None:
            self.attention = dict(zip(places, batch.observed.values_R4, strict=True))
        return hidden

    def _observed(
        self, batch: PagedBatch, feeds: Sequence[Feed], places: Sequence[int], layers: Sequence[int | None]
    ) -> Observed:
        slots = [feed.slot for feed in feeds for _ in range(feed.wanted)]
        ends = [self.cache.pool.length(feed.slot) for feed in feeds]
        positions = [place for feed, end in zip(feeds, ends, strict=True) for place in range(end - feed.wanted, end)]
        count = self.config.num_layers
        return Observed(
            [(layers[place] or 0) % count for place in places],
            [batch.wanted[place] for place in places],
            [slots[place] for place in places],
            [positions[place] for place in places],
        )

    def grid(self, slots_M: Tensor, starts_M: Tensor, queries: int, pages: int) -> Attention:
        """The attention of a forward of fixed shape: ``queries`` tokens for each slot, from position ``starts`` on."""
        if self._flash is not None:
            return FlashGrid(self._flash, self.cache, slots_M, starts_M, queries)
        return self.ops.grid(self.cache, slots_M, starts_M, queries, pages)

    def catch_up(self, slot: int, ids: Sequence[int]) -> Tensor:
        """Feed a slot what it lacks of ``ids``; returns the next token's logits ``[V]``.

        Raises:
            ValueError: nothing is lacking, so there is no row to give logits for.
        """
        have = self.cache.pool.length(slot)
        if have >= len(ids):
            raise ValueError(f"the {self.name}'s cache holds {have} tokens and is given {len(ids)}: nothing to read")
        logits: Tensor = self.model.logits(self.forward([Feed(slot, list(ids[have:]), 1)]))[0]
        return logits
