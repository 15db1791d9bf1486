"""The wrong texts of the base that the oracle alone gets right, and the token at which each of them went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.tokenizer import Tokenizer
from dodona.eval.causal.forks import Fork, ForkLog, Forks
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.search import Finding, finding, wanted
from dodona.eval.causal.texts import Text
from dodona.eval.causal.views import View, views_of
from dodona.eval.recorded import RecordedArm

WINDOW: Final = 12  # tokens shown on either side
_SHOWN: Final = 24  # tokens of the oracle's own text


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
    step: Callable[[str], None] = lambda stage: None,
) -> Search:
    """Find the causal token of every text of the base that is wrong and that the oracle alone gets right.

    Args:
        arm: of the base alone.
        log: of forks.
        engine: called once something has to be run.
        exhaustive: try every position at which the models' first choices differ.
        limit: of the wrong texts only so many, the first ones.
        step: told of everything that is done: "texts" or "takeovers".

    Raises:
        DodonaError: the arm consults, its records are not complete, or what ``Forks.run`` raises.
    """
    if not arm.base_alone:
        raise DodonaError(f"the arm {arm.name!r} has consults: the first wrong token is looked for in the base's texts")
    if origin.config.get("oracle_model_id") is None:
        raise DodonaError(f"{origin.path} was run without an oracle, so none can take over")
    texts = origin.whole(arm)
    wrong = {name: text for name, text in texts.items() if not text.correct and text.ids}
    failed = len(origin.experiment.problems) - len(texts)
    total = len(wrong) + failed
    wrong = dict(list(wrong.items())[:limit])
    views = views_of(origin, arm, wrong, engine, lambda: step("texts"))
    forks = Forks(origin, arm, log, engine)
    diverging = {name: [int(p) for p in view.diverging] for name, view in views.items()}
    known = _known(origin, forks, views)
    while asked := [
        Fork(name, position, math.inf)
        for name in views
        for position in wanted(known[name], diverging[name], len(wrong[name].ids), exhaustive=exhaustive)
    ]:
        for fork in forks.run(asked):
            known[fork.problem_id][fork.position] = forks.known[fork].correct
            step("takeovers")
    cases = [
        Wrong(wrong[name], view, finding(known[name], diverging[name], len(wrong[name].ids)), known[name])
        for name, view in views.items()
    ]
    unseen = tuple(name for name in wrong if name not in views)
    return Search(origin, arm, len(origin.experiment.problems), total, failed, limit, unseen, tuple(cases))


def _known(origin: Origin, forks: Forks, names: Iterable[str]) -> dict[str, dict[int, bool]]:
    """What is known of the oracle taking over, by problem and position; at 0 that is the oracle alone."""
    known: dict[str, dict[int, bool]] = {name: {} for name in names}
    for fork, outcome in forks.known.items():
        if fork.k == math.inf and fork.problem_id in known:
            known[fork.problem_id][fork.position] = outcome.correct
    alone = origin.oracle_alone
    if alone is not None and origin.oracle_greedy:
        for name, row in origin.experiment.rows[alone.name].items():
            if name in known:
                known[name].setdefault(0, row.outcome == "correct")
    return known


def lines(found: Search, tokenizer: Tokenizer, forks: Mapping[Fork, Any]) -> Iterator[dict[str, Any]]:
    """One JSON object for each wrong text that the oracle alone gets right, in the order of the problems."""
    for case in found.found:
        text, view, what = case.text, case.view, case.found
        assert what.causal is not None
        own = forks.get(Fork(text.problem_id, what.causal, math.inf))
        first = [int(p) for p in view.diverging[:1]]
        yield {
            "problem_id": text.problem_id,
            "level": text.problem.level,
            "arm": found.arm.name,
            "config_hash": found.origin.config_hash,
            "ground_truth": text.problem.gold,
            "answer": text.row.answer,
            "outcome": text.row.outcome,
            "tokens": len(text.ids),
            "position": what.causal,
            "causal": about(text, view, what.causal, tokenizer)
            | {"oracle_wrote": "" if own is None else tokenizer.decode(own.ids[:_SHOWN])},
            "first_diverging": about(text, view, first[0], tokenizer) if first else None,
            "diverging": [int(p) for p in view.diverging],
            "takeovers": {str(p): case.takeovers[p] for p in sorted(case.takeovers)},
            "verified": what.verified,
            "monotone": what.monotone,
            "exhaustive": what.exhaustive,
            "fatal": list(what.fatal),
            "healing": list(what.healing),
            "first_fatal": what.first_fatal,
        }


def about(text: Text, view: View, position: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """A token of the base: what both models thought of it, and what stands around it."""
    values = {name: float(column[position]) for name, column in view.columns.items()}
    before = text.ids[max(0, position - WINDOW) : position]
    after = text.ids[position + 1 : position + 1 + WINDOW]
    choice = int(values["oracle_top1"])
    return {
        "position": position,
        "token_id": text.ids[position],
        "token": tokenizer.token_text(text.ids[position]),
        "probability": math.exp(values["logprob"]),
        "entropy": values["entropy"],
        "varentropy": values["varentropy"],
        "top_prob": values["top_prob"],
        "margin": values["margin"],
        "entropy_rank": entropy_rank(view, position),
        "oracle_token_id": choice,
        "oracle_token": tokenizer.token_text(choice),
        "oracle_probability": math.exp(values["oracle_logprob"]),
        "oracle_rank": int(values["oracle_rank"]),
        "oracle_entropy": values["oracle_entropy"],
        **{name: values[name] for name in ("js", "kl") if name in values},
        "before": tokenizer.decode(before, skip_special=False),
        "after": tokenizer.decode(after, skip_special=False),
    }


def entropy_rank(view: View, position: int) -> int:
    """1 + how many tokens of the text have a larger entropy."""
    entropy = view.columns["entropy"]
    return 1 + int((entropy > entropy[position]).sum())
