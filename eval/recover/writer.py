"""Who writes the samples: a small protocol, and the engine behind it, with one model in memory at a time."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import torch

from dodona.engine.checkpoint import open_checkpoint
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.request import Request
from dodona.engine.result import Result
from dodona.engine.tokenizer import check_same_vocabulary
from dodona.eval.models import Models, Opened
from dodona.eval.recover.settings import ROLES, STRONG, WEAK

SIGNALS: Final = ("entropy", "varentropy", "margin", "logprob")  # that are kept of each token


class Ask(NamedTuple):
    """One sample to write. The prompt is token ids: what comes before it is read exactly as it was written."""

    row_id: str
    problem_id: str
    prompt: Sequence[int]
    key: str  # of the random draws, with ``sample``
    sample: int
    max_new_tokens: int


class Written(NamedTuple):
    """What came of it."""

    row_id: str
    ids: Sequence[int]  # an end token included
    text: str
    finish_reason: str  # eos, stop, length, cancelled or error
    error: str | None
    signals: Mapping[str, Sequence[float]]  # of SIGNALS, one value a token
    ledger: Mapping[str, float]


class Writer(Protocol):
    """One model that writes samples."""

    def write(self, asks: Iterable[Ask]) -> Iterator[Written]:
        """Write samples, in any order; each is a function of its own ask alone."""
        ...


class Writers(Protocol):
    """The two models of a study."""

    def writer(self, role: str) -> Writer:
        """The model of this role, strong or weak; loaded now if it has to be."""
        ...


class EngineWriter:
    """An engine with one model, which writes alone (c=0).

    Args:
        options: fields of Request that hold for every sample: seed, temperature, stop, ...
    """

    def __init__(self, engine: Engine, options: Mapping[str, Any]) -> None:
        self.engine, self.options = engine, dict(options)

    def write(self, asks: Iterable[Ask]) -> Iterator[Written]:
        """Write samples as seats come free; those of one prompt that run at once share its pages."""
        requests = (
            Request(
                prompt=list(ask.prompt),
                id=ask.row_id,
                key=ask.key,
                sample=ask.sample,
                c=0,
                **{**self.options, "max_new_tokens": ask.max_new_tokens},
            )
            for ask in asks
        )
        return (_written(result) for result in self.engine.generate(requests))


@dataclass(slots=True)
class Pair:
    """The two models by their names, of which one at a time is in memory.

    Args:
        strong, weak: as ``Engine`` names models.
        models: device, dtype and sizes.
        options: as ``EngineWriter``.
    """

    strong: str
    weak: str
    models: Models
    options: Mapping[str, Any]
    _loaded: str | None = None
    _engine: Engine | None = field(default=None, repr=False)

    def writer(self, role: str) -> EngineWriter:
        """The model of this role; the other one is let go of first."""
        name = {STRONG: self.strong, WEAK: self.weak}[role]
        if self._engine is None or self._loaded != name:
            self.close()
            self._engine = self._one(name).load()
            self._loaded = name
        return EngineWriter(self._engine, self.options)

    def close(self) -> None:
        """Let go of the model that is loaded."""
        if self._engine is not None:
            self._engine.close()
        self._engine = self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _one(self, name: str) -> Models:
        return Models(name, None, self.models.device, self.models.dtype, self.models.options)

    def open(self) -> Mapping[str, Opened]:
        """Both models without their weights, by role; the weak one's tokenizer encodes the prompts of both.

        Raises:
            DodonaError: a model that cannot be used, or two of different vocabularies.
        """
        opened = {role: self._one({STRONG: self.strong, WEAK: self.weak}[role]).open() for role in ROLES}
        names = opened[WEAK].base_model_id, opened[STRONG].base_model_id
        check_same_vocabulary(opened[WEAK].tokenizer, opened[STRONG].tokenizer, names)
        sizes = [open_checkpoint(name).config.vocab_size for name in (self.weak, self.strong)]
        if sizes[0] != sizes[1]:
            raise DodonaError(f"{names[0]} scores {sizes[0]} tokens and {names[1]} {sizes[1]}: ids must mean the same")
        return MappingProxyType(opened)


def _written(result: Result) -> Written:
    signals = {name: [round(float(value), 6) for value in result.signals[name]] for name in SIGNALS}
    assert result.request.id is not None
    ledger = result.ledger.as_dict()
    return Written(result.request.id, result.ids, result.text, result.finish_reason, result.error, signals, ledger)
