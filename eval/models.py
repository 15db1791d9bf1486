"""The two models of an experiment: as a user names them, opened without their weights, and loaded."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from dodona.engine.checkpoint import EMBEDDED, HUB_ALIASES, open_checkpoint
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.hub import cached
from dodona.engine.options import backend_of, device_of, dtype_of
from dodona.engine.tokenizer import Tokenizer

# Options of Engine beside the models, device and dtype: whole numbers of 1 or more, numbers, and texts.
SIZES: Final = ("max_batch", "max_length", "kv_tokens", "threads", "lookahead")
NUMBERS: Final = ("poll_seconds",)
WORDS: Final = ("backend", "ops", "loop", "attention", "oracle_device_map")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class Opened(NamedTuple):
    """What is known of the models before their weights are read. The first six are named as Engine's are."""

    base_model_id: str
    oracle_model_id: str | None
    identities: list[str]  # content hashes
    device: torch.device
    dtype: torch.dtype
    ops: str
    tokenizer: Tokenizer
    context: int  # tokens of a sequence at most


@dataclass(frozen=True, slots=True)
class Models:
    """Which models to load, where to, and the other options of Engine that the user gave.

    Raises:
        DodonaError: an oracle without a base, or a size below 1.
    """

    base: str | None = None
    oracle: str | None = None
    device: str | None = None
    dtype: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.oracle is not None and self.base is None:
            raise DodonaError("--oracle-model needs a --base-model beside it; with neither, the embedded pair is used")
        for name in SIZES:
            if self.options.get(name, 1) < 1:
                raise DodonaError(f"{name} must be a whole number of 1 or more, not {self.options[name]}")

    @classmethod
    def of(cls, args: argparse.Namespace) -> Models:
        """The models that the options of ``add_engine_options`` ask for."""
        return cls.from_options(vars(args), args.base_model, args.oracle_model)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], base: str | None = None, oracle: str | None = None) -> Models:
        """Models with options of Engine by their names; others are passed over."""
        chosen = {name: value for name, value in options.items() if name in (*SIZES, *NUMBERS, *WORDS)}
        return cls(base, oracle, options.get("device"), options.get("dtype"), chosen)

    @property
    def names(self) -> tuple[str, ...]:
        """Base and, where there is one, oracle."""
        if self.base is None:
            return tuple(EMBEDDED)
        return (self.base,) if self.oracle is None else (self.base, self.oracle)

    @property
    def guided(self) -> bool:
        """Whether there is an oracle."""
        return len(self.names) == 2

    @property
    def here(self) -> bool:
        """Whether nothing has to be downloaded to open them."""
        return all(_is_here(name) for name in self.names)

    @property
    def where(self) -> tuple[torch.device, torch.dtype]:
        """Device and dtype, as Engine will choose them.

        Raises:
            DodonaError: there is no such device or dtype.
        """
        device = device_of(self.device)
        return device, dtype_of(self.dtype, device)

    def on(self, device: str | None) -> Models:
        """The same on another device."""
        return replace(self, device=device)

    def open(self) -> Opened:
        """Find both models; of their weights only the headers are read.

        Raises:
            DodonaError: a model that cannot be used, or an unknown device or dtype.
        """
        device, dtype = self.where
        opened = [open_checkpoint(name) for name in self.names]
        return Opened(
            base_model_id=opened[0].name,
            oracle_model_id=opened[1].name if self.guided else None,
            identities=[checkpoint.identity for checkpoint in opened],
            device=device,
            dtype=dtype,
            ops=backend_of(self.options).ops,
            tokenizer=opened[0].tokenizer(),
            context=min(checkpoint.config.max_position_embeddings for checkpoint in opened),
        )

    def load(self) -> Engine:
        """The engine, with both models in memory.

        Raises:
            DodonaError: as Engine.
        """
        return Engine(self.base, oracle=self.oracle, device=self.device, dtype=self.dtype, **self.options)


def _is_here(name: str) -> bool:
    bare = name.partition("@drop=")[0]
    repository = HUB_ALIASES.get(bare.upper(), bare)
    on_the_hub = repository != bare or (_HUB_ID.fullmatch(bare) is not None and not Path(bare).exists())
    return not on_the_hub or cached(repository) is not None
