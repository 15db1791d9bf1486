"""The runs to look at, from records and traces: arms, problems, and one text for each arm and problem."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.engine.records import read_records
from dodona.eval.arms import Arm
from dodona.eval.rows import cut_off
from dodona.eval.viewer.sources import Source, is_run

Array = np.ndarray[Any, Any]
Trace = Mapping[str, Array]  # one sequence's columns (``engine.trace.read_traces``)

ORACLE: Final = "oracle"
_SHOWN_PROMPT: Final = 60  # characters of a prompt that stand for a problem without a name


class Piece(NamedTuple):
    """A stretch of the text of one author, as its record has it."""

    source: str  # base or oracle
    text: str
    ids: tuple[int, ...] | None  # None: the record does not say


class ArmKey(NamedTuple):
    """What makes two runs runs of one arm."""

    source: int  # ordinal of the path that was named
    config: str  # hash of the configuration
    name: str


@dataclass(slots=True)
class ShownArm:
    """A column of the page."""

    key: ArmKey
    file: Path  # the first one with a run of it
    arm: Arm | None  # None: its settings are not known
    base_model_id: str | None = None
    oracle_model_id: str | None = None
    label: str = ""  # short, and different from every other's

    @property
    def alone(self) -> bool:
        """Whether only the base writes."""
        return self.arm is not None and self.arm.alone


@dataclass(slots=True)
class ShownProblem:
    """A row of the page."""

    key: str
    label: str
    level: int | str | None = None
    subject: str | None = None
    gold: str | None = None


@dataclass(slots=True)
class Run:
    """One text."""

    arm: ArmKey
    problem: str
    pieces: list[Piece]
    starts: list[int]  # generated-token index of each consult's first oracle token
    outcome: str  # correct, wrong, unparsed, truncated, failed or ungraded
    prompt: Any = None  # text, token ids, chat messages, or None: not known
    result: str | None = None
    answer: str | None = None
    finish_reason: str | None = None
    error: str | None = None
    settings: tuple[Any, ...] = ()  # by which its trace is found
    trace: Trace | None = None

    @property
    def ids(self) -> list[int] | None:
        """The generated ids, if every piece has its own."""
        if any(piece.ids is None for piece in self.pieces):
            return None
        return [i for piece in self.pieces for i in piece.ids or ()]


@dataclass(slots=True)
class Collection:
    """Everything that one page shows."""

    sources: list[Source]
    arms: dict[ArmKey, ShownArm] = field(default_factory=dict)
    problems: dict[str, ShownProblem] = field(default_factory=dict)
    runs: dict[tuple[ArmKey, str], Run] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, run: Run) -> bool:
        """Add a run; False where there is one of its arm and problem already, which stays."""
        return self.runs.setdefault((run.arm, run.problem), run) is run


def read_runs(sources: Sequence[Source], note: Callable[[str], None]) -> Collection:
    """The runs in the records of all sources; traces come later (``traces.attach``).

    Raises:
        DodonaError: a line that is no record, naming file and line.
    """
    collection = Collection(list(sources))
    for number, source in enumerate(sources):
        duplicates = 0
        for path in source.records:
            duplicates += _read_file(collection, number, path)
        if duplicates:
            note(f"{source.path} has {duplicates} more records of runs that it has already; the first ones are shown")
    return collection


def _read_file(collection: Collection, source: int, path: Path) -> int:
    """Add a file's runs; how many were there already."""
    config: Mapping[str, Any] = {}
    digest = ""
    duplicates = line = 0
    try:
        for line, record in enumerate(read_records(path), 1):
            if "header" in record:
                config, digest = _read_header(collection, source, path, record["header"])
            elif is_run(record):
                duplicates += not collection.add(_run(collection, source, path, record, config, digest))
            else:
                raise DodonaError(f"{path}, line {line}: no record of a run, for it has no interleaved_outputs")
    except KeyError as error:
        raise DodonaError(f"{path}, line {line}: no record of a run, for it has no {error}") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DodonaError(f"{path}, line {line}: no record of a run ({error})") from error
    except RecursionError as error:
        raise DodonaError(f"{path}, line {line + 1}: nested too deeply to be a record") from error
    return duplicates


def _read_header(collection: Collection, source: int, path: Path, header: Any) -> tuple[Mapping[str, Any], str]:
    """The configuration and its hash; arms and problems of later headers add up."""
    if not isinstance(header, Mapping):
        raise TypeError("its header is no object")
    config = header.get("config") or {}
    if not isinstance(config, Mapping):
        raise TypeError("its header's config is no object")
    digest = str(header.get("config_hash") or _digest(config))
    for entry in header.get("arms") or ():
        key = ArmKey(source, digest, str(entry["arm"]))
        collection.arms.setdefault(key, _shown_arm(key, path, entry, config))
    for entry in header.get("problems") or ():
        _note_problem(collection, str(entry["problem_id"]), entry)
    return config, digest


