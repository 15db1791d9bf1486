"""Rates over problems with weights, fuzzy bins, and where completions part: against hand-computed cases."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from recover_studies import make_study, run_all, solves

from dodona.eval.recover.findings import read_findings
from dodona.eval.recover.partings import AFTER, at_cut, at_partings, common, partings, profile, token_pairs
from dodona.eval.recover.rates import Count, against, bin_edges, memberships, pooled, solve_rate
from dodona.eval.recover.rows import Completion, Cost, Prefix
from dodona.eval.stats.intervals import clustered, wilson
from dodona.eval.stats.paired import clustered_difference


def tally(*counts: tuple[int, int]) -> dict[str, Count]:
    return {f"p{place}": Count(*count) for place, count in enumerate(counts)}


@pytest.mark.parametrize("samples", [1, 2, 6])
@pytest.mark.parametrize("seed", range(8))
def test_equal_problems_have_the_interval_of_clustered_runs(seed: int, samples: int) -> None:
    """Two formulas for one thing must not differ: reports of eval and of recover would contradict each other."""
    rng = np.random.default_rng(seed)
    right = [int(n) for n in rng.binomial(samples, rng.uniform(0.05, 0.95), size=int(rng.integers(2, 40)))]
    found = pooled(tally(*((count, samples) for count in right)))
    assert found.rate == pytest.approx(sum(right) / samples / len(right))
    assert found.interval == pytest.approx(clustered(right, samples), abs=1e-12)
    same = pooled(tally(*((count, samples) for count in right)), {f"p{place}": 0.25 for place in range(len(right))})
    assert same.interval == pytest.approx(found.interval, abs=1e-12) and same.weight == len(right) / 4


def test_a_weighted_rate_by_hand() -> None:
    """Three problems, of which the third counts a half: (1 + 3 + 0.5) / (2 + 4 + 1) with its ratio's error."""
    found = pooled(tally((1, 2), (3, 4), (1, 2)), {"p0": 1.0, "p1": 1.0, "p2": 0.5})
    rate = 4.5 / 7
    assert found.rate == pytest.approx(rate)
    assert (found.right, found.n, found.problems, found.weight) == (5, 8, 3, 2.5)
    variance = 3 / 2 * ((1 - 2 * rate) ** 2 + (3 - 4 * rate) ** 2 + (0.5 * (1 - 2 * rate)) ** 2) / 49
    runs = 49 / (2 + 4 + 0.25 * 2)
    # Problems that agree better than runs by chance do not narrow the interval: the design effect is at least 1.
    assert variance * (runs - 1) / (rate * (1 - rate)) < 1
    degrees = round(runs) - 1
    assert degrees == 7
    effective = runs * (2.364624 / 4.302653) ** 2  # Student's quantiles at 7 and at 2 degrees of freedom
    z = 1.959963985
    center = (rate + z * z / (2 * effective)) / (1 + z * z / effective)
    assert found.interval.low + found.interval.high == pytest.approx(2 * center, abs=1e-6)


def test_a_problem_without_weight_or_completions_is_not_there() -> None:
    """A bin's rate must not be pulled by problems that are not in it."""
    counts = tally((0, 4), (2, 2), (0, 0))
    assert pooled(counts, {"p1": 0.3}) == pooled(tally((9, 9), (2, 2)), {"p1": 0.3})
    alone = pooled(counts, {"p1": 0.3})
    assert alone.rate == 1.0 and alone.n == 2 and alone.problems == 1
    assert alone.interval == pytest.approx(wilson(1, 1)), "one problem is one observation"
    nothing = pooled({}, None)
    assert math.isnan(nothing.rate) and nothing.as_dict()["rate"] is None and nothing.as_dict()["low"] is None
    assert pooled(counts, {}).n == 0


