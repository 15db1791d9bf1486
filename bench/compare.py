"""``dodona bench peers``: our engine beside what people use today, the same work for all, runs taken in turn.

Every peer is a process of its own. A row is one peer beside ours on one piece of work: after a short run of each to
warm up they run in turn (theirs, ours, theirs, ours, ...), and the ratio is the median of the turns' ratios, so that a
slow minute hits both. All must write as many tokens; where greedy equality is due (float32), the same tokens. What is
not as it must be is a row's ``faults``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dodona.bench.peers.load import Setup
from dodona.bench.peers.models import Prepared, prepare
from dodona.bench.peers.process import PeerProcess
from dodona.bench.peers.work import Outcome, Unavailable, Work
from dodona.bench.server.kept import common_prefix
from dodona.bench.spread import spread
from dodona.engine.checkpoint import open_checkpoint
from dodona.engine.errors import DodonaError
from dodona.engine.memory import device_memory
from dodona.engine.options import ONE_THREAD

Row = dict[str, Any]

GUIDED, BASE_ALONE, ORACLE_ALONE = "guided", "base alone", "oracle alone"
PEERS: tuple[tuple[str, tuple[str, ...]], ...] = (  # and what each of them does
    ("naive", (GUIDED,)),
    ("careful", (GUIDED,)),
    ("http", (GUIDED,)),
    ("two-servers", (GUIDED,)),
    ("servers-by-token", (GUIDED,)),
    ("url", (GUIDED,)),
    ("generate", (BASE_ALONE, ORACLE_ALONE)),
    ("compiled", (BASE_ALONE, ORACLE_ALONE)),
    ("assisted", (ORACLE_ALONE,)),
)
PARTS = (GUIDED, BASE_ALONE, ORACLE_ALONE)
HOPS = ("http", "two-servers", "servers-by-token", "url")  # text passes between their models
WARM_UP = 24  # tokens
PAGE = 256  # lengths are planned for in whole pages of the largest page size
SHARE = 0.4  # of the free memory that the processes of one comparison may take together


class Guided(NamedTuple):
    """How often the oracle is consulted, and for how long."""

    c: float
    k: float
    trigger: str

    @property
    def name(self) -> str:
        """For people."""
        return f"c={self.c:g}, k={self.k:g}, {self.trigger}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two models, the work, and the peers beside ours."""

    base: str
    oracle: str
    dtype: str
    prompts: tuple[str, ...]
    tokens: int
    guided: tuple[Guided, ...]
    peers: tuple[str, ...]
    repeats: int
    parts: tuple[str, ...] = PARTS  # of the work: guided, base alone, oracle alone
    device: str = "cpu"
    threads: int | None = None  # None: one for models that fit into a CPU's cache, else as torch is set
    ignore_eos: bool = False
    engine: Mapping[str, Any] = field(default_factory=dict)  # backend, ops, loop, lookahead of ours
    url: str | None = None
    url_model: str | None = None
    pythons: Mapping[str, str] = field(default_factory=dict)  # interpreters by peer; "" for all that use transformers


class Contender(NamedTuple):
    """A peer and what it is measured at."""

    part: str
    peer: str
    works: dict[str, Work]  # by name


class Models(NamedTuple):
    """Both models on the disk."""

    base: Prepared
    oracle: Prepared


def subject_of(comparison: Comparison) -> dict[str, Any]:
    """What a row is about, for a result file."""
    return {
        "base": comparison.base,
        "oracle": comparison.oracle,
        "dtype": comparison.dtype,
        "device": comparison.device,
        **comparison.engine,
        "threads": comparison.threads,
    }


def resolved(comparison: Comparison) -> Comparison:
    """The comparison with its threads known.

    Raises:
        DodonaError: models that cannot be used, or a prompt with too many tokens.
    """
    if comparison.threads is not None:
        return comparison
    largest = max(open_checkpoint(name).config.num_parameters for name in (comparison.base, comparison.oracle))
    return replace(comparison, threads=1 if largest < ONE_THREAD else torch.get_num_threads())