def _run(
    collection: Collection, source: int, path: Path, record: Mapping[str, Any], config: Mapping[str, Any], digest: str
) -> Run:
    settings = arm_of(record)
    name = record.get("arm") or (settings.name if settings is not None else path.stem)
    sample = int(record.get("sample") or 0)
    key = ArmKey(source, digest, f"{name} sample={sample}" if sample else str(name))
    if key not in collection.arms:
        collection.arms[key] = _shown_arm(key, path, record, config)
    arm = collection.arms[key]
    arm.base_model_id = arm.base_model_id or record.get("base_model_id")
    arm.oracle_model_id = arm.oracle_model_id or record.get("oracle_model_id")
    prompt = record.get("prompt")
    problem = record.get("problem_id")
    if problem is None:
        problem_key = "prompt " + _digest(prompt)
        _note_problem(collection, problem_key, record, _prompt_label(prompt))
    else:
        problem_key = str(problem)
        _note_problem(collection, problem_key, record)
    pieces = [_piece(entry) for entry in record["interleaved_outputs"]]
    starts = [int(start) for start in record.get("cheat_positions") or ()]
    return Run(
        arm=key,
        problem=problem_key,
        pieces=pieces,
        starts=starts,
        outcome=_outcome(record),
        prompt=prompt,
        result=_text(record.get("result")),
        answer=_text(record.get("parsed_answer")),
        finish_reason=_text(record.get("finish_reason")),
        error=_text(record.get("error")),
        settings=settings_of(None if problem is None else str(problem), sample, settings),
    )


def arm_of(record: Mapping[str, Any]) -> Arm | None:
    """The arm that a record's own fields describe; None where it lacks one of them."""
    try:
        return Arm(
            _budget(record["c"]), _budget(record["k"]), str(record["trigger"]), record["when"], int(record["seed"])
        )
    except (KeyError, TypeError, ValueError):
        return None


def settings_of(problem: str | None, sample: int, arm: Arm | None) -> tuple[Any, ...]:
    """What a record and its trace have in common."""
    if arm is None:
        return problem, sample
    c, k = (float(np.float32(budget)) for budget in (arm.c, arm.k))  # as traces store them
    return problem, sample, c, k, arm.trigger, arm.when, arm.seed


def _budget(value: Any) -> float:
    if value == "inf":
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a budget of {value!r}")
    return value


def _shown_arm(key: ArmKey, path: Path, entry: Mapping[str, Any], config: Mapping[str, Any]) -> ShownArm:
    base, oracle = (_text(config.get(name)) for name in ("base_model_id", "oracle_model_id"))
    return ShownArm(key, path, arm_of(entry), base, oracle)


def _note_problem(collection: Collection, key: str, entry: Mapping[str, Any], label: str | None = None) -> None:
    problem = collection.problems.setdefault(key, ShownProblem(key, key if label is None else label))
    level = entry.get("level")
    if problem.level is None and isinstance(level, int | str) and not isinstance(level, bool):
        problem.level = level
    problem.subject = problem.subject or _text(entry.get("subject"))
    if problem.gold is None:
        problem.gold = _text(entry.get("ground_truth"))


def _piece(entry: Any) -> Piece:
    ids = entry.get("token_ids")
    if not isinstance(entry["text"], str):
        raise TypeError("a segment whose text is no text")
    return Piece(str(entry["source"]), entry["text"], None if ids is None else tuple(int(i) for i in ids))


def _outcome(record: Mapping[str, Any]) -> str:
    """As tables count it: what failed, was cut off or gave no answer is wrong, and called by its reason."""
    if record.get("error") is not None:
        return "failed"
    if "correct" not in record:
        return "ungraded"
    if cut_off(record):
        return "truncated"
    if record["correct"]:
        return "correct"
    return "unparsed" if record.get("parsed_answer") is None else "wrong"


def _prompt_label(prompt: Any) -> str:
    text = " ".join(prompt_text(prompt).split())
    return text if len(text) <= _SHOWN_PROMPT else text[: _SHOWN_PROMPT - 1] + "…"


def prompt_text(prompt: Any) -> str:
    """A prompt as text: chat messages with their roles, ids as numbers."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and all(isinstance(message, Mapping) for message in prompt):
        return "\n\n".join(f"[{message.get('role', '')}]\n{message.get('content', '')}" for message in prompt)
    return "" if prompt is None else f"token ids {json.dumps(prompt)}"


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
