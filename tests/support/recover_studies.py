"""Recovery studies with scripted models: what they write is known, and so is what a study must find."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dodona.engine.records import read_records
from dodona.engine.tokenizer import Tokenizer
from dodona.eval.recover.settings import STRONG, WEAK, Settings
from dodona.eval.recover.stages import FILES, Study
from dodona.eval.recover.writer import SIGNALS, Ask, Written
from dodona.eval.tasks.names import task_named
from dodona.eval.tasks.problem import Problem, Selection
from dodona.eval.viewer.vocabulary import open_tokenizer

CONFIG = {"dataset": "arith", "strong_model": "arith-oracle", "weak_model": "arith-base", "temperature": 0.7}
END = 2  # the end token's id

Script = Callable[[Ask, str, str, random.Random], str]  # ask, what is given after the prompt, gold answer, draws


def solution(answer: str) -> str:
    """A worked solution that mentions its answer before the cut."""
    return f"Work it out: the number is {answer}, and again {answer}.\nSo the answer is \\boxed{{{answer}}}."


@dataclass
class Silent:
    """No progress bar; counts what is written."""

    steps: int = 0

    def start(self, label: str, total: int, done: int) -> None:
        assert 0 <= done <= total, label

    def step(self) -> None:
        self.steps += 1


@dataclass
class Scripted:
    """A model that follows a script; its draws depend on the ask alone, as an engine's do."""

    script: Script
    gold: Mapping[str, str]
    prompts: Mapping[str, list[int]]
    tokenizer: Tokenizer
    asks: list[Ask] = field(default_factory=list)

    def write(self, asks: Iterable[Ask]) -> Iterator[Written]:
        for ask in asks:
            self.asks.append(ask)
            given = list(ask.prompt)[len(self.prompts[ask.problem_id]) :]
            assert list(ask.prompt)[: len(ask.prompt) - len(given)] == self.prompts[ask.problem_id]
            draws = random.Random(f"{ask.key}#{ask.sample}")
            text = self.script(ask, self.tokenizer.decode(given), self.gold[ask.problem_id], draws)
            ids = [*self.tokenizer.encode(text, raw=True), END][: ask.max_new_tokens]
            reason = "eos" if ids[-1] == END else "length"
            signals = {name: [0.25] * len(ids) for name in SIGNALS}
            yield Written(ask.row_id, ids, text, reason, None, signals, {"base_forwards": len(ids), "base_ms": 1.0})


@dataclass
class Models:
    """Both scripted models."""

    models: dict[str, Scripted]

    def writer(self, role: str) -> Scripted:
        return self.models[role]


def make_study(
    folder: Path,
    strong: Script,
    weak: Script,
    *,
    problems: int = 20,
    start: int = 0,
    limit: int = 256,
    **settings: object,
) -> Study:
    """A study on arithmetic problems with two scripted models; nothing has run yet."""
    task = task_named("arith")
    asked = task.load(Selection(num_samples=problems, start_index=start))
    return study_of(folder, strong, weak, asked, limit=limit, **settings)


def study_of(
    folder: Path, strong: Script, weak: Script, asked: list[Problem], *, limit: int = 256, **settings: object
) -> Study:
    """As ``make_study``, on these problems."""
    tokenizer = open_tokenizer("arith-base")
    folder.mkdir(parents=True, exist_ok=True)
    gold = {problem.problem_id: problem.gold for problem in asked}
    study = Study(
        task=task_named("arith"),
        problems=asked,
        settings=Settings(**settings),  # type: ignore[arg-type]
        config=CONFIG,
        model_ids={STRONG: "arith-oracle", WEAK: "arith-base"},
        tokenizer=tokenizer,
        writers=Models({}),
        folder=folder,
        progress=Silent(),
        limit=limit,
    )
    prompts = {problem.problem_id: study.prompt(problem) for problem in asked}
    for role, script in ((STRONG, strong), (WEAK, weak)):
        study.writers.models[role] = Scripted(script, gold, prompts, tokenizer)  # type: ignore[attr-defined]
    return study


def run_all(study: Study) -> Study:
    """The three stages that write."""
    study.appraise()
    study.cut()
    study.complete()
    return study


def stated(text: str) -> str | None:
    """The number that a beginning of ``solution`` states."""
    match = re.search(r"the number is (-?\d+)[,.]", text)
    return match[1] if match else None


def wrong_answer(gold: str, draws: random.Random) -> str:
    return str(int(gold) + draws.choice((-7, -3, 5, 11)))


# --- scripts ---


def solves(rate: float) -> Script:
    """Solves the problem at this rate, whatever is given."""

    def script(ask: Ask, given: str, gold: str, draws: random.Random) -> str:
        answer = gold if draws.random() < rate else wrong_answer(gold, draws)
        return f" So the answer is \\boxed{{{answer}}}." if given else solution(answer)

    return script


def recovers(straight: float, recovery: float) -> Script:
    """Solves at one rate from the start, at another where a wrong number is given; goes on from a right one."""

    def script(ask: Ask, given: str, gold: str, draws: random.Random) -> str:
        if not given:
            return solves(straight)(ask, given, gold, draws)
        if stated(given) == gold:
            return f" So the answer is \\boxed{{{gold}}}."
        return solves(recovery)(ask, given, gold, draws)

    return script


def copies(straight: float) -> Script:
    """Solves at one rate from the start; repeats the number that is given."""

    def script(ask: Ask, given: str, gold: str, draws: random.Random) -> str:
        if not given:
            return solves(straight)(ask, given, gold, draws)
        return f" So the answer is \\boxed{{{stated(given)}}}."

    return script


def rows(study: Study, name: str) -> list[dict[str, Any]]:
    """The records of a stage."""
    return [record for record in read_records(study.folder / FILES[name]) if "header" not in record]


def model(study: Study, role: str) -> Scripted:
    """The scripted model of a role, with what it was asked."""
    return study.writers.writer(role)
