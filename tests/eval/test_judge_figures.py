"""Judges of known bias give the figures that they must, and every pair stays in the denominator."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judged_pairs import ByRule, figures_of, judge_all, make_pairs

from dodona.eval.judge.agreement import agreement
from dodona.eval.judge.figures import figures, graded, quarters
from dodona.eval.judge.judgement import Judgement, judgement, preferred, read_judgement
from dodona.eval.judge.judges import SCRIPTS, ScriptedJudge, exact_judge
from dodona.eval.judge.length_control import length_controlled
from dodona.eval.judge.pair import Pair
from dodona.eval.judge.results import Rated, between
from dodona.eval.judge.tables import judge_tables
from dodona.eval.judge.verdict import Verdict
from dodona.eval.report.table import text_lines
from dodona.eval.stats.intervals import wilson
from dodona.eval.stats.paired import mcnemar


def outcome(winner: str | None, **more: Any) -> Judgement:
    return Judgement("p", winner, error=None if winner else "no answer", **more)  # type: ignore[arg-type]


def scripted(name: str, seed: int = 0) -> ScriptedJudge:
    return ScriptedJudge(name, SCRIPTS[name], seed)


@pytest.mark.parametrize(("name", "share"), [("first", 1.0), ("second", 0.0)])
def test_a_judge_that_looks_at_the_position_alone_makes_nothing_but_ties(
    tmp_path: Path, name: str, share: float
) -> None:
    """A program that always shows the same side first: this judge would give it 100 %."""
    found = figures_of(scripted(name), make_pairs(40), tmp_path)
    assert (found.wins, found.losses, found.ties, found.errors, found.split) == (0, 0, 40, 0, 40)
    assert found.rate_a.value == found.rate_b.value == 0.5
    assert found.consistency is not None and found.consistency.value == 0
    assert found.first is not None and found.first.value == share and found.first.n == 80
    assert found.first_p is not None and found.first_p < 1e-10
    assert math.isnan(found.rate_decided.value) and found.rate_decided.n == 0 and found.p_value == 1


@pytest.mark.parametrize("name", ["longer", "shorter"])
def test_a_judge_that_loves_length_is_consistent_and_given_away_by_length(tmp_path: Path, name: str) -> None:
    """A consistency that is taken for quality, and a logistic fit that runs off to infinity."""
    pairs = make_pairs(80)
    found = figures_of(scripted(name), pairs, tmp_path)
    differences = [len(pair.answer_a or "") - len(pair.answer_b or "") for pair in pairs]
    sign = 1 if name == "longer" else -1
    assert found.wins == sum(sign * difference > 0 for difference in differences)
    assert found.losses == sum(sign * difference < 0 for difference in differences)
    assert found.ties == differences.count(0) and found.split == 0
    assert found.consistency is not None and found.consistency.value == 1
    assert found.first is not None and found.first.value == 0.5
    assert found.controlled.rate is None and f"the {name} answer always won" in str(found.controlled.reason)
    rates = [quarter.rate.value for quarter in found.quarters]
    assert [rates[0], rates[-1]] == ([0.0, 1.0] if name == "longer" else [1.0, 0.0])
    assert sum(quarter.n for quarter in found.quarters) == 80


def test_a_judge_that_throws_a_coin_splits_half_of_the_pairs_and_wins_a_quarter_each(tmp_path: Path) -> None:
    """Draws that hang together: the same in both orders (no ties), or another in each run."""
    pairs = make_pairs(300)
    found = figures_of(scripted("random"), pairs, tmp_path / "one")
    assert abs(found.ties - 150) < 35 and abs(found.wins - 75) < 30 and abs(found.losses - 75) < 30
    assert found.consistency is not None and abs(found.consistency.value - 0.5) < 0.1
    assert found.first is not None and abs(found.first.value - 0.5) < 0.1
    assert found.consistency.interval.low < 0.5 < found.consistency.interval.high
    assert found.controlled.rate is not None and abs(found.controlled.rate - 0.5) < 0.1
    few = [figures_of(scripted("random", seed), pairs[:30], tmp_path / str(n)) for n, seed in enumerate((0, 0, 1))]
    assert few[0] == few[1] and few[0] != few[2]


def test_the_exact_judge_gives_the_pair_to_the_side_that_is_right(tmp_path: Path) -> None:
    """Sides that are mixed up in one of the two orders."""
    pairs = make_pairs(60)
    right = exact_judge(lambda answer, gold: answer.startswith(gold))
    found = judge_all(right, pairs, tmp_path)
    for one in found:
        assert one.judgement.winner == (one.pair.reference or "")[7]
        assert one.judgement.consistent
    both = exact_judge(lambda answer, gold: True)
    assert {one.judgement.winner for one in judge_all(both, pairs, tmp_path / "both")} == {"tie"}


def test_the_denominator_is_every_pair_and_errors_are_shown_in_what_they_could_have_changed() -> None:
    """108 of 161 reported as 67.1 % of everything, where 13 of 174 pairs were missing."""
    found = figures([outcome("a")] * 108 + [outcome("b")] * 53 + [outcome(None)] * 13)
    assert (found.n, found.errors) == (174, 13)
    assert found.rate_a.value == pytest.approx(108 / 174) and found.rate_b.value == pytest.approx(53 / 174)
    assert found.rate_decided.value == pytest.approx(108 / 161)
    assert found.rate_decided.interval == wilson(108, 161) and found.rate_a.interval == wilson(108, 174)
    assert found.bounds == pytest.approx((108 / 174, 121 / 174))
    assert found.p_value == mcnemar(108, 53).exact
    assert found.rate_a.value + found.rate_b.value + found.errors / found.n == pytest.approx(1)


def test_ties_are_halves_in_the_rate_and_absent_among_decided_pairs() -> None:
    """Ties that vanish, or count for one side."""
    found = figures([outcome("a")] * 5 + [outcome("b")] * 3 + [outcome("tie")] * 4)
    assert found.rate_a.value == pytest.approx(7 / 12) and found.rate_b.value == pytest.approx(5 / 12)
    assert found.rate_judged == found.rate_a
    assert (found.rate_decided.hits, found.rate_decided.n) == (5, 8)


def test_no_pairs_give_tables_without_a_division_by_zero() -> None:
    """A crash on an empty study."""
    found = Rated.of("nobody", {}, [])
    assert found.figures.n == 0 and math.isnan(found.figures.rate_a.value)
    assert all(text_lines(table) for table in judge_tables([found, found]))


def test_orders_are_put_together_as_the_issue_says() -> None:
    """A tie by one order that counts as a win, an error that counts as a tie, or a preference of the wrong side."""
    pair = Pair("1", "q", "x", "yy")

    def both(ab: str | None, ba: str | None) -> Judgement:
        first, second = (Verdict(v, error=None if v else "garbled") for v in (ab, ba))  # type: ignore[arg-type]
        return judgement(pair, None, first, second)

    assert [both("first", "second").winner, both("second", "first").winner] == ["a", "b"]
    assert [both("first", "first").winner, both("second", "second").winner] == ["tie", "tie"]
    assert both("tie", "tie").winner == "tie" and both("tie", "tie").consistent is True
    assert both("first", "tie").winner == "tie" and both("first", "tie").consistent is False
    failed = both("first", None)
    assert failed.winner is None and failed.error == "garbled (b first)" and failed.consistent is None
    assert both(None, None).error == "garbled (a first); garbled (b first)"
    assert [both("first", "first").firsts, both("first", "second").firsts, both("first", "tie").firsts] == [2, 1, None]
    graded_ab = Verdict("first", {"first": 0.9, "second": 0.1, "tie": 0.0})
    graded_ba = Verdict("second", {"first": 0.3, "second": 0.7, "tie": 0.0})
    assert judgement(pair, None, graded_ab, graded_ba).preference == pytest.approx(0.8)
    once = judgement(pair, None, graded_ab, graded_ba)
    assert read_judgement(once.as_dict()) == once


def test_a_published_file_of_preferences_gives_its_published_figures() -> None:
    """Mean of p - 1 with sd / sqrt(n), and draws as halves in the discrete rate, as such leaderboards have them."""
    draws = random.Random(3)
    values = [round(draws.choice([1.0, 2.0, 1.5, 1 + draws.random()]), 6) for _ in range(805)]
    found = figures([preferred(Pair(str(i), None, "a", "bb", preference=value)) for i, value in enumerate(values)])
    array = np.array(values) - 1
    assert found.graded_b.mean == pytest.approx(array.mean(), rel=1e-12)
    assert found.graded_b.error == pytest.approx(array.std(ddof=1) / math.sqrt(805), rel=1e-12)
    assert found.graded_a.mean == pytest.approx(1 - array.mean(), rel=1e-12)
    discrete = ((array > 0.5).sum() + 0.5 * (array == 0.5).sum()) / 805
    assert found.rate_b.value == pytest.approx(discrete, rel=1e-12)
    assert found.consistency is None and found.first is None


def test_the_length_controlled_rate_is_that_of_an_established_fit() -> None:
    """Newton's steps that stop early, or an interval of another model."""
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(5)
    differences = rng.integers(-300, 300, 250)
    chance = 1 / (1 + np.exp(-(0.4 + 1.2 * np.tanh(differences / differences.std()))))
    scores = (rng.random(250) < chance).astype(float)
    scores[:40] = 0.5
    found = length_controlled(list(scores), [float(d) for d in differences])
    design = sm.add_constant(np.tanh(differences / differences.std()))
    fit = sm.GLM(scores, design, family=sm.families.Binomial()).fit()
    assert found.rate == pytest.approx(1 / (1 + math.exp(-fit.params[0])), rel=1e-6)
    assert found.slope == pytest.approx(fit.params[1], rel=1e-6)
    low, high = fit.conf_int()[0]
    assert found.interval == pytest.approx((1 / (1 + math.exp(-low)), 1 / (1 + math.exp(-high))), rel=1e-5)


