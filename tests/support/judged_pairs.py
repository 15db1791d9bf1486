"""Pairs of answers and judges whose verdicts are known, for tests of what is made of them."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dodona.eval.judge.figures import Figures, figures
from dodona.eval.judge.files import StageFile
from dodona.eval.judge.pair import Ask, Pair
from dodona.eval.judge.study import Cache, Judged, judge_pairs
from dodona.eval.judge.verdict import Verdict

CONFIG = {"file": "test", "name_a": "a", "name_b": "b"}


def make_pairs(count: int, *, seed: int = 0) -> list[Pair]:
    """Pairs with answers of many lengths, no two alike."""
    draws = random.Random(seed)
    return [
        Pair(
            f"p{number}",
            f"Question {number}?",
            f"Answer a to {number}" + "." * draws.randrange(60),
            f"Answer b to {number}" + "." * draws.randrange(60),
            reference=f"Answer {draws.choice('ab')} to {number}",
        )
        for number in range(count)
    ]


@dataclass
class ByRule:
    """A judge that says what a function says, and remembers what it was asked."""

    rule: Callable[[Ask], Verdict]
    name: str = "by rule"
    needs_reference: bool = False
    asked: list[Ask] = field(default_factory=list)
    closed: bool = False

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"judge": self.name}

    def judge(self, asks: Sequence[Ask]) -> Iterator[Verdict]:
        for ask in asks:
            self.asked.append(ask)
            yield self.rule(ask)

    def close(self) -> None:
        self.closed = True


def judge_all(judge: Any, pairs: Sequence[Pair], folder: Path, **options: Any) -> list[Judged]:
    """All pairs judged, through a cache in a folder."""
    with StageFile(folder / "verdicts.jsonl", "verdicts", CONFIG) as file:
        return list(judge_pairs(judge, pairs, Cache(file), **options))


def figures_of(judge: Any, pairs: Sequence[Pair], folder: Path, **options: Any) -> Figures:
    return figures([one.judgement for one in judge_all(judge, pairs, folder, **options)])


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
