"""A replay says what a run would have done: exactly up to the first consult that differs, and it says where that is."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from sample_traces import noise, recording, table
from tiny_models import save_tiny

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.recording import read_recording
from dodona.engine.replay import Budget, Consults, Replayer, first_change, recorded_consults, replay
from dodona.engine.request import Request
from dodona.engine.trace import TraceWriter, read_traces
from dodona.engine.trigger import Trigger

INF = math.inf
LENGTH = 40


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    folder = tmp_path_factory.mktemp("pair")
    base = save_tiny(folder / "base", "gqa-tied", seed=1, layers=2)
    oracle = save_tiny(folder / "oracle", "mha-untied", seed=2)
    return Engine(base, oracle=oracle, device="cpu")


PROMPTS = [[random.Random(number).randrange(3, 317) for _ in range(5 + number)] for number in range(4)]


def random_trigger(rng: random.Random, when: str) -> str:
    """A trigger over signals, averages, the draw and every counter, that fires now and then on these models."""
    atoms = [
        f"entropy > {rng.uniform(4.9, 5.2):.3f}",
        f"entropy < {rng.uniform(4.8, 5.0):.3f}",
        f"margin < {rng.uniform(0.002, 0.02):.4f}",
        f"varentropy > {rng.uniform(1.2, 2.0):.3f}",
        f"top_prob > {rng.uniform(0.05, 0.1):.3f}",
        f"ema(entropy, {rng.choice(['0.5', '0.9', '0'])}) > {rng.uniform(4.9, 5.1):.3f}",
        f"ema(margin, 0.8) > {rng.uniform(0.01, 0.03):.4f}",
        f"0.5*entropy - 3*margin > {rng.uniform(2.35, 2.5):.3f}",
        f"u < {rng.uniform(0.1, 0.5):.2f}",
    ]
    if when == "after":
        atoms += [f"logprob < {rng.uniform(-5, -2.5):.2f}", f"ema(logprob, 0.5) < {rng.uniform(-4, -2.5):.2f}"]
    states = [
        f"since_consult > {rng.randrange(2, 9)}",
        f"base_run >= {rng.randrange(1, 6)}",
        "boundary",
        f"consults < {rng.randrange(1, 4)}",
        f"position > {rng.randrange(0, 20)}",
    ]
    return f"{rng.choice(atoms)} and {rng.choice(atoms + states)}"


def recorded(engine: Engine, path, **options):
    results = list(engine.generate([Request(prompt=prompt, max_new_tokens=LENGTH, **options) for prompt in PROMPTS]))
    results.sort(key=lambda result: len(result.prompt_ids))
    with TraceWriter(path) as trace:
        for result in results:
            trace.write(result)
    return results


@pytest.mark.parametrize("number", range(20))
def test_replay_equals_a_live_run_up_to_the_first_consult_that_differs(engine, number, tmp_path):
    """Any step of the walk that a run does otherwise: when it asks, what a counter says, how long a burst is.

    One run is recorded, another trigger with another budget is replayed on it, and then really run.
    """
    rng = random.Random(number)
    when = rng.choice(["before", "after"])

    def options(trigger: str) -> dict:
        c, k = rng.choice([0, 1, 2, 5, INF]), rng.choice([1, 2, 3, 7, INF])
        cap = rng.choice([None, None, 3, 8])
        return {"trigger": trigger, "c": c, "k": k, "max_oracle_tokens": cap, "when": when, "step_size": 4}

    sampling = {"seed": number, "temperature": rng.choice([0.0, 0.8])}
    there = options(random_trigger(rng, when))
    here = options(random_trigger(rng, when)) | {"c": rng.choice([1, 3, INF])}
    before = recorded(engine, tmp_path / "there.parquet", **there, **sampling)
    now = recorded(engine, tmp_path / "here.parquet", **here, **sampling)
    recording = read_recording([tmp_path / "there.parquet"])
    cap = INF if here["max_oracle_tokens"] is None else here["max_oracle_tokens"]
    found = Replayer(recording, Budget(here["c"], here["k"], cap)).consults(here["trigger"])
    changes = first_change(recording, found)
    for place, (old, new) in enumerate(zip(before, now, strict=True)):
        change = int(changes[place])
        starts = [int(i) - int(recording.edges[place]) for i in found.start[found.sequence == place]]
        assert new.ids[:change] == old.ids[:change]
        assert list(new.sources[:change]) == list(old.sources[:change])
        assert [i for i in starts if i < change] == [i for i in new.cheat_positions if i < change]
        if change < len(old.ids):  # and there it does differ: in who writes, or in which consult does
            kinds = [(int(r.sources[change]), change in r.cheat_positions) for r in (old, new) if change < len(r.ids)]
            assert len(kinds) < 2 or kinds[0] != kinds[1]
            assert (change in starts) == (change in new.cheat_positions) or change >= len(new.ids)
        else:
            assert new.ids[: len(old.ids)] == old.ids


def test_the_random_triggers_fire_now_and_then(engine, tmp_path):
    """A test above that passes because nothing ever fires, or everything at once."""
    rng = random.Random(5)
    recorded(engine, tmp_path / "t.parquet", trigger="entropy > 5", c=2, k=3)
    read = read_recording([tmp_path / "t.parquet"])
    counts, exact = [], []
    for _ in range(30):
        found = Replayer(read, Budget(INF, 2)).consults(random_trigger(rng, "before"))
        counts.append(len(found.start))
        exact.append(int(first_change(read, found).sum()) / read.tokens)
    assert sum(0 < count < read.tokens / 3 for count in counts) > 20
    assert sum(0.05 < share < 0.95 for share in exact) > 15


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_replayed_with_its_own_trigger_is_exact(engine, when, tmp_path):
    """Budgets, caps or counters that a replay reads otherwise than the run: then its own consults would differ."""
    rng = random.Random(7)
    for number in range(6):
        trigger = random_trigger(rng, when)
        results = recorded(
            engine,
            tmp_path / f"{number}.parquet",
            trigger=trigger,
            when=when,
            c=rng.choice([2, INF]),
            k=rng.choice([1, 4]),
            max_oracle_tokens=rng.choice([None, 6]),
        )
        recording = read_recording([tmp_path / f"{number}.parquet"])
        replayer = Replayer(recording)
        for found in (replayer.own_consults(), replayer.consults(trigger)):
            assert same(found, recorded_consults(recording))
            assert list(first_change(recording, found)) == [len(result.ids) for result in results]
        alone = [replay(columns) for columns in read_traces(tmp_path / f"{number}.parquet")]
        assert alone == [result.cheat_positions for result in results]


def same(a: Consults, b: Consults) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(a, b, strict=True))


@pytest.fixture
def long(tmp_path):
    """Base texts of several lengths, one of a single token."""
    rng = np.random.default_rng(3)
    made = [one for length in (1, 60, 7, 200) for one in noise(rng, 1, length)]
    tables = [table_with(one, number) for number, one in enumerate(made)]
    return recording(tmp_path / "long.parquet", tables)


def table_with(one, number):
    columns = {name: one[name].to_numpy(zero_copy_only=False) for name in ("entropy", "margin", "agree", "u")}
    return table(number, len(one), **columns)


@pytest.mark.parametrize("k", [1, 2, 5, INF])
@pytest.mark.parametrize("c", [1, 3, INF])
@pytest.mark.parametrize("when", ["before", "after"])
def test_both_ways_of_walking_give_the_same(long, c, k, when):
    """A short cut for fixed positions that is one off at a burst's end, a text's end or a budget's."""
    for cap in (None, 4, 0):
        replayer = Replayer(long, Budget(c, k, cap, when))
        for threshold in (0.0, 0.5, 1.5, 9.0):
            fast = replayer.consults(f"entropy > {threshold}")
            slow = replayer.consults(f"entropy > {threshold} and consults >= 0")
            assert same(fast, slow)
            assert same(fast, by_hand(long, threshold, c, k, INF if cap is None else cap, when))


