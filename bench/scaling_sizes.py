"""What ``dodona bench scaling`` measures: prompt lengths, batches, budgets and bursts, by how large the models are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from dodona.engine.errors import DodonaError

SMALL_MODEL = 10_000_000  # parameters
ROOM = 8  # tokens of the context that stay free
EVERY = 8  # base tokens between consults, and tokens of one, where something else is what changes
PREFIX, BATCH, BUDGET, LENGTH, BURST = "prefix", "batch", "c", "c and tokens", "k"
ALONE, GUIDED = "base alone", "guided"


class Run(NamedTuple):
    """Texts that keep in step."""

    sweep: str  # what changes beside its neighbours; empty: it calibrates
    what: str  # base alone, guided
    prompt: int
    batch: int
    c: float
    k: float
    every: int  # base tokens between consults
    tokens: int

    @property
    def trigger(self) -> str:
        """As a request takes it."""
        return f"every({self.every})" if self.c else "never"

    @property
    def x(self) -> float:
        """Where it is on its sweep."""
        if self.sweep == PREFIX:
            return self.prompt + self.tokens / 2  # the context, on average
        return float({BATCH: self.batch, BURST: self.k}.get(self.sweep, self.c))

    def options(self) -> dict[str, Any]:
        """Fields of Request."""
        return {"c": self.c, "k": self.k, "trigger": self.trigger, "max_new_tokens": self.tokens}


class Sizes(NamedTuple):
    """Lengths are in tokens."""

    tokens: int  # of a text where c and k change
    short: int  # of a text where the prompt or the batch changes
    prompt: int  # where its length does not change
    prefixes: tuple[int, ...]
    known: tuple[int, ...]  # prompts of the calibration; the first and the last are the ends of the prefixes
    batches: tuple[int, ...]
    budgets: tuple[int, ...]  # c; k follows from the share
    bursts: tuple[int, ...]  # k
    share: float  # of the tokens that the oracle writes while c changes
    turns: int
    consults: tuple[tuple[int, int], ...]  # base tokens and k, of runs that calibrate
    calibrated: int  # tokens of most of those

    def chosen(self, **fields: Any) -> Sizes:
        """The same with what a user chose; the calibration's prompts follow from the prefixes."""
        found = self._replace(**fields)
        if "prefixes" in fields:
            ends = min(found.prefixes), max(found.prefixes)
            found = found._replace(known=tuple(sorted({ends[0], round(math.sqrt(ends[0] * ends[1])), ends[1]})))
        return found

    def within(self, context: int, *, guided: bool) -> Sizes:
        """The same for models of this context; the longest prompt is as long as it allows.

        Raises:
            DodonaError: a grid that leaves no room to write or to consult.
        """
        tokens = min(self.tokens, context - self.prompt - ROOM)
        room = context - max(self.short, self.calibrated) - ROOM
        if room < self.prompt or tokens < self.short:
            raise DodonaError(f"a context of {context} tokens is too short to measure anything over")
        if guided:
            oracle = int(self.share * tokens)
            if (most := max(self.budgets)) > min(oracle, tokens - oracle - 1):
                raise DodonaError(f"--c {most} is too much for texts of {tokens} tokens: raise --tokens")
            if (c := middle(self.budgets)) * (most := max(self.bursts, default=1)) + c + 1 > tokens:
                raise DodonaError(f"--k {most} is too much for {c} consults in {tokens} tokens: raise --tokens")
        prefixes = tuple(dict.fromkeys(min(length, room) for length in self.prefixes))
        known = tuple(dict.fromkeys(min(length, room) for length in self.known))
        return self._replace(prefixes=prefixes, known=known, tokens=tokens)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(*self.prefixes, *self.known, self.prompt)


