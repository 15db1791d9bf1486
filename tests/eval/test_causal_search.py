"""The search for the token that made a text wrong, on scripted answers: what it asks for, and what it concludes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dodona.eval.causal.search import Finding, finding, places, wanted

Script = Callable[[int], bool]


def searched(
    right: Script, diverging: list[int], tokens: int, *, exhaustive: bool = False, known: dict[int, bool] | None = None
) -> tuple[Finding, dict[int, bool]]:
    """Answer every question until none is left."""
    known = {} if known is None else dict(known)
    for _ in range(10 * tokens + 10):
        asked = wanted(known, diverging, tokens, exhaustive=exhaustive)
        if not asked:
            return finding(known, diverging, tokens), known
        assert len(asked) == len(set(asked)) and not known.keys() & set(asked)
        assert all(0 <= p < tokens for p in asked)
        known.update({p: right(p) for p in asked})
    raise AssertionError("the search does not end")


def extended(at_places: dict[int, bool], tokens: int) -> Script:
    """S everywhere, from S at the places where it may change: as at the next one, False behind the last."""

    def right(p: int) -> bool:
        following = [q for q in at_places if q >= p]
        return at_places[min(following)] if following else False

    return right


def brute(right: Script, tokens: int) -> tuple[list[int], list[int]]:
    """Every fatal and every healing token, by the definition."""
    outcomes = [right(p) for p in range(tokens)] + [False]
    fatal = [p for p in range(tokens) if outcomes[p] and not outcomes[p + 1]]
    return fatal, [p for p in range(tokens) if outcomes[p + 1] and not outcomes[p]]


def test_a_planted_token_is_found_wherever_it_is() -> None:
    """An off-by-one in the bisection names the token before or behind the one that spoilt the text."""
    draws = random.Random(0)
    for tokens in (1, 2, 3, 17, 200):
        for _ in range(30):
            diverging = sorted(draws.sample(range(tokens), draws.randint(1, tokens)))
            planted = draws.choice(diverging)
            found, known = searched(lambda p, planted=planted: p <= planted, diverging, tokens)  # type: ignore[misc]
            assert found.causal == planted and found.verified and found.monotone
            assert len(known) <= math.ceil(math.log2(len(diverging) + 1)) + 5


def test_a_text_that_the_oracle_alone_gets_wrong_costs_one_takeover() -> None:
    """Nothing can be said of the token that spoilt a text which could not be saved from the start."""
    found, known = searched(lambda p: p > 5, [3, 9], 20)
    assert known == {0: False}
    assert found == Finding(None, False, True, False, (), ())


def test_an_exhaustive_search_finds_every_fatal_token_where_bisection_finds_one() -> None:
    """The base spoils its text, puts it right by luck, and spoils it again: bisection hides one of the two."""
    right = extended({4: True, 9: False, 15: True, 22: False}, 30)
    found, _ = searched(right, [4, 9, 15, 22], 30, exhaustive=True)
    assert found.fatal == (4, 15) and found.healing == (9,)
    assert (found.first_fatal, found.causal) == (4, 15)
    assert found.exhaustive and found.verified and not found.monotone
    one, known = searched(right, [4, 9, 15, 22], 30)
    assert one.causal in (4, 15) and one.verified
    assert not one.monotone or len(known) < 5


def test_takeovers_that_contradict_the_agreement_are_seen() -> None:
    """Rounding may make the oracle write another token than it said it would: that must not pass as verified."""
    found, known = searched(lambda p: p <= 8 or p == 9, [8, 20], 30)
    assert known[9] is True and found.causal == 8
    assert not found.verified


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_the_search_agrees_with_the_definition_at_every_token(data: st.DataObject) -> None:
    """Any S that changes only where the models differ, searched from any state that a killed run may have left."""
    tokens = data.draw(st.integers(1, 40))
    diverging = sorted(data.draw(st.sets(st.integers(0, tokens - 1), min_size=1)))
    outcomes = {p: data.draw(st.booleans()) for p in places(diverging)}
    outcomes[0] = True
    if 0 not in diverging:  # the oracle alone writes the base's tokens up to the first place where it does not
        outcomes[diverging[0]] = True
    right = extended(outcomes, tokens)
    fatal, healing = brute(right, tokens)
    known = {p: right(p) for p in range(tokens) if data.draw(st.integers(0, 3)) == 0}
    found, _ = searched(right, diverging, tokens, exhaustive=True, known=known)
    assert (list(found.fatal), list(found.healing)) == (fatal, healing)
    assert (found.first_fatal, found.causal) == (fatal[0], fatal[-1])
    assert found.exhaustive and found.verified and found.monotone is (len(fatal) == 1)
    assert set(fatal) | set(healing) <= set(diverging)
    one, _ = searched(right, diverging, tokens, known=known)
    assert one.causal in fatal and one.verified
    if len(fatal) == 1:
        assert one.causal == fatal[0]


@pytest.mark.parametrize("exhaustive", [False, True])
def test_what_is_asked_next_is_a_function_of_what_is_known(exhaustive: bool) -> None:
    """A search that kept a state of its own would give another answer after it was killed."""
    right = extended({2: True, 5: True, 8: False, 11: False, 13: False}, 16)
    diverging = [2, 5, 8, 11, 13]
    whole, known = searched(right, diverging, 16, exhaustive=exhaustive)
    for cut in range(len(known)):
        part = dict(list(known.items())[:cut])
        again, final = searched(right, diverging, 16, exhaustive=exhaustive, known=part)
        assert (again, final) == (whole, known)
