"""Tiny things to measure: a pair of models, and an effort that takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_models import save_tiny

from dodona.bench.effort import Effort
from dodona.bench.subject import Subject

LOOPS = ("host", "device")
TINY = Effort(
    prompt=6,
    tokens=12,
    repeats=1,
    prompts=(4,),
    lags=(1, 5),
    guided=((2, 3),),
    batches=(1, 2),
    budgets=(1,),
    bursts=(2,),
    rates=(0.5,),
)


def tiny_pair(folder: Path) -> tuple[str, str]:
    """Folders of a base and an oracle."""
    base = save_tiny(folder / "base", "gqa-tied", seed=3, layers=1)
    return str(base), str(save_tiny(folder / "oracle", "biases", seed=4, layers=1))


def tiny_subject(pair: tuple[str, str], loop: str, **options: Any) -> Subject:
    """The pair on the CPU."""
    return Subject(pair[0], pair[1], "cpu", "float32", {"loop": loop, "threads": 1, **options})
