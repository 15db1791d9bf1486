"""The stages that write samples: appraisal, prefixes and completions, each into files of its own.

Everything about a problem is a function of that problem, the models and the settings: draws are numbered and have keys
of their own in every stage. So a stage that was stopped goes on with what is missing, and more problems, fractions or
completions can be asked for later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from dodona.engine.errors import DodonaError
from dodona.engine.tokenizer import Tokenizer
from dodona.eval.recover.cutting import Cutter, Solved
from dodona.eval.recover.files import Header, StageFile, stage_rows
from dodona.eval.recover.rows import (
    OFF,
    RIGHT,
    Asked,
    Prefix,
    Sample,
    completion_id,
    completion_record,
    judged,
    keeps_signals,
    read_prefix,
    read_sample,
    run_record,
    sample_id,
)
from dodona.eval.recover.settings import APPRAISE, COMPLETE, PREFIXES, ROLES, STRONG, WEAK, Settings
from dodona.eval.recover.solutions import missing_strong, missing_weak, next_tries, used
from dodona.eval.recover.writer import Ask, Writers, Written
from dodona.eval.tasks.problem import Problem, Task

T = TypeVar("T")

SOLUTIONS: Final = "solutions"  # the file beside that of the prefixes, which holds what was drawn for them
FILES: Final = {name: f"{name}.jsonl" for name in (APPRAISE, SOLUTIONS, PREFIXES, COMPLETE)}


class Progress(Protocol):
    """Told of what is done; see ``dodona.eval.commands.running.progress_bar``."""

    def start(self, label: str, total: int, done: int) -> None:
        """So many runs are to be done, some of which are there already."""
        ...

    def step(self) -> None:
        """One more is done."""
        ...


@dataclass(frozen=True, slots=True)
class Study:
    """A study as it is asked for now.

    Args:
        problems: with the prompts that the models read.
        config: what every record depends on: task, models and sampling.
        model_ids: of the strong and the weak model.
        tokenizer: of both models.
        folder: where the files are.
        seed: of all draws; ``writers`` draw with it.
        limit: tokens of a solution at most; a completion has what its prefix leaves of them.
        raw: take prompts as they are, without the chat template.
    """

    task: Task
    problems: Sequence[Problem]
    settings: Settings
    config: Mapping[str, Any]
    model_ids: Mapping[str, str]
    tokenizer: Tokenizer
    writers: Writers
    folder: Path
    progress: Progress
    seed: int = 0
    limit: int = 256
    raw: bool = False
    _prompts: dict[str, list[int]] = field(default_factory=dict, repr=False)

    def prompt(self, problem: Problem) -> list[int]:
        """The ids of a problem's prompt."""
        if problem.problem_id not in self._prompts:
            self._prompts[problem.problem_id] = problem.encoded(self.tokenizer, raw=self.raw)
        return self._prompts[problem.problem_id]

    def open(self, name: str, read: Callable[[Mapping[str, Any]], T]) -> StageFile[T]:
        """A stage's file, to add to.

        Raises:
            DodonaError: it holds records of something else, or cannot be written.
        """
        return StageFile(self.folder / FILES[name], self._header(name), read)

    def read(self, name: str, read: Callable[[Mapping[str, Any]], T]) -> dict[str, T]:
        """The rows of an earlier stage's file; none where there is no file.

        Raises:
            DodonaError: it holds records of something else.
        """
        return stage_rows(self.folder / FILES[name], self._header(name), read)[1]

    def _header(self, name: str) -> Header:
        asked = {problem.problem_id: Asked.of(problem) for problem in self.problems}
        return Header(name, {**self.config, **self.settings.config(name)}, self.settings.asked(name), asked)

    # --- appraisal ---

    def appraise(self) -> None:
        """Straight shots of both models.

        Raises:
            DodonaError: a file cannot be written, or a model not loaded.
        """
        with self.open(APPRAISE, read_sample) as file:
            for role in ROLES:
                wanted = [
                    (sample_id(problem.problem_id, role, number, appraisal=True), problem, number)
                    for problem in self.problems
                    for number in range(self.settings.samples)
                ]
                left = [entry for entry in wanted if entry[0] not in file.rows]
                self.progress.start(f"appraise, {role}", len(wanted), len(wanted) - len(left))
                self._samples(file, role, left, "appraise")

    def _samples(
        self, file: StageFile[Sample], role: str, wanted: Sequence[tuple[str, Problem, int]], stage: str
    ) -> None:
        """Write samples of a model from the bare prompts."""
        by_id = {row_id: (problem, number) for row_id, problem, number in wanted}

        def asks() -> Iterator[Ask]:
            for row_id, problem, number in wanted:
                key = f"recover/{stage}/{role}/{problem.problem_id}"
                yield Ask(row_id, problem.problem_id, self.prompt(problem), key, number, self.limit)

        for written in self._written(role, asks(), len(wanted)):
            problem, number = by_id[written.row_id]
            verdict = judged(self.task, problem, written.text)
            file.append(run_record(written, problem, role, number, self.model_ids[role], verdict))

    def _written(self, role: str, asks: Iterable[Ask], count: int) -> Iterator[Written]:
        """What a model makes of these; it is not loaded for nothing."""
        if not count:
            return
        for written in self.writers.writer(role).write(asks):
            yield written
            self.progress.step()

    # --- prefixes ---

    def cut(self) -> None:
        """Draw solutions until there are enough wrong ones, and cut them.

        Raises:
            DodonaError: the appraisal is not complete, a file cannot be written, or a model not loaded.
        """
        sometimes = self._sometimes(self.read(APPRAISE, read_sample))
        with self.open(SOLUTIONS, read_sample) as solutions, self.open(PREFIXES, read_prefix) as prefixes:
            for role in (WEAK, STRONG):
                while left := self._tries(solutions.rows, role, sometimes):
                    done = sum(row.role == role for row in solutions.rows.values())
                    self.progress.start(f"solutions, {role}", done + len(left), done)
                    self._samples(solutions, role, left, "solutions")
            for record in self._prefix_records(solutions.rows, sometimes):
                if record["row_id"] not in prefixes.rows:
                    prefixes.append(record)

    def _sometimes(self, appraisal: Mapping[str, Sample]) -> dict[str, bool]:
        """Whether the strong model solved a problem in some samples of the appraisal and not in others."""
        found, missing = {}, 0
        for problem in self.problems:
            ids = [
                sample_id(problem.problem_id, role, number, appraisal=True)
                for role in ROLES
                for number in range(self.settings.samples)
            ]
            rows = [appraisal.get(row_id) for row_id in ids]
            missing += any(row is None for row in rows)
            solved = sum(row is not None and row.role == STRONG and row.correct for row in rows)
            found[problem.problem_id] = 0 < solved < self.settings.samples
        if missing:
            raise DodonaError(
                f"{missing} of {len(self.problems)} problems are not appraised yet: run the stage {APPRAISE} first"
            )
        return found

    def _tries(
        self, solutions: Mapping[str, Sample], role: str, sometimes: Mapping[str, bool]
    ) -> list[tuple[str, Problem, int]]:
        """The solutions that have to be drawn next."""
        drawn = _by_problem(solutions.values())
        wanted = []
        for problem in self.problems:
            tries = drawn.get(problem.problem_id, {})
            missing = self._missing(role, tries, sometimes[problem.problem_id])
            for number in next_tries(tries.get(role, {}), self.settings.tries, missing):
                wanted.append((sample_id(problem.problem_id, role, number, appraisal=False), problem, number))
        return wanted

    def _missing(
        self, role: str, tries: Mapping[str, Mapping[int, Sample]], sometimes: bool
    ) -> Callable[[Sequence[Sample]], int]:
        if role == WEAK:
            return missing_weak(self.settings)
        weak = used(tries.get(WEAK, {}), self.settings.tries, missing_weak(self.settings))
        return missing_strong(self.settings, weak, sometimes=sometimes)

    def _prefix_records(
        self, solutions: Mapping[str, Sample], sometimes: Mapping[str, bool]
    ) -> Iterator[dict[str, Any]]:
        """Every prefix that is asked for, from solutions that are all there."""
        cutter = Cutter(self.settings, self.tokenizer, self.seed)
        drawn = _by_problem(solutions.values())
        for problem in self.problems:
            tries, often = drawn.get(problem.problem_id, {}), sometimes[problem.problem_id]
            weak, strong = (
                used(tries.get(role, {}), self.settings.tries, self._missing(role, tries, often))
                for role in (WEAK, STRONG)
            )
            yield from cutter.records(problem, Solved(weak, strong, often))

    # --- completions ---

    def complete(self) -> None:
        """Complete the prefixes, and run the controls.

        Raises:
            DodonaError: the prefixes are not complete, a file cannot be written, or a model not loaded.
        """
        by_problem = self._read_prefixes()
        # Of what is written only the ids are kept here: texts and signals are for the report.
        with self.open(COMPLETE, lambda record: str(record["row_id"])) as file:
            for role in ROLES:
                wanted = [
                    (row_id, problem, prefix, number)
                    for problem in self.problems
                    for row_id, prefix, number in self._asked(problem, role, by_problem.get(problem.problem_id, []))
                ]
                left = [entry for entry in wanted if entry[0] not in file.rows]
                self.progress.start(f"complete, {role}", len(wanted), len(wanted) - len(left))
                self._completions(file, role, left)

    def _read_prefixes(self) -> dict[str, list[Prefix]]:
        """The prefixes that are asked for, by problem; all of them have to be there."""
        sometimes = self._sometimes(self.read(APPRAISE, read_sample))
        solutions, prefixes = self.read(SOLUTIONS, read_sample), self.read(PREFIXES, read_prefix)
        lacking: set[str] = set()
        for role in (WEAK, STRONG):  # what the strong model has to draw depends on the weak one's solutions
            lacking = lacking or {problem.problem_id for _, problem, _ in self._tries(solutions, role, sometimes)}
        found: dict[str, list[Prefix]] = {}
        for record in () if lacking else self._prefix_records(solutions, sometimes):
            row = prefixes.get(record["row_id"])
            if row is None:
                lacking.add(record["problem_id"])
            else:
                found.setdefault(row.problem_id, []).append(row)
        if lacking:
            raise DodonaError(
                f"the prefixes of {len(lacking)} of {len(self.problems)} problems are not made yet: run the stage "
                f"{PREFIXES} first"
            )
        return found

    def _asked(
        self, problem: Problem, role: str, prefixes: Sequence[Prefix]
    ) -> Iterator[tuple[str, Prefix | None, int]]:
        """What a model is to write for a problem: straight shots, and completions of the prefixes that are its own."""
        for number in range(self.settings.samples):
            yield completion_id(problem.problem_id, role, number), None, number
        out = {prefix.row_id for prefix in prefixes if prefix.answered} if self.settings.exclude_answered else set()
        for prefix in prefixes:
            if (role == WEAK and prefix.kind != OFF) or prefix.row_id in out or prefix.of in out:
                continue
            for number in range(self.settings.completions):
                yield completion_id(prefix, role, number), prefix, number

    def _completions(
        self, file: StageFile[str], role: str, wanted: Sequence[tuple[str, Problem, Prefix | None, int]]
    ) -> None:
        by_id = {row_id: (problem, prefix, number) for row_id, problem, prefix, number in wanted}

        def asks() -> Iterator[Ask]:
            for row_id, problem, prefix, number in wanted:
                name = problem.problem_id if prefix is None else prefix.row_id
                ids = () if prefix is None else prefix.ids
                room = max(1, self.limit - len(ids))
                key = f"recover/complete/{role}/{name}"
                yield Ask(row_id, problem.problem_id, [*self.prompt(problem), *ids], key, number, room)

        for written in self._written(role, asks(), len(wanted)):
            problem, prefix, number = by_id[written.row_id]
            ids = () if prefix is None else prefix.ids
            # Decoded as one text: a character's bytes may lie on both sides of the cut.
            whole = self.tokenizer.decode([*ids, *written.ids])
            verdict = judged(self.task, problem, whole)
            run = run_record(written, problem, role, number, self.model_ids[role], verdict)
            repeats = not run["correct"] and self._repeats(problem, prefix, whole, verdict.extracted)
            signals = written.signals if keeps_signals(prefix, role) else {}
            file.append(completion_record(run, prefix, repeats, signals))

    def _repeats(self, problem: Problem, prefix: Prefix | None, text: str, answer: str | None) -> bool:
        """Whether a completion gives the answer that the wrong solution gave."""
        if prefix is None or prefix.kind == RIGHT or prefix.answer is None or answer is None:
            return False
        return judged(self.task, replace(problem, gold=prefix.answer, also=()), text).correct


def _by_problem(samples: Iterable[Sample]) -> dict[str, dict[str, dict[int, Sample]]]:
    """Samples by problem, role and number."""
    found: dict[str, dict[str, dict[int, Sample]]] = {}
    for sample in samples:
        found.setdefault(sample.problem_id, {}).setdefault(sample.role, {})[sample.number] = sample
    return found
