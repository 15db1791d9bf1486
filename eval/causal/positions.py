"""Which positions of recorded texts to try a consult at."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.engine.records import read_records
from dodona.eval.analysis.signal_table import DIRECTIONS
from dodona.eval.causal.signals import TextSignals
from dodona.eval.causal.texts import Text

Array = np.ndarray[Any, Any]
Kind: TypeAlias = Literal["consults", "trigger", "at", "top", "random", "differs", "all"]

# 1: a high value says consult; -1: a low one. The base's own signals, and the oracle's view of a token.
RANKED: Final[Mapping[str, int]] = MappingProxyType(
    {name: sign for name, sign in DIRECTIONS.items() if name not in ("position", "length", "u")}
    | {"oracle_logprob": -1, "oracle_rank": 1, "oracle_entropy": 1, "js": 1, "kl": 1}
)


@dataclass(frozen=True, slots=True)
class Where:
    """A rule that chooses positions of every text."""

    kind: Kind = "consults"
    trigger: str = ""  # of ``trigger``
    count: int = 0  # of ``top`` and ``random``: so many a text
    signal: str = "entropy"  # of ``top``
    everywhere: tuple[int, ...] = ()  # of ``at``: positions of every text
    listed: Mapping[str, tuple[int, ...]] | None = None  # of ``at``: positions by problem, in place of these
    source: str = ""  # of ``at``: the file that lists them
    runs: frozenset[tuple[str | None, str | None]] = frozenset()  # whose positions that file says they are: config, arm
    seed: int = 0  # of ``random``
    most: int | None = None  # not more of a text: the first ones

    def __str__(self) -> str:
        """For people, after "consults"."""
        if self.kind == "consults":
            return "where the run consulted"
        if self.kind == "trigger":
            return f"where the trigger {self.trigger} consults"
        if self.kind == "at":
            return f"at {self.source or 'the positions ' + ', '.join(map(str, self.everywhere))}"
        if self.kind == "top":
            which = "largest" if RANKED[self.signal] > 0 else "smallest"
            return f"at the {self.count} tokens of {which} {self.signal} of a text"
        if self.kind == "random":
            return f"at {self.count} random tokens of a text, seed {self.seed}"
        return "where the first choices differ" if self.kind == "differs" else "at every token"

    @property
    def needs_signals(self) -> bool:
        """Whether it cannot choose from the token ids alone."""
        return self.kind in ("trigger", "top", "differs")


def read_at(given: str) -> Where:
    """Explicit positions: numbers with commas between them, or a file of JSON lines with problem_id and position.

    Raises:
        DodonaError: it is neither.
    """
    path = Path(given)
    if not path.is_file():
        try:
            places = tuple(sorted({int(part) for part in given.split(",")}))
        except ValueError:
            raise DodonaError(
                f"--at {given}: neither positions, as in 3,17,40, nor a file of JSON lines with problem_id and position"
            ) from None
        if places[0] < 0:
            raise DodonaError(f"--at {given}: a position is 0 or more")
        return Where("at", everywhere=places)
    listed: dict[str, set[int]] = {}
    runs = set()
    for number, line in enumerate(read_records(path), 1):
        if "header" in line:
            continue
        name, position = line.get("problem_id"), line.get("position")
        if type(name) is not str or type(position) is not int or position < 0:
            raise DodonaError(f'--at {path}, line {number}: a line is {{"problem_id": text, "position": number}}')
        listed.setdefault(name, set()).add(position)
        runs.add((line.get("config_hash"), line.get("arm")))
    if not listed:
        raise DodonaError(f"--at {path}: there is no position in it")
    by_problem = {name: tuple(sorted(found)) for name, found in listed.items()}
    return Where("at", listed=by_problem, source=str(path), runs=frozenset(runs))


def free(text: Text) -> list[int]:
    """The positions at which a consult can begin: those that the base wrote, and each recorded consult's first."""
    own = np.frombuffer(text.sources, dtype=np.uint8) == 0
    own[list(text.starts)] = True
    return [int(p) for p in np.flatnonzero(own)]


def positions(where: Where, text: Text, signals: TextSignals | None, fired: Sequence[int] = ()) -> list[int]:
    """The positions of one text, ascending. A problem's draw depends on its id and the seed alone.

    Args:
        signals: of the text, for a rule that needs some.
        fired: where the trigger consults (``Recorded.consults``).
    """
    own = np.array(free(text), dtype=np.int64)
    if where.kind == "consults":
        return list(text.starts[: where.most])
    if where.kind == "random":
        count = where.count if where.most is None else min(where.count, where.most)
        base = own[np.frombuffer(text.sources, dtype=np.uint8)[own] == 0]
        if len(base) <= count:
            return [int(p) for p in base]
        return sorted(int(p) for p in _draws(where.seed, text.problem_id).choice(base, size=count, replace=False))
    if where.kind == "at":
        asked = where.everywhere if where.listed is None else where.listed.get(text.problem_id, ())
        chosen = own[np.isin(own, asked)]
    elif where.kind == "trigger":
        chosen = own[np.isin(own, fired)]
    elif where.kind == "all":
        chosen = own
    else:
        assert signals is not None
        if where.kind == "differs":
            chosen = own[signals.differs[own] == 1]
        else:
            values = RANKED[where.signal] * signals.columns[where.signal][own]
            own, values = own[~np.isnan(values)], values[~np.isnan(values)]
            # Equal values in the order of their positions.
            chosen = np.sort(own[np.argsort(-values, kind="stable")[: where.count]])
    return [int(p) for p in chosen[: where.most]]


def _draws(seed: int, problem_id: str) -> np.random.Generator:
    digest = hashlib.sha256(problem_id.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
