"""The memory plan: numbers that add up, and refusals that say what would fit."""

from __future__ import annotations

import json
import re

import pytest
from tiny_models import save_tiny

from dodona.engine.checkpoint import open_checkpoint
from dodona.engine.engine import Engine
from dodona.engine.errors import OutOfMemoryError
from dodona.engine.memory import GIB, plan_memory
from dodona.engine.request import Request


def config(name: str):
    return open_checkpoint(f"dummy:{name}").config


def plan(base: str, oracle: str, total: float, **changes):
    options = {"cache_budget": None, "max_batch": 64, "max_length": 4096, "kv_tokens": None} | changes
    models = [("base", config(base), 2), ("oracle", config(oracle), 2)]
    return plan_memory(models, total=int(total * GIB), **options)


def test_the_plan_of_1b_and_8b_on_a_141_gb_card_adds_up():
    """Weights and KV bytes a token are those of the architectures; all parts together stay inside the card."""
    found = plan("1B", "8B", 131)
    base, oracle = found.models
    assert base.weight_bytes == pytest.approx(2.472e9, rel=0.001)
    assert oracle.weight_bytes == pytest.approx(16.06e9, rel=0.001)
    assert (base.kv_bytes_per_token, oracle.kv_bytes_per_token) == (32 * 1024, 128 * 1024)
    assert base.kv_tokens == oracle.kv_tokens == 64 * 4096
    assert found.used == found.workspace + sum(m.weight_bytes + m.kv_bytes for m in found.models) <= found.total


def test_a_batch_that_does_not_fit_gets_the_tokens_that_do():
    """Then the scheduler admits what fits; the plan says so."""
    found = plan("8B", "8B", 48, max_batch=256)
    assert found.models[0].kv_tokens < 256 * 4096
    assert found.used <= found.total
    assert any("admits what fits" in line for line in found.lines())


def test_weights_that_do_not_fit_are_refused_with_the_numbers():
    """Before anything is loaded."""
    with pytest.raises(OutOfMemoryError, match=r"oracle 131\.4\d GiB.*do not fit into 80\.00 GiB"):
        plan("1B", "70B", 80)


def test_too_many_kv_tokens_are_refused_with_the_number_that_fits():
    """The setting in the message must be accepted when it is used."""
    with pytest.raises(OutOfMemoryError, match=r"kv_tokens=\d+ fits") as refused:
        plan("1B", "8B", 40, kv_tokens=1_000_000)
    fitting = int(re.search(r"kv_tokens=(\d+) fits", str(refused.value)).group(1))
    assert plan("1B", "8B", 40, kv_tokens=fitting).models[0].kv_tokens == fitting
    with pytest.raises(OutOfMemoryError):
        plan("1B", "8B", 40, kv_tokens=fitting + 1)


def test_the_engine_refuses_before_it_loads(tmp_path, monkeypatch):
    """A refusal after minutes of loading would cost them."""
    folder = save_tiny(tmp_path / "model", "gqa-tied")
    monkeypatch.setattr("dodona.engine.engine.load_model", lambda *_, **__: pytest.fail("weights were loaded"))
    with pytest.raises(OutOfMemoryError, match="kv_tokens"):
        Engine(folder, device="cpu", kv_tokens=10**12)


def test_a_request_larger_than_the_pool_fails_alone_with_the_setting(tmp_path):
    """It could never run; the others do."""
    engine = Engine(save_tiny(tmp_path / "model", "gqa-tied"), device="cpu", kv_tokens=64, page_size=8)
    large, small = engine.generate([[1] * 60, [1] * 3], c=0, max_new_tokens=20)
    assert {bool(large.error), bool(small.error)} == {True, False}
    assert any("kv_tokens" in (result.error or "") for result in (large, small))


def test_rotary_tables_have_no_position_that_nobody_can_reach(tmp_path):
    """Catches tables of a context of millions beside a cache of a few thousand: gigabytes, and half a minute."""
    base, oracle = (save_tiny(tmp_path / str(seed), "gqa-tied", seed=seed) for seed in (1, 2))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 10_000_000}))
    options = {"device": "cpu", "page_size": 32, "kv_tokens": 256}
    alone, pair = Engine(base, **options), Engine(base, oracle=oracle, **options | {"kv_tokens": 4096})
    assert [len(alone.base.model.rope_tables()[0]), len(pair.base.model.rope_tables()[0])] == [256, 512]
    prompt = [1, *[7] * 246]
    assert len(alone.generate(prompt, max_new_tokens=9, ignore_eos=True).ids) == 9


@pytest.mark.parametrize("loop", ["host", "device"])
def test_the_cache_holds_max_batch_sequences_of_max_length_in_whole_pages(tmp_path, loop):
    """Catches a plan in tokens that is cut down to pages: the one sequence that it was made for is then refused."""
    folder = save_tiny(tmp_path, "gqa-tied")
    for max_batch in (1, 3):
        engine = Engine(folder, device="cpu", loop=loop, max_batch=max_batch, max_length=40, page_size=32)
        pool = engine.base.cache.pool
        assert pool.pages >= max_batch * pool.pages_for(40)
        requests = [Request(prompt=[1, 5 + i], max_new_tokens=38, ignore_eos=True) for i in range(max_batch)]
        assert [len(result.ids) for result in engine.generate(requests)] == [38] * max_batch
        assert engine.scheduler.preemptions == 0
