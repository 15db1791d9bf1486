"""Prompts that both models have read before the clock starts, so that a long one is read once and not in every run.

The caches share the pages of equal prompts among live sequences. Here a prompt's pages are held from outside, and any
beginning of it is offered to the sequences of a run, as if another sequence had just read it: each reads the prompt's
last token alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dodona.bench.subject import SEED, prompt_ids
from dodona.bench.watch import Forward, watched
from dodona.engine.device_loop import DeviceLoop
from dodona.engine.engine import Engine
from dodona.engine.request import Request


class Prefixes:
    """Prompts in the caches of an engine that does nothing else meanwhile.

    Args:
        engine: with room in its caches for all of this beside the runs.
        lengths: tokens of each prompt.

    Raises:
        DodonaError: a prompt that cannot be read.
    """

    def __init__(self, engine: Engine, lengths: Sequence[int]) -> None:
        self.engine = engine
        vocab = engine.base.config.vocab_size
        self.prompts = [tuple(prompt_ids(length, vocab, number)) for number, length in enumerate(lengths)]
        self.reading: list[Forward] = []  # the forwards that read them
        self._slots = [self._read(prompt) for prompt in self.prompts]

    def _read(self, prompt: tuple[int, ...]) -> list[int]:
        """Read a prompt with every model; returns the slot that holds it, by lane."""
        scheduler = self.engine.scheduler
        options = {"c": 1, "k": 1, "trigger": "at(0)"} if self.engine.oracle is not None else {"c": 0}
        scheduler._alive[prompt] += 1  # somebody waits for it, so it is kept
        try:
            with watched(self.engine) as forwards:
                request = Request(prompt=prompt, max_new_tokens=1, seed=SEED, ignore_eos=True, **options)
                self.engine.generate(request)
            self.reading += forwards
            return [lane.prompts.pop(prompt) for lane in scheduler.lanes]
        finally:
            scheduler._alive[prompt] -= 1
            if not scheduler._alive[prompt]:
                del scheduler._alive[prompt]

    @contextmanager
    def offered(self, length: int, count: int = 1) -> Iterator[list[tuple[int, ...]]]:
        """The first tokens of ``count`` prompts, which sequences find in the caches here.

        On the device's loop all are the first: it lets go of others' prompts before the first sequence enters.
        """
        scheduler = self.engine.scheduler
        known = self.prompts[: 1 if isinstance(self.engine.loop, DeviceLoop) else count]
        prompts = [prompt[:length] for prompt in known]
        for prompt, slots in zip(prompts, self._slots, strict=False):
            for lane, slot in zip(scheduler.lanes, slots, strict=True):
                lane.prompts[prompt] = lane.pool.fork(slot, length)
        try:
            yield prompts if len(prompts) == count else prompts * count
        finally:
            for lane in scheduler.lanes:
                for prompt in prompts:
                    lane.forget(prompt)

    def close(self) -> None:
        """Give all pages back."""
        for slots in self._slots:
            for lane, slot in zip(self.engine.scheduler.lanes, slots, strict=True):
                lane.pool.close(slot)
        self._slots = []
