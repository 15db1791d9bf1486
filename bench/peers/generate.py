"""transformers' ``generate``: one model alone, with a compiled static cache, and with the base as its assistant."""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch

from dodona.bench.peers.load import Setup, load
from dodona.bench.peers.work import Outcome, Unavailable, Work, timed


class Generate:
    """``model.generate``, greedy.

    Args:
        model: writes the text.
        ends: its end tokens.
        **options: further arguments of ``generate``.
    """

    def __init__(self, model: Any, ends: tuple[int, ...], **options: Any) -> None:
        self.model, self.ends, self.options = model, ends, options
        if not ends:  # an argument of None would leave the model's own in force
            model.generation_config.eos_token_id = None

    def run(self, work: Work, watch: bool) -> Outcome:
        """Do the work."""
        return timed(work, lambda prompt, outcome: self._write(list(prompt), work.tokens))

    def _write(self, prompt: list[int], tokens: int) -> list[int]:
        whole = torch.tensor([prompt], device=self.model.device)
        out = self.model.generate(
            whole,
            attention_mask=torch.ones_like(whole),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=list(self.ends) or None,
            pad_token_id=self.ends[0] if self.ends else 0,
            **self.options,
        )
        written: list[int] = out[0, len(prompt) :].tolist()
        return written


def alone(setup: Setup) -> Generate:
    """One model, as it comes."""
    which = setup.options["model"]
    return Generate(load(setup, which), _ends(setup, which))


def assisted(setup: Setup) -> Generate:
    """The oracle writes, the base drafts: speculative decoding, whose text is the oracle's."""
    return Generate(load(setup, "oracle"), setup.oracle_ends, assistant_model=load(setup, "base"))


def compiled(setup: Setup) -> Generate:
    """One model with a static cache and a compiled forward, as transformers' guide to ``torch.compile`` has it.

    Raises:
        Unavailable: there is no compiler.
    """
    if setup.device == "cpu" and not shutil.which(os.environ.get("CXX", "g++")) and not shutil.which("clang++"):
        raise Unavailable("torch.compile needs a C++ compiler, and none was found")
    which = setup.options["model"]
    model = load(setup, which)
    mode = "reduce-overhead" if setup.device != "cpu" else None
    model.forward = torch.compile(model.forward, mode=mode, fullgraph=True)
    # One size for every run: another would be compiled again.
    options = {"cache_implementation": "static", "max_cache_len": setup.length}
    return Generate(model, _ends(setup, which), **options)


def _ends(setup: Setup, which: str) -> tuple[int, ...]:
    ends: tuple[int, ...] = getattr(setup, f"{which}_ends")
    return ends
