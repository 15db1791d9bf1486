"""What a single consult changes in the outcome, by running on with it and without it from the same token ids.

With: the oracle writes k tokens at the position, then the base goes on alone. Without: the base goes on alone from
there. Later consults are left out of both, so that the difference is this consult's own. Over the consults of one
greedy run the differences then add up: what consult j is worth is what the text is worth that has the first j of them,
less what it is worth with j - 1.

Some branches are known without a run, where the base is greedy:

- the text's own rest, where the base alone wrote it from the position on;
- at a position of such a rest from which on the oracle's next k first choices are the base's own tokens: the consult
  writes what is there;
- and where its first choices are the base's tokens up to a position d inside the burst: the consult is then one of
  k - (d - p) tokens at d. So every position of a text costs few runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.result import json_number
from dodona.eval.causal.forks import Fork, ForkLog, Forks
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.positions import MODES, WITH_VIEW, positions
from dodona.eval.causal.texts import Text
from dodona.eval.causal.views import View, views_of
from dodona.eval.recorded import RecordedArm


class Branches(NamedTuple):
    """The two ways to go on from a position; None: the recorded text itself."""

    with_consult: Fork | None
    without: Fork | None


class Change(NamedTuple):
    """What a consult at one position of a text changes."""

    text: Text
    position: int
    number: int  # of the position among those of its text, from 0
    differs: bool | None  # whether the models' first choices differ there; None: not known
    right_with: bool
    right_without: bool
    run: bool  # whether the two branches are different runs

    @property
    def change(self) -> int:
        """1: it turns a wrong answer into a right one; -1: the opposite; 0: neither."""
        return int(self.right_with) - int(self.right_without)


@dataclass(frozen=True, slots=True)
class Changes:
    """Every consult that was tried."""

    origin: Origin
    arm: RecordedArm
    mode: str
    k: float
    problems: int  # asked for
    failed: int  # of them, those whose run left no text
    unseen: tuple[str, ...]  # problems that were left out because their text did not come out again as it was
    changes: tuple[Change, ...]  # in the order of the problems and positions
    forks: int  # different runs among the branches


def measure(
    origin: Origin,
    arm: RecordedArm,
    log: ForkLog,
    engine: Callable[[], Engine],
    *,
    mode: str,
    k: float,
    most: int | None = None,
    seed: int = 0,
    step: Callable[[str], None] = lambda stage: None,
) -> Changes:
    """Try consults of k tokens at positions of an arm's texts.

    Args:
        mode: which positions, one of ``MODES``.
        most: not more of them in a text.
        seed: of the positions, where they are drawn.

    Raises:
        DodonaError: as ``Forks.run``, or the mode does not go with the arm.
    """
    check(origin, arm, mode, k)
    texts = {name: text for name, text in origin.whole(arm).items() if text.ids}
    views: Mapping[str, View] = {}
    unseen: tuple[str, ...] = ()
    # A view also says which branches are known without a run, which pays where more positions are tried than differ.
    if arm.base_alone and (mode in WITH_VIEW or mode == "all" or most is None or most > 1):
        views = views_of(origin, arm, texts, engine, lambda: step("texts"))
        if mode in WITH_VIEW:
            unseen = tuple(name for name in texts if name not in views)
    forks = Forks(origin, arm, log, engine)
    tried: list[tuple[Text, int, int, Branches]] = []
    for name, text in texts.items():
        if name in unseen:
            continue
        places = positions(mode, text, views.get(name), most, seed)
        for number, position in enumerate(places):
            tried.append((text, position, number, branches(origin, text, position, k, views.get(name))))
    wanted = [fork for _, _, _, both in tried for fork in both if fork is not None]
    for _ in forks.run(wanted):
        step("forks")

    def right(text: Text, fork: Fork | None) -> bool:
        return text.correct if fork is None else forks.known[fork].correct

    changes = [
        Change(
            text,
            position,
            number,
            _differs(views.get(text.problem_id), position),
            right(text, both.with_consult),
            right(text, both.without),
            both.with_consult != both.without,
        )
        for text, position, number, both in tried
    ]
    problems = origin.experiment.problems
    return Changes(
        origin,
        arm,
        mode,
        k,
        len(problems),
        len(problems) - len(origin.texts(arm)),
        unseen,
        tuple(changes),
        len(set(wanted)),
    )


def check(origin: Origin, arm: RecordedArm, mode: str, k: float) -> None:
    """Refuse what cannot be tried.

    Raises:
        DodonaError: an unknown mode, no oracle, or positions that this arm does not have.
    """
    if mode not in MODES:
        raise DodonaError(f"--positions is one of {', '.join(MODES)}, not {mode!r}")
    if k == 0:
        raise DodonaError("--k 0 is no consult: give 1 or more")
    if origin.config.get("oracle_model_id") is None:
        raise DodonaError(f"{origin.path} was run without an oracle, so there is none to consult")
    if mode == "consults" and arm.base_alone:
        raise DodonaError(f"the arm {arm.name!r} has no consults: name another --arm, or other --positions")
    if mode in WITH_VIEW and not arm.base_alone:
        raise DodonaError(f"--positions {mode} is for texts of the base alone, and {arm.name!r} has consults")


def branches(origin: Origin, text: Text, position: int, k: float, view: View | None) -> Branches:
    """The runs that a consult of k tokens at a position needs, as few as there are different texts."""
    cap = origin.options["max_oracle_tokens"]
    if cap is not None:
        k = min(k, cap - text.sources[:position].count(1))
    own_rest = origin.greedy and position >= text.base_from
    without = None if own_rest else Fork(text.problem_id, position, 0)
    if k <= 0:
        return Branches(without, without)
    consult: Fork | None = Fork(text.problem_id, position, k)
    if not origin.oracle_greedy:
        return Branches(consult, without)
    if own_rest and view is not None:
        ahead = view.diverging[np.searchsorted(view.diverging, position) :]
        first = int(ahead[0]) if len(ahead) else len(text.ids)
        written = first - position  # tokens that the oracle writes as the base did
        consult = Fork(text.problem_id, first, k - written) if written < k and first < len(text.ids) else None
    elif origin.greedy and text.starts and position == text.starts[-1]:
        burst = text.bursts[-1]
        if burst == k or position + burst == len(text.ids):
            consult = None  # the text has this very consult, and none after it
    return Branches(consult, without)


def lines(found: Changes) -> Iterator[dict[str, Any]]:
    """One JSON object for each consult that was tried, as `dodona analyze --changes` reads them."""
    for change in found.changes:
        yield {
            "problem_id": change.text.problem_id,
            "arm": found.arm.name,
            "position": change.position,
            "change": change.change,
            "k": json_number(found.k),
            "number": change.number,
            "right_with": change.right_with,
            "right_without": change.right_without,
            "differs": change.differs,
            "level": change.text.problem.level,
            "config_hash": found.origin.config_hash,
        }


def _differs(view: View | None, position: int) -> bool | None:
    if view is None or math.isnan(view.columns["oracle_top1"][position]):
        return None
    return bool(view.columns["oracle_top1"][position] != view.ids[position])
