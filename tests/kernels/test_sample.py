"""The sampling kernels against the eager sampler, token for token, and against float64 for the probabilities.

Where a token differs from the eager one, the test asks that the two scores lie within a few float32 roundings: the only
excuse there is. None of the rows here needs it.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from kernel_checks import DEVICE, assert_close, assert_rejects_mutants, tolerance
from torch import Tensor

from dodona.engine import philox
from dodona.engine.ops import TorchOps
from dodona.engine.sampling import Sampling, choose, filtered_logits, settings_of
from dodona.engine.signals import statistics
from dodona.kernels.noise import gumbel, philox_words, row_noise
from dodona.kernels.sample import (
    CONFIG,
    Filters,
    Sample,
    sample,
    sample_reference,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered.*:RuntimeWarning")

BIG_TILE = CONFIG | {"BLOCK": 32768, "SEARCH_BLOCK": 16384}
GREEDY = Sampling()
EVERY_KIND = [
    Sampling(1.0),
    Sampling(0.7, top_k=5),
    Sampling(1.3, top_p=0.8),
    Sampling(0.9, top_k=50, top_p=0.9, min_p=0.02),
    Sampling(1.0, min_p=0.3),
    GREEDY,
]


def draw_logits(rows: int, vocab: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocab, generator=generator) * scale).to(DEVICE)


def requests(rows: int, first: int = 0) -> tuple[list[tuple[int, int]], list[int]]:
    """Keys and positions of so many rows."""
    return [philox.request_key(7, f"request {first + row}") for row in range(rows)], [13 * row for row in range(rows)]


def run(logits: Tensor, samplings: list[Sampling], first: int = 0, filtered: bool = True, **options: Any) -> Sample:
    """The kernels on the arguments of the eager sampler; without filters if the rows' are to be ignored."""
    keys, positions = requests(len(samplings), first)
    columns: dict[str, Tensor] = {}
    if filtered:
        columns = {
            "top_k_B": torch.tensor([s.top_k for s in samplings], device=DEVICE),
            "top_p_B": torch.tensor([s.top_p for s in samplings], device=DEVICE),
            "min_p_B": torch.tensor([s.min_p for s in samplings], device=DEVICE),
        }
    return sample(
        logits,
        torch.tensor([s.temperature for s in samplings], device=DEVICE),
        torch.tensor(keys, device=DEVICE),
        torch.tensor(positions, device=DEVICE),
        **columns,
        **options,
    )


def reference(logits: Tensor, samplings: list[Sampling], first: int = 0) -> Sample:
    """`sample_reference` with the eager noise."""
    keys, positions = requests(len(samplings), first)
    noise = philox.gumbel(torch.tensor(keys), torch.tensor(positions), logits.shape[1])
    columns = ([s.top_k for s in samplings], [s.top_p for s in samplings], [s.min_p for s in samplings])
    filters = Filters(*(torch.tensor(column) for column in columns))
    return sample_reference(logits.cpu(), torch.tensor([s.temperature for s in samplings]), noise, filters)


def assert_the_eager_choice(got: Tensor, logits: Tensor, samplings: list[Sampling], first: int = 0) -> None:
    """The eager sampler's tokens; for another one, the eager scores of the two must be equal but for rounding."""
    keys, positions = requests(len(samplings), first)
    logits = logits.cpu()
    eager = choose(TorchOps().draw, logits, statistics(logits), samplings, keys, positions)
    for row in (got.cpu() != eager).nonzero().flatten().tolist():
        assert not samplings[row].greedy, f"row {row}: greedy {got[row]}, eager {eager[row]}"
        score = filtered_logits(logits[row : row + 1], settings_of([samplings[row]], logits.device))
        score = score + philox.gumbel(torch.tensor([keys[row]]), torch.tensor([positions[row]]), logits.shape[1])
        gap = score[0, eager[row]] - score[0, got[row]]
        assert gap <= 8 * 2.0**-24 * score.abs().max(), f"row {row}: {got[row]}, eager {eager[row]}, gap {gap}"


def assert_sample(got: Sample, logits: Tensor, samplings: list[Sampling], first: int = 0) -> None:
    """The eager choice, and float64 log-probabilities."""
    assert_the_eager_choice(got.id, logits, samplings, first)
    want = reference(logits, samplings, first)
    near = tolerance(logits.shape[1])
    assert_close(got.logprob, want.logprob, near, scale=1.0)
    assert_close(got.sampled_logprob, want.sampled_logprob, near, scale=1.0)


