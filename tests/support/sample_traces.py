"""Traces that are made up: sequences with given columns, as tables, files and recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dodona.engine.recording import Recording, read_recording
from dodona.engine.trace_schema import COLUMNS, SCHEMA
from dodona.engine.trace_writer import TableWriter

MODELS = {"base_model_id": "tiny", "oracle_model_id": "large", "config_hash": "0" * 16}


def table(sequence: int, length: int, **columns: Any) -> pa.Table:
    """One sequence; a column that is not given has a plain default, and a single value holds for all of its tokens."""
    defaults = {
        "sequence": sequence,
        "problem_id": f"p{sequence}",
        "arm": "c=0 seed=0",
        "seed": 0,
        "sample": 0,
        "position": np.arange(length),
        "token_id": np.arange(length) + 1000 * sequence,
        "token": "x",
        "source": "base",
        "u": (np.arange(length) % 10 / 10).astype(np.float32),
        "c": 0.0,
        "k": 0.0,
        "trigger": "never",
        "when": "before",
        "step_size": 10,
        "max_new_tokens": 1000,
        "prompt_tokens": 7,
        "finish_reason": "eos",
    }
    arrays = {}
    for name, kind in COLUMNS:
        value = columns.get(name, defaults.get(name))
        if value is None or isinstance(value, str | int | float):
            array = pa.array([value] * length, pa.string() if pa.types.is_dictionary(kind) else None)
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
            array = pa.array(value, mask=np.isnan(value))
        else:
            array = pa.array(value)
        if pa.types.is_boolean(kind) and pa.types.is_floating(array.type):
            array = array.cast(pa.int8())
        arrays[name] = array.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else array.cast(kind)
    return pa.table(arrays, schema=SCHEMA)


def write(path: Path, tables: Sequence[pa.Table], metadata: Mapping[str, str] = MODELS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = TableWriter(path, metadata)
    for one in tables:
        writer.write(one)
    writer.close()
    return path


def recording(path: Path, tables: Sequence[pa.Table], metadata: Mapping[str, str] = MODELS) -> Recording:
    return read_recording([write(path, tables, metadata)])


def noise(rng: np.random.Generator, problems: int, length: int, **columns: Any) -> list[pa.Table]:
    """Base texts with signals and disagreements that have nothing to do with each other; both vary by problem."""
    tables = []
    for number in range(problems):
        scale = rng.exponential()
        values = {
            "entropy": (rng.exponential(size=length) * (0.5 + scale)).astype(np.float32),
            "varentropy": rng.exponential(size=length).astype(np.float32),
            "top_prob": rng.random(length).astype(np.float32),
            "margin": rng.random(length).astype(np.float32),
            "oracle_margin": rng.random(length).astype(np.float32),
            "oracle_logprob": -rng.exponential(size=length).astype(np.float32),
            "u": rng.random(length).astype(np.float32),
            "agree": rng.random(length) > rng.beta(2, 8),
        }
        tables.append(table(number, length, **{**values, **columns}))
    return tables
