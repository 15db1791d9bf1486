"""The log-probabilities of chosen tokens at the end of many prompts, read from an engine's base model.

The engine must be idle. Prompts are read in ragged forwards of bounded size; what they all begin with is read once and
its pages are shared.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dodona.engine.cache import Feed
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.runner import Runner
from dodona.engine.threads import threads_set


def next_logprobs(
    engine: Engine, prompts: Sequence[Sequence[int]], ids: Sequence[int], *, tokens: int = 2048
) -> list[list[float]]:
    """ln p of each of ``ids`` as the token after each prompt: full vocabulary, temperature 1, float32.

    Args:
        engine: idle, of which the base reads.
        prompts: token ids, one or more each.
        ids: the tokens.
        tokens: that one forward reads at most.

    Returns:
        [prompts][ids] nats; NaN where the model's logits are.

    Raises:
        DodonaError: a prompt that does not fit into the context or the cache.
    """
    runner = engine.base
    pool = runner.cache.pool
    for prompt in prompts:
        if reason := no_room(engine, prompt):
            raise DodonaError(reason)
    found: list[list[float]] = []
    with torch.inference_mode(), threads_set(engine.loop.threads):
        at = 0
        while at < len(prompts):
            stop, pages = at, 0
            while stop < len(prompts) and (at == stop or pages + pool.pages_for(len(prompts[stop])) <= pool.free_pages):
                pages += pool.pages_for(len(prompts[stop])) + 1  # a shared last page is copied
                stop += 1
            found += _batch(runner, prompts[at:stop], ids, tokens)
            at = stop
    return found


def no_room(engine: Engine, prompt: Sequence[int]) -> str | None:
    """Why a prompt cannot be read; None: it can."""
    room = min(engine.context, engine.base.cache.pool.capacity)
    if not prompt:
        return "the prompt is empty"
    if len(prompt) <= room:
        return None
    return f"the prompt has {len(prompt)} tokens, and {room} fit (the context, or --kv-tokens)"


def _batch(runner: Runner, prompts: Sequence[Sequence[int]], ids: Sequence[int], tokens: int) -> list[list[float]]:
    pool = runner.cache.pool
    slots: list[int] = []
    try:
        shared = _common(prompts) if len(prompts) > 1 else 0
        if shared >= pool.page_size:
            head = pool.open()
            slots.append(head)
            _read(runner, [(head, list(prompts[0][:shared]))], tokens)
            own = [pool.fork(head, shared) for _ in prompts]
        else:
            shared = 0
            own = [pool.open() for _ in prompts]
        slots += own
        rest = [(slot, list(prompt[shared:])) for slot, prompt in zip(own, prompts, strict=True)]
        hidden = _read(runner, rest, tokens)
        chosen = torch.tensor(list(ids), device=runner.model.device)
        rows = []
        for place in range(0, len(own), 64):  # logits of 64 rows at once
            logits = runner.model.logits(torch.stack([hidden[slot] for slot in own[place : place + 64]])).float()
            rows.append(torch.log_softmax(logits, -1)[:, chosen])
        values: list[list[float]] = torch.cat(rows).cpu().tolist()
        return values
    finally:
        for slot in slots:
            pool.close(slot)


def _read(runner: Runner, feeds: Sequence[tuple[int, list[int]]], tokens: int) -> dict[int, torch.Tensor]:
    """Feed ids to their slots; the last hidden state of each."""
    last: dict[int, torch.Tensor] = {}
    waiting = [(slot, ids) for slot, ids in feeds if ids]
    while waiting:
        room, now, later = tokens, [], []
        for slot, ids in waiting:
            if room > 0:
                now.append(Feed(slot, ids[:room], 1))
                if len(ids) > room:
                    later.append((slot, ids[room:]))
                room -= min(room, len(ids))
            else:
                later.append((slot, ids))
        hidden = runner.forward(now)
        last |= {feed.slot: hidden[index].clone() for index, feed in enumerate(now)}
        waiting = later
    return last


def _common(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that all prompts begin with, of which each has at least one more."""
    first, last = min(map(list, prompts)), max(map(list, prompts))
    most = min(len(prompt) for prompt in prompts) - 1
    length = 0
    while length < most and first[length] == last[length]:
        length += 1
    return length