# A step of a small model takes a millisecond, so that more and longer texts cost nothing.
SMALL = Sizes(
    tokens=384, short=64, prompt=16, prefixes=(16, 64, 128, 256, 432), known=(16, 200, 432), batches=(1, 2, 4, 8, 16),
    budgets=(1, 2, 4, 8, 16), bursts=(1, 2, 4, 8, 16), share=0.25, turns=7, consults=((2, 2), (5, 5), (12, 12)),
    calibrated=52,
)  # fmt: skip
LARGE = SMALL._replace(
    tokens=96, short=32, prefixes=(16, 1024, 4096, 8192), known=(16, 2048, 8192), batches=(1, 4, 8),
    budgets=(1, 2, 4, 8), bursts=(2, 4, 8), turns=3,
)  # fmt: skip
QUICK_SMALL = SMALL._replace(
    tokens=96, short=32, prefixes=(16, 128, 448), known=(16, 448), batches=(1, 4), budgets=(1, 4), bursts=(2, 8),
    turns=4,
)  # fmt: skip
QUICK_LARGE = LARGE._replace(
    tokens=24, short=20, prefixes=(16, 384), known=(16, 384), batches=(1,), budgets=(1, 2), bursts=(), turns=2,
    consults=((6, 7),), calibrated=28,
)  # fmt: skip


def middle(values: tuple[int, ...]) -> int:
    """The one in the middle."""
    return values[len(values) // 2]


def sizes_for(parameters: int, *, quick: bool) -> Sizes:
    """By the parameters of the larger model."""
    if parameters < SMALL_MODEL:
        return QUICK_SMALL if quick else SMALL
    return QUICK_LARGE if quick else LARGE


def cells(sizes: Sizes, *, guided: bool) -> list[Run]:
    """The runs that are predicted."""
    found: list[Run] = []
    for prompt in sizes.prefixes:
        found.append(Run(PREFIX, ALONE, prompt, 1, 0, 0, 0, sizes.short))
        if guided:
            found.append(Run(PREFIX, GUIDED, prompt, 1, math.inf, EVERY, EVERY, sizes.short))
    for batch in sizes.batches if len(sizes.batches) > 1 else ():
        found.append(Run(BATCH, ALONE, sizes.prompt, batch, 0, 0, 0, sizes.short))
        if guided:
            found.append(Run(BATCH, GUIDED, sizes.prompt, batch, math.inf, EVERY, EVERY, sizes.short))
    if guided:
        oracle = int(sizes.share * sizes.tokens)
        for c in sizes.budgets:
            k = oracle // c
            found.append(Run(BUDGET, GUIDED, sizes.prompt, 1, c, k, (sizes.tokens - oracle) // (c + 1), sizes.tokens))
        for c in sizes.budgets:
            tokens = 2 * EVERY * c
            if tokens <= sizes.tokens:
                found.append(Run(LENGTH, GUIDED, sizes.prompt, 1, c, EVERY, EVERY, tokens))
        c = middle(sizes.budgets)
        for k in sizes.bursts:
            every = (sizes.tokens - c * max(sizes.bursts)) // (c + 1)
            found.append(Run(BURST, GUIDED, sizes.prompt, 1, c, k, max(1, every), sizes.tokens))
    return found


def calibration(sizes: Sizes, *, guided: bool) -> list[Run]:
    """Other runs, from which the costs come: other texts, other bursts, and between the ends other prompts."""

    def run(prompt: int, batch: int, consult: tuple[int, int], tokens: int) -> Run:
        every, k = consult
        budget = math.inf if k else 0
        return Run("", GUIDED if k else ALONE, prompt, batch, budget, k, every, tokens)

    found = [run(prompt, 1, (0, 0), sizes.short) for prompt in sizes.known]
    found += [run(sizes.prompt, batch, (0, 0), sizes.short) for batch in sizes.batches if batch > 1]
    if guided:
        long = (int(0.4 * sizes.tokens), int(0.25 * sizes.tokens))
        found += [run(sizes.prompt, 1, consult, sizes.calibrated) for consult in sizes.consults]
        found.append(run(sizes.prompt, 1, long, sizes.tokens))
        some = sizes.consults[1:] or sizes.consults
        found += [run(prompt, 1, consult, sizes.calibrated) for prompt in sizes.known[1:] for consult in some]
        found += [
            run(sizes.prompt, batch, consult, sizes.calibrated)
            for batch in sizes.batches
            if batch > 1
            for consult in some
        ]
    return list(dict.fromkeys(found))


def texts(sizes: Sizes) -> Iterator[int]:
    """Lengths of the prompts that must be in the caches: one for each sequence of the largest batch."""
    yield sizes.longest
    for _ in range(max(sizes.batches) - 1):
        yield sizes.prompt
