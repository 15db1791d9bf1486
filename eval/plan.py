"""What a job would do, without doing it: runs that are left, and an estimate of their tokens and their time.

Every number says where it comes from: prompts are counted with the models' tokenizer, the tokens to write are bounded
by the limit and, where there are records of the same experiment, expected to go on as they did; time comes from those
records' ledgers or from a calibration, and is unknown without either.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.options import backend_of
from dodona.engine.request import Request
from dodona.engine.tokenizer import Tokenizer
from dodona.eval.arms import Arm
from dodona.eval.job import Job
from dodona.eval.models import Opened
from dodona.eval.run import Experiment
from dodona.eval.store import Place, Records, checked_row
from dodona.eval.summary import aligned
from dodona.eval.tasks.problem import Problem

CHARACTERS_A_TOKEN: Final = 4  # of English text, roughly; where the tokenizer is not here
CALIBRATION_TOKENS: Final = 64  # of each of the runs that are timed


@dataclass(frozen=True, slots=True)
class Seen:
    """What the records of some runs add up to."""

    runs: int = 0
    tokens: int = 0  # written
    ms: float = 0.0  # of forwards

    def __add__(self, other: Seen) -> Seen:
        return Seen(self.runs + other.runs, self.tokens + other.tokens, self.ms + other.ms)


class ArmPlan(NamedTuple):
    """One arm's part of a plan."""

    arm: Arm
    file: Path
    left: list[Problem]
    seen: Seen  # of the problems that are asked for and done


