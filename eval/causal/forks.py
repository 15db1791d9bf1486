"""Forks: a recorded text is cut before a token, and goes on from there in another way.

A fork's prompt is the run's own token ids, prompt and text up to the cut, so nothing is tokenised again; forks of one
cut that run together share the pages of what they have read. At the cut the oracle writes k tokens and then the base
goes on alone: k=0 is the base alone from there, k=inf the oracle taking over to the end.

What a fork became is written down at once, in a log that any command about the same records reads: a fork is never run
twice, and a killed command goes on where it was. Which forks are wanted is always a function of what is known, so that
the end result does not depend on how often that happened.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.request import Request
from dodona.engine.result import Result, json_number
from dodona.engine.tokenizer import Tokenizer
from dodona.eval.causal.log import OriginLog
from dodona.eval.causal.origin import Origin
from dodona.eval.causal.texts import Text
from dodona.eval.recorded import RecordedArm
from dodona.eval.rows import shortened

SCHEMA: Final = "forks-1"
LOG: Final = "-forks.log"  # beside the records
_LONGEST_ANSWER: Final = 200  # characters
_WINDOW: Final = 8  # tokens, beside the bytes of the longest stop string; as the engine looks for one


class Fork(NamedTuple):
    """A text of an arm, cut before a position, that goes on with k tokens of the oracle."""

    problem_id: str
    position: int
    k: float


class Outcome(NamedTuple):
    """What a fork became."""

    outcome: str  # correct, wrong, unparsed, truncated or failed, of the whole text
    answer: str | None
    ids: tuple[int, ...]  # written after the cut

    @property
    def correct(self) -> bool:
        """Whether the whole text counts as right."""
        return self.outcome == "correct"


class ForkLog:
    """The forks of one experiment's texts, on the disk; open for adding to from construction on.

    Args:
        path: the log; made where it is missing.
        origin: whose texts they are.

    Raises:
        DodonaError: as OriginLog.
    """

    def __init__(self, path: Path, origin: Origin) -> None:
        self.path = path
        self.known: dict[str, dict[Fork, Outcome]] = {}  # by arm
        self._log = OriginLog(path, origin, SCHEMA, "--forks")
        for number, entry in self._log.entries():
            try:
                k = math.inf if entry["k"] == "inf" else entry["k"]
                fork = Fork(str(entry["problem_id"]), int(entry["position"]), k)
                outcome = Outcome(str(entry["outcome"]), entry["answer"], tuple(map(int, entry["token_ids"])))
                self.known.setdefault(str(entry["arm"]), {}).setdefault(fork, outcome)
            except (KeyError, TypeError, ValueError) as error:
                self.close()
                raise self._log.damaged(number, error) from error

    def of(self, arm: RecordedArm) -> Mapping[Fork, Outcome]:
        """What is known of an arm's texts."""
        return self.known.setdefault(arm.name, {})

    def append(self, arm: RecordedArm, fork: Fork, outcome: Outcome) -> None:
        """Write down what a fork became; it is on the disk when this returns.

        Raises:
            DodonaError: it cannot be written.
        """
        self._log.append(
            {
                "arm": arm.name,
                "problem_id": fork.problem_id,
                "position": fork.position,
                "k": json_number(fork.k),
                "outcome": outcome.outcome,
                "answer": outcome.answer,
                "token_ids": list(outcome.ids),
            }
        )
        self.known.setdefault(arm.name, {})[fork] = outcome

    def close(self) -> None:
        """Close the file; closing again does nothing."""
        self._log.close()

    def __enter__(self) -> ForkLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Forks:
    """Runs forks of one arm's texts.

    Args:
        origin, arm: whose texts.
        log: what is known.
        engine: called once something has to be run.
    """

    def __init__(self, origin: Origin, arm: RecordedArm, log: ForkLog, engine: Callable[[], Engine]) -> None:
        self.origin, self.arm, self.log, self._engine = origin, arm, log, engine
        self.texts = origin.texts(arm)
        self._prompts: dict[str, list[int]] = {}

    @property
    def known(self) -> Mapping[Fork, Outcome]:
        """Every fork that has been run."""
        return self.log.of(self.arm)

    def run(self, wanted: Iterable[Fork]) -> Iterator[Fork]:
        """Run those that are not known yet; each comes once it is on the disk, in the order in which they are done.

        Raises:
            DodonaError: a fork that these models cannot run, or the log cannot be written.
        """
        left = [fork for fork in dict.fromkeys(wanted) if fork not in self.known]
        if not left:
            return
        engine = self._engine()
        by_id = {json.dumps([*fork[:2], json_number(fork.k)]): fork for fork in left}
        for result in engine.generate(self.request(fork, name, engine.tokenizer) for name, fork in by_id.items()):
            assert result.request.id is not None
            fork = by_id[result.request.id]
            self.log.append(self.arm, fork, self.outcome(fork, result, engine.tokenizer))
            yield fork

    def request(self, fork: Fork, name: str, tokenizer: Tokenizer) -> Request:
        """The request that runs a fork.

        Forks of one cut share their draws, so that they differ by what they do. An oracle that takes over to the end
        writes its first choices. Raises IndexError for a position that the text does not have.
        """
        text = self.texts[fork.problem_id]
        if not 0 <= fork.position < len(text.ids):
            raise IndexError(f"{fork.problem_id} has {len(text.ids)} tokens and none at {fork.position}")
        options = dict(self.origin.options)
        cap = options["max_oracle_tokens"]
        takeover = math.isinf(fork.k)
        if takeover:
            options |= {"oracle_temperature": 0.0, "max_oracle_tokens": None}
        elif cap is not None:
            options["max_oracle_tokens"] = max(0, cap - text.sources[: fork.position].count(1))
        options |= {
            "max_new_tokens": options["max_new_tokens"] - fork.position,
            "raw": True,
            "base_tail": False,
            "oracle_tail": False,
            "divergence": False,
            "attention_layer": None,
        }
        # Where the arm had an oracle, its end tokens end the text here, too, though it may not be asked.
        guided = fork.k > 0 or not self.arm.base_alone
        return Request(
            prompt=[*self._prompt(text, tokenizer), *text.ids[: fork.position]],
            id=name,
            key=f"{fork.problem_id}@{fork.position}",
            seed=self.arm.seed,
            c=1 if guided else 0,
            k=fork.k if fork.k > 0 else 1,
            trigger="position == 0" if fork.k > 0 else "never",
            when="before",
            **options,
        )

    def outcome(self, fork: Fork, result: Result, tokenizer: Tokenizer) -> Outcome:
        """How the whole text, what stood before the cut and what came after it, ends."""
        if result.error is not None or result.finish_reason in ("error", "cancelled"):
            return Outcome("failed", shortened(result.error or result.finish_reason, _LONGEST_ANSWER), ())
        text = self.texts[fork.problem_id]
        before = list(text.ids[: fork.position])
        after = cut_at_stop(before, result.ids, self.origin.options["stop"], tokenizer)
        verdict = judged(self.origin, tokenizer.decode([*before, *after]), text)
        if len(after) == len(result.ids) and result.finish_reason == "length":
            outcome = "truncated"
        elif verdict[1] is None:
            outcome = "unparsed"
        else:
            outcome = "correct" if verdict[0] else "wrong"
        answer = None if verdict[1] is None else shortened(verdict[1], _LONGEST_ANSWER)
        return Outcome(outcome, answer, tuple(after))

    def _prompt(self, text: Text, tokenizer: Tokenizer) -> list[int]:
        if text.problem_id not in self._prompts:
            self._prompts[text.problem_id] = self.origin.prompt_ids(text, tokenizer)
        return self._prompts[text.problem_id]


def judged(origin: Origin, completion: str, text: Text) -> tuple[bool, str | None]:
    """Whether a whole text is right, and the answer in it."""
    try:
        verdict = origin.task.judge(completion, text.problem)
    except DodonaError:  # a gold answer that nothing can be compared with
        return False, None
    return verdict.correct, verdict.extracted


def cut_at_stop(before: Sequence[int], after: Sequence[int], stops: Sequence[str], tokenizer: Tokenizer) -> list[int]:
    """The ids after a cut, up to the token that completes a stop string which began before it.

    One that lies behind the cut as a whole has ended the fork already.
    """
    window = max((len(stop.encode()) for stop in stops), default=0)
    for count in range(1, min(len(after), window + _WINDOW) + 1 if stops else 0):
        seen = tokenizer.decode([*before, *after[:count]][-(window + _WINDOW) :])
        if any(stop in seen for stop in stops):
            return list(after[:count])
    return list(after)
