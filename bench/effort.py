"""How much is measured: lengths and repetitions, for a real run and for a quick one."""

from __future__ import annotations

from typing import NamedTuple


class Effort(NamedTuple):
    """Lengths are in tokens; what a model's context cannot hold is left out (``within``)."""

    prompt: int  # of every text where nothing else is said
    tokens: int  # written in a timed run
    repeats: int  # timed runs of each, after one to warm up
    prompts: tuple[int, ...]  # for the time to first token
    lags: tuple[int, ...]  # that a sync reads
    guided: tuple[tuple[int, int], ...]  # consult after every n base tokens, for k tokens
    batches: tuple[int, ...]
    budgets: tuple[float, ...]  # c
    bursts: tuple[int, ...]  # k
    rates: tuple[float, ...]  # consults a base token
    temperature: float = 0.0  # of both models

    def within(self, context: int) -> Effort:
        """The same for models of this context."""
        room = context - 8
        tokens = min(self.tokens, room - self.prompt)
        return self._replace(
            tokens=tokens,
            prompts=tuple(length for length in self.prompts if length <= room),
            lags=tuple(lag for lag in self.lags if lag <= room),
            guided=tuple((every, k) for every, k in self.guided if 2 * (every + k) <= tokens),
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.prompt + self.tokens, *self.prompts, *self.lags, 0) + 8


FULL = Effort(
    prompt=32,
    tokens=256,
    repeats=3,
    prompts=(16, 128, 1024),
    lags=(1, 2, 8, 32, 64, 128, 180, 256, 512, 1024),
    guided=((8, 1), (8, 8), (32, 1), (32, 8), (32, 32), (96, 8)),
    batches=(1, 4, 16, 64),
    budgets=(1, 4, 16),
    bursts=(1, 8, 32),
    rates=(1 / 8, 1 / 32, 1 / 128),
)

QUICK = Effort(
    prompt=16,
    tokens=16,
    repeats=2,
    prompts=(16, 64),
    lags=(1, 16, 64),
    guided=((4, 4),),
    batches=(1, 4),
    budgets=(1,),
    bursts=(8,),
    rates=(1 / 4,),
)
