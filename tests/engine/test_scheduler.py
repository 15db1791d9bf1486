"""The scheduler without a model: integers in, plans out, and every sequence reaches its end."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dodona.engine.pages import PagePool
from dodona.engine.request import Request
from dodona.engine.scheduler import Scheduler
from dodona.engine.sequence import BASE, ORACLE, Sequence


def sequence(prompt: list[int], *, limit: int = 10, c: float = 2, k: float = 3) -> Sequence:
    request = Request(prompt=prompt, c=c, k=k, trigger="always", max_new_tokens=limit)
    return Sequence(request, prompt, c=c, limit=limit, eos_ids=frozenset(), tokenizer=None)


class Simulation:
    """Plays the two models: feeds what is planned and lets a coin be the trigger."""

    def __init__(self, scheduler: Scheduler, seed: int) -> None:
        self.scheduler, self.rng = scheduler, random.Random(seed)
        self.done: list[Sequence] = []

    def tick(self) -> None:
        scheduler = self.scheduler
        scheduler.admit()
        assert len(scheduler.running) <= scheduler.max_batch
        for lane in scheduler.lanes:
            works = scheduler.plan(lane)
            extra = [tokens for _, tokens in works if tokens > 1]
            assert sum(extra) <= lane.chunk, "long feeds share one chunk, decode rows come on top"
            planned = [work.sequence for work in works]
            assert len({id(s) for s in planned}) == len(planned)
            assert all(s in scheduler.running for s in planned), "nobody who is planned may be preempted"
            for member, tokens in works:
                view = lane.view(member)
                assert 0 < tokens <= member.target - lane.pool.length(view.slot)
                start = lane.pool.length(view.slot)
                lane.pool.extend(view.slot, tokens)  # raises where the plan was too bold
                view.high = max(view.high, start + tokens)
                self.read(lane.name, member, start, start + tokens)
            scheduler.advanced(lane, works)
        self.done += scheduler.reap()

    def read(self, name: str, member: Sequence, start: int, stop: int) -> None:
        view = getattr(member, name)
        for _ in range(max(start, member.first_wanted(view)), stop):
            view.recorded += 1
        if member.finished or stop < len(member.ids):
            return
        if name == ORACLE:
            member.commit(7, ORACLE)
        elif member.can_consult and self.rng.random() < 0.3:
            member.begin_consult()
        else:
            member.commit(7, BASE)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 25),
    pages=st.integers(14, 60),
    page_size=st.sampled_from([1, 4, 8]),
    max_batch=st.integers(1, 9),
    chunk=st.integers(1, 40),
)
def test_everybody_finishes_and_every_page_comes_back(seed, count, pages, page_size, max_batch, chunk):
    """Catches deadlock, starvation, pages promised twice, sequences lost in a preemption."""
    rng = random.Random(seed)
    scheduler = Scheduler(PagePool(pages, page_size), PagePool(pages, page_size), max_batch=max_batch, chunk=chunk)
    shared = [rng.randrange(100) for _ in range(rng.randint(1, 6))]
    members = []
    for _ in range(count):
        prompt = shared if rng.random() < 0.4 else [rng.randrange(100) for _ in range(rng.randint(1, 6))]
        member = sequence(prompt, limit=rng.randint(1, 8), c=rng.choice([0, 1, 3]), k=rng.choice([1, 4, float("inf")]))
        assert scheduler.fits(member) is None
        members.append(member)
        scheduler.add(member)
    simulation = Simulation(scheduler, seed)
    for _ in range(3000):
        if scheduler.idle:
            break
        simulation.tick()
    assert scheduler.idle, "the scheduler does not come to an end"
    assert {id(member) for member in simulation.done} == {id(member) for member in members}
    assert len(simulation.done) == count
    for lane in scheduler.lanes:
        assert lane.pool.free_pages == lane.pool.pages and lane.pool.open_slots == 0
        assert not lane.prompts


def test_a_long_prompt_does_not_stall_those_who_decode():
    """Chunked prefill: while 100 tokens are read 10 at a time, the others write a token every tick."""
    scheduler = Scheduler(PagePool(400, 4), None, max_batch=4, chunk=10)
    short = sequence([1, 2], limit=20, c=0)
    scheduler.add(short)
    simulation = Simulation(scheduler, 0)
    simulation.tick()
    long = sequence(list(range(100)), limit=3, c=0)
    scheduler.add(long)
    written = []
    for _ in range(9):
        simulation.tick()
        written.append(short.generated)
    assert written == list(range(2, 11)) and long.generated == 0
    for _ in range(4):
        simulation.tick()
    assert long.generated > 0


def test_sharing_a_prompt_costs_one_reading_of_it():
    """32 samples: the leader reads the prompt, the others fork its pages and read its last token alone."""
    scheduler = Scheduler(PagePool(400, 4), None, max_batch=32, chunk=512)
    members = [sequence(list(range(50)), limit=4, c=0) for _ in range(32)]
    for member in members:
        scheduler.add(member)
    simulation = Simulation(scheduler, 0)
    simulation.tick()
    lane = scheduler.lanes[0]
    assert [lane.length(member) for member in members] == [50] + [0] * 31
    simulation.tick()
    assert all(lane.length(member) >= 50 for member in members)
    assert 400 - lane.pool.free_pages < 13 + 2 * 33


def test_a_request_that_can_never_fit_is_named_with_the_numbers():
    """It must fail alone, at once, and say which setting would help."""
    scheduler = Scheduler(PagePool(4, 4), PagePool(2, 4), max_batch=2, chunk=8)
    assert scheduler.fits(sequence([1] * 4, limit=4, c=1)) is None
    reason = scheduler.fits(sequence([1] * 6, limit=4, c=1))
    assert "10 tokens of the oracle's KV cache, which holds 8" in reason and "kv_tokens" in reason
    assert scheduler.fits(sequence([1] * 6, limit=4, c=0)) is None


@pytest.mark.parametrize("where", ["waiting", "running"])
def test_removing_a_sequence_frees_it_wherever_it_is(where):
    """Cancellation must not leave a seat, a page or a shared prompt behind."""
    scheduler = Scheduler(PagePool(40, 4), PagePool(40, 4), max_batch=1 if where == "waiting" else 4, chunk=8)
    members = [sequence([1, 2, 3], limit=6), sequence([1, 2, 3], limit=6)]
    for member in members:
        scheduler.add(member)
    simulation = Simulation(scheduler, 3)
    simulation.tick()
    scheduler.remove(members[1])
    scheduler.remove(members[1])
    while not scheduler.idle:
        simulation.tick()
    assert simulation.done == [members[0]]
    assert all(lane.pool.free_pages == 40 and lane.pool.open_slots == 0 for lane in scheduler.lanes)
