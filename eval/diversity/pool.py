"""All samples of one problem at one temperature, and what rules and measures make of subsets of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np

from dodona.eval.diversity.bleu import Bleu
from dodona.eval.diversity.expectations import MOST, best_at_k, majority_at_k, pass_at_k
from dodona.eval.diversity.measures import (
    DISTINCT,
    dpp_score,
    each,
    mean_cosine,
    mean_logprob,
    quality_dpp,
)
from dodona.eval.diversity.ngrams import NgramTable, words
from dodona.eval.diversity.rewards import LOGPROB
from dodona.eval.diversity.settings import Options
from dodona.eval.diversity.subsets import masks, subsets
from dodona.eval.diversity.votes import (
    SILENT,
    best_of,
    class_values,
    majority,
    minimum_bayes_risk,
    weighted_vote,
)

Array = np.ndarray[Any, Any]

RIGHT: Final = "right"
MAJORITY: Final = "majority"
SEMANTIC: Final = "semantic MBR"
LEXICAL: Final = "lexical MBR"
COVERAGE: Final = "coverage"
_PLACES: Final = 6  # of a measure


class Rewards(NamedTuple):
    """One reward of every sample."""

    values: Array  # [n], NaN where there is none
    weights: Array | None  # [n] of votes, 0 or more; None: values below 0 are no weights


@dataclass(frozen=True, slots=True)
class Texts:
    """What is known of the texts of a pool.

    Args:
        words: counts of n-grams of words.
        kernel: [n, n] cosines of sentence embeddings; None: there are none.
        bleu: None: left out.
    """

    words: NgramTable
    kernel: Array | None
    bleu: Bleu | None
    utility: Array | None  # [n, n] symmetric sentence BLEU

    @classmethod
    def of(cls, texts: Sequence[str], kernel: Array | None, *, with_bleu: bool) -> Texts:
        """Count what there is to count."""
        bleu = Bleu(texts) if with_bleu else None
        utility = None if bleu is None else bleu.symmetric()
        return cls(NgramTable([words(text) for text in texts], DISTINCT), kernel, bleu, utility)


@dataclass(frozen=True, slots=True)
class Pool:
    """All samples of one problem at one temperature.

    Args:
        problem_id: whose samples they are.
        temperature: None where it is not known.
        correct: [n] 0 or 1.
        classes: [n] the answer's class (``classes.classes_of``), ``SILENT`` where a sample has no vote.
        logprobs: [n] mean log-probability of a sample's tokens, nats; NaN where it is not known.
        rewards: by name; the mean log-probability among them where it is known.
        texts: None: not looked at.
    """

    problem_id: str
    temperature: float | None
    correct: Array
    classes: Array
    logprobs: Array
    rewards: Mapping[str, Rewards] = field(default_factory=lambda: MappingProxyType({}))
    texts: Texts | None = None

    @property
    def n(self) -> int:
        """Samples."""
        return len(self.correct)

    @property
    def key(self) -> str:
        """Of random draws."""
        return self.problem_id if self.temperature is None else f"{self.problem_id}@{self.temperature:g}"

    def rules(self) -> list[str]:
        """The rules that can be applied to these samples, in the order of tables."""
        found = [MAJORITY]
        for name, reward in self.rewards.items():
            found.append(best_name(name))
            found += [vote_name(name)] if reward.weights is not None else []
        if self.texts is not None:
            found += [SEMANTIC] if self.texts.kernel is not None else []
            found += [LEXICAL] if self.texts.utility is not None else []
        return [*found, COVERAGE, RIGHT]

    def on(self, mask: Array, options: Options) -> dict[str, Array]:
        """What every rule gives on some subsets, [subsets] by rule.

        ``right`` is the share of right samples, ``coverage`` whether there is one.

        Args:
            mask: [subsets, n] bool.
        """
        found = {MAJORITY: majority(mask, self.classes, self.correct, options.ties)}
        for name, reward in self.rewards.items():
            found[best_name(name)] = best_of(mask, self.correct, reward.values)
            if reward.weights is not None:
                found[vote_name(name)] = weighted_vote(mask, self.classes, self.correct, reward.weights)
        if self.texts is not None and self.texts.kernel is not None:
            found[SEMANTIC] = minimum_bayes_risk(mask, self.correct, self.texts.kernel)
        if self.texts is not None and self.texts.utility is not None:
            found[LEXICAL] = minimum_bayes_risk(mask, self.correct, self.texts.utility)
        right = mask.astype(np.float64) @ self.correct
        return found | {COVERAGE: (right > 0).astype(np.float64), RIGHT: right / mask.sum(axis=1)}

    def expected(self, sizes: Sequence[int], options: Options) -> dict[str, Array]:
        """What every rule gives over the subsets of each size, [sizes] by rule.

        Coverage, best-of-N and, with ties by expectation or as wrong, the majority are counted over all subsets; the
        others are taken over the subsets that ``options`` gives.
        """
        found = {rule: np.full(len(sizes), math.nan) for rule in self.rules()}
        right = int(self.correct.sum())
        exact = options.ties != "first" and self.n <= MOST
        votes = self._votes(max(sizes), ties=options.ties == "expectation") if exact else None
        for place, size in enumerate(sizes):
            known = {COVERAGE: pass_at_k(self.n, right, size), RIGHT: right / self.n}
            known |= {best_name(name): best_at_k(r.values, self.correct, size) for name, r in self.rewards.items()}
            if votes is not None:
                known[MAJORITY] = float(votes[size])
            if found.keys() - known.keys():
                mask = masks(self.subsets(size, options.most, options.draws, options.seed), self.n)
                known = {rule: float(values.mean()) for rule, values in self.on(mask, options).items()} | known
            for rule, value in known.items():
                found[rule][place] = value
        return found

    def subsets(self, size: int, most: int, draws: int, seed: int) -> Array:
        """[subsets, size] as ``subsets.subsets``."""
        return subsets(self.n, size, most, draws, seed, self.key)

    def measures(self, chosen: Array) -> dict[str, Array]:
        """Every measure of some subsets, [subsets] by name; without texts only the log-probability.

        Rounded to six places: batches that are alike are so in the last digit too, and tie in ranks and buckets.

        Args:
            chosen: [subsets, m].
        """
        found: dict[str, Array] = {}
        likely = not np.isnan(self.logprobs).all()
        if likely:
            found[LOGPROB] = mean_logprob(self.logprobs, chosen)
        if (texts := self.texts) is None:
            return _rounded(found)
        for n in DISTINCT:
            found[f"distinct-{n}"] = each(lambda one, n=n: texts.words.distinct(one, n), chosen)  # type: ignore[misc]
        if texts.kernel is not None:
            found["cosine"] = mean_cosine(texts.kernel, chosen)
            found["dpp"] = dpp_score(texts.kernel, chosen)
            if likely:
                found["quality"] = quality_dpp(texts.kernel, chosen, self.logprobs)
        if texts.bleu is not None:
            found["self-bleu"] = each(texts.bleu.self_bleu, chosen)
        return _rounded(found)

    def distances(self) -> dict[str, Array]:
        """[n, n] by metric: how far samples are from each other, for pruning."""
        if self.texts is None:
            return {}
        found = {"n-grams": self.texts.words.jaccard(2)}
        if self.texts.kernel is not None:
            found["cosine"] = 1 - self.texts.kernel
        if self.texts.utility is not None:
            found["BLEU"] = 1 - self.texts.utility / 100
        return found

    def _votes(self, most: int, *, ties: bool) -> Array:
        values = class_values(self.classes, self.correct)
        voting = self.classes[self.classes != SILENT]
        counts = np.bincount(voting, minlength=len(values)).tolist()
        # Classes are numbered over all temperatures of a problem: some have no vote here.
        there = [(count, float(value)) for count, value in zip(counts, values, strict=True) if count]
        silent = int((self.classes == SILENT).sum())
        return majority_at_k([c for c, _ in there], [v for _, v in there], silent, most, ties=ties)


def _rounded(columns: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.round(values, _PLACES) + 0.0 for name, values in columns.items()}


def best_name(reward: str) -> str:
    """Best-of-N by a reward, as tables call it."""
    return f"best by {reward}"


def vote_name(reward: str) -> str:
    """The vote weighted by a reward."""
    return f"vote by {reward}"


def logprob_rewards(logprobs: Array) -> Rewards:
    """The mean log-probability as a reward; its vote weighs exp of it, the geometric mean of the tokens' chances."""
    return Rewards(logprobs, np.exp(logprobs))


def given_rewards(values: Array) -> Rewards:
    """Rewards as somebody else gives them; those below 0, or infinite, are no weights of a vote."""
    known = values[~np.isnan(values)]
    return Rewards(values, values if (known >= 0).all() and np.isfinite(known).all() else None)
