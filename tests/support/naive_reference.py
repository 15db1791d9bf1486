"""A naive guided decoder made of transformers and torch alone: the reference of invariant 4.

It keeps no cache. At every token it runs the model in charge over the whole prefix again, computes the base's signals
in float64 from the definitions, and asks a plain Python function whether to consult. None of dodona's code is imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass
class Naive:
    """What the naive decoder found out."""

    ids: list[int] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    signals: list[dict[str, float]] = field(default_factory=list)  # of the base, at every generated position


def distribution(model, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0, -1].double()


def signals_of(logits: torch.Tensor) -> dict[str, float]:
    logp = logits - torch.logsumexp(logits, -1)
    p = logp.exp()
    entropy = -(p * logp).sum()
    top = p.topk(2).values
    return {
        "entropy": float(entropy),
        "varentropy": float((p * (logp + entropy) ** 2).sum()),
        "top_prob": float(top[0]),
        "margin": float(top[0] - top[1]),
    }


def guided(
    base,
    oracle,
    prompt: list[int],
    *,
    c: float,
    k: float,
    fires: Callable[[dict[str, float]], bool],
    when: str = "before",
    max_new_tokens: int,
    eos: set[int],
) -> Naive:
    """Greedy guided decoding by the definitions, one whole forward a token."""
    out = Naive()
    text = list(prompt)

    def write(token: int, source: str) -> bool:
        text.append(token)
        out.ids.append(token)
        out.sources.append(source)
        return token in eos or len(out.ids) == max_new_tokens

    def burst() -> bool:
        out.starts.append(len(out.ids))
        written = 0
        while written < k:
            if written or when == "after":
                out.signals.append(signals_of(distribution(base, text)))
            written += 1
            if write(int(distribution(oracle, text).argmax()), "oracle"):
                return True
        return False

    done = False
    while not done:
        logits = distribution(base, text)
        signals = signals_of(logits)
        out.signals.append(signals)
        position = len(out.ids)
        counters = {
            "position": position,
            "consults": len(out.starts),
            "since_consult": position - out.starts[-1] if out.starts else math.inf,
        }
        consult = len(out.starts) < c and k > 0 and fires(signals | counters)
        if consult and when == "before":
            done = burst()
            continue
        done = write(int(logits.argmax()), "base")
        if consult and not done:
            done = burst()
    return out
