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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.trigger_parser import parse_trigger
from dodona.eval.causal.forks import Fork, ForkLog, Forks, Outcome
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.positions import RANKED, Where, positions
from dodona.eval.causal.signals import TextSignals, recorded
from dodona.eval.causal.texts import Text, chosen
from dodona.eval.causal.views import View, recorded_views, views_of
from dodona.eval.recorded import RecordedArm

_NO_TRACE: Final = "there is none beside {}; `dodona eval --trace` records one"


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
    branches: Branches
    signals: Mapping[str, float]  # there, those that are known

    @property
    def change(self) -> int:
        """1: it turns a wrong answer into a right one; -1: the opposite; 0: neither."""
        return int(self.right_with) - int(self.right_without)


@dataclass(frozen=True, slots=True)
class Changes:
    """Every consult that was tried."""

    origin: Origin
    arm: RecordedArm
    where: Where
    k: float
    problems: int  # asked for
    failed: int  # of them, those whose run left no text
    unseen: tuple[str, ...]  # problems left out because nothing says what the models thought of their text
    passed_over: int  # positions asked for that a text does not have, or at which the oracle was writing
    changes: tuple[Change, ...]  # in the order of the problems and positions
    outcomes: Mapping[Fork, Outcome]  # of the forks that were needed


def measure(
    origin: Origin,
    arm: RecordedArm,
    log: ForkLog,
    engine: Callable[[], Engine],
    *,
    where: Where,
    k: float,
    ids: Sequence[str] = (),
    step: Callable[[str], None] = lambda stage: None,
) -> Changes:
    """Try consults of k tokens at positions of an arm's texts.

    Args:
        where: which positions.
        ids: of the problems; all of them without.

    Raises:
        DodonaError: as ``Forks.run``, or the positions do not go with the arm.
    """
    check(origin, arm, where, k)
    names = chosen(origin.experiment, ids)
    whole = origin.whole(arm, names)
    texts = {name: whole[name] for name in names if name in whole and whole[name].ids}
    _check_listed(origin, arm, where, whole)
    traces = recorded(origin, arm, texts)
    if where.kind == "trigger" and traces is None:
        raise DodonaError(f"--trigger needs a trace of {arm.name!r}: {_NO_TRACE.format(origin.path)}")
    views: Mapping[str, View] = {}
    # A view also says which branches are known without a run, which pays where more positions are tried than differ.
    if arm.base_alone and (where.needs_signals or where.kind in ("all", "random")):
        views = views_of(origin, arm, texts, engine, lambda: step("texts"))
    elif arm.base_alone:
        views = recorded_views(origin, arm, texts.values())
    signals = {name: view.signals for name, view in views.items()}
    if traces is not None:
        signals |= {name: traces.signals(name) for name in traces.places}
    if where.needs_signals:
        _check_signals(origin, arm, where, signals)
    unseen = tuple(name for name in texts if name not in signals) if where.needs_signals else ()
    fired = traces.consults(where.trigger, k) if where.kind == "trigger" and traces is not None else {}
    tried: list[tuple[Text, int, int, Branches]] = []
    for name, text in texts.items():
        if name not in unseen:
            for number, position in enumerate(positions(where, text, signals.get(name), fired.get(name, ()))):
                tried.append((text, position, number, branches(origin, text, position, k, views.get(name))))
    forks = Forks(origin, arm, log, engine)
    wanted = [fork for _, _, _, both in tried for fork in both if fork is not None]
    for _ in forks.run(wanted):
        step("forks")

    def right(text: Text, fork: Fork | None) -> bool:
        return text.correct if fork is None else forks.known[fork].correct

    changes = tuple(
        Change(
            text,
            position,
            number,
            _differs(signals.get(text.problem_id), position),
            right(text, both.with_consult),
            right(text, both.without),
            both,
            _there(signals.get(text.problem_id), position),
        )
        for text, position, number, both in tried
    )
    return Changes(
        origin,
        arm,
        where,
        k,
        len(names),
        sum(name not in whole for name in names),
        unseen,
        _asked(where, names) - len(changes) if where.kind == "at" and where.most is None else 0,
        changes,
        {fork: forks.known[fork] for fork in wanted},
    )


def check(origin: Origin, arm: RecordedArm, where: Where, k: float) -> None:
    """Refuse what cannot be tried.

    Raises:
        DodonaError: no oracle, a consult of no tokens, a trigger that cannot be read, or an unknown signal.
    """
    if k == 0:
        raise DodonaError("--k 0 is no consult: give 1 or more")
    if origin.config.get("oracle_model_id") is None:
        raise DodonaError(f"{origin.path} was run without an oracle, so there is none to consult")
    if where.kind == "consults" and arm.base_alone:
        raise DodonaError(
            f"the arm {arm.name!r} has no consults: name another --arm, or positions with --trigger, --at, --top, "
            "--random, --differs or --all"
        )
    if where.kind == "trigger":
        parse_trigger(where.trigger, offline=True)
    if where.kind == "top" and where.signal not in RANKED:
        raise DodonaError(f"--by is one of {', '.join(RANKED)}, not {where.signal!r}")


def _check_listed(origin: Origin, arm: RecordedArm, where: Where, texts: Mapping[str, Text]) -> None:
    """Refuse a list of positions that is of other texts."""
    if where.listed is None:
        return
    for config_hash, name in sorted(where.runs, key=str):
        if config_hash not in (None, origin.config_hash):
            raise DodonaError(f"--at {where.source} is of another experiment than {origin.path}")
        if name not in (None, arm.name):
            raise DodonaError(
                f"--at {where.source} is of the arm {name!r}, and the texts are of {arm.name!r}: name --arm"
            )
    chosen(origin.experiment, [*where.listed], f"--at {where.source}")
    for name, listed in where.listed.items():
        if name in texts and listed[-1] >= (length := len(texts[name].ids)):
            raise DodonaError(
                f"--at {where.source}: the text of {name} has {length} tokens, and none at position {listed[-1]}"
            )


def _check_signals(origin: Origin, arm: RecordedArm, where: Where, signals: Mapping[str, TextSignals]) -> None:
    if not signals:
        raise DodonaError(f"--{where.kind} needs a trace of {arm.name!r}: {_NO_TRACE.format(origin.path)}")
    there = dict.fromkeys(name for one in signals.values() for name in one.columns)
    if where.kind == "top" and where.signal not in there:
        known = ", ".join(name for name in RANKED if name in there)
        raise DodonaError(f"--by {where.signal} was not recorded; there is {known}")
    if where.kind == "differs" and "agree" not in there:
        raise DodonaError("--differs: the oracle has not looked at these texts: record them with --oracle-tail")


def _asked(where: Where, names: Sequence[str]) -> int:
    if where.listed is None:
        return len(names) * len(where.everywhere)
    return sum(len(where.listed.get(name, ())) for name in names)


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


def _there(signals: TextSignals | None, position: int) -> dict[str, float]:
    if signals is None:
        return {}
    there = {name: float(signals.columns[name][position]) for name in RANKED if name in signals.columns}
    return {name: value for name, value in there.items() if not math.isnan(value)}


def _differs(signals: TextSignals | None, position: int) -> bool | None:
    if signals is None or math.isnan(signals.differs[position]):
        return None
    return bool(signals.differs[position])
