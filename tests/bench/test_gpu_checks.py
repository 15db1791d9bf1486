"""What the GPU check calls right: logits, tokens, and replays on frozen seats; each is shown something wrong."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from bench_subjects import tiny_subject

from dodona.bench.gpu import logits, replays, settled, tokens
from dodona.bench.gpu.logits import Error, Forced
from dodona.bench.gpu.options import Options
from dodona.bench.gpu.piece import FAILED, PASSED
from dodona.bench.subject import requests
from dodona.engine.seats import Column
from dodona.engine.step import Step

OPTIONS = Options("arith-base", "arith-oracle", "cpu", quick=True)

# --- logits ---


def said(shape: tuple[int, ...] = (1, 8, 50)) -> Forced:
    generator = torch.Generator().manual_seed(3)
    found = torch.randn(shape, generator=generator)
    return Forced(found, torch.distributions.Categorical(logits=found).entropy())


def test_zeros_noise_and_swapped_tokens_are_no_right_logits():
    """A tolerance that accepts everything would pass every kernel."""
    want = said()
    small = Forced(want.logits_MTV + 0.001 * torch.randn(want.logits_MTV.shape), want.entropy_MT + 1e-4)
    eager = Error.of(small, want)
    assert logits.problems(Error.of(small, want), eager) == []
    zeros = Forced(torch.zeros_like(want.logits_MTV), torch.zeros_like(want.entropy_MT))
    assert len(logits.problems(Error.of(zeros, want), eager)) >= 2
    noisy = Forced(want.logits_MTV + 0.1, want.entropy_MT)
    assert "relative error" in logits.problems(Error.of(noisy, want), eager)[0]
    nan = Forced(want.logits_MTV * torch.nan, want.entropy_MT * torch.nan)
    assert logits.problems(Error.of(nan, want), eager)
    other = Forced(want.logits_MTV, want.entropy_MT + 0.5)
    assert "entropy off by 0.5 nats" in logits.problems(Error.of(other, want), eager)[0]
    rolled = Error.of(Forced(want.logits_MTV.roll(1, -1), want.entropy_MT), want)
    assert rolled.agreement < 0.5


def test_every_way_of_reading_gives_the_reference_logits():
    """The comparison itself must read the same ids at the same positions."""
    work = logits.worker(OPTIONS)
    for name in logits.pieces(OPTIONS)[:4]:
        result = work(name)
        assert result["status"] == PASSED, result
        assert result["figures"]["eager"]["relative"] < 0.05 and result["figures"]["between"]["relative"] < 0.01


# --- tokens ---


def test_both_loops_write_the_same_tokens_and_a_difference_is_told():
    """A check that compares a result with itself passes always."""
    work = tokens.worker(OPTIONS)
    result = work("guided by entropy")
    assert result["status"] == PASSED and result["figures"]["equal"] == result["figures"]["texts"] == 3
    assert result["figures"]["consults"] > 0


def test_a_token_that_differs_is_named_with_its_margin(pair):
    """`not equal` alone tells nobody where to look; a near-tie is no mistake of a loop."""
    with tiny_subject(pair, "host").engine(max_batch=1, max_length=64) as engine:
        want = engine.generate(requests(engine, 1, 5, c=0, max_new_tokens=6)[0])
    other = replace(want, ids=[*want.ids[:3], 1 + want.ids[3] % 300, *want.ids[4:]])
    found = tokens.difference(want, other)
    assert found is not None and "token 3 is" in found and "margin" in found
    assert tokens.difference(want, want) is None
    tie = replace(want, signals={**want.signals, "margin": want.signals["margin"] * 0})
    assert str(tokens.difference(tie, other)).startswith(tokens.NEAR_TIE)
    assert "5 tokens and not 6" in str(tokens.difference(want, replace(want, ids=want.ids[:5])))
    assert "consults at [2]" in str(tokens.difference(want, replace(want, cheat_positions=[2])))


# --- replays ---


def test_frozen_seats_stay_bit_for_bit(pair):
    """The whole loop ahead of the host rests on this."""
    with tiny_subject(pair, "device").engine(max_batch=2, max_length=64) as engine:
        (request,) = requests(engine, 1, 5, c=math.inf, k=3, trigger="every(2)", max_new_tokens=14, temperature=1.0)
        result = replays.frozen_replays(engine, request)
        assert result["status"] == PASSED, result["problems"]
        assert result["figures"]["stops"] >= 2


def test_a_program_that_touches_a_frozen_seat_is_found_out(pair, monkeypatch):
    """A comparison that leaves something out, or compares views of the same memory, finds nothing."""
    run = Step.run

    def touching(self, shape, rows_M, watched):
        record = run(self, shape, rows_M, watched)
        self.seats.base[rows_M, 1, 0] += 1.0
        return record

    with tiny_subject(pair, "device").engine(max_batch=2, max_length=64) as engine:
        (request,) = requests(engine, 1, 5, c=math.inf, k=3, trigger="every(2)", max_new_tokens=14)
        stream = engine.stream(request)
        for _ in range(4):
            next(stream)
        assert replays.probe(engine) == []
        monkeypatch.setattr(Step, "run", touching)
        found = replays.probe(engine)
        assert found and "changed base" in found[0]
        (member,) = engine.loop._members.values()
        assert int(engine.loop.seats.numbers[member.seat, Column.PHASE]) > 0
        stream.close()


def test_a_step_that_decides_otherwise_than_its_reference_is_found_out(pair):
    """A kernel that forgets a count, or keeps a signal of the wrong place, writes the right tokens all the same."""

    class Forgetful(Step):
        def run(self, shape, rows_M, watched):
            record = super().run(shape, rows_M, watched)
            self.seats.numbers[rows_M, Column.BASE_FORWARDS] = 0
            return record

    with tiny_subject(pair, "device").engine(max_batch=2, max_length=64) as engine:
        (request,) = requests(engine, 1, 5, c=math.inf, k=3, trigger="every(2)", max_new_tokens=14, temperature=1.0)
        result = settled.by_both(engine, request)
        assert result["status"] == PASSED and result["figures"]["programs"] >= 3, result
        engine.loop._steps["base"].__class__ = Forgetful
        result = settled.by_both(engine, request)
        assert result["status"] == FAILED
        assert "the base's numbers by the kernel and by torch differ" in result["problems"][0]


def test_keys_and_values_are_a_part_of_a_seat(pair):
    """A padding token that overwrites a live key changes the text only later."""
    with tiny_subject(pair, "device").engine(max_batch=1, max_length=64) as engine:
        (request,) = requests(engine, 1, 5, c=1, k=2, trigger="at(1)", max_new_tokens=14)
        stream = engine.stream(request)
        for _ in range(6):
            next(stream)
        (member,) = engine.loop._members.values()
        before = replays.state_of(engine.loop, member)
        assert {"base's keys", "base's values", "oracle's keys", "oracle's values", "ids", "numbers"} <= set(before)
        live = int(engine.loop.seats.numbers[member.seat, Column.BASE_LENGTH])
        config = engine.base.config
        assert before["base's keys"].numel() == live * config.num_layers * config.num_kv_heads * config.head_dim
        engine.base.cache.flat[0][1][engine.base.cache.pool.table(member.sequence.base.slot)[0] * 32] += 1
        after = replays.state_of(engine.loop, member)
        assert [name for name in before if not torch.equal(before[name].nan_to_num(), after[name].nan_to_num())] == [
            "base's values"
        ]
        engine.loop.seats.set(member.seat, {Column.ORACLE_LENGTH: 0})  # as when its first program has not run yet
        assert replays.state_of(engine.loop, member)["oracle's keys"].numel() == 0
        stream.close()


def test_results_that_differ_in_a_signal_alone_are_not_the_same(pair):
    """Equal tokens hide a wrong statistic."""
    with tiny_subject(pair, "device").engine(max_batch=1, max_length=64) as engine:
        (request,) = requests(engine, 1, 5, c=1, k=2, trigger="at(2)", max_new_tokens=6)
        assert replays.against_uncaptured(engine, request)["status"] == PASSED
        want = engine.generate(request)
    assert replays.other_than(want, want) is None and replays.largest_gap(want, want) == 0.0
    changed = replace(want, signals={**want.signals, "entropy": want.signals["entropy"] + 0.1})
    assert replays.other_than(want, changed) == "the same tokens, and signals off by 0.1"
    unknown = replace(want, signals={**want.signals, "logprob": want.signals["logprob"] * math.nan})
    assert "off by nan" in str(replays.other_than(want, unknown))
    assert replays.other_than(want, replace(want, ids=[*want.ids[:2], -1])) == "other tokens from position 2 on"


@pytest.mark.filterwarnings("ignore:called a synchronizing", "ignore:Synchron", "ignore:CUDA is not available")
def test_synchronising_operations_are_counted(pair, monkeypatch):
    """One warning a token that Python's filter shows once would count as one wait in all, and torch's notice that some
    are overlooked would count as one."""
    notice = "Synchronization debug mode is a prototype feature and does not yet detect all synchronizing operations"
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: warnings.warn(notice, stacklevel=1))
    with tiny_subject(pair, "device").engine(max_batch=1, max_length=64) as engine:
        (request,) = requests(engine, 1, 5, c=0, max_new_tokens=14)
        assert replays.counted_warnings(engine, request, 3, 6) == (0, [])
        tick = engine.loop.tick

        def waiting() -> Any:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            return tick()

        monkeypatch.setattr(engine.loop, "tick", waiting)
        count, where = replays.counted_warnings(engine, request, 3, 6)
        assert count == 6 and where[0].startswith("test_gpu_checks.py:")
        (longer,) = requests(engine, 1, 5, c=0, max_new_tokens=40)
        figures = replays.host_synchronisations(engine, {"alone": longer})["figures"]["alone"]
        assert figures["waits_a_token"] == 1.0 and figures["tokens"] == 8
        assert figures["calls_a_token"] == dict.fromkeys(replays.WAITS, 0.0)
