"""What is measured: two models, where they run and how, and texts of known lengths for them.

A text that may end by itself has no length to compare, so requests write on over end tokens. Prompts are token ids,
drawn with a seed and others for each sequence, so that nothing is shared that a user's prompts would not share.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dodona.engine.checkpoint import open_checkpoint
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.request import Request

SEED = 0
NEVER = "entropy > 1000000"  # a trigger that is asked at every token and does not fire
_ROUND = 256  # lengths are planned for in whole pages of the largest page size


@dataclass(frozen=True, slots=True)
class Subject:
    """Models and options of Engine, as a user names them.

    Raises:
        DodonaError: an oracle without a base.
    """

    base: str | None = None  # None: the embedded pair
    oracle: str | None = None
    device: str | None = None
    dtype: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # backend, ops, loop, lookahead, threads, ...

    def __post_init__(self) -> None:
        if self.oracle is not None and self.base is None:
            raise DodonaError("--oracle-model needs a --base-model beside it; with neither, the embedded pair is used")

    @property
    def names(self) -> tuple[str, ...]:
        """Base and, where there is one, oracle."""
        if self.base is None:
            return "arith-base", "arith-oracle"
        return (self.base,) if self.oracle is None else (self.base, self.oracle)

    @property
    def context(self) -> int:
        """Tokens of a sequence at most; the weights are not read for it.

        Raises:
            DodonaError: a model that cannot be used.
        """
        return min(open_checkpoint(name).config.max_position_embeddings for name in self.names)

    @property
    def parameters(self) -> int:
        """Parameters of the larger model.

        Raises:
            DodonaError: a model that cannot be used.
        """
        return max(open_checkpoint(name).config.num_parameters for name in self.names)

    def engine(self, *, max_batch: int, max_length: int) -> Engine:
        """An engine for so many sequences of so many tokens."""
        names = self.names
        return Engine(
            names[0],
            oracle=names[1] if len(names) > 1 else None,
            device=self.device,
            dtype=self.dtype,
            max_batch=max_batch,
            max_length=-(-max_length // _ROUND) * _ROUND,
            **self.options,
        )


def described(engine: Engine) -> dict[str, Any]:
    """An engine's models and settings, for a result file."""
    return {
        "base": engine.base_model_id,
        "oracle": engine.oracle_model_id,
        "device": str(engine.device),
        "dtype": str(engine.dtype).removeprefix("torch."),
        **engine.backend._asdict(),
        "lookahead": getattr(engine.loop, "lookahead", None),
        "threads": engine.loop.threads,
        "max_batch": engine.scheduler.max_batch,
    }


def prompt_ids(length: int, vocab: int, number: int = 0) -> list[int]:
    """Token ids of a prompt; each number has its own."""
    draws = random.Random(f"{SEED} {number} {length}")
    return draws.choices(range(vocab), k=length)


def requests(engine: Engine, count: int, prompt: int, **options: Any) -> list[Request]:
    """Requests with different prompts of one length; ``options`` are fields of Request."""
    vocab = engine.base.config.vocab_size
    options = {"seed": SEED, "ignore_eos": True, **options} | ({"c": 0} if engine.oracle is None else {})
    return [Request(prompt=prompt_ids(prompt, vocab, number), **options) for number in range(count)]