def by_hand(recording, threshold, c, k, cap, when) -> Consults:
    """The walk token by token, as a reader of the documentation would write it."""
    starts, lengths, sequences = [], [], []
    for place in range(len(recording.runs)):
        begin, end = (int(edge) for edge in recording.edges[place : place + 2])
        at, made, written = begin, 0, 0
        while at < end:
            fires = recording.columns["entropy"][at] > np.float32(threshold)
            start = at + (when == "after")
            room = min(k, cap - written, end - start)
            if fires and made < c and room > 0:
                starts.append(start)
                lengths.append(room)
                sequences.append(place)
                made, written, at = made + 1, written + room, start + room
            else:
                at += 1
    return Consults(np.array(starts), np.array(lengths), np.array(sequences))


def test_counters_start_anew_in_each_sequence(long):
    """Consults, runs and averages that leak from one text into the next."""
    every = Replayer(long, Budget(INF, 2)).consults("every(7)")
    for place in range(len(long.runs)):
        starts = every.start[every.sequence == place] - long.edges[place]
        assert list(starts) == list(range(7, int(long.lengths[place]), 9))
    column = Replayer(long).column("ema(entropy,0.9)")
    for place in range(len(long.runs)):
        begin, end = long.edges[place : place + 2]
        previous = np.float32(long.columns["entropy"][begin])
        for at in range(begin, end):
            value = long.columns["entropy"][at]
            if at > begin:
                previous = np.float32(0.9) * previous + np.float32(1 - 0.9) * value
            assert column[at] == previous


