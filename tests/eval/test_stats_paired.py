"""Paired differences and their tests against SciPy, statsmodels and brute force."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom, binomtest, norm, permutation_test, ttest_1samp
from statsmodels.stats.contingency_tables import mcnemar as peer_mcnemar
from statsmodels.stats.multitest import multipletests

from dodona.eval.stats.multiple import holm
from dodona.eval.stats.paired import Pairs, clustered_difference, mcnemar, sign_flip, tango

RNG = np.random.default_rng


def random_pairs(seed: int) -> Pairs:
    rng = RNG(seed)
    return Pairs(*(int(n) for n in rng.multinomial(rng.integers(1, 400), rng.dirichlet([2, 0.7, 0.7, 2]))))


# --- McNemar ---


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (0, 1), (3, 3), (0, 30), (5, 17), (120, 90), (0, 900)])
def test_mcnemar_is_exact_at_every_count(only_a: int, only_b: int) -> None:
    """The chi-square form says p=0.02 for 6 against 0, and the exact one 0.03; it fails for 0 against 0."""
    exact = mcnemar(only_a, only_b).exact
    assert exact == pytest.approx(peer_mcnemar([[9, only_a], [only_b, 4]], exact=True).pvalue, rel=1e-9)
    if only_a + only_b:
        assert exact == pytest.approx(binomtest(only_a, only_a + only_b).pvalue, rel=1e-9)


def test_mcnemar_against_scipy_on_random_counts() -> None:
    """An off-by-one in the tail moves the third digit."""
    for seed in range(200):
        _, only_a, only_b, _ = random_pairs(seed)
        n, smaller = only_a + only_b, min(only_a, only_b)
        exact, mid = mcnemar(only_a, only_b)
        assert exact == pytest.approx(min(1, 2 * binom.cdf(smaller, n, 0.5)), rel=1e-9)
        assert mid == pytest.approx(2 * binom.cdf(smaller, n, 0.5) - binom.pmf(smaller, n, 0.5), rel=1e-9)


def test_mcnemar_knows_no_direction_and_no_agreement() -> None:
    """Swapping the sides changes nothing; without a flip both p-values are 1."""
    assert mcnemar(3, 11) == mcnemar(11, 3)
    assert mcnemar(0, 0) == (1, 1)
    assert mcnemar(38, 38) == pytest.approx((1, 1)) and max(mcnemar(38, 38)) <= 1  # whatever the rounding
    with pytest.raises(ValueError, match="problems"):
        mcnemar(-1, 2)


def test_mcnemar_of_very_many_flips_is_quick_and_does_not_vanish() -> None:
    """2.0 ** -n underflows from 1075 flips on, and then every p is 0 or NaN."""
    assert mcnemar(50_000, 50_400).exact == pytest.approx(binomtest(50_000, 100_400).pvalue, rel=1e-6)
    assert 0 < mcnemar(400, 900).exact < 1e-40


# --- Tango's interval ---


def brute_score(pairs: Pairs, difference: float) -> float:
    """Tango's statistic with the restricted likelihood maximised numerically."""
    _, c, b, _ = pairs
    n = pairs.n

    def loss(alone: float) -> float:
        other = alone + difference
        rest = 1 - alone - other
        terms = ((b, other), (c, alone), (n - b - c, rest))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in terms if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-13})
    alone = min((low, high, found.x), key=loss)
    return (b - c - n * difference) / math.sqrt(max(1e-300, n * (2 * alone + difference * (1 - difference))))


@pytest.mark.parametrize(
    "pairs",
    [
        *(random_pairs(seed) for seed in range(12)),
        *(Pairs(0, 0, 0, 9), Pairs(9, 0, 0, 0), Pairs(0, 0, 9, 0), Pairs(0, 9, 0, 0), Pairs(0, 1, 0, 0)),
        *(Pairs(36, 12, 2, 0), Pairs(43, 0, 1, 0), Pairs(2, 4, 4, 1)),
    ],
    ids=str,
)
def test_the_interval_equals_a_search_over_the_likelihood(pairs: Pairs) -> None:
    """The closed form has four signs to get wrong, and each still gives a plausible interval."""
    z, (low, high) = norm.ppf(0.975), tango(pairs)
    edge = 1 - 1e-9
    if low > -1:
        assert low == pytest.approx(brentq(lambda d: brute_score(pairs, d) - z, -edge, edge), abs=2e-5)
    if high < 1:
        assert high == pytest.approx(brentq(lambda d: brute_score(pairs, d) + z, -edge, edge), abs=2e-5)
    assert (low == -1) == (pairs.only_a == pairs.n) and (high == 1) == (pairs.only_b == pairs.n)


