"""What is the device loop's own: frozen programs, records that come late, seats that grow, errors that name the step.

That its tokens, signals and counts are the host loop's is tested in test_invariants, test_batching and test_properties.
"""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import save_tiny

from dodona.engine import device_loop, flash
from dodona.engine.cache import PagedCache
from dodona.engine.config import LlamaConfig
from dodona.engine.device_loop import DeviceLoop
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError, OutOfMemoryError, RequestError
from dodona.engine.grid import Grid
from dodona.engine.request import Request
from dodona.engine.seats import Column, Phase
from dodona.engine.step import Shape, Step
from dodona.engine.transfer import Arrival

INF = float("inf")
PROMPT = [1, *range(5, 30)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return save_tiny(folder / "base", "gqa-tied", seed=3, layers=2), save_tiny(folder / "oracle", "mha-untied", seed=4)


def make(folders, **options) -> Engine:
    return Engine(folders[0], oracle=folders[1], device="cpu", **{"page_size": 8, "loop": "device"} | options)


def tensors(engine: Engine) -> dict[str, torch.Tensor]:
    """A copy of all that a program may write and somebody may read: the seats but the spare one, and live keys."""
    seats = engine.loop.seats
    named = {name: getattr(seats, name)[:-1] for name in ("numbers", "pending", "pending_lse", "ids", "base", "oracle")}
    named = {name: (t[:, :-1] if name in ("ids", "base", "oracle") else t).clone() for name, t in named.items()}
    for seat, numbers in enumerate(seats.numbers[:-1].tolist()):
        for runner, slot, length in (
            (engine.base, Column.BASE_SLOT, Column.BASE_LENGTH),
            (engine.oracle, Column.ORACLE_SLOT, Column.ORACLE_LENGTH),
        ):
            size = runner.cache.pool.page_size
            table = runner.cache.page_table[numbers[slot]]
            places = torch.tensor([int(table[p // size]) * size + p % size for p in range(numbers[length])], dtype=int)
            for layer, (k, v) in enumerate(runner.cache.flat):
                named[f"{runner.name} {seat} {layer}"] = torch.stack([k[places], v[places]]).clone()
    return named


def test_a_program_leaves_everyone_it_is_not_for_exactly_as_they_were(folders):
    """Catches a replay that commits twice, moves a length, or overwrites a live key of a seat that is frozen."""
    engine = make(folders, max_batch=4, lookahead=1)
    prompts = [PROMPT, PROMPT[:9], [1, 7], [1, 40, 41, 42]]
    requests = [
        Request(prompt=prompt, c=2, k=4, trigger="every(3)", max_new_tokens=12, seed=i, oracle_tail=True)
        for i, prompt in enumerate(prompts)
    ]
    for request in requests:
        engine.scheduler.add(engine._sequence(request))
    frozen = 0
    while not engine.scheduler.idle:
        engine.loop.tick()
        phases = engine.loop.seats.numbers[:-1, Column.PHASE].tolist()
        for name, phase in (("base", Phase.BASE), ("oracle", Phase.ORACLE)):
            rows = [seat for seat, found in enumerate(phases) if found != phase]
            if not rows:
                continue
            before = tensors(engine)
            for tokens in (1, 4):
                padded = torch.tensor(rows + [4] * (4 - len(rows)))
                shape = Shape(name, 4, tokens, tokens, 8, False, False, False)
                with torch.inference_mode():
                    record = engine.loop._steps[name].run(shape, padded, [])
                assert (record[:, -3] == 0).all() and (record[:, -2] == -1).all()
            after = tensors(engine)
            for key, value in before.items():
                torch.testing.assert_close(after[key], value, rtol=0, atol=0, equal_nan=True, msg=key)
            frozen += len(rows)
    assert frozen > 50


@pytest.mark.parametrize("lookahead", [1, 2, 8])
def test_the_host_reads_a_record_only_when_enough_ticks_are_on_their_way(folders, lookahead, monkeypatch):
    """Catches a loop that waits for each step, whatever it was told."""
    engine = make(folders, lookahead=lookahead)
    log = []
    run, wait = Step.run, Arrival.wait
    monkeypatch.setattr(Step, "run", lambda *args: (log.append("run"), run(*args))[1])
    monkeypatch.setattr(Arrival, "wait", lambda *args: (log.append("read"), wait(*args))[1])
    engine.generate(PROMPT, c=0, max_new_tokens=24)
    assert log[: lookahead + 1] == ["run"] * lookahead + ["read"]
    ahead = [log[:i].count("run") - log[:i].count("read") for i in range(lookahead + 1, 24)]
    assert set(ahead) == {lookahead - 1, lookahead}


def test_a_program_scores_what_is_new(folders, monkeypatch):
    """Catches logits of a whole prompt: gigabytes in a batch, for the one row of each that is wanted."""
    engine, shapes = make(folders), []
    run = Step.run
    monkeypatch.setattr(Step, "run", lambda *args: (shapes.append(args[1]), run(*args))[1])
    engine.generate(PROMPT, c=2, k=4, trigger="at(6, 20)", max_new_tokens=30, ignore_eos=True)
    many = [(shape.model, shape.tokens, shape.scored) for shape in shapes if shape.tokens > 1]
    # The prompt; prompt and seven positions; the burst; what came since it.
    assert many[:4] == [("base", 32, 1), ("oracle", 32, 8), ("base", 4, 4), ("oracle", 16, 16)]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_step_asks_the_device_for_no_number(folders, when, monkeypatch):
    """Catches a host synchronisation in the step program: every way from a tensor to Python raises while it runs."""
    engine = make(folders)
    run = Step.run

    def refuse(*args, **kwargs):
        raise AssertionError("a step program looked at a value")

    def guarded(*args):
        with monkeypatch.context() as patch:
            for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "nonzero"):
                patch.setattr(torch.Tensor, name, refuse)
            return run(*args)

    monkeypatch.setattr(Step, "run", guarded)
    trigger = "entropy > 0.5 and u < 0.9 and since_consult > 2 and ema(margin, 0.5) < 2 and boundary"
    result = engine.generate(
        PROMPT,
        c=3,
        k=4,
        trigger=trigger,
        when=when,
        max_new_tokens=24,
        temperature=0.8,
        top_k=50,
        top_p=0.9,
        min_p=0.01,
    )
    assert result.error is None and len(result.ids) > 1


@pytest.mark.parametrize("lookahead", [1, 2, 8])
def test_what_is_known_of_a_stopped_text_does_not_depend_on_the_lookahead(folders, lookahead):
    """Catches signals of positions that the base read only because the device ran on past a stop string."""
    options = {"c": INF, "k": 9, "trigger": "at(2)", "max_new_tokens": 24, "base_tail": False, "ignore_eos": True}
    host, device = make(folders, loop="host"), make(folders, lookahead=lookahead)
    ids = host.generate(PROMPT, **options).ids
    for position in range(4, 12):
        request = Request(prompt=PROMPT, stop=host.tokenizer.decode(ids[:position]), **options)
        here, there = host.generate(request), device.generate(request)
        assert there.finish_reason == here.finish_reason == "stop"
        assert there.ids == here.ids
        assert np.isnan(here.signals["entropy"]).sum() == len(here.ids) - 3  # the consult's own position was looked at
        for name, values in here.signals.items():
            assert (np.isnan(there.signals[name]) == np.isnan(values)).all(), (position, name)


def test_seats_grow_while_sequences_run(folders):
    """Catches a longer request, or one with a moving average, that loses what the running ones had."""
    engine, reference = make(folders, max_batch=3), make(folders, loop="host")
    requests = [
        Request(prompt=PROMPT, c=3, k=3, trigger="entropy > 1", max_new_tokens=60, id="a"),
        Request(prompt=[1, *range(3, 280)], c=2, k=3, trigger="ema(entropy, 0.8) > 1.1", max_new_tokens=80, id="b"),
        Request(prompt=PROMPT[:5], c=2, k=3, trigger="ema(margin, 0.5) < 0.4", max_new_tokens=300, id="c"),
    ]

    def arriving():
        yield requests[0]
        yield from requests[1:]

    found = {result.request.id: result for result in engine.generate(arriving())}
    for request in requests:
        expected = reference.generate(request)
        assert found[request.id].ids == expected.ids
        assert found[request.id].cheat_positions == expected.cheat_positions
    assert engine.loop.seats.epoch > 1


def test_triggers_come_and_go(folders):
    """Catches a trigger's number that is given to another while a sequence still uses it."""
    engine, reference = make(folders, max_batch=3), make(folders, loop="host")
    requests = [
        Request(
            prompt=PROMPT[: 3 + i % 7], c=2, k=2, trigger=f"entropy > {0.8 + 0.05 * i}", max_new_tokens=12, id=str(i)
        )
        for i in range(12)
    ]
    for result in engine.generate(iter(requests)):
        expected = reference.generate(result.request)
        assert (result.ids, result.cheat_positions) == (expected.ids, expected.cheat_positions)
    assert len(engine.loop._watched) < 12


@pytest.mark.parametrize("kinds", [8, 9])
def test_a_program_is_not_captured_for_one_step(folders, kinds, monkeypatch):
    """Catches a compilation and a graph whenever a sequence leaves, where each sequence has a trigger of its own."""
    engine, keys = make(folders), []
    run = engine.loop.graphs.run
    monkeypatch.setattr(engine.loop.graphs, "run", lambda *args: (keys.append(args[0]), run(*args))[1])
    requests = [
        Request(prompt=[1, 7 + i], c=1, trigger=f"at({i + 20})", max_new_tokens=4, ignore_eos=True)
        for i in range(kinds)
    ]
    assert all(result.error is None for result in engine.generate(requests))
    assert keys and {key is None for key in keys} == {kinds > 8}


def test_a_failing_step_is_named_and_the_engine_goes_on(folders, monkeypatch):
    """Catches a loop that keeps half of a failed step, or pages of it."""
    engine = make(folders)
    expected = engine.generate(PROMPT, c=0, max_new_tokens=8).ids
    attend, calls = Grid.attend, []

    def failing(self, layer, qkv_TR):
        calls.append(layer)
        if len(calls) == 9:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return attend(self, layer, qkv_TR)

    monkeypatch.setattr(Grid, "attend", failing)
    with pytest.raises(DodonaError, match="the base's step of 1 seats and 1 tokens each failed: CUDA error"):
        engine.generate(PROMPT, c=0, max_new_tokens=20)
    assert engine.base.cache.pool.open_slots == 0
    assert engine.generate(PROMPT, c=0, max_new_tokens=8).ids == expected


def test_a_step_that_fails_when_its_record_is_read_is_named(folders, monkeypatch):
    """Catches an error of the device, which comes with a later read, that says nothing of the step that made it."""
    engine = make(folders)
    expected = engine.generate(PROMPT, c=0, max_new_tokens=8).ids
    with monkeypatch.context() as patch:

        def failing(self, poll_seconds):
            raise RuntimeError("CUDA error: device-side assert triggered")

        patch.setattr(Arrival, "wait", failing)
        with pytest.raises(DodonaError, match=r"the base's step of 1 seats and .* each failed: CUDA error"):
            engine.generate(PROMPT, c=0, max_new_tokens=20)
    assert engine.base.cache.pool.open_slots == 0
    assert engine.generate(PROMPT, c=0, max_new_tokens=8).ids == expected


def test_seats_come_back_after_errors(folders, monkeypatch):
    """Catches a seat lost with each failed step, until none is left and the next request waits for ever; and an error
    in giving a seat that is hidden behind another one.
    """
    engine = make(folders, max_batch=1)
    expected = engine.generate(PROMPT, c=0, max_new_tokens=8).ids

    def failing(*args, **kwargs):
        raise RuntimeError("a failure")

    for owner, name in ((engine.loop.graphs, "run"), (engine.loop.seats, "take"), (engine.loop.seats, "reserve")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing)
            with pytest.raises(Exception, match="a failure"):
                engine.generate(PROMPT, c=0, max_new_tokens=20)
        assert engine.scheduler._free == [0]
        assert engine.base.cache.pool.open_slots == 0
        assert engine.generate(PROMPT, c=0, max_new_tokens=8).ids == expected


@pytest.mark.parametrize("loop", ["host", "device"])
def test_samples_that_fill_the_cache_run_one_after_the_other(folders, loop):
    """Catches a shared prompt that is kept although its partly filled last page, to be copied, is one too many."""
    engine = make(folders, loop=loop, max_batch=1, kv_tokens=64, page_size=32)
    options = {"c": 1, "k": 3, "trigger": "always", "max_new_tokens": 24, "ignore_eos": True, "temperature": 1.0}
    results = engine.generate([1, *([9] * 39)], n=3, **options)
    assert [len(result.ids) for result in results] == [24, 24, 24]
    alone = make(folders, loop="host")
    assert [r.ids for r in results] == [r.ids for r in alone.generate([1, *([9] * 39)], n=3, **options)]


@pytest.mark.parametrize("value", [-1, 2, "0.1", True, float("nan")])
def test_a_poll_interval_that_is_none_is_refused(folders, value):
    """Catches a sleep of a negative or endless time in the loop."""
    with pytest.raises(RequestError, match="poll_seconds must be a number from 0 to 1"):
        make(folders, poll_seconds=value)


def test_the_poll_interval_reaches_the_loop(folders):
    """Catches a setting that nobody reads."""
    assert make(folders, poll_seconds=0.001).loop.poll_seconds == 0.001


@pytest.mark.parametrize("loop", ["host", "device"])
def test_out_of_memory_gives_the_plan_and_a_setting(folders, loop, monkeypatch):
    """Catches a raw allocator message, and an engine that cannot be used afterwards."""
    engine = make(folders, loop=loop)
    model = engine.base.model

    def no_memory(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", no_memory)
        with pytest.raises(OutOfMemoryError, match=r"Lower max_batch \(now 64\)") as caught:
            engine.generate(PROMPT, c=0, max_new_tokens=8)
    assert "KV tokens" in str(caught.value) and "weights" in str(caught.value)
    assert len(engine.generate(PROMPT, c=0, max_new_tokens=8).ids) == 8


@pytest.mark.parametrize("loop", ["host", "device"])
def test_an_engine_can_be_closed_and_another_opened(folders, loop):
    """Catches state that outlives its engine, and a closed engine that answers."""
    with make(folders, loop=loop) as engine:
        expected = engine.generate(PROMPT, c=2, k=3, trigger="every(3)", max_new_tokens=12).ids
    engine.close()
    with pytest.raises(DodonaError, match="this engine is closed"):
        engine.generate(PROMPT)
    assert make(folders, loop=loop).generate(PROMPT, c=2, k=3, trigger="every(3)", max_new_tokens=12).ids == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loop": "gpu"}, "loop must be 'host' or 'device'"),
        ({"backend": "cuda"}, "backend must be 'eager' or 'triton'"),
        ({"lookahead": 0}, "lookahead must be a whole number of 1 or more"),
        ({"attention": "sdpa"}, "attention must be 'own' or 'flash'"),
        ({"attention": "flash"}, "attention='flash' needs a CUDA device"),
        ({"attention": "flash", "loop": "host"}, "belongs to the device loop"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(folders, options, message):
    """Catches an option that is silently dropped."""
    with pytest.raises(RequestError, match=message):
        make(folders, **options)


def test_flash_attention_that_is_not_there_says_how_to_install_it(monkeypatch):
    """Catches an ImportError for a user."""
    monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(RequestError, match="pip install flash-attn"):
        flash.find_flash()


@pytest.mark.parametrize("version", [2, 3])
def test_flash_attention_is_called_as_it_is_documented(folders, version, monkeypatch):
    """The call against a plain implementation of flash_attn_with_kvcache's documentation: append in place at
    cache_seqlens through the page table, then causal attention aligned to the end. Catches swapped arguments."""
    table_name = {2: "block_table", 3: "page_table"}[version]
    calls = []

    def with_kvcache(q, k_cache, v_cache, k, v, *, cache_seqlens, causal, **tables):
        assert causal and list(tables) == [table_name]
        table = tables[table_name]
        assert table.dtype == cache_seqlens.dtype == torch.int32
        calls.append(q.shape)
        size, outputs = k_cache.shape[1], []
        for b, start in enumerate(cache_seqlens.tolist()):
            stop = start + q.shape[1]
            for j in range(q.shape[1]):
                page, place = int(table[b, (start + j) // size]), (start + j) % size
                k_cache[page, place], v_cache[page, place] = k[b, j], v[b, j]
            pages = [int(table[b, p // size]) for p in range(stop)]
            keys, values = (c[pages, [p % size for p in range(stop)]] for c in (k_cache, v_cache))
            groups = q.shape[2] // keys.shape[1]
            keys, values = (t.repeat_interleave(groups, 1).transpose(0, 1) for t in (keys, values))
            mask = torch.arange(stop) <= torch.arange(start, stop).unsqueeze(1)
            outputs.append(F.scaled_dot_product_attention(q[b].transpose(0, 1), keys, values, mask).transpose(0, 1))
        return torch.stack(outputs)

    name = {2: "flash_attn", 3: "flash_attn_interface"}[version]
    module = ModuleType(name)
    module.flash_attn_with_kvcache = with_kvcache
    monkeypatch.setitem(sys.modules, "flash_attn_interface", None)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("dodona.engine.engine.check_flash", lambda *args: None)
    engine, reference = make(folders, attention="flash"), make(folders)
    for options in ({"c": 0}, {"c": 3, "k": 4, "trigger": "every(3)"}):
        ours = engine.generate(PROMPT, max_new_tokens=16, **options)
        assert ours.ids == reference.generate(PROMPT, max_new_tokens=16, **options).ids
    assert {shape[1] for shape in calls} >= {1, 4, 32}


def test_what_flash_attention_cannot_do_is_refused():
    """Catches a crash inside flash-attn's own checks."""
    cuda = torch.device("cuda")
    with pytest.raises(RequestError, match="multiple of 256"):
        flash.check_flash(cuda, torch.bfloat16, 32)
    with pytest.raises(RequestError, match="float32"):
        flash.check_flash(cuda, torch.float32, 256)


def test_padding_never_reaches_the_page_that_nobody_owns(folders):
    """Catches NaN of a broken sequence's padding that spreads by page 0, which masked keys read as 0 * NaN."""
    config = LlamaConfig.from_hf(
        dict(
            architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=8, hidden_size=16, intermediate_size=8,
            num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
        ),
        name="tiny",
    )  # fmt: skip
    cache = PagedCache(config, pages=4, page_size=4, dtype=torch.float32, device=torch.device("cpu"))
    slot = cache.pool.open()
    cache.reserve(slot, 4)
    grid = Grid(cache, torch.tensor([slot]), torch.tensor([2]), 8, 4)
    grid.rotate_by(torch.ones(64, 8), torch.zeros(64, 8))
    grid.attend(0, torch.full((8, 32), torch.nan))
    assert (cache.storages[0][:, :, 0] == 0).all()


def test_the_default_lookahead_is_the_engines():
    """Catches a default that is written twice."""
    assert isinstance(Engine(device="cpu", loop="device").loop, DeviceLoop)
    assert Engine(device="cpu", loop="device").loop.lookahead == device_loop.LOOKAHEAD
