"""What the benchmark sees of a run is what ran: forwards, kinds, tokens, and the engine afterwards."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from bench_subjects import LOOPS, TINY, tiny_subject

from dodona.bench import steps
from dodona.bench.profile import in_ranges
from dodona.bench.spans import marked, uncaptured
from dodona.bench.subject import requests
from dodona.bench.watch import BURST, CATCH_UP, EMPTY, PREFILL, STEP, SYNC, Forward, elapsed, periods, replaced, watched
from dodona.engine.sequence import BASE, ORACLE


def forward(model: str, kind: str, tokens: int, ended: float, writes: int = 1, ms: float = 1.0) -> Forward:
    return Forward(model, kind, (tokens,), (10,), writes, ms, ended)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("lookahead", [1, 4])
def test_forwards_add_up_to_the_ledger(pair, loop, lookahead):
    """A sync that is counted as a burst, or a program ahead of the host that is counted at all, shifts every phase."""
    with tiny_subject(pair, loop, lookahead=lookahead).engine(max_batch=1, max_length=64) as engine:
        (request,) = requests(engine, 1, 7, c=math.inf, k=4, trigger="every(3)", max_new_tokens=17)
        result, forwards = steps.run(engine, request)
    fed: Counter[str] = Counter()
    for each in forwards:
        fed[each.kind] += sum(each.tokens)
    ledger = result.ledger
    assert ledger.consults >= 2
    assert fed == Counter(
        {
            PREFILL: ledger.prefill_tokens,
            STEP: ledger.base_steps,
            CATCH_UP: ledger.catch_up_tokens,
            SYNC: ledger.sync_tokens,
            BURST: ledger.oracle_steps,
            EMPTY: 0,
        }
    )
    run_at_all = [each for each in forwards if each.kind != EMPTY]
    assert sum(each.model == BASE for each in run_at_all) == ledger.base_forwards
    assert sum(each.model == ORACLE for each in run_at_all) == ledger.oracle_forwards
    # The forward that begins a consult writes too: it hands the position over.
    assert sum(each.writes for each in forwards) == len(result.ids) + ledger.consults
    assert all(each.milliseconds > 0 for each in run_at_all)
    assert run_at_all[0].contexts == (7,)


@pytest.mark.parametrize("loop", LOOPS)
def test_an_engine_is_left_as_it_was(pair, loop):
    """A method that stays replaced makes every later run of the process a measured one."""
    with tiny_subject(pair, loop).engine(max_batch=1, max_length=64) as engine:
        parts = [engine.loop, engine.base.ops, engine.base.model.head, getattr(engine.loop, "graphs", None)]
        before = [set(vars(part)) for part in parts if part is not None]
        (request,) = requests(engine, 1, 5, c=1, k=2, trigger="at(2)", max_new_tokens=6)
        want = engine.generate(request).ids
        with pytest.raises(RuntimeError), marked(engine), uncaptured(engine), watched(engine):
            assert engine.generate(request).ids == want
            raise RuntimeError
        assert [set(vars(part)) for part in parts if part is not None] == before
        assert engine.generate(request).ids == want


def test_a_method_that_was_replaced_before_is_put_back():
    """Spans around a watched loop: the inner one must not take the outer one along."""

    class Loop:
        def read(self) -> str:
            return "own"

    loop = Loop()
    with replaced(loop, "read", lambda: "first"):
        with replaced(loop, "read", lambda: "second"):
            assert loop.read() == "second"
        assert loop.read() == "first"
    assert loop.read() == "own" and vars(loop) == {}


def test_a_period_is_between_neighbours_of_one_kind():
    """A step after a consult would take as long as the consult."""
    run = [
        forward(BASE, PREFILL, 5, 1.0),
        forward(BASE, STEP, 1, 1.5),
        forward(BASE, STEP, 1, 1.75),
        forward(ORACLE, SYNC, 9, 3.0),
        forward(BASE, STEP, 1, 4.0),
        forward(BASE, EMPTY, 0, 4.1),
        forward(BASE, STEP, 1, 4.5),
    ]
    assert periods(run, STEP) == [250.0]
    assert periods(run, STEP, after=PREFILL) == [500.0, 250.0]
    assert elapsed(1.0, 1.5) == 500.0


def test_events_of_a_gpu_are_asked_for_the_time_between_them():
    """Their difference is none; a float's method they have not."""

    class Event:
        def __init__(self, at: float) -> None:
            self.at = at

        def elapsed_time(self, other: Event) -> float:
            return other.at - self.at

    assert elapsed(Event(2.0), Event(5.5)) == 3.5


def test_ranges_for_nsight_open_and_close_in_pairs(pair, monkeypatch):
    """A range that is left open swallows the rest of the timeline."""
    stack: list[str] = []
    names: list[str] = []

    def push(name: str) -> None:
        stack.append(name)
        names.append(name)

    monkeypatch.setattr(torch.cuda.nvtx, "range_push", push)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", stack.pop)
    with tiny_subject(pair, "device").engine(max_batch=1, max_length=64) as engine:
        in_ranges(engine, TINY, batch=1, captured=False)
    assert stack == [] and {"dodona: base step", "dodona: sync", "dodona: signals"} <= set(names)


def test_a_consult_lasts_from_the_decision_to_the_oracles_first_token():
    """Also where the oracle reads in chunks, and where programs of the base run for nothing in between."""
    run = [
        forward(BASE, STEP, 1, 1.0),
        forward(BASE, EMPTY, 0, 1.1, writes=0),
        forward(ORACLE, SYNC, 512, 1.5, writes=0),
        forward(ORACLE, SYNC, 100, 1.75),
        forward(ORACLE, BURST, 1, 2.0),
        forward(BASE, CATCH_UP, 2, 2.5),
        forward(BASE, STEP, 1, 3.0),
        forward(ORACLE, SYNC, 2, 3.25),
    ]
    assert steps.consults_of(run) == [steps.Consult(612, 750.0), steps.Consult(2, 250.0)]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_guided_run_is_taken_apart(pair, loop):
    """The formula's tokens, the consults, and the time from the first token to the last."""
    with tiny_subject(pair, loop).engine(max_batch=1, max_length=64) as engine:
        (request,) = requests(engine, 1, 5, c=math.inf, k=3, trigger="every(2)", max_new_tokens=13)
        (run,) = steps.guided(engine, request, 1)
        result = engine.generate(request)
    assert (run.base_tokens, run.oracle_tokens) == (result.ledger.base_tokens, result.ledger.burst_tokens)
    assert len(run.consults) == result.consults
    assert run.consults[0].lag == 5 + 2 and all(consult.lag == 3 for consult in run.consults[1:])
    assert len(run.bursts) == sum(len(s.token_ids) - 1 for s in result.segments if s.source == ORACLE)
    assert 0 <= run.host_share < 1 and run.milliseconds > 0
    assert steps.predicted(run, 2.0, 10.0) == (run.base_tokens - 1) * 2.0 + run.oracle_tokens * 10.0
