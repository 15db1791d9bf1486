"""The data of a page: tables of texts as JSON and one column a signal as scaled integers, compressed together.

Layout before gzip: the JSON's length (4 bytes), the JSON in ASCII, and the columns one after the other. A column is
32-bit integers, little-endian, all lowest bytes first, then all second ones and so on, which halves what gzip leaves.
The JSON's ``columns`` say where each begins; ``columns.py`` says how a signal's values become whole numbers.
"""

from __future__ import annotations

import ast
import gzip
import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.engine.trigger_parser import parse_trigger
from dodona.eval.viewer.columns import NO_VALUE, TOP1, column_of, encode, joined, planes
from dodona.eval.viewer.runs import ORACLE, Array, Collection, Run, prompt_text
from dodona.eval.viewer.texts import RunText, TextSource
from dodona.eval.viewer.vocabulary import Tokenizers, TokenizerTexts, TokenTexts, Vocabulary

FORMAT: Final = 1


class Summary(NamedTuple):
    """What a page holds."""

    problems: int
    arms: int
    runs: int
    traced: int  # of the runs
    tokens: int
    signals: list[str]


class Payload(NamedTuple):
    """The compressed data, and what is in it."""

    data: bytes
    summary: Summary


def make_payload(
    collection: Collection, tokenizers: Tokenizers, title: str, made_by: str, note: Callable[[str], None]
) -> Payload:
    """The data of the page that shows this collection.

    Raises:
        DodonaError: a trace without records whose tokenizer is not known.
    """
    vocabulary = Vocabulary()
    source = TextSource(collection, tokenizers, note)
    texts = [source.text_of(run) for run in collection.runs.values()]
    traced = [(run, text) for run, text in zip(collection.runs.values(), texts, strict=True) if run.trace is not None]
    signals, columns = encode([(run.trace or {}, len(run.ids or ())) for run, _ in traced])
    tables = _Tables(collection, vocabulary)
    tokens: list[Array] = []
    flags: list[Array] = []
    for run, text in zip(collection.runs.values(), texts, strict=True):
        ids = run.ids or []
        tokens.append(vocabulary.numbers(ids, text.tokens))
        tables.add(run, text, text.tokens.exceptions(ids) if text.tokens is not None else {})
        flags.append(_flags(run, len(ids)))
    columns["token"], columns["flags"] = joined(tokens), joined(flags)
    top1_names = sorted({name for run, _ in traced for name in run.trace or () if name.endswith(TOP1)})
    for name in top1_names:
        columns[name] = joined([_choices(run, name, text.tokens, vocabulary) for run, text in traced])
    body = b"".join(planes(column) for column in columns.values())
    at, places = 0, []
    for name, column in columns.items():
        places.append({"name": name, "at": at, "n": len(column)})
        at += 4 * len(column)
    tree = {
        "format": FORMAT,
        "title": title,
        "made_by": made_by,
        "notes": collection.notes,
        **tables.tree(),
        "vocabulary": {
            "ids": vocabulary.ids,
            "texts": vocabulary.texts,
            "special": vocabulary.special,
            "bytes": vocabulary.bytes,
        },
        "signals": signals,
        "choices": top1_names,
        "columns": places,
    }
    head = json.dumps(tree, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    head += b" " * (-len(head) % 4)
    data = gzip.compress(struct.pack("<I", len(head)) + head + body, compresslevel=6, mtime=0)
    summary = Summary(
        problems=len(collection.problems),
        arms=len(collection.arms),
        runs=len(collection.runs),
        traced=len(traced),
        tokens=len(columns["token"]),
        signals=[signal["name"] for signal in signals],
    )
    return Payload(data, summary)


class _Tables:
    """Arms, problems and runs as the page's JSON has them; long texts once each."""

    def __init__(self, collection: Collection, vocabulary: Vocabulary) -> None:
        self._collection, self._vocabulary = collection, vocabulary
        self._arms = {key: number for number, key in enumerate(collection.arms)}
        self._problems = {key: number for number, key in enumerate(collection.problems)}
        self._texts: dict[str, int] = {}
        self._runs: list[dict[str, Any]] = []
        self._token = self._signal = 0

    def add(self, run: Run, text: RunText, exceptions: Mapping[int, str]) -> None:
        """Add a run; its columns must be added in the same order."""
        counts = [0 if piece.ids is None else len(piece.ids) for piece in run.pieces]
        count = 0 if run.ids is None else sum(counts)
        entry: dict[str, Any] = {
            "arm": self._arms[run.arm],
            "problem": self._problems[run.problem],
            "prompt": self._number(_prompt(run.prompt, text.tokens)),
            "outcome": run.outcome,
            "answer": run.answer,
            "finish": run.finish_reason,
            "error": run.error,
            "starts": run.starts,
            "count": count,
            "token": self._token,
            "signal": None if run.trace is None else self._signal,
        }
        if exceptions:
            entry["exceptions"] = list(exceptions.items())
        if not text.by_token:
            entry["pieces"] = [
                [piece.source, n, self._number(piece.text)] for piece, n in zip(run.pieces, counts, strict=True)
            ]
        self._token += count
        self._signal += 0 if run.trace is None else count
        self._runs.append(entry)

    def _number(self, text: str) -> int:
        return self._texts.setdefault(text, len(self._texts))

    def tree(self) -> dict[str, Any]:
        """For JSON."""
        arms = []
        for arm in self._collection.arms.values():
            arms.append(
                {
                    "name": arm.key.name,
                    "label": arm.label,
                    "source": arm.key.source,
                    "alone": arm.alone,
                    "trigger": None if arm.arm is None else arm.arm.trigger,
                    "thresholds": {} if arm.arm is None or arm.alone else thresholds(arm.arm.trigger),
                    "base": arm.base_model_id,
                    "oracle": None if arm.alone else arm.oracle_model_id,
                }
            )
        problems = [
            {"id": problem.label, "key": problem.key, "level": problem.level, "subject": problem.subject}
            | {"gold": problem.gold}
            for problem in self._collection.problems.values()
        ]
        return {"arms": arms, "problems": problems, "runs": self._runs, "texts": list(self._texts)}


def thresholds(trigger: str) -> dict[str, list[float]]:
    """The numbers with which a trigger compares single signals, by signal; nothing for what is no expression."""
    try:
        tree = ast.parse(parse_trigger(trigger, offline=True).expression, mode="eval")
    except (DodonaError, SyntaxError):
        return {}
    found: dict[str, list[float]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            names = [side.id for side in (node.left, node.comparators[0]) if isinstance(side, ast.Name)]
            numbers = [value for side in (node.left, node.comparators[0]) if (value := _number(side)) is not None]
            if len(names) == len(numbers) == 1:
                found.setdefault(names[0], []).append(numbers[0])
    return found


def _number(node: ast.AST) -> float | None:
    try:
        value = ast.literal_eval(node) if isinstance(node, ast.Constant | ast.UnaryOp) else None
    except ValueError:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _prompt(prompt: Any, texts: TokenTexts | None) -> str:
    is_ids = isinstance(prompt, list) and all(isinstance(i, int) and not isinstance(i, bool) for i in prompt)
    if is_ids and prompt and isinstance(texts, TokenizerTexts):
        return texts.tokenizer.decode(prompt, skip_special=False)
    return prompt_text(prompt)


def _flags(run: Run, count: int) -> Array:
    """By token: 1 for the oracle's, and 2 more where a consult begins."""
    flags = np.zeros(count, dtype=np.int64)
    start = 0
    for piece in run.pieces:
        stop = start + len(piece.ids or ())
        flags[start:stop] = piece.source == ORACLE
        start = stop
    for start in run.starts:
        if 0 <= start < count:
            flags[start] |= 2
    return flags


def _choices(run: Run, name: str, texts: TokenTexts | None, vocabulary: Vocabulary) -> Array:
    """A column of token ids as numbers of the vocabulary, less the written token's: most are 0, which compresses."""
    ids = run.ids or []
    values = column_of(run.trace or {}, name, len(ids))
    known = ~np.isnan(values)
    distances = np.full(len(ids), NO_VALUE, dtype=np.int64)
    written = vocabulary.numbers(ids, texts)
    distances[known] = vocabulary.numbers(values[known].astype(np.int64), texts) - written[known]
    return distances
