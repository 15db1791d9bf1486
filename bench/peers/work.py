"""What every peer is given to do, and the decoding loop that the peers without an engine of their own share.

Nothing here imports torch or the engine, so that a peer may run in another interpreter.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, runtime_checkable

_RULE = re.compile(r"(every|at)\s*\(([\s\d,]*)\)|never")


@dataclass(frozen=True, slots=True)
class Rule:
    """When to consult, for loops outside the engine: the presets ``every(n)`` and ``at(i, j, ...)``."""

    kind: str  # every, at or never
    numbers: tuple[int, ...] = ()

    def fires(self, position: int, base_run: int) -> bool:
        """Whether to consult at a generated position, ``base_run`` base tokens after the last burst or the start."""
        if self.kind == "every":
            return base_run >= self.numbers[0]
        return self.kind == "at" and position in self.numbers


def parse_rule(text: str) -> Rule:
    """The rule that a trigger's text says.

    Raises:
        ValueError: another trigger, or wrong numbers.
    """
    found = _RULE.fullmatch(text.strip())
    if not found:
        raise ValueError(f"peers know the triggers every(n), at(i, j, ...) and never, not {text!r}")
    if found[1] is None:
        return Rule("never")
    try:
        numbers = tuple(int(number) for number in found[2].rstrip(", ").split(","))
    except ValueError:
        raise ValueError(f"{found[1]}(...) takes whole numbers with commas between them, not {text!r}") from None
    if found[1] == "every" and (len(numbers) != 1 or numbers[0] < 1):
        raise ValueError(f"every(n) takes one number of 1 or more, not {text!r}")
    return Rule(found[1], numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Texts to write greedily, one after another."""

    prompts: tuple[tuple[int, ...], ...]  # token ids
    tokens: int  # of each text at most; it ends before that at an end token
    c: float = 0  # consults a text, inf allowed
    k: float = 0  # tokens a consult
    trigger: str = "never"

    def as_json(self) -> dict[str, Any]:
        """As one process tells another; infinities as text."""
        fields = asdict(self)
        return fields | {name: "inf" if math.isinf(fields[name]) else fields[name] for name in ("c", "k")}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Work:
        """The reverse of ``as_json``."""
        prompts = tuple(tuple(prompt) for prompt in fields["prompts"])
        budgets = {name: float(fields[name]) for name in ("c", "k")}
        return cls(prompts=prompts, tokens=fields["tokens"], trigger=fields["trigger"], **budgets)


@dataclass(slots=True)
class Outcome:
    """What one run over all prompts gave."""

    ids: list[list[int]] = field(default_factory=list)  # generated, by prompt
    seconds: float = 0.0  # of the decoding alone
    first_ms: list[float] = field(default_factory=list)  # by consult: from the trigger to the oracle's first token
    burst_ms: list[float] = field(default_factory=list)  # to the last token of the burst
    facts: dict[str, float] = field(default_factory=dict)  # counts that only this peer has

    def as_json(self) -> dict[str, Any]:
        """As one process tells another."""
        return asdict(self)


class Unavailable(Exception):
    """A peer that cannot run here, and why."""


@runtime_checkable
class Subject(Protocol):
    """Something that decodes; made once a process, run many times."""

    def run(self, work: Work, watch: bool) -> Outcome:
        """Do the work; ``watch``: the consults' times matter, the whole time need not."""
        ...


class Model(Protocol):
    """One of the two models of a loop."""

    def next(self, ids: Sequence[int]) -> int:
        """The greedy token after these ids."""
        ...


def write_guided(
    work: Work, prompt: Sequence[int], base: Model, oracle: Model, ends: Collection[int], outcome: Outcome
) -> list[int]:
    """One text, as docs/design.md says: the base reads, the rule decides, then one of the two writes.

    The base reads on before the rule is asked, as it must where the rule looks at its distribution (when="before"), so
    that all peers make the same forwards.

    Returns:
        The generated ids.
    """
    rule, ids, run, consults = parse_rule(work.trigger), list(prompt), 0, 0
    start = len(ids)

    def over() -> bool:
        return len(ids) - start >= work.tokens or (len(ids) > start and ids[-1] in ends)

    while not over():
        token = base.next(ids)
        if consults < work.c and work.k > 0 and rule.fires(len(ids) - start, run):
            fired = time.perf_counter()
            consults, run, left = consults + 1, 0, work.k
            while left and not over():
                ids.append(oracle.next(ids))
                if left == work.k:
                    outcome.first_ms.append(1e3 * (time.perf_counter() - fired))
                left -= 1
            outcome.burst_ms.append(1e3 * (time.perf_counter() - fired))
        else:
            ids.append(token)
            run += 1
    return ids[start:]


def timed(work: Work, write: Callable[[tuple[int, ...], Outcome], list[int]]) -> Outcome:
    """Every prompt by ``write(prompt, outcome)``, with the time that all took."""
    outcome = Outcome()
    for prompt in work.prompts:
        started = time.perf_counter()
        ids = write(prompt, outcome)
        outcome.seconds += time.perf_counter() - started
        outcome.ids.append(ids)
    return outcome