@triton.jit
def _words_kernel(words, noise, position, key0, key1, STREAM: tl.constexpr, BLOCK: tl.constexpr):
    counter = tl.arange(0, BLOCK // 4).to(tl.uint32)
    key0, key1 = key0.to(tl.uint32), key1.to(tl.uint32)
    four = philox_words(counter, position.to(tl.uint32), STREAM, key0, key1)
    at = 4 * tl.arange(0, BLOCK // 4)
    tl.store(words + at, four[0].to(tl.int64))
    tl.store(words + at + 1, four[1].to(tl.int64))
    tl.store(words + at + 2, four[2].to(tl.int64))
    tl.store(words + at + 3, four[3].to(tl.int64))
    tl.store(noise + tl.arange(0, BLOCK), row_noise(0, position.to(tl.uint32), STREAM, key0, key1, BLOCK))


@pytest.mark.parametrize(("key", "position", "stream"), [((0, 0), 0, 1), ((0xDEADBEEF, 0xFFFFFFFF), 4095, 3)])
def test_the_noise_is_the_eager_noise_bit_for_bit(key: tuple[int, int], position: int, stream: int) -> None:
    """One word out of place and every sampled text differs between backends. Logarithms may differ by a rounding."""
    words = torch.empty(256, dtype=torch.int64, device=DEVICE)
    noise = torch.empty(256, device=DEVICE)
    _words_kernel[(1,)](words, noise, position, *key, STREAM=stream, BLOCK=256)
    zero = torch.zeros(64, dtype=torch.int64)
    eager = philox.philox4x32((torch.arange(64), zero + position, zero + stream, zero), (zero + key[0], zero + key[1]))
    assert torch.equal(words.cpu(), torch.stack(eager, -1).flatten())
    want = philox.gumbel(torch.tensor([key]), torch.tensor([position]), 256, stream)[0]
    assert_close(noise, want.double(), tolerance(), scale=1.0)


@triton.jit
def _gumbel_kernel(words, noise, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(noise + at, gumbel(tl.load(words + at).to(tl.uint32)))


def test_the_largest_noise_has_all_its_digits() -> None:
    """Winners have u close to 1 and a tiny -ln u: an absolute error of 1e-7 in it makes their noise wrong by 1."""
    words = torch.tensor([0, 1 << 9, 2**31, *(2**32 - (step << 9) for step in range(1, 14))], device=DEVICE)
    noise = torch.empty(16, device=DEVICE)
    _gumbel_kernel[(1,)](words, noise, BLOCK=16)
    u = ((words.cpu() >> 9).double() + 0.5) * 2.0**-23
    assert_close(noise, -(-u.log()).log(), tolerance())


@pytest.mark.parametrize(
    ("vocab", "dtype", "splits", "samplings"),
    [
        (1, torch.bfloat16, 1, EVERY_KIND),
        (7, torch.float32, 1, EVERY_KIND),
        (4097, torch.bfloat16, 3, EVERY_KIND),
        (4097, torch.float32, 2, EVERY_KIND[1:4]),
        (4097, torch.float16, 1, EVERY_KIND[1:4]),
    ],
)
def test_every_kind_of_sampling_chooses_as_the_eager_sampler(
    vocab: int, dtype: torch.dtype, splits: int, samplings: list[Sampling]
) -> None:
    """Filters side by side in one batch: a threshold taken from another row, or one bit of a key lost, shows here."""
    logits = draw_logits(len(samplings), vocab).to(dtype)
    got = run(logits, samplings, splits=splits, config=CONFIG | {"BLOCK": 2048, "SEARCH_BLOCK": 2048})
    assert_sample(got, logits, samplings)


@pytest.mark.parametrize("scale", [0.01, 30.0])
def test_flat_and_peaked_rows_choose_as_the_eager_sampler(scale: float) -> None:
    """In a flat row top-p keeps thousands of nearly equal tokens; in a peaked one, one."""
    samplings = [Sampling(1.0, top_p=0.5), Sampling(0.5, top_k=40, top_p=0.95)]
    logits = draw_logits(2, 4097, seed=1, scale=scale).to(torch.bfloat16)
    got = run(logits, samplings, config=BIG_TILE)
    assert_the_eager_choice(got.id, logits, samplings)
    want = reference(logits, samplings)
    assert_close(got.sampled_logprob, want.sampled_logprob, 1e-3, scale=1.0)  # one tie more or less at p by rounding


def test_a_full_vocabulary_chooses_as_the_eager_sampler() -> None:
    """128256 tokens in several pieces with a ragged end."""
    samplings = [Sampling(1.0, top_k=1000, top_p=0.9), Sampling(0.8, top_p=0.7)]
    logits = draw_logits(2, 128256, scale=2.0).to(torch.bfloat16)
    assert_sample(run(logits, samplings, splits=2, config=BIG_TILE), logits, samplings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_draws_without_filters_choose_as_the_eager_sampler(dtype: torch.dtype) -> None:
    """The path of most runs: no filter, temperature from hardly any to much, and greedy rows among the others."""
    samplings = [Sampling(round(0.1 * row, 1)) for row in range(20)]
    logits = draw_logits(20, 333, seed=2).to(dtype)
    assert_sample(run(logits, samplings, filtered=False), logits, samplings)


def kept_mass(row: Tensor, kept: list[int], token: int) -> float:
    """ln of a token's share of the kept ones."""
    return float(row.double()[kept].log_softmax(0)[kept.index(token)])


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(1.0, top_k=2), [1, 3, 6]),  # 3.0 three times: ties of the second largest stay
        (Sampling(1.0, top_k=4), [0, 1, 2, 3, 4, 6]),  # 2.0 three times
        (Sampling(1.0, top_p=0.5), [1, 3]),  # mass 0.284 a 3.0: the third has 0.568 before it
        (Sampling(1.0, top_p=0.6), [1, 3, 6]),
        (Sampling(1.0, top_p=0.9), [0, 1, 3, 6]),  # and 0.8517 before 0
        (Sampling(1.0, top_k=3, top_p=0.4), [1, 3]),  # shares are of what top-k left: a third each
        (Sampling(1.0, min_p=0.9), [1, 3, 6]),
        (Sampling(1.0, top_k=7), [0, 1, 2, 3, 4, 5, 6]),
        (Sampling(1.0, top_k=99), [0, 1, 2, 3, 4, 5, 6]),
    ],
)
@pytest.mark.parametrize("splits", [1, 4])
def test_ties_at_a_threshold_stay_or_go_by_rule(sampling: Sampling, kept: list[int], splits: int) -> None:
    """top-k keeps all that equal the k-th; top-p takes equal tokens by rising id, also across pieces of the row."""
    row = torch.tensor([1.0, 3.0, 1.0, 3.0, 1.0, -2.0, 3.0], device=DEVICE).bfloat16()
    got = run(row.unsqueeze(0), [sampling], splits=splits, config=CONFIG | {"BLOCK": 4, "SEARCH_BLOCK": 4})
    assert int(got.id) in kept
    assert float(got.sampled_logprob) == pytest.approx(kept_mass(row.cpu(), kept, int(got.id)), abs=1e-5)
    assert_the_eager_choice(got.id, row.unsqueeze(0), [sampling])


def test_mass_of_exactly_p_is_enough() -> None:
    """Catches one token more than the eager sampler keeps, where a sum meets p without rounding."""
    row = torch.zeros(1, 8, device=DEVICE)
    got = run(row, [Sampling(1.0, top_p=0.25)])
    assert int(got.id) < 2 and float(got.sampled_logprob) == pytest.approx(-math.log(2), abs=1e-6)
    assert_the_eager_choice(got.id, row, [Sampling(1.0, top_p=0.25)])


def test_minus_zero_equals_zero() -> None:
    """Their bits differ; a threshold on bits must not tell them apart."""
    row = torch.tensor([[0.0, -0.0, -5.0, -0.0, 0.0]], device=DEVICE)
    got = run(row, [Sampling(1.0, top_k=1)])
    assert float(got.sampled_logprob) == pytest.approx(-torch.tensor(4.0).log().item(), abs=1e-6)


def test_greedy_takes_the_lowest_id_and_ignores_filters() -> None:
    """T = 0 is a choice of its own, not a small temperature."""
    logits = draw_logits(2, 2050).bfloat16()
    logits[0, [2049, 77, 1030]] = 30.0
    logits[1] = 0.0
    got = run(logits, [Sampling(0.0, top_k=3, top_p=0.1, min_p=0.5)] * 2, splits=2)
    assert got.id.tolist() == [77, 0]
    assert got.sampled_logprob.tolist() == [0.0, 0.0]
    assert_close(got.logprob, logits.double().log_softmax(-1)[[0, 1], [77, 0]], tolerance(2050), scale=1.0)


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("temperature", [1e-15, 1e-30, 1e-40])
def test_next_to_no_temperature_is_greedy(temperature: float, filtered: bool) -> None:
    """Scores that overflow leave no token to keep, and the id that stands for none is read as a place in memory."""
    logits = draw_logits(4, 300) - 40
    samplings = [Sampling(temperature, top_k=5, top_p=0.9, min_p=0.1)] * 4
    got = run(logits, samplings, filtered=filtered)
    assert got.id.tolist() == logits.argmax(-1).tolist()
    assert_close(got.logprob, reference(logits, samplings).logprob, tolerance(300), scale=1.0)


def test_a_draw_does_not_depend_on_its_batch() -> None:
    """A request gives the same text alone and in company."""
    logits = draw_logits(4, 900)
    together = run(logits, [Sampling(1.0)] * 4, filtered=False)
    wide = torch.cat((logits[2:3], draw_logits(1, 900, seed=5)))
    keys, positions = requests(4)
    alone = sample(
        wide, torch.ones(2, device=DEVICE), torch.tensor([keys[2], keys[0]], device=DEVICE),
        torch.tensor([positions[2], 5], dtype=torch.int32, device=DEVICE), splits=2, config=CONFIG | {"BLOCK": 256},
    )  # fmt: skip
    assert alone.id[0] == together.id[2]
    assert torch.equal(alone.logprob[0], together.logprob[2])


def test_positions_and_streams_draw_anew() -> None:
    """Noise that ignores the position repeats itself at every token."""
    logits = torch.zeros(8, 512, device=DEVICE)
    key = torch.tensor([philox.request_key(0, "one")] * 8, device=DEVICE)
    ones, positions = torch.ones(8, device=DEVICE), torch.arange(8, device=DEVICE)
    first, second = (sample(logits, ones, key, positions, stream=stream).id for stream in (1, 2))
    assert len(set(first.tolist())) == 8
    assert first.tolist() != second.tolist()


def test_a_broken_row_gives_no_token() -> None:
    """A NaN must become an error with a position, never a token."""
    logits = draw_logits(4, 300)
    logits[0, 3] = torch.nan
    logits[1] = -torch.inf
    logits[2, 5] = torch.inf
    samplings = [Sampling(1.0, top_k=5, top_p=0.9, min_p=0.1), *[Sampling(1.0)] * 3]
    got = run(logits, samplings)
    assert got.id[:3].tolist() == [-1, -1, -1]
    assert got.logprob[:3].isnan().all()
    assert got.sampled_logprob[:3].isnan().all()
    logits[:3] = 0.0
    assert_the_eager_choice(torch.cat((got.id.new_zeros(3), got.id[3:])), logits, [*[GREEDY] * 3, samplings[3]])


def test_masked_tokens_are_never_drawn() -> None:
    """-inf is probability 0 at any temperature, also where fewer than k tokens are left."""
    logits = torch.full((3, 600), -torch.inf, device=DEVICE)
    logits[:, [5, 580]] = torch.tensor([0.0, 0.1], device=DEVICE)
    samplings = [Sampling(50.0), Sampling(1.0, top_k=9), Sampling(2.0, top_p=0.99)]
    assert_sample(run(logits, samplings), logits, samplings)


def test_no_rows_are_no_launch() -> None:
    """A scheduler may find that nobody draws."""
    nobody = torch.empty(0, 2, dtype=torch.int64, device=DEVICE)
    got = sample(torch.empty(0, 50, device=DEVICE), torch.empty(0, device=DEVICE), nobody, nobody[:, 0])
    assert [tuple(field.shape) for field in got] == [(0,)] * 3


@pytest.mark.parametrize("name", Sample._fields)
def test_the_comparison_rejects_broken_kernels(name: str) -> None:
    """Zeros, the wrong order, rows that were not written."""
    samplings = [Sampling(1.0)] * 4
    logits = draw_logits(4, 500, scale=1.0)
    got = run(logits, samplings, filtered=False)
    check = lambda field: assert_sample(got._replace(**{name: field}), logits, samplings)  # noqa: E731
    assert_rejects_mutants(check, getattr(got, name))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature_B": torch.ones(2)}, "temperature"),
        ({"temperature_B": torch.ones(3, dtype=torch.float64)}, "temperature"),
        ({"keys_B2": torch.zeros(3, 2, dtype=torch.int32)}, "keys"),
        ({"keys_B2": torch.zeros(2, 3, dtype=torch.int64).T}, "keys"),
        ({"positions_B": torch.zeros(3)}, "positions"),
        ({"top_k_B": torch.ones(3)}, "top_k"),
        ({"top_p_B": torch.ones(3, dtype=torch.int64)}, "top_p"),
        ({"min_p_B": torch.ones(6)[::2]}, "min_p"),
        ({"stream": -1}, "stream"),
        ({"logits_BV": torch.empty(3, 2**24)}, "2\\^24"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(wrong: dict[str, Any], message: str) -> None:
    """A column of the wrong length or dtype is read past its end."""
    arguments: dict[str, Any] = {
        "logits_BV": torch.zeros(3, 4),
        "temperature_B": torch.ones(3),
        "keys_B2": torch.zeros(3, 2, dtype=torch.int64),
        "positions_B": torch.zeros(3, dtype=torch.int64),
    } | wrong
    with pytest.raises(ValueError, match=message):
        sample(**arguments)
