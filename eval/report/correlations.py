"""Whether the score rises with c and with k: rank correlations over the runs of an experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dodona.eval.recorded import Experiment, RecordedArm
from dodona.eval.stats.bootstrap import Correlation, score_correlation

Array = np.ndarray[Any, Any]


class CorrelationLine(NamedTuple):
    """The correlation of one budget with the score, over some of the arms."""

    variable: str  # c or k
    arms: str  # which ones: "random before", "random before, k=5", "all triggers"
    correlation: Correlation

    def as_dict(self) -> dict[str, Any]:
        """For JSON; null where it is undefined."""
        rho, interval, problems, arms = self.correlation
        low, high = interval or (None, None)
        return {
            "variable": self.variable,
            "over": self.arms,
            "rho": rho,
            "low": low,
            "high": high,
            "problems": problems,
            "arms": arms,
        }


def correlations(experiment: Experiment) -> list[CorrelationLine]:
    """All correlations that an experiment can show: by rule, in all and for each other budget, then over all rules.

    Those of c take in the base alone, as c=0. Those of k do not, for k means nothing there. The oracle alone is in
    neither: it is no more of the same.
    """
    solved = _Solved(experiment)
    base = experiment.base_arms()
    guided = [arm for arm in experiment.arms if not arm.base_alone and not experiment.is_oracle_alone(arm)]
    rules = _grouped(guided, lambda arm: arm.rule)
    lines: list[CorrelationLine] = []
    for arms in rules.values():
        name = f"{' '.join(arms[0].trigger.split())} {arms[0].when}"
        lines += _lines(solved, base, arms, name, each=True)
    if len(rules) > 1:
        lines += _lines(solved, base, guided, "all triggers", each=False)
    return lines


def _lines(
    solved: _Solved, base: Sequence[RecordedArm], arms: Sequence[RecordedArm], name: str, *, each: bool
) -> Iterator[CorrelationLine]:
    """Of c and of k over these arms, ``each`` also for each value of the other one; of one value there is none."""
    by_k, by_c = _grouped(arms, lambda arm: arm.k), _grouped(arms, lambda arm: arm.c)
    if len(by_c) + bool(base) > 1:
        yield solved.line("c", [*base, *arms], name)
        if each and len(by_k) > 1:
            for k, some in by_k.items():
                if len({arm.c for arm in some}) + bool(base) > 1:
                    yield solved.line("c", [*base, *some], f"{name}, k={k}")
    if len(by_k) > 1:
        yield solved.line("k", arms, name)
        if each and len(by_c) > 1:
            for c, some in by_c.items():
                if len({arm.k for arm in some}) > 1:
                    yield solved.line("k", some, f"{name}, c={c}")


class _Solved:
    """Which runs were right, as columns by arm."""

    def __init__(self, experiment: Experiment) -> None:
        self._columns: dict[str, Array] = {}
        for arm in experiment.arms:
            rows = experiment.rows.get(arm.name, {})
            right = [
                (row := rows.get(problem.problem_id)) is not None and row.outcome == "correct"
                for problem in experiment.problems
            ]
            self._columns[arm.name] = np.array(right, dtype=np.int64)

    def line(self, variable: str, arms: Sequence[RecordedArm], name: str) -> CorrelationLine:
        values = [0.0 if arm.base_alone else float(getattr(arm, variable)) for arm in arms]
        correct = np.stack([self._columns[arm.name] for arm in arms], axis=1)
        return CorrelationLine(variable, name, score_correlation(values, correct))


def _grouped(arms: Sequence[RecordedArm], key: Callable[[RecordedArm], Any]) -> dict[Any, list[RecordedArm]]:
    groups: dict[Any, list[RecordedArm]] = {}
    for arm in arms:
        groups.setdefault(key(arm), []).append(arm)
    return dict(sorted(groups.items()))
