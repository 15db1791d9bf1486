"""Wilson's interval against SciPy's and against its own properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from dodona.eval.stats.intervals import Interval, normal_quantile, wilson
from dodona.eval.stats.student import student_quantile


@pytest.mark.parametrize("n", [1, 2, 7, 15, 88, 100, 1000, 12345])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_the_interval_equals_scipys(n: int, confidence: float) -> None:
    """A dropped factor of two in z*z/2n moves both ends by percents at n=15, where nobody would notice."""
    for successes in sorted({0, 1, n // 3, n // 2, n - 1, n}):
        expected = binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
        assert wilson(successes, n, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_known_value() -> None:
    """15 of 88 is the 17.05 % of an earlier report, whose interval holds the base's 15 of 100 as well."""
    assert wilson(15, 88) == pytest.approx((0.1061, 0.2624), abs=1e-4)


def test_the_ends_are_exact_where_nothing_or_everything_succeeded() -> None:
    """A lower end of 1e-17 is printed as 0 but is not `== 0`, and -1e-17 is no rate at all."""
    for n in range(1, 2000):
        assert wilson(0, n).low == 0.0
        assert wilson(n, n).high == 1.0


def test_no_trials_say_nothing() -> None:
    """A division by zero would end a report with an empty level."""
    assert wilson(0, 0) == Interval(0.0, 1.0)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_rate_and_lies_in_the_unit_interval(counts: tuple[int, int]) -> None:
    """An interval that leaves out its own rate, or leaves [0, 1], makes a nonsense table."""
    successes, n = counts
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    mirrored = wilson(n - successes, n)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (1, 0)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    """More successes than trials comes from counting rows twice; it must not become a number."""
    with pytest.raises(ValueError, match="successes of"):
        wilson(successes, n)


@pytest.mark.parametrize("confidence", [-0.5, 0.0, 1.0, 1.5, 95])
def test_a_confidence_that_is_none_is_refused(confidence: float) -> None:
    """95 for 95 %, and one below 0, whose interval is inside out."""
    for quantile in (normal_quantile, lambda confidence: student_quantile(confidence, 5)):
        with pytest.raises(ValueError, match="a confidence lies between 0 and 1"):
            quantile(confidence)
