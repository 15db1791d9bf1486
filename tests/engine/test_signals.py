"""Signals and draws against their definitions in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dodona.engine.errors import RequestError
from dodona.engine.ops import TorchOps
from dodona.engine.philox import STREAM_SAMPLE, STREAM_TRIGGER, gumbel, philox4x32, request_key, uniforms
from dodona.engine.request import Request
from dodona.engine.sampling import Sampling, choose, filtered_logits, settings_of
from dodona.engine.sequence import derive_key
from dodona.engine.signals import logprob, rank, statistics


def definition(row: torch.Tensor) -> dict[str, float]:
    p = row.double().softmax(-1)
    logp = row.double().log_softmax(-1)
    live = p > 0
    entropy = -(p[live] * logp[live]).sum()
    top = p.sort(descending=True).values
    return {
        "entropy": float(entropy),
        "varentropy": float((p[live] * (logp[live] + entropy) ** 2).sum()),
        "top_prob": float(top[0]),
        "margin": float(top[0] - (top[1] if len(top) > 1 else 0)),
        "lse": float(torch.logsumexp(row.double(), -1)),
    }


ROWS = {
    "random": torch.randn(4097) * 3,
    "flat": torch.full((4097,), 2.5),
    "nearly flat": 1 + torch.randn(4097) * 1e-3,
    "peaked": torch.cat((torch.tensor([60.0]), torch.randn(4096))),
    "shifted": torch.randn(4097) + 500,
    "with -inf": torch.randn(4097).masked_fill(torch.rand(4097) < 0.9, float("-inf")),
    "one token left": torch.full((4097,), float("-inf")).index_fill(0, torch.tensor([77]), 1.0),
    "vocabulary of one": torch.tensor([3.0]),
    "seven": torch.tensor([1.0, 2.0, 2.0, -1.0, 0.0, 2.0, 1.0]),
    "128256": torch.randn(128256) * 2,
}


@pytest.mark.parametrize("name", ROWS)
def test_statistics_follow_their_definitions(name):
    """Catches base-2 logarithms, a variance over the wrong axis, 0 * inf, and sums that lose digits."""
    row = ROWS[name]
    stats, expected = statistics(row.unsqueeze(0)), definition(row)
    for field in ("lse", "entropy", "varentropy", "top_prob", "margin"):
        assert float(getattr(stats, field)[0]) == pytest.approx(expected[field], rel=1e-4, abs=2e-5), field
    assert int(stats.top1[0]) == int(row.argmax())
    assert not math.isclose(expected["entropy"], 0) or float(stats.entropy[0]) < 1e-4


def test_uniform_and_certain_rows_have_the_textbook_values():
    """ln V nats and no variance for a uniform row; nothing at all for a certain one."""
    stats = statistics(torch.stack((torch.zeros(50), torch.zeros(50).index_fill(0, torch.tensor([9]), 200.0))))
    assert stats.entropy.tolist() == pytest.approx([math.log(50), 0.0], abs=1e-6)
    assert stats.varentropy.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert stats.margin.tolist() == pytest.approx([0.0, 1.0], abs=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_rows_show_in_lse_and_leave_the_others_alone(bad):
    """A NaN logit must become an error, never a token; its batch mates must not notice."""
    logits = torch.randn(3, 11)
    logits[1, 4] = bad
    stats = statistics(logits)
    assert stats.lse.isnan().tolist() == [False, True, False]
    assert statistics(torch.full((1, 5), float("-inf"))).lse.isnan().all()


def test_logprob_and_rank_of_a_given_token():
    """Rank 1 is the most likely token; ties do not push a token down."""
    logits = torch.tensor([[3.0, 1.0, 3.0, 2.0]]).repeat(4, 1)
    ids = torch.arange(4)
    assert rank(logits, ids).tolist() == [1, 4, 1, 3]
    expected = logits.double().log_softmax(-1)[torch.arange(4), ids]
    assert logprob(logits, statistics(logits).lse, ids).tolist() == pytest.approx(expected.tolist(), abs=1e-6)


# --- draws ---


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (0xFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ],
)
def test_philox_gives_the_published_numbers_on_numpy_and_torch(word, expected):
    """Known answers of Random123 (kat_vectors, philox4x32 10 rounds)."""
    for make in (lambda w: np.array([w], dtype=np.int64), lambda w: torch.tensor([w])):
        words = philox4x32((make(word),) * 4, (make(word),) * 2)
        assert tuple(int(w[0]) for w in words) == expected


def test_draws_depend_on_seed_key_position_and_stream_alone():
    """Catches a generator that is consumed: common random numbers need pure functions."""
    key = request_key(3, "problem-7#0")
    positions = np.arange(100)
    draws = uniforms(key, positions)
    assert (draws[40:60] == uniforms(key, positions[40:60])).all()
    assert not np.array_equal(draws, uniforms(request_key(4, "problem-7#0"), positions))
    assert not np.array_equal(draws, uniforms(request_key(3, "problem-8#0"), positions))
    assert not np.array_equal(draws, uniforms(key, positions, STREAM_TRIGGER + 5))
    assert draws.min() >= 0 and draws.max() < 1 and abs(draws.mean() - 0.5) < 0.1
    noise = [gumbel(torch.tensor([key]), torch.tensor([0]), 9, stream) for stream in (STREAM_TRIGGER, STREAM_SAMPLE)]
    assert (noise[0] != noise[1]).all()


def test_a_seed_means_the_same_draws_in_every_version():
    """Catches another hash: these are 8 bytes of BLAKE2b, little end first, of "3", NUL and "problem-7#2"."""
    named, unnamed = Request(prompt=[1], seed=3, key="problem-7", sample=2), Request(prompt=[1, 70], seed=-3)
    assert derive_key(named, [1]) == (579384812, 1079444024)
    assert derive_key(unnamed, [1, 70]) == (1748547470, 1868337397)  # of "-3", NUL and "1,70#0"


def test_gumbel_rows_do_not_depend_on_their_batch():
    """Each row's noise is its own, whatever stands beside it; its moments are Gumbel's."""
    keys = torch.tensor([request_key(0, str(i)) for i in range(5)])
    positions = torch.tensor([3, 1, 4, 1, 5])
    together = gumbel(keys, positions, 1003)
    for row in range(5):
        assert torch.equal(together[row], gumbel(keys[row : row + 1], positions[row : row + 1], 1003)[0])
    noise = gumbel(keys[:1], positions[:1], 200_000)
    assert noise.isfinite().all()
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.03)


def test_gumbel_max_draws_from_the_softmax():
    """20,000 draws of a 6-token distribution at temperature 0.7 within four standard errors of its probabilities."""
    logits = torch.tensor([[1.0, 0.2, -0.5, 2.0, 0.0, -3.0]])
    draws = 20_000
    many = logits.repeat(draws, 1)
    tokens = choose(
        TorchOps().draw, many, statistics(many), [Sampling(0.7)] * draws,
        [request_key(1, str(i)) for i in range(draws)], [0] * draws,
    )  # fmt: skip
    counts = torch.bincount(tokens, minlength=6) / draws
    p = (logits[0] / 0.7).softmax(-1)
    assert ((counts - p).abs() < 4 * (p * (1 - p) / draws).sqrt() + 1e-4).all()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.sampled_from([0, 1, 3, 20, 500]), st.sampled_from([1.0, 0.95, 0.5, 0.01]),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]), st.sampled_from([0.3, 1.0, 2.0]),
)  # fmt: skip
def test_filters_keep_what_transformers_keeps(seed, top_k, top_p, min_p, temperature):
    """The order and the borders of transformers' processors: temperature, top-k, top-p, min-p."""
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = torch.randn(1, 200, generator=torch.Generator().manual_seed(seed)) * 2
    ours = filtered_logits(scores, settings_of([Sampling(temperature, top_k, top_p, min_p)], scores.device))
    theirs = TemperatureLogitsWarper(temperature)(None, scores)
    if top_k:
        theirs = TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1:
        theirs = TopPLogitsWarper(top_p)(None, theirs)
    if min_p:
        theirs = MinPLogitsWarper(min_p)(None, theirs)
    assert ours.isfinite().tolist() == theirs.isfinite().tolist()
    assert torch.equal(ours[ours.isfinite()], theirs[theirs.isfinite()])


def test_greedy_rows_in_a_sampled_batch_stay_greedy():
    """Catches noise that is added to everyone because one row asked for it."""
    logits = torch.randn(6, 50)
    samplings = [Sampling(), Sampling(5.0)] * 3
    tokens = choose(TorchOps().draw, logits, statistics(logits), samplings, [request_key(0, "x")] * 6, list(range(6)))
    assert tokens[::2].tolist() == logits.argmax(-1)[::2].tolist()
    assert tokens[1::2].tolist() != logits.argmax(-1)[1::2].tolist()


@pytest.mark.parametrize(
    "options",
    [{"temperature": -1}, {"temperature": math.nan}, {"temperature": math.inf}, {"top_k": -1}, {"top_k": 1.5},
     {"top_p": 0}, {"top_p": 1.1}, {"min_p": -0.1}, {"min_p": 2}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(options):
    """One clear line instead of a wrong distribution."""
    with pytest.raises(RequestError, match=next(iter(options))):
        Sampling(**options)