@given(st.tuples(*[st.integers(0, 60)] * 4))
def test_the_interval_holds_the_difference_has_a_width_and_mirrors(counts: tuple[int, int, int, int]) -> None:
    """For every table, the empty one among them."""
    pairs = Pairs(*counts)
    low, high = tango(pairs)
    assert -1 <= low < high <= 1
    if pairs.n:
        assert low <= pairs.difference <= high
    mirrored = tango(Pairs(pairs.both, pairs.only_b, pairs.only_a, pairs.neither))
    assert (mirrored.low, mirrored.high) == pytest.approx((-high, -low), abs=1e-9)


def test_no_problems_say_nothing_about_a_difference() -> None:
    """A division by zero would end a report with an empty level."""
    assert tango(Pairs(0, 0, 0, 0)) == (-1, 1)
    assert math.isnan(Pairs(0, 0, 0, 0).difference)
    with pytest.raises(ValueError, match="negative"):
        tango(Pairs(1, -1, 0, 0))


def test_pairing_narrows_the_interval() -> None:
    """Two arms that agree on most problems differ by little for sure; unpaired, the same rates say nothing."""
    low, high = tango(Pairs(50, 0, 6, 44))
    assert low > 0 and high < 0.15


# --- several seeds ---


def test_the_clustered_difference_is_students_for_many_problems() -> None:
    """Two made-up pairs must not be felt among a thousand."""
    values = RNG(0).choice([-1, -0.5, 0, 0, 0.5, 1], 2000)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert clustered_difference(values) == pytest.approx((expected.low, expected.high), abs=1.5e-3)


@pytest.mark.parametrize("value", [-1.0, -0.5, 0.0, 1 / 3, 1.0])
@pytest.mark.parametrize("n", [2, 5, 100, 10_000])
def test_equal_differences_do_not_give_a_point(value: float, n: int) -> None:
    """Student's interval has zero width there; the true difference is inside ours."""
    low, high = clustered_difference([value] * n)
    assert -1 <= low <= value <= high <= 1 and high - low > 1e-4


def test_a_difference_of_one_problem_says_nothing() -> None:
    """One problem has no spread."""
    assert clustered_difference([]) == clustered_difference([0.5]) == (-1, 1)
    with pytest.raises(ValueError, match="lies in"):
        clustered_difference([0.1, 1.2])


def test_the_sign_flip_test_of_single_runs_is_mcnemars() -> None:
    """It is shown under the same name, so it must give the same number."""
    for only_a, only_b in [*product(range(6), repeat=2), (40, 70), (300, 190)]:
        differences = [-1] * only_a + [1] * only_b + [0] * 7
        assert sign_flip(differences) == pytest.approx(mcnemar(only_a, only_b).exact, rel=1e-9)


def test_the_sign_flip_test_equals_an_enumeration() -> None:
    """Sizes that differ: all 2^n signs, as SciPy counts them."""
    for seed in range(15):
        differences = RNG(seed).integers(-3, 4, 11)
        peer = permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue
        assert sign_flip([int(d) for d in differences]) == pytest.approx(peer, rel=1e-9)
        assert sign_flip([6 * int(d) for d in differences]) == pytest.approx(peer, rel=1e-9)


def test_the_sign_flip_test_at_its_ends() -> None:
    """No problem, no difference, and a difference that cannot be greater."""
    assert sign_flip([]) == sign_flip([0, 0]) == sign_flip([2, -2]) == 1
    assert sign_flip([3]) == 1
    assert sign_flip([3] * 10) == pytest.approx(2 / 2**10)


# --- many tests ---


def test_holms_values_equal_statsmodels() -> None:
    """Without the running maximum a larger p may get a smaller corrected one."""
    for seed in range(30):
        values = RNG(seed).uniform(0, 0.2, RNG(seed).integers(1, 30)).round(2)
        assert holm(list(values)) == pytest.approx(multipletests(values, method="holm")[1], abs=1e-12)
    assert holm([]) == []
    with pytest.raises(ValueError, match="p-value"):
        holm([0.1, math.nan])
