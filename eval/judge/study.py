"""Judging: every pair that was asked for in both orders, each verdict asked for once and kept by its content."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from dodona.eval.judge.files import StageFile, parsed
from dodona.eval.judge.judgement import Judgement, judgement
from dodona.eval.judge.judges import Judge, identity
from dodona.eval.judge.pair import Ask, Pair, asks_of
from dodona.eval.judge.verdict import Verdict, read_verdict


class Judged(NamedTuple):
    """A pair with its judgement and the verdicts behind it."""

    pair: Pair
    judgement: Judgement
    verdicts: tuple[Verdict | None, Verdict | None] = (None, None)  # with a first, with b first


class Cache:
    """Verdicts by content hash, in a file that is added to. A verdict counts before an error, whichever was first.

    Args:
        file: of verdicts.

    Raises:
        DodonaError: a record in it cannot be read.
    """

    def __init__(self, file: StageFile) -> None:
        self._file = file
        self._verdicts: dict[str, Verdict] = {}
        for record in file.records:
            key, verdict = parsed(_entry, record, file.path)
            self._keep(key, verdict)

    def get(self, key: str) -> Verdict | None:
        """The verdict, if it is there."""
        return self._verdicts.get(key)

    def add(self, key: str, ask: Ask, judge: str, verdict: Verdict) -> None:
        """Keep a verdict; it is on the disk when this returns.

        Raises:
            DodonaError: it cannot be written.
        """
        record = {"key": key, "judge": judge, "pair_id": ask.pair_id, "order": ask.order, **verdict.as_dict()}
        self._file.append(record)
        self._keep(key, read_verdict(record))  # as a later run reads it

    def _keep(self, key: str, verdict: Verdict) -> None:
        there = self._verdicts.get(key)
        if there is None or there.choice is None:
            self._verdicts[key] = verdict


def judge_pairs(
    judge: Judge,
    pairs: Sequence[Pair],
    cache: Cache,
    *,
    retry_errors: bool = False,
    empty_loses: bool = False,
    asked: Callable[[int, int], None] = lambda done, total: None,
    step: Callable[[], None] = lambda: None,
) -> Iterator[Judged]:
    """Every pair with its judgement, in their order, each as soon as it is known.

    Args:
        retry_errors: ask again for verdicts that were errors in an earlier run.
        empty_loses: an answer that is not there loses without anybody being asked; else the pair is an error.
        asked: told how many verdicts are there already, and how many are needed.
        step: told after each new verdict.

    Raises:
        DodonaError: a verdict cannot be written, or the judge cannot be loaded.
    """
    who = identity(judge)
    faults = {pair.pair_id: pair.lacks(reference=judge.needs_reference) for pair in pairs}
    keys: dict[tuple[str, str], str] = {}
    wanted: dict[str, Ask] = {}  # what has to be asked, by content
    needed: set[str] = set()
    for pair in pairs:
        if faults[pair.pair_id] is None:
            for ask in asks_of(pair):
                key = keys[pair.pair_id, ask.order] = ask.key(who)
                needed.add(key)
                there = cache.get(key)
                if there is None or (retry_errors and there.choice is None):
                    wanted.setdefault(key, ask)
    asked(len(needed) - len(wanted), len(needed))
    answers = _answers(judge, wanted, cache, step)
    done = needed - wanted.keys()
    for pair in pairs:
        fault = faults[pair.pair_id]
        if fault is not None:
            yield Judged(pair, _empty(pair, fault) if empty_loses else judgement(pair, fault, None, None))
            continue
        own = [keys[pair.pair_id, order] for order in ("ab", "ba")]
        while not done.issuperset(own):
            done.add(next(answers))
        ab, ba = (cache.get(key) for key in own)
        yield Judged(pair, judgement(pair, None, ab, ba), (ab, ba))


def _answers(judge: Judge, wanted: Mapping[str, Ask], cache: Cache, step: Callable[[], None]) -> Iterator[str]:
    """Ask for verdicts and keep them; the key of each."""
    keys, asks = list(wanted), list(wanted.values())
    if not asks:
        return  # and the judge is not loaded
    for key, ask, verdict in zip(keys, asks, judge.judge(asks), strict=True):
        cache.add(key, ask, judge.name, verdict)
        step()
        yield key


def _empty(pair: Pair, fault: str) -> Judgement:
    """An answer that is not there loses against one that is; two are a tie."""
    found = judgement(pair, fault, None, None)
    if pair.fault is not None or pair.question is None or pair.lengths is not None:
        return found
    if pair.answer_a is None and pair.answer_b is None:
        return found._replace(winner="tie", error=None)
    return found._replace(winner="b" if pair.answer_a is None else "a", error=None)


def _entry(record: Mapping[str, Any]) -> tuple[str, Verdict]:
    return str(record["key"]), read_verdict(record)