def test_presets_and_columns_of_the_oracle_can_be_replayed(long):
    """A bound, such as a consult wherever the models differ."""
    replayer = Replayer(long, Budget(INF, 1))
    bound = replayer.consults("not agree")
    assert np.array_equal(bound.start, np.flatnonzero(long.columns["agree"] == 0))
    assert len(replayer.consults("random(p0=0.5, step_size=3)").start)
    assert len(replayer.consults("always").start) == long.tokens
    assert len(replayer.consults("never").start) == 0


def test_an_empty_burst_and_an_empty_budget_make_no_consult(long):
    """Consults of no length."""
    for budget in (Budget(0, 5), Budget(5, 0), Budget(), Budget(5, 5, 0)):
        assert len(Replayer(long, budget).consults("always").start) == 0
        assert len(Replayer(long, budget).consults("consults >= 0").start) == 0


def test_a_column_that_was_not_recorded_is_named(long):
    """NaN in its place, and a trigger that never fires without a word."""
    for text in ("js > 0.1", "attn_entropy > 1 and since_consult > 2", "ema(kl, 0.5) > 1"):
        with pytest.raises(DodonaError, match="no values of"):
            Replayer(long, Budget(INF, 1)).consults(text)


def test_a_class_is_replayed_on_the_columns_that_were_recorded(long):
    """A class may read every column, and reads few: that the others were not recorded is no reason to refuse it."""

    class Reading(Trigger):
        def __init__(self, column):
            self.column = column

        def decide(self, columns):
            return (columns[self.column] > 1) & (columns["boundary"] < 1)

    replayer = Replayer(long, Budget(INF, 2))
    expected = replayer.consults("entropy > 1 and not boundary")
    assert len(expected.start)
    for found, wanted in zip(replayer.consults(Reading("entropy")), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(DodonaError, match="the trigger needs the column `attn_entropy`, and is given"):
        replayer.consults(Reading("attn_entropy"))


def test_the_first_change_is_where_the_texts_would_part(tmp_path):
    """Wrong at any of the ways in which consults can differ."""
    oracle = np.array([False] * 3 + [True] * 4 + [False] * 3)
    columns = {
        "source": ["oracle" if one else "base" for one in oracle],
        "consult": [0 if one else None for one in oracle],
        "c": 1.0,
        "k": 4.0,
    }
    read = recording(tmp_path / "t.parquet", [table(0, 10, **columns), table(1, 5)])
    assert same(recorded_consults(read), Consults(np.array([3]), np.array([4]), np.array([0])))

    def change(*consults: tuple[int, int]) -> list[int]:
        starts, lengths = (np.array(values, dtype=np.int64) for values in (zip(*consults, strict=True)))
        sequences = np.searchsorted(read.edges, starts, side="right") - 1
        return list(first_change(read, Consults(starts, lengths, sequences)))

    assert change((3, 4)) == [10, 5]
    assert change((3, 2)) == [5, 5]  # a shorter burst parts at its end
    assert change((3, 6)) == [7, 5]  # a longer one at the end of the recorded
    assert change((1, 4)) == [1, 5]  # an earlier one where it begins
    assert change((5, 2)) == [3, 5]  # a later one where the recorded begins
    assert change((3, 4), (8, 1)) == [8, 5]  # one more
    assert change((12, 1)) == [3, 2]  # one less, and one more in another text


def test_a_burst_that_ends_a_text_does_not_run_into_the_next_one(tmp_path):
    """Two texts of the oracle alone, read as one consult."""
    columns = {"source": "oracle", "consult": [0] * 6, "c": INF, "k": INF, "trigger": "always"}
    read = recording(tmp_path / "t.parquet", [table(0, 6, **columns), table(1, 6, **columns)])
    found = recorded_consults(read)
    assert list(found.start) == [0, 6] and list(found.length) == [6, 6]
    assert same(Replayer(read).own_consults(), found)
