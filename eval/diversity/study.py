"""A study's files read back: its samples as pools, with their rewards and what is known of their texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.eval.diversity.classes import classes_of, same_answer, same_letter
from dodona.eval.diversity.embed import Embeddings
from dodona.eval.diversity.pool import Pool, Rewards, Texts, given_rewards, logprob_rewards
from dodona.eval.diversity.rewards import LOGPROB
from dodona.eval.diversity.rows import Sample, missing_sample, read_reward, read_sample, sample_id
from dodona.eval.diversity.sampling import SAMPLES
from dodona.eval.diversity.settings import SAMPLE, SCORE, STUDY
from dodona.eval.recover.files import Header, parsed_row, read_stage

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What lies in a study's folder.

    Args:
        header: of the samples' file.
        samples: by problem and temperature, all that were asked for; one without a record is ``missing``.
        rewards: by the reward's name, by row id.
    """

    folder: Path
    header: Header
    samples: Mapping[tuple[str, float], Sequence[Sample]]
    rewards: Mapping[str, Mapping[str, float]]

    @property
    def texts(self) -> list[str]:
        """Of all samples, each once."""
        return list(dict.fromkeys(sample.text for row in self.samples.values() for sample in row))

    @property
    def outcomes(self) -> Counter[str]:
        """How many samples are correct, wrong, unparsed, truncated, failed and missing."""
        return Counter(sample.outcome for row in self.samples.values() for sample in row)

    @property
    def title(self) -> str:
        """For reports."""
        config = self.header.config
        models = config["base_model_id"]
        if config["oracle_model_id"] is not None:
            models = f"{models} guided by {config['oracle_model_id']}"
        return f"Diversity of samples: {config['dataset']}, {models}"

    def pools(
        self, embeddings: Embeddings | None, *, bleu: bool, step: Callable[[], None] = lambda: None
    ) -> list[Pool]:
        """The samples of every problem at every temperature.

        Args:
            embeddings: of all texts; None: left out.
            bleu: whether to count BLEU's n-grams.
            step: told of every pool.
        """
        equal = same_letter if self.header.config.get("kind") == "choice" else same_answer
        pools: list[Pool] = []
        by_problem: dict[str, list[Sequence[Sample]]] = {}
        for (problem_id, _), row in self.samples.items():
            by_problem.setdefault(problem_id, []).append(row)
        for problem_id, rows in by_problem.items():
            found = classes_of([sample.answer for row in rows for sample in row], equal)
            ends = np.cumsum([len(row) for row in rows])[:-1]
            for row, classes in zip(rows, np.split(found, ends), strict=True):
                texts = [sample.text for sample in row]
                kernel = None if embeddings is None else embeddings.kernel(texts)
                logprobs = np.array([sample.logprob for sample in row])
                pools.append(
                    Pool(
                        problem_id=problem_id,
                        temperature=row[0].temperature,
                        correct=np.array([float(sample.correct) for sample in row]),
                        classes=classes,
                        logprobs=logprobs,
                        rewards=MappingProxyType(self._rewards(row, logprobs)),
                        texts=Texts.of(texts, kernel, with_bleu=bleu),
                    )
                )
                step()
        return pools

    def _rewards(self, row: Sequence[Sample], logprobs: Array) -> dict[str, Rewards]:
        found = {LOGPROB: logprob_rewards(logprobs)}
        for name, values in self.rewards.items():
            rewards = given_rewards(np.array([values.get(sample.row_id, math.nan) for sample in row]))
            usable = all(value >= 0 and math.isfinite(value) for value in values.values() if not math.isnan(value))
            found[name] = rewards if usable else rewards._replace(weights=None)
        return found


def read_study(folder: Path) -> Recorded:
    """Read a study's folder.

    Raises:
        DodonaError: there is no study, or a file that cannot be read.
    """
    path = folder / SAMPLES
    if not path.exists():
        raise DodonaError(f"there is no study in {folder}: run the stage {SAMPLE} first")
    header: Header | None = None
    rows: dict[str, Sample] = {}
    for line in read_stage(path, SAMPLE, STUDY):
        if isinstance(line, Header):
            header = line
        else:
            sample = parsed_row(read_sample, line, path)
            rows.setdefault(sample.row_id, sample)
    if header is None:
        raise DodonaError(f"{path} is empty: run the stage {SAMPLE} first")
    samples = {}
    for problem_id in header.problems:
        for name, count in sorted(header.asked.items(), key=lambda entry: float(entry[0])):
            ids = [(sample_id(problem_id, float(name), number), number) for number in range(int(count))]
            samples[problem_id, float(name)] = [
                rows.get(row_id) or missing_sample(problem_id, float(name), number) for row_id, number in ids
            ]
    return Recorded(folder, header, samples, _rewards(folder))


def _rewards(folder: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for path in sorted(folder.glob("rewards-*.jsonl")):
        name = ""
        for line in read_stage(path, SCORE, STUDY):
            if isinstance(line, Header):
                name = str(line.config.get("reward"))
                found.setdefault(name, {})
            else:
                found[name].setdefault(str(line.get("row_id")), parsed_row(read_reward, line, path))
    return found