class Rate(NamedTuple):
    """Tokens a second, and where they were measured."""

    tokens_per_second: float
    source: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is left to do.

    Args:
        prompt_tokens: of all runs that are left; each prompt counts once for each of its arms.
        prompt_source: how they were counted.
        most_tokens: that the runs that are left can write.
        rate: measured by a calibration; None: there was none.
    """

    experiment: Experiment
    place: Place
    arms: Sequence[ArmPlan]
    prompt_tokens: int
    prompt_source: str
    most_tokens: int
    rate: Rate | None = None

    @property
    def left(self) -> int:
        """Runs."""
        return sum(len(arm.left) for arm in self.arms)

    @property
    def seen(self) -> Seen:
        """What was done already, over all arms."""
        return sum((arm.seen for arm in self.arms), Seen())

    @property
    def expected_tokens(self) -> int | None:
        """That are left to be written if runs go on as the recorded ones; None: there are none.

        An arm that has no records yet is taken to be like the others.
        """
        seen = [(arm, arm.seen if arm.seen.runs else self.seen) for arm in self.arms]
        return round(sum(len(arm.left) * s.tokens / s.runs for arm, s in seen)) if self.seen.runs else None

    @property
    def seconds(self) -> float | None:
        """That one process takes for what is left; None: nothing was measured."""
        if not self.left:
            return 0.0
        if self.rate is not None:
            tokens = self.most_tokens if self.expected_tokens is None else self.expected_tokens
            return tokens / self.rate.tokens_per_second
        if not self.seen.runs:
            return None
        seen = [(arm, arm.seen if arm.seen.runs else self.seen) for arm in self.arms]
        return sum(len(arm.left) * s.ms / s.runs for arm, s in seen) / 1e3

    @property
    def time_source(self) -> str:
        """Where the time comes from."""
        if not self.left:
            return "nothing is left"
        if self.rate is not None:
            upper = " for the most tokens that they can be" if self.expected_tokens is None else ""
            return f"at {self.rate.tokens_per_second:.0f} tokens/s{upper}, {self.rate.source}"
        if self.seen.runs:
            return f"by the ledgers of {self.seen.runs} runs here, which count the models' forwards only"
        return "no runs yet; --calibrate measures"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "dry_run": True,
            "dataset": self.experiment.task.name,
            "records": str(self.place.path),
            "problems": len(self.experiment.problems),
            "runs": self.experiment.size,
            "done": self.seen.runs,
            "left": self.left,
            "arms": [
                {**arm.arm.as_dict(), "file": str(arm.file), "done": arm.seen.runs, "left": len(arm.left)}
                for arm in self.arms
            ],
            "prompt_tokens": self.prompt_tokens,
            "prompt_tokens_source": self.prompt_source,
            "most_new_tokens": self.most_tokens,
            "expected_new_tokens": self.expected_tokens,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "seconds_source": self.time_source,
        }

    def lines(self) -> list[str]:
        """For people."""
        experiment, expected = self.experiment, self.expected_tokens
        rows = [["arm", "done", "left", "tokens a run"]]
        for arm in self.arms:
            mean = f"{arm.seen.tokens / arm.seen.runs:.1f}" if arm.seen.runs else "-"
            rows.append([arm.arm.name, str(arm.seen.runs), str(len(arm.left)), mean])
        files = [str(self.place.path)] if not self.place.folder else [f"{self.place.path}/, one an arm:"]
        if self.place.folder:
            files += [f"  {arm.file.name}{'' if arm.file.exists() else ' (new)'}" for arm in self.arms]
        likely = "" if expected is None else f"; {expected} expected, as in the {self.seen.runs} runs here"
        seconds = "unknown" if self.seconds is None else f"about {duration(self.seconds)} in one process"
        last = f"time: {seconds} ({self.time_source})" if self.left else "nothing is left to run"
        return [
            f"{experiment.shape}: {self.seen.runs} done, {self.left} left",
            "",
            *aligned(rows),
            "",
            f"files: {files[0]}",
            *files[1:],
            f"tokens to read: {self.prompt_tokens} of prompts, {self.prompt_source}",
            f"tokens to write: at most {self.most_tokens}{likely}",
            last,
        ]


def make_plan(job: Job) -> Plan:
    """Look at the models' configurations, the problems and the records that are there; nothing is loaded or written.

    Models that are not on this machine are not downloaded: their prompts are then counted by their characters.

    Raises:
        DodonaError: a model that cannot be used, or a place with another experiment's records.
    """
    opened = job.models.open() if job.models.here else None
    unknown: tuple[str, ...] = ()
    source = "by their tokenizer"
    if opened is None:
        experiment = Experiment(job.task, job.problems, job.arms, job.options)
        base, oracle = (*job.models.names, None)[:2]
        config = experiment.config(
            Unopened(str(base), oracle, [], *job.models.where, backend_of(job.models.options).ops)
        )
        unknown, source = ("weights",), f"at {CHARACTERS_A_TOKEN} characters a token, for the models are not here"
    else:
        experiment = job.experiment(opened)
        config = experiment.config(opened)
    seen = _seen(Records(job.place, config, unknown=unknown), experiment)
    arms = []
    for arm in experiment.arms:
        there = seen.get(arm.name, {})
        left = [problem for problem in experiment.problems if problem.problem_id not in there]
        arms.append(ArmPlan(arm, job.place.file(arm), left, sum(there.values(), Seen())))
    lengths = {p.problem_id: _prompt_length(experiment.request(arms[0].arm, p), opened) for p in experiment.problems}
    limit = Request(prompt="", **experiment.options).max_new_tokens
    room = {i: limit if opened is None else max(0, min(limit, opened.context - n)) for i, n in lengths.items()}
    return Plan(
        experiment=experiment,
        place=job.place,
        arms=arms,
        prompt_tokens=sum(lengths[problem.problem_id] for arm in arms for problem in arm.left),
        prompt_source=source,
        most_tokens=sum(room[problem.problem_id] for arm in arms for problem in arm.left),
    )


def calibrated(plan: Plan, engine: Engine) -> Plan:
    """The plan with a rate: some of the runs that are left, as many as run at once, cut off after a few tokens.

    Their results are thrown away.
    """
    left = [(arm.arm, problem) for arm in plan.arms for problem in arm.left]
    if not left:
        return plan
    count = min(len(left), engine.scheduler.max_batch)
    chosen = [left[index * len(left) // count] for index in range(count)]
    requests = [plan.experiment.request(arm, problem) for arm, problem in chosen]
    short = [replace(r, max_new_tokens=min(r.max_new_tokens, CALIBRATION_TOKENS)) for r in requests]
    started = time.perf_counter()
    tokens = sum(len(result.ids) for result in engine.generate(iter(short)))
    seconds = time.perf_counter() - started
    if not tokens:
        raise DodonaError("--calibrate: none of the runs wrote anything")
    source = f"timed now on {count} runs at once of at most {CALIBRATION_TOKENS} tokens"
    return replace(plan, rate=Rate(tokens / seconds, source))


class Unopened(NamedTuple):
    """What is known of models that are not on this machine."""

    base_model_id: str
    oracle_model_id: str | None
    identities: list[str]
    device: Any
    dtype: Any
    ops: str


def duration(seconds: float) -> str:
    """``45 s``, ``3 min``, ``2.5 h`` or ``3.1 days``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 1 else "1 s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _seen(records: Records, experiment: Experiment) -> Mapping[str, Mapping[str, Seen]]:
    """What was done of the experiment, by arm and problem."""
    wanted = {problem.problem_id for problem in experiment.problems}
    found: dict[str, dict[str, Seen]] = {arm.name: {} for arm in experiment.arms}
    for path, record in records:
        row = checked_row(record, path)
        if row.arm in found and row.problem_id in wanted:
            ms = sum(float(record["ledger"].get(name) or 0) for name in ("base_ms", "oracle_ms"))
            found[row.arm].setdefault(row.problem_id, Seen(1, row.tokens, ms))
    return found


def _prompt_length(request: Request, opened: Opened | None) -> int:
    """Tokens of a prompt."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return _text_length(prompt, request.raw, opened)
    if prompt and isinstance(prompt[0], Mapping):
        if opened is not None:
            return len(opened.tokenizer.encode_chat(list(prompt)))  # type: ignore[arg-type]
        texts = [str(turn["content"]) for turn in prompt if isinstance(turn, Mapping)]
        return sum(_text_length(text, True, None) for text in texts)
    return len(prompt)


def _text_length(text: str, raw: bool, opened: Opened | None) -> int:
    tokenizer: Tokenizer | None = None if opened is None else opened.tokenizer
    return -(-len(text) // CHARACTERS_A_TOKEN) if tokenizer is None else len(tokenizer.encode(text, raw=raw))
