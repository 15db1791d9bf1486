"""What was reached of the targets that the project has set itself for a 1B base and an 8B oracle on one H200."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from dodona.bench.gpu.piece import PASSED

Report = Mapping[str, Any]
SHORT_LAG = 180  # tokens that an 8B forward reads at the price of one


class Target(NamedTuple):
    """A figure that should be reached."""

    name: str
    unit: str
    good: float
    goal: float
    more: bool  # whether more is better
    value: Callable[[Report], float | None]  # what a report says; None: it was not measured


class Reached(NamedTuple):
    """A target with its figure."""

    target: Target
    value: float | None

    @property
    def verdict(self) -> str:
        """In words."""
        if self.value is None:
            return "not measured"
        for limit, word in ((self.target.goal, "goal met"), (self.target.good, "good")):
            if self.value >= limit if self.target.more else self.value <= limit:
                return word
        return "missed"


def reached(report: Report) -> list[Reached]:
    """All targets; none for other models, or without a GPU."""
    sizes = (re.search(r"(?<![\w.])(1B)\b", report["base"]), re.search(r"(?<![\w.])(8B)\b", report["oracle"]))
    if not all(sizes) or not str(report["device"]).startswith("cuda"):
        return []
    return [Reached(target, target.value(report)) for target in TARGETS]


def figures(report: Report, part: str, prefix: str = "") -> Iterator[Any]:
    """Figures of a part's pieces that passed and whose names begin so."""
    for record in report["parts"]:
        if record["name"] == part:
            for piece in record["pieces"]:
                if piece["status"] == PASSED and piece["name"].startswith(prefix) and piece["figures"] is not None:
                    yield piece["figures"]


def _step(model: str) -> Callable[[Report], float | None]:
    def value(report: Report) -> float | None:
        return next((row["ms"]["p50"] for row in figures(report, "times", f"{model} step")), None)

    return value


def _signals(report: Report) -> float | None:
    rows = [row for rows in figures(report, "times", "shares") for row in rows if row["part"] == "share of signals"]
    return 100 * rows[0]["share"] if rows else None


def _consult(report: Report) -> float | None:
    rows = [row for row in figures(report, "times", "guided") if row["lag"] <= SHORT_LAG]
    return max((row["consult_in_oracle_steps"] for row in rows), default=None)


def _formula(report: Report) -> float | None:
    return min((row["formula_share"] for row in figures(report, "times", "guided")), default=None)


def _waits(report: Report) -> float | None:
    runs = [run for runs in figures(report, "replays", "host synchronisations") for run in runs.values()]
    return max((max([run["waits_a_token"], *run["calls_a_token"].values()]) for run in runs), default=None)


def _throughput(report: Report) -> float | None:
    return max((row["tokens_per_second"]["p50"] for row in figures(report, "batches", "guided")), default=None)


TARGETS = (
    Target("base step: forward, statistics, trigger, draw", "ms", 0.82, 0.66, False, _step("base")),
    Target("oracle step", "ms", 4.4, 4.0, False, _step("oracle")),
    Target("statistics' share of the base step", "%", 2.0, 0.5, False, _signals),
    Target(f"trigger to first oracle token, at most {SHORT_LAG} behind", "oracle steps", 1.3, 1.1, False, _consult),
    Target("formula over measured time of a guided run, the worst", "", 0.85, 0.95, True, _formula),
    Target("host synchronisations a token", "", 0.0, 0.0, False, _waits),
    Target("guided decoding, the best batch", "tokens/s", 30_000, 80_000, True, _throughput),
)
