"""Run folders for the viewer's tests: records and traces of texts that are given, with signals that are drawn."""

from __future__ import annotations

import base64
import gzip
import json
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dodona.engine.records import encode_record
from dodona.engine.tokenizer import Tokenizer
from dodona.engine.trace import COLUMNS, SCHEMA
from dodona.eval.arms import Arm
from dodona.eval.viewer.view import View
from dodona.eval.viewer.vocabulary import open_tokenizer

ALONE = Arm(0, 0, "never", "before", 0)
GUIDED = Arm(5, 5, "entropy > 0.5", "before", 0)
CONFIG = {"dataset": "made-up", "base_model_id": "arith-base", "oracle_model_id": "arith-oracle"}
NULLABLE = ("oracle_logprob", "oracle_rank", "oracle_top1", "oracle_entropy", "oracle_margin", "agree")

Stretch = tuple[str, str]  # author and text; every oracle stretch is one consult


def tokenizer() -> Tokenizer:
    """The embedded pair's."""
    return open_tokenizer("arith-base")


@dataclass
class MadeRun:
    """One run: its record, and its trace's columns."""

    arm: Arm
    record: dict[str, Any]
    columns: dict[str, Any] = field(default_factory=dict)


def make_run(
    tokens: Tokenizer,
    arm: Arm,
    problem: str,
    stretches: Sequence[Stretch],
    *,
    seed: int = 0,
    ends: bool = True,
    **fields: Any,
) -> MadeRun:
    """A run with this text; ``fields`` go into its record."""
    ids = [tokens.encode(text, raw=True) for _, text in stretches]
    if ends:
        ids[-1].append(tokens.eos_ids[0])
    starts, segments, at = [], [], 0
    for (source, text), piece in zip(stretches, ids, strict=True):
        if source == "oracle":
            starts.append(at)
        segments.append({"source": source, "text": text, "token_ids": piece})
        at += len(piece)
    text = "".join(text for _, text in stretches)
    record = {
        **{"c": "inf" if arm.c == float("inf") else arm.c, "k": "inf" if arm.k == float("inf") else arm.k},
        **{"trigger": arm.trigger, "when": arm.when, "seed": arm.seed, "sample": 0, "arm": arm.name},
        **{"base_model_id": "arith-base", "oracle_model_id": "arith-oracle", "prompt": f"Prompt of {problem}"},
        **{"result": text, "interleaved_outputs": segments, "cheat_positions": starts, "total_tokens_generated": at},
        **{"problem_id": problem, "level": 1, "subject": None, "ground_truth": "42", "parsed_answer": "42"},
        **{"correct": True, "finish_reason": "eos", "error": None, "ledger": {}},
        **fields,
    }
    return MadeRun(arm, record, _columns(arm, record, tokens.vocab_size, seed))


def _columns(arm: Arm, record: dict[str, Any], vocab_size: int, seed: int) -> dict[str, Any]:
    segments = record["interleaved_outputs"]
    ids = [i for segment in segments for i in segment["token_ids"]]
    n = len(ids)
    rng = np.random.default_rng(seed)
    sources = [segment["source"] for segment in segments for _ in segment["token_ids"]]
    consult, last = [], -1
    for position, source in enumerate(sources):
        last += position in record["cheat_positions"]
        consult.append(last if source == "oracle" else None)
    p = rng.beta(8, 1, n)
    choice = rng.integers(6, vocab_size, n)
    values: dict[str, Any] = {
        **{"sequence": [0] * n, "problem_id": [record["problem_id"]] * n, "seed": [arm.seed] * n},
        **{"sample": [record["sample"]] * n, "position": range(n), "token_id": ids, "source": sources},
        **{"consult": consult, "entropy": rng.exponential(0.4, n), "varentropy": rng.exponential(0.8, n)},
        **{"top_prob": p, "margin": p * 0.9, "logprob": np.log(p), "base_top1": choice},
        **{"oracle_logprob": -rng.exponential(0.3, n), "oracle_rank": 1 + rng.geometric(0.5, n) - 1},
        **{"oracle_top1": choice, "oracle_entropy": rng.exponential(0.1, n), "oracle_margin": p * 0.8},
        **{"agree": rng.random(n) < 0.9, "u": rng.random(n), "c": [float(arm.c)] * n, "k": [float(arm.k)] * n},
        **{"trigger": [arm.trigger] * n, "when": [arm.when] * n, "step_size": [10] * n, "max_new_tokens": [256] * n},
        **{"max_oracle_tokens": [None] * n, "finish_reason": [record["finish_reason"]] * n},
    }
    unseen = rng.random(n) < 0.2
    for name in NULLABLE:  # the oracle has not looked everywhere
        values[name] = pa.array(np.asarray(values[name]), mask=unseen)
    return values


