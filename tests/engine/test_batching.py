"""Invariant 5: what a request gives does not depend on its batch mates, their order, sharing, or preemption."""

from __future__ import annotations

import math
import random
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny_models import save_tiny

from dodona.engine.engine import Engine
from dodona.engine.request import Request

INF = math.inf
LOOPS = [{"loop": "host"}, {"loop": "device", "lookahead": 1}, {"loop": "device", "lookahead": 3}]
TRIGGERS = ["always", "never", "random", "entropy > 1.2", "every(4)", "uniform(L=12)", "margin < 0.2 and u < 0.6"]


def mixed_requests(count: int, seed: int) -> list[Request]:
    rng = random.Random(seed)
    shared = [[1] + [rng.randrange(3, 317) for _ in range(rng.randint(3, 45))] for _ in range(4)]
    requests = []
    for index in range(count):
        prompt = (
            rng.choice(shared)
            if rng.random() < 0.5
            else [1] + [rng.randrange(3, 317) for _ in range(rng.randint(1, 60))]
        )
        sampled = rng.random() < 0.5
        requests.append(
            Request(
                prompt=prompt,
                id=str(index),
                sample=index if sampled else 0,
                c=rng.choice([0, 1, 3, INF]),
                k=rng.choice([1, 2, 7, INF]),
                trigger=rng.choice(TRIGGERS),
                when=rng.choice(["before", "after"]),
                max_new_tokens=rng.randint(1, 40),
                temperature=rng.choice([0.7, 1.3]) if sampled else 0.0,
                top_p=rng.choice([1.0, 0.9]),
                top_k=rng.choice([0, 20]),
                stop=("7",) if rng.random() < 0.2 else (),
                seed=rng.randrange(3),
                oracle_tail=rng.random() < 0.3,
            )
        )
    return requests


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return save_tiny(folder / "base", "gqa-tied", seed=3, layers=2), save_tiny(folder / "oracle", "llama3-rope", seed=4)


@pytest.fixture(params=LOOPS, ids=lambda loop: "".join(str(value) for value in loop.values()))
def loop(request):
    """Options of the engine that say who decides a step."""
    return request.param


@pytest.fixture(scope="module")
def alone(folders):
    """What each of the 64 requests gives when it runs by itself."""
    engine = Engine(folders[0], oracle=folders[1], device="cpu", page_size=8)
    return {request.id: engine.generate(request) for request in mixed_requests(64, seed=11)}


def outcome(result):
    return result.ids, list(result.sources), result.cheat_positions, result.finish_reason, result.text


def check(engine, requests, alone):
    seen = {}
    for result in engine.generate(iter(requests)):
        assert result.request.id not in seen, "a request was answered twice"
        seen[result.request.id] = result
    assert set(seen) == {request.id for request in requests}
    for name, result in seen.items():
        assert result.error is None, result.error
        assert outcome(result) == outcome(alone[name]), name
        for signal in ("entropy", "logprob", "oracle_logprob"):
            ours, theirs = result.signals[signal], alone[name].signals[signal]
            assert len(ours) == len(theirs)
            known = ours == ours
            assert (known == (theirs == theirs)).all(), (name, signal)
            assert abs(ours[known] - theirs[known]).max(initial=0) < 1e-3, (name, signal)
        ours, theirs = result.ledger, alone[name].ledger
        assert (ours.consults, ours.wasted_steps) == (theirs.consults, theirs.wasted_steps), name
        # But for what others had read for it, and what it read twice, it read what it reads alone.
        fed = ours.base_fed + ours.oracle_fed + ours.shared_tokens - ours.recomputed_tokens
        assert fed == theirs.base_fed + theirs.oracle_fed, name
        assert ours.flops == pytest.approx(theirs.flops) or engine.scheduler.preemptions, name
    for runner in (engine.base, engine.oracle):
        assert runner.cache.pool.free_pages == runner.cache.pool.pages
        assert runner.cache.pool.open_slots == 0


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_batch_of_mixed_arms_equals_its_members_alone_in_any_order(folders, alone, order, loop):
    """Catches masks, page tables and draws that mix up sequences."""
    engine = Engine(folders[0], oracle=folders[1], device="cpu", page_size=8, chunk=32, **loop)
    requests = mixed_requests(64, seed=11)
    random.Random(order).shuffle(requests)
    check(engine, requests, alone)
    assert engine.scheduler.preemptions == 0


@pytest.mark.parametrize("kv_tokens", [160, 400])
def test_preemption_under_a_tiny_page_pool_changes_nothing(folders, alone, kv_tokens, loop):
    """Catches a recomputed sequence that forgets its budget, its signals or its draws."""
    engine = Engine(folders[0], oracle=folders[1], device="cpu", page_size=8, chunk=32, kv_tokens=kv_tokens, **loop)
    check(engine, mixed_requests(64, seed=11), alone)
    if loop["loop"] == "host":  # the device loop lets in only whom its pages last
        assert engine.scheduler.preemptions > 0


def test_small_batches_and_chunks_change_nothing(folders, alone, loop):
    """Catches a chunked prefill or sync that drops rows at its borders."""
    engine = Engine(folders[0], oracle=folders[1], device="cpu", page_size=4, chunk=5, max_batch=7, **loop)
    check(engine, mixed_requests(64, seed=11), alone)


def test_threads_that_share_an_engine_get_what_they_would_alone(folders, alone, loop):
    """Catches two ticks at once, each with the other's rows and pages: wrong tokens, without a word."""
    engine = Engine(folders[0], oracle=folders[1], device="cpu", page_size=8, **loop)
    requests = mixed_requests(64, seed=11)[:24]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as threads:
            results = list(threads.map(engine.generate, requests))
    finally:
        sys.setswitchinterval(before)
    assert [outcome(result) for result in results] == [outcome(alone[request.id]) for request in requests]


def test_samples_of_one_prompt_cost_one_prefill(folders, loop):
    """n=32 samples share the prompt's pages in both models: 31 of 32 feed one prompt token (the last) of their own."""
    engine = Engine(folders[0], oracle=folders[1], device="cpu", page_size=8, **loop)
    prompt = [1, *range(3, 60)]
    results = engine.generate(prompt, n=32, c=2, k=3, trigger="every(4)", temperature=1.0, max_new_tokens=12)
    assert len({tuple(result.ids) for result in results}) > 16
    assert sum(result.ledger.prefill_tokens for result in results) == len(prompt) + 31
    synced = sum(result.ledger.sync_tokens for result in results)
    assert synced < len(prompt) + 32 * 2 * 12
    single = engine.generate(
        Request(prompt=prompt, sample=5, c=2, k=3, trigger="every(4)", temperature=1.0, max_new_tokens=12)
    )
    assert single.ids == results[5].ids