@pytest.mark.parametrize(
    ("scores", "differences", "reason"),
    [
        ([1, 1, 1, 0.5], [1, 2, 3, 4], "the shorter answer always won"),
        ([1, 1, 0, 0.5, 0], [1, -2, 4, -3, -3], None),
        ([1, 1, 1], [1, 2, 3], "all pairs went one way"),
        ([0, 0], [1, 2], "all pairs went one way"),
        ([1, 0, 1, 0], [5, -5, 9, -9], "the longer answer always won"),
        ([0, 1, 0, 1], [5, -5, 9, -9], "the shorter answer always won"),
        ([1, 0, 1, 0], [5, 0, 9, 0], "the longer answer always won"),
        ([1, 0, 0.5, 0.5], [5, -5, 0, 0], "the longer answer always won"),
        ([1, 0, 1], [7, 7, 7], "the same difference"),
        ([1], [7], "fewer than two"),
        ([], [], "fewer than two"),
        ([1, 0, 1, 0], [5, 6, -5, -6], None),
    ],
)
def test_an_estimate_that_there_is_not_is_said_and_not_made_up(
    scores: Sequence[float], differences: Sequence[float], reason: str | None
) -> None:
    """A fit that is stopped on its way to infinity and reported."""
    found = length_controlled(scores, differences)
    if reason is None:
        assert found.rate is not None and found.interval is not None and 0 < found.rate < 1
    else:
        assert found.rate is None and found.reason is not None and reason in found.reason


