"""The wrong texts of the base that the oracle alone gets right, and the token at which each of them went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.eval.causal.forks import Fork, ForkLog, Forks
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.search import Finding, finding, wanted
from dodona.eval.causal.texts import Text, chosen
from dodona.eval.causal.views import View, views_of
from dodona.eval.recorded import RecordedArm


class Wrong(NamedTuple):
    """One wrong text of the base, with both models' view of it and what takeovers made of it."""

    text: Text
    view: View
    found: Finding
    takeovers: Mapping[int, bool]  # whether the answer is right, by the position of the takeover


@dataclass(frozen=True, slots=True)
class Search:
    """What a search over one arm came to."""

    origin: Origin
    arm: RecordedArm
    problems: int  # asked for
    wrong: int  # texts of the base that are not right
    failed: int  # of them, those that ended with an error and left no text
    limit: int | None  # of the wrong texts only so many were looked at
    unseen: tuple[str, ...]  # problems whose text did not come out again as it was, so that nothing is known of it
    cases: tuple[Wrong, ...]  # the others

    @property
    def found(self) -> tuple[Wrong, ...]:
        """Those that the oracle alone gets right."""
        return tuple(case for case in self.cases if case.found.causal is not None)


def search(
    origin: Origin,
    arm: RecordedArm,
    log: ForkLog,
    engine: Callable[[], Engine],
    *,
    exhaustive: bool = False,
    limit: int | None = None,
    ids: Sequence[str] = (),
    step: Callable[[str], None] = lambda stage: None,
) -> Search:
    """Find the causal token of every text of the base that is wrong and that the oracle alone gets right.

    Args:
        arm: of the base alone.
        log: of forks.
        engine: called once something has to be run.
        exhaustive: try every position at which the models' first choices differ.
        limit: of the wrong texts only so many, the first ones.
        ids: of the problems; all of them without.
        step: told of everything that is done: "texts" or "takeovers".

    Raises:
        DodonaError: the arm consults, its records are not complete, or what ``Forks.run`` raises.
    """
    if not arm.base_alone:
        raise DodonaError(f"the arm {arm.name!r} has consults: the first wrong token is looked for in the base's texts")
    if origin.config.get("oracle_model_id") is None:
        raise DodonaError(f"{origin.path} was run without an oracle, so none can take over")
    names = chosen(origin.experiment, ids)
    whole = origin.whole(arm, names)
    texts = {name: whole[name] for name in names if name in whole}
    wrong = {name: text for name, text in texts.items() if not text.correct and text.ids}
    failed = len(names) - len(texts)
    total = sum(not text.correct for text in texts.values()) + failed
    wrong = dict(list(wrong.items())[:limit])
    views = views_of(origin, arm, wrong, engine, lambda: step("texts"))
    forks = Forks(origin, arm, log, engine)
    diverging = {name: [int(p) for p in view.diverging] for name, view in views.items()}
    # What the log knows beyond what is asked for is left aside: the result depends on the command alone.
    known = _oracle_alone(origin, views)
    while asked := [
        Fork(name, position, math.inf)
        for name in views
        for position in wanted(known[name], diverging[name], len(wrong[name].ids), exhaustive=exhaustive)
    ]:
        for _ in forks.run(asked):
            step("takeovers")
        for fork in asked:
            known[fork.problem_id][fork.position] = forks.known[fork].correct
    cases = [
        Wrong(wrong[name], view, finding(known[name], diverging[name], len(wrong[name].ids)), known[name])
        for name, view in views.items()
    ]
    unseen = tuple(name for name in wrong if name not in views)
    return Search(origin, arm, len(names), total, failed, limit, unseen, tuple(cases))


def _oracle_alone(origin: Origin, names: Iterable[str]) -> dict[str, dict[int, bool]]:
    """The takeovers from the start that were recorded: the texts of the oracle alone, by problem."""
    known: dict[str, dict[int, bool]] = {name: {} for name in names}
    alone = origin.oracle_alone
    if alone is not None and origin.oracle_greedy:
        for name, row in origin.experiment.rows[alone.name].items():
            if name in known:
                known[name][0] = row.outcome == "correct"
    return known


def entropy_rank(view: View, position: int) -> int:
    """1 + how many tokens of the text have a larger entropy."""
    entropy = view.columns["entropy"]
    return 1 + int((entropy > entropy[position]).sum())
