"""What a replayed trigger does: consults, how many hit a label, what they cost, and how much of it is exact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dodona.engine.recording import Recording
from dodona.engine.replay import Consults, first_change
from dodona.eval.analysis.labels import Label, decision_rows
from dodona.eval.analysis.resample import Estimate, agreed, percentile, problem_weights, ratio

Array = np.ndarray[Any, Any]


class Hits(NamedTuple):
    """Consults against one label; positions without the label count nowhere."""

    label: str
    labelled: int  # consults at a position with the label known
    hits: int  # of them where it is 1
    positives: int  # positions where it is 1
    precision: Estimate  # hits / labelled
    recall: Estimate  # hits / positives
    covered: Estimate  # of the positives, those inside a burst, its first token included

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        estimates = {name: getattr(self, name).as_dict() for name in ("precision", "recall", "covered")}
        return {"labelled": self.labelled, "hits": self.hits, "positives": self.positives, **estimates}


class Score(NamedTuple):
    """One trigger under one budget."""

    runs: int
    tokens: int
    consults: int
    per_token: Estimate  # consults / tokens
    per_run: Estimate  # consults / runs
    sync_tokens: int  # tokens that the oracle reads to catch up, prompts included
    burst_tokens: int  # tokens that the oracle writes
    prompts_known: bool  # False: the trace does not say how long the prompts are, and they are not in sync_tokens
    exact_runs: int  # runs in which no consult differs from those that happened
    exact_tokens: int  # tokens before the first consult that differs, over all runs
    exact_consults: int  # consults before it
    hits: tuple[Hits, ...]

    @property
    def oracle_fed(self) -> int:
        """Tokens fed to the oracle: its syncs, and each burst's tokens but the last, as the ledger counts them."""
        return self.sync_tokens + self.burst_tokens - self.consults

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        whole = ("runs", "tokens", "consults", "sync_tokens", "burst_tokens", "oracle_fed", "prompts_known")
        exact = ("exact_runs", "exact_tokens", "exact_consults")
        return {
            **{name: getattr(self, name) for name in (*whole, *exact)},
            "per_token": self.per_token.as_dict(),
            "per_run": self.per_run.as_dict(),
            "labels": {hit.label: hit.as_dict() for hit in self.hits},
        }


class Scorer:
    """Scores consults on one recording.

    Args:
        labels: by name, each [N].
        resamples, seed: of the bootstrap over problems.
    """

    def __init__(self, recording: Recording, labels: Mapping[str, Label], *, resamples: int, seed: int) -> None:
        self.recording = recording
        names, self._problem = recording.problems
        self._of_token = np.repeat(self._problem, recording.lengths)
        self._weights = problem_weights(len(names), resamples, seed).astype(np.float64)
        decided = decision_rows(recording)
        self._known = {name: decided & ~np.isnan(label.values) for name, label in labels.items()}
        self._positive = {name: known & (labels[name].values == 1) for name, known in self._known.items()}
        self._positives = {name: self._by_token(positive) for name, positive in self._positive.items()}
        self._lengths = np.bincount(self._problem, weights=recording.lengths, minlength=len(names))
        self._runs = np.bincount(self._problem, minlength=len(names)).astype(np.float64)

    def score(self, consults: Consults) -> Score:
        """The score of these consults."""
        recording = self.recording
        made = self._by_problem(consults.sequence)
        change = first_change(recording, consults)
        position = consults.start - recording.edges[consults.sequence]
        per_token, *rest = self._shares([(made, self._lengths), *self._hit_counts(consults)])
        hits = []
        for place, name in enumerate(self._known):
            precision, recall, covered = rest[3 * place : 3 * place + 3]
            labelled, hit = (int(which[name][consults.start].sum()) for which in (self._known, self._positive))
            hits.append(Hits(name, labelled, hit, int(self._positive[name].sum()), precision, recall, covered))
        prompts = recording.settings["prompt_tokens"]
        return Score(
            runs=len(recording.runs),
            tokens=recording.tokens,
            consults=len(consults.start),
            per_token=per_token,
            per_run=ratio(made, self._runs, self._weights),
            sync_tokens=int(self._sync_tokens(consults, position).sum()),
            burst_tokens=int(consults.length.sum()),
            prompts_known=not np.isnan(prompts).any(),
            exact_runs=int((change >= recording.lengths).sum()),
            exact_tokens=int(change.sum()),
            exact_consults=int((position < change[consults.sequence]).sum()),
            hits=tuple(hits),
        )

    def _hit_counts(self, consults: Consults) -> list[tuple[Array, Array]]:
        """Part and whole by problem of precision, recall and cover, a label after the other."""
        pairs = []
        for name, known in self._known.items():
            positive, positives = self._positive[name], self._positives[name]
            hit = self._by_problem(consults.sequence[positive[consults.start]])
            labelled = self._by_problem(consults.sequence[known[consults.start]])
            before = np.concatenate(([0], np.cumsum(positive)))
            inside = before[consults.start + consults.length] - before[consults.start]
            pairs += [(hit, labelled), (hit, positives), (self._by_problem(consults.sequence, inside), positives)]
        return pairs

    def _sync_tokens(self, consults: Consults, position: Array) -> Array:
        """What each consult's sync reads: all that the oracle has not read, which it has up to a burst's last token."""
        prompts = self.recording.settings["prompt_tokens"]
        prompt = np.where(np.isnan(prompts), 0, prompts).astype(np.int64)[consults.sequence]
        read = np.zeros_like(position)  # generated tokens, and the prompt, that it has read before
        again = np.flatnonzero(np.diff(consults.sequence, prepend=-1) == 0)
        read[again] = (prompt + position + consults.length - 1)[again - 1]
        tokens: Array = prompt + position - read
        return tokens

    def _by_problem(self, sequence: Array, weight: Array | None = None) -> Array:
        counts = np.bincount(self._problem[sequence], weights=weight, minlength=len(self._lengths))
        return counts.astype(np.float64)

    def _by_token(self, which: Array) -> Array:
        return np.bincount(self._of_token[which], minlength=int(self._problem.max(initial=-1)) + 1).astype(np.float64)

    def _shares(self, pairs: list[tuple[Array, Array]]) -> list[Estimate]:
        """Each pair's sum over sum, with its interval; one product of matrices for all of them."""
        columns = np.column_stack([column for pair in pairs for column in pair])
        drawn = self._weights @ columns
        found = []
        with np.errstate(invalid="ignore", divide="ignore"):
            for place, (part, whole) in enumerate(pairs):
                draws = drawn[:, 2 * place] / drawn[:, 2 * place + 1]
                value = float(part.sum() / whole.sum()) if whole.sum() else math.nan
                interval = None if math.isnan(value) else percentile(draws, 0.95)
                found.append(agreed(Estimate(value, interval, draws), whole))
        return found
