"""The rows of a study's files: samples with their log-probabilities, and rewards.

arith-0-8@0.7#3         the fourth sample of a problem at temperature 0.7
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.engine.result import Result
from dodona.eval.grading import Verdict
from dodona.eval.rows import cut_off, outcome_of
from dodona.eval.tasks.problem import Problem, Task

CORRECT: Final = "correct"  # an outcome; the others: wrong, unparsed, truncated, failed
_PLACES: Final = 6  # of a log-probability on the disk
_MEAN_PLACES: Final = 5  # of their mean: equal texts of two batches differ by rounding below that


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a problem."""

    row_id: str
    problem_id: str
    temperature: float | None  # None: not known, as of samples that somebody else drew
    number: int
    outcome: str
    answer: str | None  # None: none was found, or the text is not whole
    text: str
    logprob: float  # mean over its tokens, nats; NaN where there is none
    tokens: int = 0

    @property
    def correct(self) -> bool:
        """Whether it solves the problem."""
        return self.outcome == CORRECT


def sample_id(problem_id: str, temperature: float, number: int) -> str:
    """The row id of a sample."""
    return f"{problem_id}@{temperature:g}#{number}"


def sample_record(task: Task, problem: Problem, temperature: float, result: Result) -> dict[str, Any]:
    """A sample as a record: what `dodona eval` writes of a run, and every token's log-probability.

    ``logprobs`` are those of the base at temperature 1, nats; their mean is ``mean_logprob``.
    """
    try:
        verdict = task.judge(result.text, problem)
    except DodonaError as error:  # a gold answer that nothing can be compared with: one problem's fault
        verdict = Verdict(False, None, "", str(error))
    record = result.record()
    del record["prompt"]  # the header has the question, once
    whole = result.error is None and not cut_off(record)
    logprobs = np.round(np.asarray(result.signals["logprob"], dtype=np.float64), _PLACES)
    known = logprobs[~np.isnan(logprobs)]
    number = result.request.sample
    return record | {
        "row_id": sample_id(problem.problem_id, temperature, number),
        "problem_id": problem.problem_id,
        "level": problem.level,
        "subject": problem.subject,
        "temperature": temperature,
        "sample": number,
        "prompt_tokens": len(result.prompt_ids),
        "logprobs": logprobs.tolist(),
        "mean_logprob": float(known.mean()) if len(known) else None,
        "ground_truth": problem.gold,
        "parsed_answer": verdict.extracted,
        "correct": whole and verdict.correct,
        "grade_method": verdict.method,
        "grade_reason": verdict.reason,
    }


def read_sample(record: Mapping[str, Any]) -> Sample:
    """The sample of a record.

    Raises:
        KeyError, TypeError, ValueError: something else wrote it.
    """
    outcome = outcome_of(record)
    answer, logprob = record["parsed_answer"], record["mean_logprob"]
    return Sample(
        row_id=str(record["row_id"]),
        problem_id=str(record["problem_id"]),
        temperature=float(record["temperature"]),
        number=int(record["sample"]),
        outcome=outcome,
        answer=None if answer is None or outcome in ("truncated", "failed") else str(answer),
        text=str(record["result"]),
        logprob=math.nan if logprob is None else round(float(logprob), _MEAN_PLACES),
        tokens=int(record["total_tokens_generated"]),
    )


def missing_sample(problem_id: str, temperature: float, number: int) -> Sample:
    """A sample that was asked for and has no record: wrong, and without a vote."""
    row_id = sample_id(problem_id, temperature, number)
    return Sample(row_id, problem_id, temperature, number, "missing", None, "", math.nan)


def reward_record(row_id: str, problem_id: str, reward: float) -> dict[str, Any]:
    """A sample's reward as a record."""
    return {"row_id": row_id, "problem_id": problem_id, "reward": reward}


def read_reward(record: Mapping[str, Any]) -> float:
    """The reward of a record; NaN where there is none."""
    value = record["reward"]
    return math.nan if value is None else float(value)
