"""What a peer's process is told before it starts, and the models in transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One peer's process."""

    peer: str
    base: str | None  # folder in Hugging Face format; None where this peer needs no base
    oracle: str | None
    base_ends: tuple[int, ...]  # end tokens; empty where texts are to go on after them
    oracle_ends: tuple[int, ...]
    dtype: str
    device: str
    threads: int
    length: int  # tokens of the longest text, its prompt included
    options: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As one process tells another."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Setup:
        """The reverse of ``as_json``."""
        ends = {name: tuple(fields[name]) for name in ("base_ends", "oracle_ends")}
        return cls(**{**fields, **ends})


def load(setup: Setup, which: str) -> Any:
    """The base or the oracle as a transformers model, on its device."""
    import torch
    from transformers import LlamaForCausalLM

    folder = getattr(setup, which)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, setup.dtype), local_files_only=True)
    return model.to(setup.device).eval()
