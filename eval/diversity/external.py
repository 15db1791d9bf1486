"""Samples that somebody else drew: JSON lines with a question, its answer, samples, predictions and scores.

    {"question": "1 + 1?", "answer": "2", "samples": ["... so 2", "3"], "predictions": ["2", "3"], "scores": [0.9, 0.2]}

``answer`` is the gold answer. ``samples`` are texts, ``predictions`` the answers taken out of them (null where there is
none), ``scores`` a reward model's, of each sample a number or a list of one number a step. Of samples and predictions
one is enough: predictions are otherwise taken out of the samples by the answer checker. ``id`` names a line if it is
there. Other fields are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.engine.records import read_records
from dodona.eval.diversity.classes import classes_of
from dodona.eval.diversity.embed import Embeddings
from dodona.eval.diversity.pool import Pool, Rewards, Texts, given_rewards

Array = np.ndarray[Any, Any]

SCORES: Final = "score"  # the reward's name in tables
STEPS: Final[Mapping[str, Callable[[Sequence[float]], float]]] = MappingProxyType(
    {
        "last": lambda steps: steps[-1],
        "min": min,
        "mean": lambda steps: math.fsum(steps) / len(steps),
        "prod": math.prod,
    }
)


@dataclass(frozen=True, slots=True)
class Line:
    """One question with its samples."""

    problem_id: str
    question: str
    answer: str
    samples: tuple[str, ...] | None
    predictions: tuple[str | None, ...]
    correct: Array  # [n] 0 or 1
    scores: Array | None  # [n], NaN where there is none


def read_lines(path: Path, steps: str = "last") -> list[Line]:
    """The questions of a file, graded.

    Args:
        steps: what stands for a sample that has a score a step, one of ``STEPS``.

    Raises:
        DodonaError: the file cannot be read or has no lines, or a line lacks what is needed; with its number.
    """
    if steps not in STEPS:
        raise DodonaError(f"--step-scores must be one of {', '.join(STEPS)}, not {steps!r}")
    lines, seen = [], set()
    for number, record in enumerate(read_records(path), 1):
        try:
            line = _line(record, number, STEPS[steps])
        except ValueError as error:
            raise DodonaError(f"{path}, line {number}: {error}") from error
        if line.problem_id in seen:
            raise DodonaError(f"{path}, line {number}: the id {line.problem_id!r} is there twice")
        seen.add(line.problem_id)
        lines.append(line)
    if not lines:
        raise DodonaError(f"{path} holds no samples")
    scored = [line.scores is not None for line in lines]
    if any(scored) and not all(scored):
        raise DodonaError(f"{path}, line {scored.index(False) + 1}: no scores, and other lines have some")
    texts = [line.samples is not None for line in lines]
    if any(texts) and not all(texts):
        raise DodonaError(f"{path}, line {texts.index(False) + 1}: no samples, and other lines have some")
    return lines


def pools_of(
    lines: Sequence[Line], embeddings: Embeddings | None = None, *, texts: bool = False, bleu: bool = False
) -> list[Pool]:
    """The lines as pools, one each.

    Args:
        embeddings: of all samples; None: left out.
        texts: whether to look at the samples' texts at all.
        bleu: whether to count BLEU's n-grams.
    """
    usable = all(line.scores is None or given_rewards(line.scores).weights is not None for line in lines)
    pools = []
    for line in lines:
        rewards: dict[str, Rewards] = {}
        if line.scores is not None:
            given = given_rewards(line.scores)
            rewards[SCORES] = given if usable else given._replace(weights=None)
        pools.append(
            Pool(
                problem_id=line.problem_id,
                temperature=None,
                correct=line.correct,
                classes=classes_of(line.predictions),
                logprobs=np.full(len(line.correct), math.nan),
                rewards=MappingProxyType(rewards),
                texts=_texts(line, embeddings, bleu=bleu) if texts else None,
            )
        )
    return pools


def _texts(line: Line, embeddings: Embeddings | None, *, bleu: bool) -> Texts:
    if line.samples is None:
        raise DodonaError("--texts looks at samples, and there are predictions alone")
    kernel = None if embeddings is None else embeddings.kernel(line.samples)
    return Texts.of(line.samples, kernel, with_bleu=bleu)


def _line(record: Mapping[str, Any], number: int, steps: Callable[[Sequence[float]], float]) -> Line:
    from dodona.eval.grading import check

    answer = _text(record.get("answer"), "answer")
    samples = _list(record, "samples")
    predictions = _list(record, "predictions")
    if samples is None and predictions is None:
        raise ValueError("there must be samples or predictions")
    n = len(predictions if predictions is not None else samples or [])
    if n == 0:
        raise ValueError("there is no sample")
    for name, values in (("samples", samples), ("scores", scores := _list(record, "scores"))):
        if values is not None and len(values) != n:
            raise ValueError(f"{len(values)} {name} for {n} {'predictions' if predictions is not None else 'samples'}")
    texts = None if samples is None else tuple(_text(text, "samples", empty=True) for text in samples)
    found: list[str | None] = []
    correct = []
    verdicts: dict[str, tuple[str | None, bool]] = {}
    for text in predictions if predictions is not None else texts or ():
        shown = "" if text is None else _text(text, "predictions", empty=True)
        if shown not in verdicts:
            # A prediction is all answer; a sample's answer has to be found in it.
            asked = f"\\boxed{{{shown}}}" if predictions is not None and "\\boxed" not in shown else shown
            try:
                verdict = check(asked, answer) if shown.strip() else None
            except DodonaError as error:
                raise ValueError(str(error)) from error
            taken = shown if predictions is not None else (verdict.extracted if verdict else None)
            verdicts[shown] = (taken or None) if verdict else None, verdict is not None and verdict.correct
        given, right = verdicts[shown]
        found.append(given)
        correct.append(float(right))
    return Line(
        problem_id=str(record.get("id", f"line-{number}")),
        question=str(record.get("question", "")),
        answer=answer,
        samples=texts,
        predictions=tuple(found),
        correct=np.array(correct),
        scores=None if scores is None else np.array([_score(value, steps) for value in scores]),
    )


def _list(record: Mapping[str, Any], name: str) -> list[Any] | None:
    value = record.get(name)
    if value is None or isinstance(value, list):
        return value
    raise ValueError(f"{name} is no list")


def _text(value: Any, name: str, *, empty: bool = False) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{name} holds {value!r}, and a text or a number belongs there")
    text = str(value)
    if not empty and not text.strip():
        raise ValueError(f"{name} is empty")
    return text


def _score(value: Any, steps: Callable[[Sequence[float]], float]) -> float:
    if isinstance(value, list):
        numbers = [_score(one, steps) for one in value]
        return float(steps(numbers)) if numbers else math.nan
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"scores holds {value!r}, and a number belongs there")
    return float(value)
