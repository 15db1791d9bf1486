"""A judge's judgements with their figures, several judges on the same pairs, and the file that keeps them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dodona.engine.errors import DodonaError
from dodona.engine.records import encode_record
from dodona.engine.whole_file import write_whole
from dodona.eval.judge.agreement import Agreement, agreement
from dodona.eval.judge.figures import Figures, as_dict, figures
from dodona.eval.judge.files import JUDGEMENTS, header_line, parsed, read_stage
from dodona.eval.judge.judgement import Judgement, read_judgement

STAGE = "judgements"


class Rated(NamedTuple):
    """One judge on all pairs that were asked for."""

    judge: str
    settings: Mapping[str, Any]
    judgements: Sequence[Judgement]
    figures: Figures

    @classmethod
    def of(cls, judge: str, settings: Mapping[str, Any], judgements: Sequence[Judgement]) -> Rated:
        """With the figures of the judgements."""
        return cls(judge, settings, judgements, figures(judgements))

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Why pairs are errors, the most frequent first."""
        counted = Counter(j.error or "not known" for j in self.judgements if j.winner is None)
        return sorted(counted.items(), key=lambda entry: (-entry[1], entry[0]))


class Between(NamedTuple):
    """Two judges on the pairs that were asked of both."""

    first: str
    second: str
    agreement: Agreement  # an error is a verdict of its own
    opposed: int  # pairs that one gives to a and the other to b
    difference: float  # of a's rate, the second's less the first's, over these pairs; NaN of none
    left_out: int  # pairs that were asked of one alone, or were another pair there


def between(ratings: Sequence[Rated]) -> list[Between]:
    """Every two judges."""
    return [_between(one, other) for place, one in enumerate(ratings) for other in ratings[place + 1 :]]


def _between(one: Rated, other: Rated) -> Between:
    there = {j.pair_id: j for j in other.judgements}
    common = [
        (j, there[j.pair_id]) for j in one.judgements if j.pair_id in there and there[j.pair_id].digest == j.digest
    ]
    scores = [((own.score or 0.0), (theirs.score or 0.0)) for own, theirs in common]
    difference = sum(theirs - own for own, theirs in scores) / len(scores) if scores else math.nan
    found = agreement([own.winner for own, _ in common], [theirs.winner for _, theirs in common])
    opposed = sum({own.winner, theirs.winner} == {"a", "b"} for own, theirs in common)
    left_out = len(one.judgements) + len(other.judgements) - 2 * len(common)
    return Between(one.judge, other.judge, found, opposed, difference, left_out)


def write_ratings(folder: Path, config: Mapping[str, Any], ratings: Sequence[Rated]) -> Path:
    """Write ``judgements.jsonl``: a header, and a line for each judge and pair.

    Raises:
        DodonaError: it cannot be written.
    """
    header = header_line(STAGE, {**config, "judges": {rated.judge: dict(rated.settings) for rated in ratings}})
    lines = ({"judge": rated.judge, **j.as_dict()} for rated in ratings for j in rated.judgements)
    return write_whole(folder / JUDGEMENTS, map(encode_record, _chained(header, lines)))


def _chained(first: Mapping[str, Any], rest: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    yield first
    yield from rest


def read_ratings(path: Path) -> tuple[Mapping[str, Any], list[Rated]]:
    """What ``write_ratings`` wrote into a folder, or into a file: its configuration and its judges.

    Raises:
        DodonaError: there is none, or it cannot be read.
    """
    file = path / JUDGEMENTS if path.is_dir() else path
    if not file.exists():
        raise DodonaError(f"{path} has no {JUDGEMENTS}: `dodona judge` writes it when all pairs are judged")
    config: Mapping[str, Any] = {}
    by_judge: dict[str, list[Judgement]] = {}
    for record in read_stage(file, STAGE):
        if "header" in record:
            config = record["header"]["config"]
            by_judge |= {str(name): [] for name in config.get("judges", {})}
        else:
            by_judge.setdefault(str(record.get("judge")), []).append(parsed(read_judgement, record, file))
    settings = config.get("judges", {})
    return config, [Rated.of(name, settings.get(name, {}), judgements) for name, judgements in by_judge.items()]


def read_several(paths: Sequence[str]) -> tuple[list[Mapping[str, Any]], list[Rated]]:
    """The judges of several studies; where two have one name, with their folder's behind it.

    Raises:
        DodonaError: as ``read_ratings``, or fewer than two judges in all.
    """
    configs, found = [], []
    for path in paths:
        config, ratings = read_ratings(Path(path))
        configs.append(config)
        found += [(path, rated) for rated in ratings]
    if len(found) < 2:
        raise DodonaError(f"--compare needs two judges or more, and there is {len(found)} in {', '.join(paths)}")
    names = [rated.judge for _, rated in found]
    ratings = [
        rated if names.count(rated.judge) == 1 else rated._replace(judge=f"{rated.judge} ({Path(path).name or path})")
        for path, rated in found
    ]
    if len({rated.judge for rated in ratings}) < len(ratings):
        ratings = [rated._replace(judge=f"{place}: {rated.judge}") for place, rated in enumerate(ratings, 1)]
    return configs, ratings


def results_dict(names: Sequence[str], ratings: Sequence[Rated], notes: Sequence[str]) -> dict[str, Any]:
    """Everything for JSON."""
    return {
        "confidence": 0.95,
        "a": names[0],
        "b": names[1],
        "judges": [
            {"judge": rated.judge, "settings": dict(rated.settings), **as_dict(rated.figures), "reasons": rated.reasons}
            for rated in ratings
        ],
        "between": [
            {
                "first": two.first,
                "second": two.second,
                "n": two.agreement.n,
                "agreement": two.agreement.accuracy,
                "low": two.agreement.interval.low,
                "high": two.agreement.interval.high,
                "kappa": two.agreement.kappa,
                "kappa_interval": two.agreement.kappa_interval,
                "opposed": two.opposed,
                "difference": two.difference,
                "left_out": two.left_out,
            }
            for two in between(ratings)
        ],
        "notes": list(notes),
    }