def rows(comparison: Comparison, scratch: Path) -> Iterator[Row]:
    """One row for each peer and piece of work.

    Args:
        comparison: with its threads known.
        scratch: a folder for models that must be written out, and for logs.
    """
    models = Models(prepare(comparison.base, scratch), prepare(comparison.oracle, scratch))
    works = _works(comparison, models)
    contenders = list(_contenders(comparison, works))
    if not contenders:
        return
    longest = max(len(prompt) + work.tokens for work in works.values() for prompt in work.prompts)
    launch = _Launcher(comparison, models, scratch, -(-(longest + 8) // PAGE) * PAGE)
    with ExitStack() as stack:
        launch.serve(stack, [contender.peer for contender in contenders])
        ours: dict[bool, PeerProcess] = {}  # by whether it is the oracle alone
        for alone in sorted({part == ORACLE_ALONE for part, _, _ in contenders}):
            ours[alone] = stack.enter_context(launch.ours(oracle_alone=alone))
        together = launch.fit_together(contenders)
        early = [stack.enter_context(launch.theirs(c.part, c.peer)) for c in contenders] if together else []
        for process in ours.values():
            process.wait()
        for process in early:
            _settled(process)
        for index, contender in enumerate(contenders):
            mine = ours[contender.part == ORACLE_ALONE]
            if together:
                yield from _beside(early[index], mine, contender, comparison)
            else:
                with launch.theirs(contender.part, contender.peer) as process:
                    yield from _beside(process, mine, contender, comparison)


class _Launcher:
    """Starts the processes of one comparison."""

    def __init__(self, comparison: Comparison, models: Models, scratch: Path, length: int) -> None:
        self.comparison, self.models, self.scratch, self.length = comparison, models, scratch, length
        self.urls: dict[str, str] = {}  # of our servers, by model

    def serve(self, stack: ExitStack, peers: Sequence[str]) -> None:
        """Start the servers that these peers talk to."""
        both = ("two-servers", "servers-by-token")
        needed = [("oracle", ("http", *both)), ("base", both)]
        options = {"ops": self.comparison.engine.get("ops")}
        servers = {
            model: stack.enter_context(self._start("server", {"model": model, **options}))
            for model, users in needed
            if not set(users).isdisjoint(peers)
        }
        self.urls = {model: server.wait().facts["url"] for model, server in servers.items()}

    def ours(self, *, oracle_alone: bool) -> PeerProcess:
        """Our engine."""
        return self._start("dodona", dict(self.comparison.engine), base=not oracle_alone)

    def theirs(self, part: str, peer: str) -> PeerProcess:
        """A peer, for one part of the work."""
        comparison = self.comparison
        options: dict[str, Any] = {}
        if part != GUIDED and peer != "assisted":
            options["model"] = "base" if part == BASE_ALONE else "oracle"
        if peer in HOPS:
            options = {"ops": comparison.engine.get("ops"), "url_model": comparison.url_model}
            options |= {"url": comparison.url if peer == "url" else self.urls["oracle"]}
            options |= {"base_url": self.urls.get("base")}
        python = comparison.pythons.get(peer, None if peer in HOPS else comparison.pythons.get(""))
        return self._start(peer, options, python=python)

    def fit_together(self, contenders: Sequence[Contender]) -> bool:
        """Whether all processes may be there at once, which saves waiting for each to load."""
        itemsize = getattr(torch, self.comparison.dtype).itemsize
        one = 1.5 * sum(model.parameters for model in self.models) * itemsize
        free, _ = device_memory(torch.device(self.comparison.device))
        return bool(one * (len(contenders) + 4) < SHARE * free)

    def _start(
        self, peer: str, options: dict[str, Any], *, base: bool = True, python: str | None = None
    ) -> PeerProcess:
        comparison, models = self.comparison, self.models
        assert comparison.threads is not None
        setup = Setup(
            peer=peer,
            base=str(models.base.folder) if base else None,
            oracle=str(models.oracle.folder),
            base_ends=() if comparison.ignore_eos else models.base.ends,
            oracle_ends=() if comparison.ignore_eos else models.oracle.ends,
            dtype=comparison.dtype,
            device=comparison.device,
            threads=comparison.threads,
            length=self.length,
            options=options,
        )
        return PeerProcess(setup, python=python, scratch=self.scratch)


def _works(comparison: Comparison, models: Models) -> dict[str, Work]:
    """Every piece of work by its name.

    Raises:
        DodonaError: a prompt that leaves no room in the models' context.
    """
    tokenizer = open_checkpoint(comparison.base).tokenizer()
    prompts = tuple(tuple(tokenizer.encode(text, raw=False)) for text in comparison.prompts)
    room = min(models.base.context, models.oracle.context) - max(map(len, prompts)) - 8
    if room < 1:
        raise DodonaError(f"the longest --prompt has {max(map(len, prompts))} tokens and leaves no room to write")
    single = Work(prompts=prompts, tokens=min(comparison.tokens, room))
    works = {BASE_ALONE: single, ORACLE_ALONE: single}
    for cell in comparison.guided:
        works[cell.name] = replace(single, c=cell.c, k=cell.k, trigger=cell.trigger)
    return works


def _contenders(comparison: Comparison, works: Mapping[str, Work]) -> Iterator[Contender]:
    guided = {name: work for name, work in works.items() if name not in (BASE_ALONE, ORACLE_ALONE)}
    for peer, parts in PEERS:
        if peer in comparison.peers:
            for part in parts:
                if part in comparison.parts and (part != GUIDED or guided):
                    yield Contender(part, peer, guided if part == GUIDED else {part: works[part]})


def _settled(process: PeerProcess) -> None:
    """Wait until it has loaded or failed; who uses it is told of the failure."""
    with suppress(Unavailable, DodonaError):
        process.wait()


def _beside(theirs: PeerProcess, ours: PeerProcess, contender: Contender, comparison: Comparison) -> Iterator[Row]:
    """A row for each piece of work of one peer."""
    for name, work in contender.works.items():
        row: Row = {
            "part": contender.part,
            "name": name,
            "peer": contender.peer,
            "lengths": {"prompts": len(work.prompts), "tokens": work.tokens},
        }
        if contender.part == GUIDED:
            row |= {"c": work.c, "k": work.k, "trigger": work.trigger}
        try:
            theirs.wait()
            yield row | measured(theirs, ours, work, contender, comparison)
        except Unavailable as reason:
            yield row | {"skipped": str(reason)}
        except DodonaError as error:
            yield row | {"faults": [str(error)]}


def measured(theirs: PeerProcess, ours: PeerProcess, work: Work, contender: Contender, comparison: Comparison) -> Row:
    """Both in turn on one piece of work."""
    guided = contender.part == GUIDED
    short = replace(work, tokens=min(work.tokens, WARM_UP))
    for process in (theirs, ours):
        process.run(short)
    if guided:
        ours.run(short, watch=True)
    runs: list[tuple[Outcome, Outcome]] = []
    consults: list[Outcome] = []
    for _ in range(comparison.repeats):
        runs.append((theirs.run(work), ours.run(work)))
        if guided and contender.peer != "naive":  # whose consults nobody waits for
            consults.append(ours.run(work, watch=True))
    their_runs, our_runs = [run for run, _ in runs], [run for _, run in runs]
    first, mine = their_runs[0], our_runs[0]
    row: Row = {
        "repeats": comparison.repeats,
        "written": [_count(mine), _count(first)],
        "ms_per_token": {
            "ours": spread([_per_token(run) for run in our_runs]).as_dict(),
            "theirs": spread([_per_token(run) for run in their_runs]).as_dict(),
        },
        "ratio": spread([_per_token(theirs) / _per_token(ours) for theirs, ours in runs]).as_dict(),
        "same_tokens": first.ids == mine.ids,
        "versions": {"ours": ours.facts, "theirs": theirs.facts},
    }
    if first.facts:
        row["facts"] = first.facts
    if consults:
        row |= _consult_times(their_runs, consults)
    return row | {"faults": list(_faults(their_runs, our_runs + consults, contender, comparison))}


def _consult_times(theirs: Sequence[Outcome], ours: Sequence[Outcome]) -> Row:
    """Trigger to first oracle token, and to the end of the burst, in ms; and their ratios."""
    found: Row = {}
    for name in ("first_ms", "burst_ms"):
        values = [[ms for run in runs for ms in getattr(run, name)] for runs in (ours, theirs)]
        if all(values):
            mine, other = (spread(part) for part in values)
            found[name] = {"ours": mine.as_dict(), "theirs": other.as_dict()}
            found[name.replace("_ms", "_ratio")] = other.p50 / mine.p50
    return found


def _faults(
    theirs: Sequence[Outcome], ours: Sequence[Outcome], contender: Contender, comparison: Comparison
) -> Iterator[str]:
    """What must hold between two that did the same work, and does not."""
    for name, runs in ((contender.peer, theirs), ("dodona", ours)):
        if any(run.ids != runs[0].ids for run in runs):
            yield f"{name} wrote other tokens in another run"
    first, mine = theirs[0], ours[0]
    lengths = [[len(ids) for ids in run.ids] for run in (first, mine)]
    if lengths[0] != lengths[1]:
        yield (
            f"{contender.peer} wrote {sum(lengths[0])} tokens and dodona {sum(lengths[1])}, which does not compare: "
            "--ignore-eos writes on to the limit"
        )
    changed = contender.peer in ("two-servers", "servers-by-token") or any(
        first.facts.get(name) for name in ("prompts_changed", "bursts_changed", "ids_read_again")
    )
    if comparison.dtype == "float32" and first.ids != mine.ids and not changed and contender.peer != "url":
        at = [(index, common_prefix(a, b)) for index, (a, b) in enumerate(zip(first.ids, mine.ids, strict=False))]
        index, place = next((index, place) for index, place in at if first.ids[index] != mine.ids[index])
        yield f"{contender.peer} writes another token at position {place} of text {index}, in float32"


def _count(outcome: Outcome) -> int:
    return sum(map(len, outcome.ids))


def _per_token(outcome: Outcome) -> float:
    """Milliseconds."""
    return 1e3 * outcome.seconds / max(1, _count(outcome))
