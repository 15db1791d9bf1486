"""Grades what is written down already: records of `dodona eval`, or lines with a prediction and a gold answer.

What comes out is written to a temporary file and renamed at the end: there is never half a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from dodona.engine.errors import DodonaError
from dodona.engine.records import read_records
from dodona.engine.whole_file import write_whole
from dodona.eval.boxed import last_boxed, same_integer
from dodona.eval.grading import Verdict, check, check_choice
from dodona.eval.recipes.names import RECIPES
from dodona.eval.report.files import check_no_runs
from dodona.eval.rows import cut_off

try:
    import fcntl
except ImportError:  # not POSIX: no lock
    fcntl = None  # type: ignore[assignment,unused-ignore]

GRADED: Final = ".graded.jsonl"
_LETTER: Final = re.compile(r"[A-Z]")

Judge = Callable[[str, str], Verdict]


class Flip(NamedTuple):
    """A run whose verdict changed."""

    problem_id: str
    arm: str
    old: bool | None  # None: it had none
    new: bool


class Fault(NamedTuple):
    """A line that could not be graded."""

    line: int  # from 1
    reason: str


@dataclass(slots=True)
class Graded:
    """What came of one file."""

    path: Path
    runs: bool  # records of `dodona eval`; else lines with a prediction and a gold answer
    output: Path | None = None  # None: standard output
    lines: int = 0  # that got a verdict; faults are among them, as wrong
    correct: int = 0
    flips: list[Flip] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "file": str(self.path),
            "kind": "runs" if self.runs else "lines",
            "output": None if self.output is None else str(self.output),
            "graded": self.lines,
            "correct": self.correct,
            **({"changed": len(self.flips), "flips": [flip._asdict() for flip in self.flips]} if self.runs else {}),
            "faults": [fault._asdict() for fault in self.faults],
        }


def graded_path(path: Path) -> Path:
    """Where a file's verdicts go unless it is said: ``x.graded.jsonl`` beside ``x.jsonl``."""
    return path.with_name(path.name.removesuffix(".jsonl") + GRADED)


def grade_file(path: Path, output: Path | None, *, stream: IO[bytes] | None = None) -> Graded:
    """Grade one file.

    Args:
        output: the file to write, which may be the same one; None: ``stream``.

    Raises:
        DodonaError: it cannot be read or written, is damaged, is being written by another process, or no line of it
            has what is needed, or the output holds records or a trace. Then nothing is written.
    """
    in_place = output is not None and _same_file(path, output)
    if output is not None and not in_place and not output.name.endswith(GRADED):
        check_no_runs(output)
    runs = _is_runs(path)
    graded = Graded(path, runs, output)
    lines = (_graded_runs if runs else _graded_lines)(path, graded)
    with _lock(path) if in_place else nullcontext():
        if output is None:
            assert stream is not None
            for line in lines:
                stream.write(line)
            stream.flush()
        else:
            write_whole(output, lines, like=path)
    return graded


# --- records of dodona eval ---


def _is_runs(path: Path) -> bool:
    """Whether its first line is a header of `dodona eval`."""
    try:
        with open(path, "rb") as file:
            first = json.loads(file.readline())
    except (ValueError, RecursionError):
        return False
    except OSError as error:
        raise DodonaError(f"{path} cannot be read: {error.strerror or error}") from error
    return isinstance(first, dict) and isinstance(first.get("header"), dict)


def _graded_runs(path: Path, graded: Graded) -> Iterator[bytes]:
    judge = judge_of(path)
    for record in read_records(path):
        if "header" in record:
            yield _line(record)
            continue
        old = record.get("correct")
        verdict = regraded(judge, record)
        ended = record.get("finish_reason") not in ("error", "cancelled") and not cut_off(record)
        whole = record.get("error") is None and ended
        record |= {
            "parsed_answer": verdict.extracted,
            "correct": whole and verdict.correct,
            "grade_method": verdict.method,
            "grade_reason": verdict.reason,
        }
        graded.lines += 1
        graded.correct += record["correct"]
        if record["correct"] is not old:
            graded.flips.append(Flip(str(record.get("problem_id")), str(record.get("arm")), old, record["correct"]))
        yield _line(record)