@pytest.mark.parametrize("right", [0, 3])
def test_no_rate_has_an_interval_without_width(right: int) -> None:
    """0 of 60 in ten problems says as much as 0 of 10, not as 0 of 60."""
    found = pooled(tally(*[(right, 3)] * 10))
    assert found.interval == pytest.approx(wilson(10 * (right > 0), 10))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Runs of one problem hang together and problems have different numbers of them; naive intervals hold 80 %."""
    rng = np.random.default_rng(7)
    truth, inside, trials = 0.4, 0, 600
    for _ in range(trials):
        counts = {}
        for place in range(60):
            n = int(rng.choice([2, 4, 6]))
            counts[str(place)] = Count(int(rng.binomial(n, rng.beta(0.8, 1.2))), n)
        low, high = pooled(counts).interval
        inside += low <= truth <= high
    assert 0.925 <= inside / trials <= 0.985


def test_a_difference_of_equal_problems_is_that_of_paired_arms() -> None:
    """Likewise one thing with two formulas."""
    a, b = tally((1, 2), (0, 2), (2, 2), (1, 2)), tally((5, 5), (2, 5), (5, 5), (0, 5))
    found = against(a, b)
    differences = [0.5 - 1, 0 - 0.4, 1 - 1, 0.5 - 0]
    assert found.difference == pytest.approx(sum(differences) / 4)
    assert found.reference == pytest.approx((1 + 0.4 + 1 + 0) / 4)
    assert found.interval == pytest.approx(clustered_difference(differences), abs=1e-12)


def test_a_difference_weighs_problems_by_their_completions_and_skips_what_one_side_lacks() -> None:
    """The rate beside it is over all completions; a difference weighted otherwise would not be rate less rate."""
    a, b = tally((1, 2), (0, 6), (1, 1)), {"p0": Count(5, 5), "p1": Count(1, 5), "p2": Count(0, 0)}
    found = against(a, b)
    assert found.problems == 2
    assert found.reference == pytest.approx((2 * 1 + 6 * 0.2) / 8)
    assert found.difference == pytest.approx(1 / 8 - found.reference)
    assert against(a, b, {"p1": 0.5}).difference == pytest.approx(-0.2)
    assert against(a, b, {"p1": 0.5}).interval == (-1, 1)
    nothing = against(a, {})
    assert math.isnan(nothing.difference) and nothing.as_dict()["reference"] is None


def test_a_problem_belongs_to_the_bins_that_its_interval_overlaps() -> None:
    """Five of five is [0.566, 1] by Wilson: 0.034 of it below 0.6, and 0.2 of it in each of the two bins above."""
    edges = bin_edges(5)
    assert edges == [0, 0.2, 0.4, 0.6, 0.8, 1]
    low = 5 / (5 + 1.959963985**2)
    width = 1 - low
    assert memberships(Count(5, 5), edges) == pytest.approx([0, 0, (0.6 - low) / width, 0.2 / width, 0.2 / width])
    assert memberships(Count(0, 5), edges) == pytest.approx(memberships(Count(5, 5), edges)[::-1])
    for right in range(6):
        assert sum(memberships(Count(right, 5), edges)) == pytest.approx(1)
    assert memberships(Count(5000, 10000), bin_edges(2)) == pytest.approx([0.5, 0.5])
    assert memberships(Count(7000, 10000), edges) == pytest.approx([0, 0, 0, 1, 0])
    assert memberships(Count(0, 0), edges) == pytest.approx([0.2] * 5), "of nothing nothing is known"
    assert memberships(Count(3, 5), bin_edges(1)) == pytest.approx([1])


def test_a_solve_rate_has_its_wilson_interval() -> None:
    """By the formula of the paper, as everywhere else."""
    assert solve_rate(Count(4, 5)) == (0.8, wilson(4, 5))
    assert math.isnan(solve_rate(Count(0, 0))[0])


# --- signals ---


def completion(prefix: str, number: int, correct: bool, ids: list[int], entropy: list[float]) -> Completion:
    signals = {name: np.array(entropy, dtype=np.float32) for name in ("entropy", "varentropy", "margin", "logprob")}
    outcome = "correct" if correct else "wrong"
    problem = prefix.partition("/")[0]
    return Completion(
        *(f"{prefix}#strong-{number}", problem, prefix, "strong", number, outcome, "1", False, tuple(ids), ""),
        signals,
        Cost(),
    )


@pytest.fixture
def parting(tmp_path: Path):
    """Findings of one problem's prefix with three completions, one of which is lost."""
    run_all(make_study(tmp_path, solves(1.0), solves(0.0), problems=1, samples=1))
    found = read_findings(tmp_path)
    prefix = Prefix("p/weak-0@0.7", "p", "off-policy", "weak", 0.7, (1, 2), "x", False, "9", None)
    runs = [
        completion(prefix.row_id, 0, True, [5, 6, 7, 8], [0.1, 0.2, 1.0, 0.3]),
        completion(prefix.row_id, 1, False, [5, 6, 9], [0.1, 0.2, 1.0]),
        completion(prefix.row_id, 2, True, [5, 4], [0.1, 0.6]),
    ]
    object.__setattr__(found, "completions", {(prefix.row_id, "strong"): runs})
    return found, [prefix]


def test_a_recovered_and_a_lost_completion_part_at_their_first_other_token(parting) -> None:
    """An index too many reads the signal of the token after the choice."""
    found, prefixes = parting
    pairs = partings(found, prefixes)
    assert [(one.recovered[-1], one.lost[-1], one.depth, one.tokens) for one in pairs] == [
        ("0", "1", 2, (7, 9)),
        ("2", "1", 1, (4, 6)),
    ]
    assert pairs[0].signals["entropy"] == pytest.approx(1.0)
    assert pairs[1].signals["entropy"] == pytest.approx(0.6)
    (entropy, *_) = at_partings(found, pairs, resamples=50)
    assert entropy.there.value == pytest.approx(0.8)
    # Elsewhere: 0.1, 0.2, 0.3 of the first; 0.1 of the second, which parts twice; 0.1 of the third.
    assert entropy.elsewhere.value == pytest.approx(0.8 / 5)
    assert token_pairs(pairs, str) == [("4", "6", 1), ("7", "9", 1)]
    assert token_pairs([pairs[0], pairs[0], pairs[1]], str)[0] == ("7", "9", 2)
    assert at_partings(found, []) == []


def test_completions_of_which_one_is_the_others_beginning_part_at_its_end() -> None:
    """A limit cuts a text off where another goes on."""
    assert common([1, 2, 3], [1, 2]) == 2 and common([], [1]) == 0 and common([1, 2], [1, 2]) == 2


def test_signals_at_the_cut_are_those_of_the_first_token(parting) -> None:
    """All completions of a prefix have one distribution there; failures have none."""
    found, prefixes = parting
    (entropy, *_) = at_cut(found, prefixes, resamples=50)
    assert entropy.recovered.value == entropy.lost.value == pytest.approx(0.1)
    assert entropy.auroc is not None and entropy.auroc.value == pytest.approx(0.5)
    assert at_cut(found, []) == []
    means, counts = profile(found, prefixes, "entropy", True)
    assert means[:4] == pytest.approx([0.1, 0.4, 1.0, 0.3]) and counts[:5].tolist() == [2, 2, 1, 1, 0]
    assert len(means) == AFTER and np.isnan(means[4:]).all()
