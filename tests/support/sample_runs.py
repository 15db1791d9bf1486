"""Record files as `dodona eval` writes them (schema 2), made up: arms of known accuracy on problems of known level."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

CONFIG: dict[str, Any] = {
    "dataset": "arith",
    "base_model_id": "arith-base",
    "oracle_model_id": "arith-oracle",
    "weights": ["0" * 16, "1" * 16],
    "dtype": "float32",
    "device": "cpu",
    "max_new_tokens": 256,
    "max_oracle_tokens": None,
}


class SampleArm(NamedTuple):
    """An arm of a sample file."""

    c: int | str
    k: int | str
    trigger: str = "random"
    when: str = "before"
    seed: int = 0

    @property
    def name(self) -> str:
        if self.c == 0:
            return f"c=0 seed={self.seed}"
        return f"c={self.c} k={self.k} {''.join(self.trigger.split())} {self.when} seed={self.seed}"

    def entry(self) -> dict[str, Any]:
        return {"arm": self.name, **self._asdict()}


BASE = SampleArm(0, 0, "never")
ORACLE = SampleArm("inf", "inf", "always")


def problem(index: int) -> dict[str, Any]:
    return {"problem_id": f"p{index}", "level": 1 + index % 3, "subject": ("algebra", "geometry")[index % 2]}


def config_hash(config: dict[str, Any]) -> str:
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def header(arms: Iterable[SampleArm], problems: Iterable[dict[str, Any]], **config: Any) -> dict[str, Any]:
    full = CONFIG | config
    return {
        "header": {
            "schema": 2,
            "dodona": "0.1.0",
            "config": full,
            "config_hash": config_hash(full),
            "versions": {"torch": "2.13.0", "numpy": "2.4.0"},
            "git_commit": "0123456789abcdef0123456789abcdef01234567",
            "arms": [arm.entry() for arm in arms],
            "problems": list(problems),
        }
    }


def record(arm: SampleArm, asked: dict[str, Any], outcome: str = "correct", **change: Any) -> dict[str, Any]:
    """One run with an outcome: correct, wrong, unparsed, truncated or failed."""
    consults = 0 if arm.c == 0 else 1 if arm.c == "inf" else min(2, int(arm.c))
    burst = 0 if arm.c == 0 else 30 if arm.k == "inf" else min(30, consults * int(arm.k))
    failed = outcome == "failed"
    ledger = {
        "base_forwards": 31,
        "prefill_tokens": 12,
        "base_steps": 30 - burst,
        "catch_up_tokens": burst,
        "oracle_forwards": burst,
        "sync_tokens": 20 if consults else 0,
        "oracle_steps": max(0, burst - consults),
        "burst_tokens": burst,
        "base_tokens": 30 - burst,
        "consults": consults,
        "wasted_steps": consults,
        "shared_tokens": 0,
        "recomputed_tokens": 0,
        "base_flops": 1e6,
        "oracle_flops": 3e5 * burst,
        "base_ms": 2.0,
        "oracle_ms": 0.25 * burst,
    }
    return {
        "c": arm.c,
        "k": arm.k,
        "base_model_id": "arith-base",
        "oracle_model_id": "arith-oracle",
        "prompt": "What is 2 + 2?",
        "result": "2 + 2 = 4, so \\boxed{4}",
        "interleaved_outputs": [{"source": "base", "text": "2 + 2 = 4", "token_ids": [1, 2, 3]}],
        "cheat_positions": [] if failed else list(range(consults)),
        "total_tokens_generated": 0 if failed else 30,
        "seed": arm.seed,
        "sample": 0,
        "trigger": arm.trigger,
        "when": arm.when,
        "finish_reason": {"truncated": "length", "failed": "error"}.get(outcome, "eos"),
        "error": "NaN logits of the base at position 3" if failed else None,
        "max_new_tokens": 256,
        "step_size": 10,
        "ledger": dict.fromkeys(ledger, 0) if failed else ledger,
        **asked,
        "arm": arm.name,
        "ground_truth": "4",
        "parsed_answer": {"correct": "4", "wrong": "5", "truncated": "4"}.get(outcome),
        "correct": outcome == "correct",
        "grade_method": "string",
        "grade_reason": "",
        **change,
    }


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_runs(
    path: Path,
    arms: Sequence[SampleArm],
    count: int,
    outcome: Callable[[SampleArm, int], str | None],
    **config: Any,
) -> Path:
    """A file with every arm on ``count`` problems; an outcome of None leaves the record out."""
    problems = [problem(index) for index in range(count)]
    lines = [header(arms, problems, **config)]
    for index, asked in enumerate(problems):
        for arm in arms:
            if (what := outcome(arm, index)) is not None:
                lines.append(record(arm, asked, what))
    return write_lines(path, lines)


def rising(arm: SampleArm, index: int) -> str:
    """More right answers with more of the oracle's tokens, the same every time."""
    c = 20 if arm.c == "inf" else int(arm.c)
    k = 20 if arm.k == "inf" else int(arm.k)
    chance = 0.3 + 0.6 * min(1.0, c * k / 50)
    draw = random.Random(f"{arm.seed} {index} {c > 0}")
    if draw.random() < chance:
        return "correct"
    return draw.choice(["wrong"] * 6 + ["unparsed", "truncated", "failed"])


def grid() -> list[SampleArm]:
    """The base alone, c x k for two triggers, and the oracle alone."""
    triggers = ("random", "entropy > 0.5")
    guided = [SampleArm(c, k, trigger) for trigger in triggers for c in (1, 2, 5) for k in (1, 5, 20)]
    return [BASE, *guided, ORACLE]