def regraded(judge: Judge, record: Mapping[str, Any]) -> Verdict:
    """The verdict on a run by its gold answer, or by others that are as right."""
    verdict: Verdict | None = None
    for gold in (record["ground_truth"], *record.get("also", ())):
        try:
            found = judge(record["result"], gold)
        except DodonaError as error:  # a gold answer that nothing can be compared with
            found = Verdict(False, None, "", str(error))
        if verdict is None or found.correct:
            verdict = found
        if verdict.correct:
            break
    assert verdict is not None
    return verdict


def judge_of(path: Path) -> Judge:
    """What judged the runs of a file: its task's judge, by what the file says.

    Raises:
        DodonaError: a record is damaged.
    """
    config: Mapping[str, Any] = {}
    choices, letters = False, True
    for number, record in enumerate(read_records(path), 1):
        if "header" in record:
            config = record["header"].get("config") or config
            continue
        for name in ("result", "ground_truth"):
            if not isinstance(record.get(name), str):
                raise DodonaError(f"{path}, line {number}: the record has no text {name!r}")
        choices = choices or record.get("grade_method") == "choice"
        letters = letters and _LETTER.fullmatch(record["ground_truth"]) is not None
    dataset, recipe = str(config.get("dataset")), RECIPES.get(str(config.get("recipe")))
    if dataset == "arith":
        return judge_integer
    asked_for_letters = recipe.kinds == ("choice",) if recipe is not None else "gpqa" in dataset.lower()
    return check_choice if letters and (choices or asked_for_letters) else check


def judge_integer(completion: str, gold: str) -> Verdict:
    """Whether the last box has the right integer: the judge of the embedded problems."""
    answer = last_boxed(completion)
    if answer is None:
        return Verdict(False, None, "", "no box was found")
    correct = same_integer(answer, gold)
    return Verdict(correct, answer, "integer", "the same integer" if correct else "not the same integer")


# --- lines with a prediction and a gold answer ---


def _graded_lines(path: Path, graded: Graded) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip(b"\xef\xbb\xbf \t\r\n"):
                    yield _graded_line(line.decode("utf-8-sig", "surrogateescape").strip(), number, graded)
    except OSError as error:
        raise DodonaError(f"{path} cannot be read: {error.strerror or error}") from error
    if graded.lines == len(graded.faults):
        if not graded.faults:
            raise DodonaError(f"{path} is empty")
        first = graded.faults[0]
        raise DodonaError(
            f"{path}, line {first.line}: {first.reason}; a line to grade is a JSON object with a prediction and a gold "
            "answer (or a letter)"
        )


def _graded_line(text: str, number: int, graded: Graded) -> bytes:
    row: dict[str, Any] = {}
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError("it is no JSON object")
        row = value
        verdict = _verdict(row)
    except (ValueError, RecursionError, DodonaError) as error:
        reason = f"not JSON ({error})" if isinstance(error, json.JSONDecodeError) else str(error)
        graded.faults.append(Fault(number, reason))
        verdict = Verdict(False, None, "", f"not graded: {reason}")
        row = row or {"line": text}
    graded.lines += 1
    graded.correct += verdict.correct
    return _line(row | verdict._asdict())


def _verdict(row: Mapping[str, Any]) -> Verdict:
    """The verdict on one line.

    Raises:
        ValueError: a field is missing or of a wrong type.
        DodonaError: nothing can be compared with the gold answer.
    """
    if "prediction" not in row:
        raise ValueError("there is no 'prediction'")
    wanted = "letter" if row.get("letter") is not None else "gold"
    if row.get(wanted) is None:
        raise ValueError("there is no 'gold' and no 'letter'")
    prediction, gold = (_text(row, name) for name in ("prediction", wanted))
    return check_choice(prediction, gold) if wanted == "letter" else check(prediction, gold)


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row[name]
    if value is None:  # a model that wrote nothing
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{name!r} is neither a text nor a number")
    return str(value)


# --- files ---


def _line(row: Mapping[str, Any]) -> bytes:
    """One line of JSON; a lone surrogate, which UTF-8 has not, as its escape."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row).encode() + b"\n"


def _same_file(path: Path, output: Path) -> bool:
    return output.exists() and output.samefile(path)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Keep `dodona eval` from appending to a file that is about to be replaced."""
    if fcntl is None:
        yield
        return
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DodonaError(f"{path} is being written by another process") from error
        except OSError:
            pass  # a file system without locks
        yield
