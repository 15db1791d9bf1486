"""The texts of one arm as its records have them: token ids, who wrote which, and the problem that was asked."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dodona.engine.errors import DodonaError
from dodona.engine.records import read_records
from dodona.eval.recorded import Experiment, RecordedArm
from dodona.eval.rows import Row, row_of
from dodona.eval.tasks.problem import Problem


@dataclass(frozen=True, slots=True)
class Text:
    """What one run wrote."""

    row: Row
    problem: Problem
    prompt_tokens: int
    ids: tuple[int, ...]  # generated
    sources: bytes  # 0 base, 1 oracle, one a generated token
    starts: tuple[int, ...]  # generated-token index of each consult's first oracle token

    @property
    def problem_id(self) -> str:
        """The problem's id."""
        return self.row.problem_id

    @property
    def correct(self) -> bool:
        """Whether the run counts as right."""
        return self.row.outcome == "correct"

    @property
    def base_from(self) -> int:
        """The position from which on all tokens are the base's."""
        return self.sources.rfind(1) + 1

    @property
    def bursts(self) -> list[int]:
        """Tokens that the oracle wrote at each consult."""
        ends = [*self.starts[1:], len(self.ids)]
        return [self.sources[start:end].count(1) for start, end in zip(self.starts, ends, strict=True)]


def read_texts(experiment: Experiment, arm: RecordedArm) -> tuple[dict[str, Text], list[Path]]:
    """An arm's texts by problem, in the order in which the problems were asked, and the files that hold them.

    Failed runs are among them, with what they had written.

    Raises:
        DodonaError: records cannot be read, or cannot be gone on with.
    """
    found: dict[str, Text] = {}
    digests: dict[str, str | None] = {}
    files: dict[Path, None] = {}
    for path in map(Path, experiment.files):
        for record in read_records(path):
            if "header" in record:
                for entry in record["header"].get("problems", ()):
                    digests.setdefault(str(entry["problem_id"]), entry.get("digest"))
            elif record["arm"] == arm.name and (name := str(record["problem_id"])) not in found:
                found[name] = _text(record, digests.get(name), path)
                files[path] = None
    order = [problem.problem_id for problem in experiment.problems]
    return {name: found[name] for name in order if name in found}, list(files)


def _text(record: Mapping[str, Any], digest: str | None, path: Path) -> Text:
    if record.get("compat"):
        raise DodonaError(f"{path}: the arm {record['arm']!r} cannot be gone on with")
    try:
        pieces = [(piece["source"] == "oracle", piece["token_ids"]) for piece in record["interleaved_outputs"]]
        starts = tuple(map(int, record["cheat_positions"]))
        if not all(0 <= start < sum(len(ids) for _, ids in pieces) for start in starts):
            raise ValueError("a consult outside the text")
        return Text(
            row=row_of(record),
            problem=_problem(record, digest, path),
            prompt_tokens=int(record["prompt_tokens"]),
            ids=tuple(int(token) for _, ids in pieces for token in ids),
            sources=bytes(int(oracle) for oracle, ids in pieces for _ in ids),
            starts=starts,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DodonaError(f"{path}: a record cannot be gone on with ({type(error).__name__}: {error})") from error


def _problem(record: Mapping[str, Any], digest: str | None, path: Path) -> Problem:
    """The problem of a record. Whether its prompt was taken as it is, only the header's digest says."""
    problem = Problem(
        problem_id=str(record["problem_id"]),
        question="",
        prompt=record["prompt"],
        raw=False,
        gold=record["ground_truth"],
        level=record["level"],
        subject=record["subject"],
        also=tuple(record.get("also", ())),
    )
    raw = dataclasses.replace(problem, raw=True)
    if digest is not None and digest not in (problem.digest, raw.digest):
        raise DodonaError(f"{path}: the prompt or gold answer of {problem.problem_id} is not the header's")
    return raw if digest == raw.digest else problem


def chosen(experiment: Experiment, ids: Sequence[str], option: str = "--ids") -> list[str]:
    """The problems of these ids in the order in which they were asked; without ids all of them.

    Args:
        ids: each one id, or several with commas between them.

    Raises:
        DodonaError: a problem that was not asked for.
    """
    there = [problem.problem_id for problem in experiment.problems]
    if not ids:
        return there
    known = set(there)
    parts = (part.strip() for given in ids for part in ([given] if given.strip() in known else given.split(",")))
    wanted = set(parts)
    for name in sorted(wanted - known):
        near = difflib.get_close_matches(name, there, n=1)
        some = ", ".join(there if len(there) < 5 else [*there[:3], "...", there[-1]])
        hint = f"did you mean {near[0]}?" if near else f"they are {some}"
        raise DodonaError(f"{option}: the records have no problem {name!r}: {hint}")
    return [name for name in there if name in wanted]