def header(runs: Iterable[MadeRun], config: dict[str, Any] = CONFIG) -> dict[str, Any]:
    """The header of a file with these runs."""
    arms = {run.arm.name: run.arm for run in runs}
    problems = {run.record["problem_id"]: run.record for run in runs}
    entries = [{"problem_id": key, "level": r["level"], "subject": r["subject"]} for key, r in problems.items()]
    listed = [arm.as_dict() for arm in arms.values()]
    return {"header": {"schema": 2, "dodona": "0", "config": config, "arms": listed, "problems": entries}}


def write_records(path: Path, runs: Sequence[MadeRun], config: dict[str, Any] | None = CONFIG) -> Path:
    """A file of records; without a configuration it has no header."""
    lines = [] if config is None else [header(runs, config)]
    path.write_bytes(b"".join(encode_record(line) for line in [*lines, *(run.record for run in runs)]))
    return path


def write_trace(path: Path, runs: Sequence[MadeRun], metadata: dict[str, str] | None = None) -> Path:
    """A trace of these runs, a row group each."""
    schema = SCHEMA.with_metadata({**(SCHEMA.metadata or {}), **(metadata or {})})
    with pq.ParquetWriter(path, schema) as writer:
        for sequence, run in enumerate(runs):
            if not len(run.columns["position"]):
                continue
            columns = {**run.columns, "sequence": [sequence] * len(run.columns["position"])}
            arrays = [_array(columns.get(name, [None] * len(columns["position"])), kind) for name, kind in COLUMNS]
            writer.write_table(pa.table(dict(zip(schema.names, arrays, strict=True)), schema=schema))
    return path


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    array = values if isinstance(values, pa.Array) else pa.array(list(values))
    return array.cast(pa.string()).cast(kind) if pa.types.is_dictionary(kind) else array.cast(kind)


def write_folder(folder: Path, runs: Sequence[MadeRun], *, traced: bool = True) -> Path:
    """One file of records and one trace an arm, as `dodona eval` lays them out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(run.arm.name for run in runs):
        mine = [run for run in runs if run.arm.name == name]
        path = write_records(folder / f"{mine[0].arm.slug}.jsonl", mine)
        if traced:
            write_trace(path.with_suffix(".trace.parquet"), mine)
    return folder


@dataclass
class PageData:
    """What a page holds, read back as the page's own program does."""

    tree: dict[str, Any]
    columns: dict[str, np.ndarray[Any, Any]]

    def run(self, problem: str, arm: int = 0) -> dict[str, Any]:
        """The entry of a run."""
        keys = [entry["key"] for entry in self.tree["problems"]]
        found = [run for run in self.tree["runs"] if keys[run["problem"]] == problem and run["arm"] == arm]
        assert len(found) == 1
        return found[0]

    def values(self, name: str, run: dict[str, Any]) -> np.ndarray[Any, Any]:
        """A signal of a run; NaN where there is no value."""
        signal = next(signal for signal in self.tree["signals"] if signal["name"] == name)
        scaled = self.columns[name][run["signal"] : run["signal"] + run["count"]].astype(np.float64)
        return np.where(scaled == -(2**31), np.nan, scaled / 10.0 ** signal["decimals"])

    def texts(self, run: dict[str, Any]) -> list[str | None]:
        """What stands at each token of a run."""
        vocabulary = self.tree["vocabulary"]["texts"]
        shown = [vocabulary[i] for i in self.columns["token"][run["token"] : run["token"] + run["count"]]]
        for position, text in run.get("exceptions", []):
            shown[position] = text
        return shown


def read_page(page: bytes) -> PageData:
    """The data in a page."""
    tag = re.search(rb'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert tag is not None
    body = gzip.decompress(base64.b64decode(json.loads(tag[1])["data"]))
    (length,) = struct.unpack("<I", body[:4])
    tree = json.loads(body[4 : 4 + length])
    columns = {}
    for place in tree["columns"]:
        start, n = 4 + length + place["at"], place["n"]
        planes = np.frombuffer(body[start : start + 4 * n], dtype=np.uint8).reshape(4, n)
        columns[place["name"]] = np.ascontiguousarray(planes.T).view("<i4").ravel()
    return PageData(tree, columns)


def two_arms(tokens: Tokenizer) -> list[MadeRun]:
    """Two problems, each by the base alone and guided."""
    return [
        make_run(tokens, ALONE, "p0", [("base", "So 2 + 3 = 6.\n")], seed=1, correct=False, parsed_answer="6"),
        make_run(tokens, ALONE, "p1", [("base", "So 1 + 1 = 2.\n")], seed=2),
        make_run(tokens, GUIDED, "p0", [("base", "So 2 + 3 ="), ("oracle", " 5."), ("base", "\n")], seed=3),
        make_run(tokens, GUIDED, "p1", [("base", "So 1 + 1"), ("oracle", " ="), ("oracle", " 2.\n")], seed=4),
    ]


def data_of(view: View) -> PageData:
    return read_page(view.page)


def arms_of(data: PageData) -> list[str]:
    return [arm["label"] for arm in data.tree["arms"]]
