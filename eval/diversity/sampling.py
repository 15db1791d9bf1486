"""The stages that write rows: samples, and their rewards.

A sample is a function of its problem, its temperature, its number, the models and the seed. So a stage that was stopped
goes on with what is missing, and more problems, samples or temperatures can be asked for later. Samples of one prompt
are asked for one after the other, so that they share its pages; and all temperatures draw with the same numbers, so
that they differ by the temperature and not by luck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dodona.engine.engine import Engine
from dodona.engine.request import Request
from dodona.eval.diversity.rewards import Reward, slug
from dodona.eval.diversity.rows import Sample, read_reward, read_sample, reward_record, sample_id, sample_record
from dodona.eval.diversity.settings import SAMPLE, SCORE, STUDY, Settings
from dodona.eval.recover.files import Header, StageFile, stage_rows
from dodona.eval.recover.rows import Asked
from dodona.eval.recover.stages import Progress
from dodona.eval.tasks.problem import Problem, Task

SAMPLES: Final = "samples.jsonl"

# Fields of Request that a study sets for each sample; all others are the same for all of them.
PER_SAMPLE: Final = frozenset({"prompt", "id", "key", "sample", "temperature"})


@dataclass(frozen=True, slots=True)
class Study:
    """A study as it is asked for now.

    Args:
        problems: with the prompts that the models read.
        config: what every sample depends on: task, models and options.
        options: fields of Request that hold for every sample.
        load: the engine, which is called once something has to be generated.
        folder: where the files are.
    """

    task: Task
    problems: Sequence[Problem]
    settings: Settings
    config: Mapping[str, Any]
    options: Mapping[str, Any]
    load: Callable[[], Engine]
    folder: Path
    progress: Progress
    _engines: list[Engine] = field(default_factory=list, repr=False)

    def header(self, stage: str, more: Mapping[str, Any] | None = None) -> Header:
        """The header of what is asked for now."""
        config = {**self.config, **(more or {})}
        problems = {problem.problem_id: Asked.of(problem) for problem in self.problems}
        return Header(stage, config, self.settings.asked(), problems, study=STUDY)

    def request(self, problem: Problem, temperature: float, number: int) -> Request:
        """The request of one sample."""
        options = {**self.options, "raw": problem.raw or self.options.get("raw", False)}
        return Request(
            prompt=problem.prompt,
            id=sample_id(problem.problem_id, temperature, number),
            key=f"{STUDY}/{problem.problem_id}",
            sample=number,
            temperature=temperature,
            **options,
        )

    def wanted(self) -> Iterator[tuple[str, Problem, float, int]]:
        """Every sample that is asked for: its row id, problem, temperature and number."""
        for problem in self.problems:
            for temperature in self.settings.temperatures:
                for number in range(self.settings.samples):
                    yield sample_id(problem.problem_id, temperature, number), problem, temperature, number

    def sample(self) -> None:
        """Draw what is missing.

        Raises:
            DodonaError: the file holds something else or cannot be written, or a model cannot be loaded.
        """
        # Of what is written only the ids are kept here: texts are for the report.
        with StageFile(self.folder / SAMPLES, self.header(SAMPLE), lambda record: str(record["row_id"])) as file:
            left = {entry[0]: entry for entry in self.wanted() if entry[0] not in file.rows}
            total = len(self.problems) * len(self.settings.temperatures) * self.settings.samples
            self.progress.start(SAMPLE, total, total - len(left))
            if not left:
                return
            engine = self.load()
            self._engines.append(engine)
            for result in engine.generate(self.request(*entry[1:]) for entry in left.values()):
                assert result.request.id is not None
                _, problem, temperature, _ = left[result.request.id]
                file.append(sample_record(self.task, problem, temperature, result))
                self.progress.step()

    def close(self) -> None:
        """Let go of the models."""
        while self._engines:
            self._engines.pop().close()

    def score(self, reward: Reward) -> None:
        """Rate the samples that are there and have no reward yet; equal texts are rated once.

        Raises:
            DodonaError: a file holds something else or cannot be written, or the reward cannot be computed.
        """
        samples = stage_rows(self.folder / SAMPLES, self.header(SAMPLE), read_sample)[1]
        header = self.header(SCORE, {"reward": reward.name, "reward_model": reward.identity})
        questions = {problem.problem_id: problem.question for problem in self.problems}
        with StageFile(self.folder / rewards_name(reward.name), header, read_reward) as file:
            asked = [row_id for row_id, *_ in self.wanted() if row_id in samples]
            left: dict[tuple[str, str], list[Sample]] = {}
            for row_id in asked:
                if row_id not in file.rows:
                    sample = samples[row_id]
                    left.setdefault((sample.problem_id, sample.text), []).append(sample)
            self.progress.start(SCORE, len(asked), len(asked) - sum(map(len, left.values())))
            if not left:
                return
            groups = list(left.values())
            pairs = [(questions[one[0].problem_id], one[0].text) for one in groups]
            for place, value in reward.rate(pairs):
                for sample in groups[place]:
                    file.append(reward_record(sample.row_id, sample.problem_id, value))
                    self.progress.step()


def rewards_name(name: str) -> str:
    """The file of a reward."""
    return f"rewards-{slug(name)}.jsonl"
