"""Schedules of placebos: twins spend what the run spent, hindsight takes the largest divergences, steps go in turn."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations, pairwise

import numpy as np
import pytest

from dodona.engine.errors import DodonaError
from dodona.engine.trigger_parser import parse_trigger
from dodona.eval.arms import Arm
from dodona.eval.placebo.apart import Apart
from dodona.eval.placebo.arms import (
    HINDSIGHT,
    KINDS,
    OWN_ORACLE,
    STEPWISE,
    TWIN,
    Placebo,
    is_placebo,
    placebos,
    read_kinds,
    trigger_of,
)
from dodona.eval.placebo.hindsight import Candidate, hindsight, next_candidate, stepwise
from dodona.eval.placebo.schedule import Positions, Schedule, total, twin


def some_schedule(rng: random.Random, texts: int, gap: int) -> tuple[dict[str, Positions], dict[str, int]]:
    """A run's consults and the lengths of the base's texts; a few consults lie beyond them."""
    schedule, reach = {}, {}
    for number in range(texts):
        length = rng.randint(1, 80)
        free = list(range(0, length + 10))
        chosen: list[int] = []
        for _ in range(rng.choice([0, 0, 1, 2, 3])):
            if not free:
                break
            chosen.append(rng.choice(free))
            free = [p for p in free if all(abs(p - q) >= gap for q in chosen)]
        schedule[f"p{number}"], reach[f"p{number}"] = tuple(sorted(chosen)), length
    return schedule, reach


def out_of_reach(schedule: Schedule, reach: Mapping[str, int]) -> int:
    return sum(p >= reach[name] for name, positions in schedule.items() for p in positions)


def test_a_twin_has_the_count_of_each_text_and_the_positions_of_all() -> None:
    """A twin whose texts have other counts, or whose histogram is only about that of the run, is no placebo."""
    rng = random.Random(0)
    for number in range(60):
        gap = rng.choice([1, 2, 5])
        schedule, reach = some_schedule(rng, rng.randint(1, 40), gap)
        made = twin(schedule, reach, gap, number)
        assert list(made) == list(schedule)
        assert {name: len(own) for name, own in made.items()} == {name: len(own) for name, own in schedule.items()}
        assert Counter(p for own in made.values() for p in own) == Counter(p for own in schedule.values() for p in own)
        assert all(b - a >= gap for own in made.values() for a, b in pairwise(own)), "a consult inside a burst"
        assert out_of_reach(made, reach) <= out_of_reach(schedule, reach)


def test_a_twin_is_the_same_whatever_the_order_of_the_texts() -> None:
    """Records come in the order in which runs finish, which must not change a draw."""
    schedule, reach = some_schedule(random.Random(1), 50, 3)
    made = twin(schedule, reach, 3, 7)
    names = list(schedule)
    random.Random(2).shuffle(names)
    again = twin({name: schedule[name] for name in names}, reach, 3, 7)
    assert again == made
    assert list(again) == names


def test_seeds_give_other_twins_and_the_same_seed_the_same() -> None:
    """Draws that are all alike would count as several and say as much as one."""
    schedule, reach = some_schedule(random.Random(3), 60, 2)
    drawn = [twin(schedule, reach, 2, seed) for seed in range(4)]
    assert all(a != b for a, b in combinations([*drawn, schedule], 2))
    assert drawn[2] == twin(schedule, reach, 2, 2)


def test_a_twin_forgets_where_its_run_consulted() -> None:
    """Too few exchanges would leave most consults where the trigger put them: a placebo that works."""
    schedule = {f"p{n:03}": (n,) for n in range(300)}
    stayed = []
    for seed in range(20):
        made = twin(schedule, dict.fromkeys(schedule, 1000), 1, seed)
        stayed.append(sum(made[name] == own for name, own in schedule.items()))
    assert 0.3 < np.mean(stayed) < 2  # one of 300 by chance


def test_all_arrangements_that_fit_are_equally_likely() -> None:
    """A draw that prefers some texts for early positions would tell the placebo something."""
    schedule = {"a": (0, 10), "b": (5,), "c": (20,)}
    drawn = Counter(tuple(twin(schedule, dict.fromkeys(schedule, 30), 1, seed).values()) for seed in range(2400))
    assert len(drawn) == 12  # 4! arrangements, of which two each differ in the order within `a` alone
    expected = 2400 / 12
    assert sum((count - expected) ** 2 / expected for count in drawn.values()) < 31.3  # chi-square, 11 df, p = 0.001


def test_positions_are_not_given_to_texts_that_end_before_them() -> None:
    """A consult that cannot happen makes the placebo spend less than the run."""
    schedule = {"long": (3, 90), "short": (5,), "other": (2,)}
    for seed in range(50):
        made = twin(schedule, {"long": 100, "short": 10, "other": 10}, 1, seed)
        assert 90 in made["long"]


def test_an_endless_burst_leaves_room_for_one_consult() -> None:
    """With k=inf the gap is infinite, and arithmetic with it must neither fail nor let a second consult in."""
    schedule = {"a": (4,), "b": (9,), "c": ()}
    seen = {tuple(twin(schedule, dict.fromkeys(schedule, 20), math.inf, seed).values()) for seed in range(20)}
    assert seen == {((4,), (9,), ()), ((9,), (4,), ())}


def apart_of(values: Mapping[str, list[float]], differs: Mapping[str, list[bool]] | None = None) -> dict[str, Apart]:
    return {
        name: Apart(
            np.array(js, dtype=np.float32), np.array(differs[name] if differs else [v > 0 for v in js], dtype=bool)
        )
        for name, js in values.items()
    }


def test_hindsight_takes_the_largest_divergences_of_all_texts() -> None:
    """An order that is the wrong way round, or one that is made text by text."""
    rng = np.random.default_rng(0)
    values = {f"p{n}": rng.random(rng.integers(0, 30)).astype(np.float32).tolist() for n in range(20)}
    everything = sorted(((v, name, p) for name, row in values.items() for p, v in enumerate(row)), reverse=True)
    for consults in (0, 1, 17, len(everything)):
        made = hindsight(apart_of(values), consults, math.inf, 1)
        assert {(name, p) for name, own in made.items() for p in own} == {(n, p) for _, n, p in everything[:consults]}
        assert total(made) == consults


def test_hindsight_keeps_to_c_and_to_the_length_of_a_burst() -> None:
    """More consults in a text than the run may have, or one that would fall into the burst before it."""
    values = {"a": [0.9, 0.8, 0.7, 0.1, 0.6], "b": [0.5, 0.0, 0.4]}
    assert hindsight(apart_of(values), 3, 2, 1) == {"a": (0, 1), "b": (0,)}
    assert hindsight(apart_of(values), 3, 5, 3) == {"a": (0, 4), "b": (0,)}
    assert hindsight(apart_of(values), 9, 1, math.inf) == {"a": (0,), "b": (0,)}  # there is no room for more
    assert hindsight({}, 3, 2, 1) == {}


def test_equal_divergences_go_by_problem_and_position() -> None:
    """Ties that are broken by the order of the records give another bound on another day."""
    values = {"b": [0.5, 0.5], "a": [0.5, 0.5]}
    assert hindsight(apart_of(values), 3, 2, 1) == {"a": (0, 1), "b": (0,)}


def test_the_next_candidate_is_the_first_disagreement() -> None:
    """Positions of a part of a text that are not counted from its start."""
    apart = apart_of({"a": [0.1, 0.2, 0.3]}, {"a": [False, True, True]})["a"]
    assert next_candidate(apart, 10) == Candidate(11, pytest.approx(0.2))
    assert next_candidate(Apart(apart.js, np.zeros(3, dtype=bool)), 0) is None


def test_stepwise_goes_round_and_leaves_out_the_least_where_the_budget_ends() -> None:
    """One text that takes the whole budget, a round that spends more than is left, or a text beyond its c."""
    later = {("a", (1,)): Candidate(8, 0.3), ("b", (2,)): None, ("c", (3,)): Candidate(9, 0.4), ("c", (3, 9)): None}
    asked: list[dict[str, Positions]] = []

    def ask(going: Mapping[str, Positions]) -> Iterator[tuple[str, Candidate | None]]:
        asked.append(dict(going))
        yield from ((name, later.get((name, going[name]))) for name in reversed(going))

    first = {"a": Candidate(1, 0.1), "b": Candidate(2, 0.2), "c": Candidate(3, 0.15), "d": None}
    assert stepwise(first, ask, 4, 2) == {"a": (1,), "b": (2,), "c": (3, 9), "d": ()}
    assert asked == [{"a": (1,), "b": (2,), "c": (3,)}]
    assert stepwise(first, ask, 2, 2) == {"a": (), "b": (2,), "c": (3,), "d": ()}
    assert stepwise(first, ask, 9, 1) == {"a": (1,), "b": (2,), "c": (3,), "d": ()}
    assert stepwise(first, ask, 9, 9) == {"a": (1, 8), "b": (2,), "c": (3, 9), "d": ()}
    assert stepwise(first, ask, 0, 9) == {"a": (), "b": (), "c": (), "d": ()}


def test_every_placebo_of_every_arm_has_a_name_of_its_own() -> None:
    """Two placebos of one name would share their records, and the second would never be run."""
    arms = [Arm(2, 5, t, w, s) for t in ("entropy > 1", "margin < 0.1") for w in ("before", "after") for s in (0, 1)]  # type: ignore[arg-type]
    made = [placebo for arm in arms for placebo in placebos(arm, list(KINDS), range(2))]
    assert len({placebo.arm.name for placebo in made}) == len(made) == len(arms) * 4
    assert len({placebo.arm.slug for placebo in made}) == len(made)
    assert all(is_placebo(placebo.arm.trigger) for placebo in made)
    assert not any(is_placebo(arm.trigger) for arm in arms)
    assert [one.kind for one in placebos(arms[0], (STEPWISE, TWIN, OWN_ORACLE), range(1))] == [TWIN, STEPWISE]
    assert Placebo(arms[0], HINDSIGHT).arm.when == "before"


def test_a_schedule_becomes_a_trigger() -> None:
    """An empty list is no list for `at`, and a long one is more than a trigger may have."""
    assert trigger_of((), "p") == "never"
    assert trigger_of((3, 17), "p") == "at(3, 17)"
    parse_trigger(trigger_of(tuple(range(0, 4000, 7)), "p"))
    with pytest.raises(DodonaError, match="of p7 are more than a trigger can name: run the arm with a smaller c"):
        trigger_of(tuple(range(2000)), "p7")


def test_kinds_are_read_in_the_order_of_the_table() -> None:
    """A misspelt kind that is passed over is a placebo that somebody believes was run."""
    assert read_kinds("hindsight, twin") == (TWIN, HINDSIGHT)
    for text in ("twins", "twin,", "", "twin;hindsight"):
        with pytest.raises(DodonaError, match="--placebos takes twin, own-oracle, hindsight, stepwise"):
            read_kinds(text)