def test_separation_is_seen_exactly_where_the_likelihood_has_no_maximum() -> None:
    """A condition that is nearly right: all small cases against the best slope that a wide search finds."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        n = int(rng.integers(2, 6))
        scores, differences = rng.choice([0, 0.5, 1], n), rng.integers(-2, 3, n).astype(float)
        found = length_controlled(list(scores), list(differences))
        if found.rate is None:
            continue
        if found.rate in (0, 1):  # finite, and too far out for a rate to say
            continue
        x = np.tanh(differences / differences.std())

        def loss(a: float, b: float, x: Any = x, y: Any = scores) -> float:
            return float((np.logaddexp(0, a + b * x) - y * (a + b * x)).sum())

        assert found.slope is not None
        best = loss(math.log(found.rate / (1 - found.rate)), found.slope)
        assert best <= min(loss(a, b) for a in np.linspace(-9, 9, 19) for b in np.linspace(-30, 30, 31)) + 1e-6


def test_quarters_keep_equal_differences_together_and_every_pair_that_has_answers() -> None:
    """Pairs of one difference that are divided by their order in the file, and errors that leave the denominator."""
    judgements = [outcome("a", lengths=(5, 5))] * 7 + [outcome(None, lengths=(9, 1)), outcome("b", lengths=(1, 9))]
    found = quarters(judgements)
    assert [(quarter.low, quarter.high, quarter.n) for quarter in found] == [(-8, 0, 8), (8, 8, 1)]
    assert found[1].errors == 1 and found[1].rate.value == 0
    assert quarters([outcome("a")]) == []


def test_kappa_and_accuracy_are_those_of_an_established_library() -> None:
    """Chance agreement from the wrong margins, and errors of the judge that are left out."""
    metrics = pytest.importorskip("sklearn.metrics")
    draws = random.Random(1)
    people = [draws.choice(["a", "b", "tie"]) for _ in range(200)]
    judge = [label if draws.random() < 0.6 else draws.choice(["a", "b", "tie", None]) for label in people]
    found = agreement(judge, people)
    named = [label or "error" for label in judge]
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score(named, people), rel=1e-12)
    assert found.accuracy == sum(one == other for one, other in zip(judge, people, strict=True)) / 200
    assert found.kappa_interval is not None and found.kappa_interval.low < found.kappa < found.kappa_interval.high
    judged = [
        Judgement(str(i), winner, human=label, error=None if winner else "x")  # type: ignore[arg-type]
        for i, (winner, label) in enumerate(zip(judge, people, strict=True))
    ]
    assert figures(judged).human == found
    assert agreement(["a"] * 5, ["a"] * 5).kappa is None and agreement([], []).kappa is None


def test_two_judges_are_compared_on_the_pairs_that_are_the_same_pairs() -> None:
    """Pairs of one id and other answers, which are counted as a disagreement of the judges."""
    one = [outcome(w)._replace(pair_id=str(i), digest="x") for i, w in enumerate(["a", "b", "tie", "a", None])]
    two = [outcome(w)._replace(pair_id=str(i), digest="x") for i, w in enumerate(["a", "a", "tie", "b"])]
    two.append(outcome("a")._replace(pair_id="4", digest="another"))
    (found,) = between([Rated.of("one", {}, one), Rated.of("two", {}, two)])
    assert (found.agreement.n, found.agreement.equal, found.opposed, found.left_out) == (4, 2, 2, 2)
    assert found.difference == pytest.approx((1 + 1 + 0.5 + 0) / 4 - (1 + 0 + 0.5 + 1) / 4)


def test_a_preference_has_the_standard_error_of_its_sample() -> None:
    """The population's sd, which is too small."""
    assert graded([0.0, 1.0]).error == pytest.approx(math.sqrt(0.5) / math.sqrt(2))
    assert math.isnan(graded([0.3]).error) and math.isnan(graded([]).mean)


def test_malformed_verdicts_are_counted_and_nothing_else_is_touched(tmp_path: Path) -> None:
    """The run that ended at the first malformed verdict."""
    pairs = make_pairs(30)

    def rule(ask: Any) -> Verdict:
        if ask.pair_id in ("p3", "p17") or (ask.pair_id == "p9" and ask.order == "ba"):
            return Verdict(None, text="???", error="no verdict could be read", attempts=2)
        return Verdict("first" if ask.first.startswith("Answer a") else "second")

    found = figures_of(ByRule(rule), pairs, tmp_path)
    assert (found.n, found.wins, found.errors) == (30, 27, 3)
    assert found.rate_a.value == 27 / 30 and found.consistency is not None and found.consistency.n == 27
