"""Columns for triggers, and decisions on them that NumPy and torch must agree on."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from dodona.engine.errors import TriggerError
from dodona.engine.trigger_parser import parse_trigger

F = np.float32
NUMBERS = ("entropy", "margin", "since_consult", "u")
SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 1e-45, 1e-38, 3e38, 0.1, 16777216.0]
BATCH: dict[str, Any] = {
    "position": np.array([0, 3, 17, 99]),
    "max_new_tokens": np.array([100] * 4),
    "boundary": np.array([True, True, False, True]),
    "u": np.array([0.25, 0.35, 0.0, 0.98], F),
    "base_run": np.array([0, 3, 32, 64]),
    "consults": np.array([0, 0, 1, 2]),
    "c": np.array([2.0] * 4),
    "entropy": np.array([1.0, 2.0, 2.5, 3.0], F),
    "varentropy": np.array([9.0, 9.0, 1.0, 2.0], F),
}


def random_columns(seed: int, rows: int = 32) -> dict[str, np.ndarray[Any, Any]]:
    """Columns with the values that break arithmetic among ordinary ones."""
    rng = np.random.default_rng(seed)
    columns: dict[str, np.ndarray[Any, Any]] = {}
    for name in NUMBERS:
        ordinary = rng.normal(size=rows) * 10.0 ** rng.integers(-3, 4, rows)
        columns[name] = np.where(rng.random(rows) < 0.4, rng.choice(SPECIAL, rows), ordinary).astype(F)
    columns["boundary"] = rng.random(rows) < 0.5
    columns["position"] = np.arange(rows)
    return columns


def decide(text: str, columns: Mapping[str, Any], **options: Any) -> list[bool]:
    """Decisions on NumPy columns, after a check that torch gives the same."""
    trigger = parse_trigger(text, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numpy = trigger.decide({name: np.asarray(values) for name, values in columns.items()})
    tensors = trigger.decide({name: torch.as_tensor(np.asarray(values)) for name, values in columns.items()})
    assert numpy.dtype == np.bool_ and tensors.dtype == torch.bool
    assert numpy.tolist() == tensors.tolist()
    return list(numpy.tolist())


def refused(text: Any, **options: Any) -> str:
    with pytest.raises(TriggerError) as caught:
        parse_trigger(text, **options)
    return str(caught.value)
