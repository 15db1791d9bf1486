"""The layers and the head on the kernels against those in plain PyTorch, and what a forward of them launches."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from kernel_launches import counted_launches, no_host_reads, use_large_blocks
from tiny_models import save_tiny
from torch import Tensor

from dodona.engine.cache import Feed, PagedCache
from dodona.engine.config import LlamaConfig
from dodona.engine.dummy import ARCHITECTURES
from dodona.engine.engine import Engine
from dodona.engine.fused import FusedLayer
from dodona.engine.llama import Llama
from dodona.engine.ops import Ops, TorchOps
from dodona.engine.philox import request_key
from dodona.engine.placement import on_one
from dodona.engine.request import Request
from dodona.engine.runner import Runner
from dodona.engine.sampling import Sampling, settings_of
from dodona.engine.scores import Choice, Scores
from dodona.engine.triton_attention import TritonAttention, TritonGrid
from dodona.engine.triton_ops import TritonOps
from dodona.kernels import attention
from dodona.kernels.launch import interpreting

pytestmark = [
    pytest.mark.skipif(
        not torch.cuda.is_available() and not interpreting(), reason="needs a CUDA device or TRITON_INTERPRET=1"
    ),
    pytest.mark.filterwarnings("ignore:.*encountered.*:RuntimeWarning"),
]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PAGE = 16
SHAPES = {
    "gqa-tied": dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=32),
    "biases-untied": dict(
        hidden_size=96, num_attention_heads=2, num_key_value_heads=1, head_dim=64, tie_word_embeddings=False,
        attention_bias=True, mlp_bias=True,
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch: Any) -> None:
    """In the interpreter few blocks take less time than many."""
    use_large_blocks(monkeypatch)


def config_of(shape: str, layers: int = 1) -> LlamaConfig:
    options = dict(
        architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=317, intermediate_size=112,
        num_hidden_layers=layers, max_position_embeddings=128, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaConfig.from_hf(options | SHAPES[shape], name="tiny")


class Twin(NamedTuple):
    """The same weights and the same cache twice."""

    plain: Runner
    fused: Runner

    def filled(self, *lengths: int) -> list[int]:
        """Slots with so many tokens of random keys and values each, and room for 24 more."""
        generator = torch.Generator().manual_seed(len(lengths))
        slots = []
        for length in lengths:
            for runner in self:
                slot = runner.cache.pool.open()
                runner.cache.reserve(slot, length + 24)
            slots.append(slot)
        shape = self.plain.cache.storages[0].shape
        live = torch.randn(shape, generator=generator).to(DEVICE)
        live[:, :, 0] = 0
        for runner in self:
            runner.cache.storages[0].copy_(live)
        return slots


def twin(shape: str, layers: int = 1) -> Twin:
    config = config_of(shape, layers)
    torch.manual_seed(5)
    model = Llama(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.15)
    model = model.to(DEVICE)
    model.placement = on_one(config, DEVICE)
    runners = [
        Runner(name, copy.deepcopy(model), ops, pages=64, page_size=PAGE)
        for name, ops in (("plain", TorchOps()), ("fused", TritonOps()))
    ]
    return Twin(*runners)


@pytest.fixture(scope="module", params=SHAPES)
def pair(request: Any) -> Twin:
    return twin(request.param)


def column(*values: int) -> Tensor:
    return torch.tensor(values, device=DEVICE)


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=2e-4, atol=2e-5, equal_nan=True)


def forward(runner: Runner, slots: list[int], starts: list[int], queries: int, seed: int = 0) -> Tensor:
    ids = torch.randint(317, (len(slots) * queries,), generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    with torch.inference_mode():
        grid = runner.grid(column(*slots), column(*starts), queries, 8)
        return runner.model(ids, grid, None)


@pytest.mark.parametrize(
    ("lengths", "queries"),
    [((5,), 1), ((15, 0, 40), 1), (tuple(range(3, 35, 2)), 1), ((16,), 2), ((14, 0), 8), ((5, 31, 9), 7)],
    ids=["one", "three", "sixteen", "two tokens", "two times eight", "more than the kernels take"],
)
def test_a_fused_forward_is_the_plain_one(pair: Twin, lengths: tuple[int, ...], queries: int) -> None:
    """Rows of gate and up or of q and k in another order, a bias or a residual left out, a token at another's place, a
    key that is not yet there when it is attended to."""
    slots = pair.filled(*lengths)
    want, got = (forward(runner, slots, list(lengths), queries) for runner in pair)
    close(got, want)
    for mine, theirs in zip(pair.fused.cache.storages, pair.plain.cache.storages, strict=True):
        close(mine, theirs)
    close(pair.fused.model.logits(got), pair.plain.model.logits(want))
    assert (pair.fused.model.logits(got).argmax(-1) == pair.plain.model.logits(want).argmax(-1)).all()
    for runner in pair:
        for slot in slots:
            runner.cache.pool.close(slot)


@pytest.mark.parametrize("queries", [1, 4])
def test_padding_changes_nobody(pair: Twin, queries: int) -> None:
    """Seats without a sequence, and one at the end of its context, beside one that is decoding: its output must be what
    it is alone, and no page but its own may change. Catches a key written past the end of the table of pages."""
    slots = pair.filled(9, 3)
    alone = forward(pair.fused, slots[:1], [9], queries)
    cache = pair.fused.cache
    before = cache.storages[0].clone()
    ids = torch.randint(317, (queries,), generator=torch.Generator().manual_seed(0)).to(DEVICE).repeat(4)
    with torch.inference_mode():
        grid = pair.fused.grid(column(slots[0], 0, 0, slots[1]), column(9, 0, 0, 127), queries, 8)
        got = pair.fused.model(ids, grid, None)
    close(got[:queries], alone)
    close(cache.storages[0][:, :, 1:], before[:, :, 1:])


def test_a_ragged_batch_of_the_host_loop_is_fused_too(pair: Twin) -> None:
    """Feeds of several lengths in one forward, of which some rows are wanted: rows of another sequence."""
    want, got = [], []
    for runner, found in zip(pair, (want, got), strict=True):
        slots = [runner.cache.pool.open() for _ in range(3)]
        with torch.inference_mode():
            for feeds in ([(7, 1), (3, 3), (1, 1)], [(1, 1), (1, 1), (1, 1)], [(20, 2), (1, 1), (4, 0)]):
                ids = iter(range(40, 100))
                rows = [
                    Feed(slot, [next(ids) for _ in range(count)], wanted)
                    for slot, (count, wanted) in zip(slots, feeds, strict=True)
                ]
                found.append(runner.forward(rows))
    for mine, theirs in zip(got, want, strict=True):
        close(mine, theirs)


def choice_of(samplings: list[Sampling]) -> Choice:
    keys = [request_key(3, f"request {row}") for row in range(len(samplings))]
    positions = [11 * row for row in range(len(samplings))]
    return Choice(settings_of(samplings, DEVICE), torch.tensor(keys, device=DEVICE), column(*positions))


def assert_same_scores(got: Scores, want: Scores) -> None:
    for name in want.stats._fields:
        close(getattr(got.stats, name).float(), getattr(want.stats, name).float())
    close(got.given_Mw, want.given_Mw)
    assert got.token_M.tolist() == want.token_M.tolist()
    close(got.token_logprob_M, want.token_logprob_M)
    assert (got.logits_NV is None) <= (want.logits_NV is None)
    if want.logits_NV is not None:
        assert got.logits_NV is not None
        close(got.logits_NV, want.logits_NV)


DRAWN = Sampling(temperature=0.9)
FILTERED = Sampling(temperature=1.3, top_k=40, top_p=0.9, min_p=0.01)


@pytest.mark.parametrize("want_logits", [False, True])
@pytest.mark.parametrize(
    ("samplings", "width"),
    [
        ([None] * 3, 1),
        ([None] * 2, 4),
        ([DRAWN, Sampling(), DRAWN], 1),
        ([DRAWN, Sampling()], 3),
        ([FILTERED, DRAWN, Sampling()], 1),
        ([FILTERED, Sampling()], 2),
        ([DRAWN] * 18, 1),
        ([FILTERED, Sampling(), DRAWN], 6),
    ],
    ids=["greedy", "greedy of 4", "drawn", "drawn of 3", "filtered", "filtered of 2", "18 rows", "18 rows of 6"],
)
def test_scores_of_the_epilogue_are_those_of_the_logits(
    pair: Twin, samplings: list[Any], width: int, want_logits: bool
) -> None:
    """Statistics, log-probabilities and tokens that belong to another row, or a token of another draw."""
    groups = len(samplings)
    generator = torch.Generator().manual_seed(groups * 10 + width)
    hidden = (3 * torch.randn(groups * width, pair.plain.config.hidden_size, generator=generator)).to(DEVICE)
    ids = torch.randint(317, (groups, width), generator=generator).to(DEVICE)
    choice = None if samplings[0] is None else choice_of(samplings)
    plain, fused = (r.model.score(hidden, ids, choice, want_logits=want_logits) for r in pair)
    assert_same_scores(fused, plain)
    assert plain.logits_NV is None or want_logits


def test_a_broken_row_is_marked_and_the_others_are_not(pair: Twin) -> None:
    """NaN that spreads to batch mates, or an index of -1 that a later lookup stumbles over."""
    hidden = torch.randn(3, pair.plain.config.hidden_size, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    hidden[1, 2] = math.nan
    ids = column(4, 5, 6).unsqueeze(1)
    for choice in (None, choice_of([DRAWN, DRAWN, DRAWN])):
        plain, fused = (r.model.score(hidden, ids, choice, want_logits=True) for r in pair)
        assert fused.stats.lse.isnan().tolist() == plain.stats.lse.isnan().tolist() == [False, True, False]
        assert ((fused.token_M >= 0) & (fused.token_M < 317)).all()
        assert fused.token_M[::2].tolist() == plain.token_M[::2].tolist()


# --- engines ---


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    base = save_tiny(folder / "base", "wide-heads", seed=3, layers=1)
    return base, save_tiny(folder / "oracle", "biases", seed=4, layers=1)


def engine_of(folders, **options) -> Engine:
    sizes = {"dtype": "float32", "page_size": 16, "max_length": 128, "max_batch": 4, "chunk": 32}
    return Engine(folders[0], oracle=folders[1], device=str(DEVICE), **sizes, **options)


def test_the_device_loop_on_kernels_writes_what_the_host_loop_on_torch_writes(folders) -> None:
    """Prefill, decode, sync, burst and catch-up of several seats at once, greedy, drawn and filtered: a scalar of
    another seat, a strided column taken for a dense one, statistics of another row."""
    requests = [
        Request(prompt=[1, *range(5, 25)], c=2, k=3, trigger="every(3)", max_new_tokens=8, id="greedy"),
        Request(prompt=[1, 7], c=1, k=2, trigger="entropy > 1", when="after", max_new_tokens=6, temperature=1, id="a"),
        Request(
            prompt=[1, 50, 51], c=1, k=3, trigger="margin < 0.9", max_new_tokens=6, temperature=1.2, top_k=30,
            top_p=0.95, min_p=0.01, id="filtered",
        ),
    ]  # fmt: skip
    engines = engine_of(folders, ops="torch", loop="host"), engine_of(folders, ops="triton", loop="device")
    expected, found = ({result.request.id: result for result in engine.generate(requests)} for engine in engines)
    for name, result in found.items():
        assert result.error is None, result.error
        assert result.ids == expected[name].ids, name
        assert result.cheat_positions == expected[name].cheat_positions
        for signal in ("entropy", "varentropy", "margin", "logprob", "oracle_logprob", "oracle_rank"):
            assert result.signals[signal].tolist() == pytest.approx(
                expected[name].signals[signal].tolist(), rel=1e-3, abs=1e-4, nan_ok=True
            ), signal
    assert any(result.cheat_positions for result in found.values())


def test_a_step_on_kernels_asks_the_device_for_no_number(folders, monkeypatch) -> None:
    """A host synchronisation in a wrapper or in the step: it would stall every step, and fail a graph's capture."""
    engine = engine_of(folders, ops="triton", loop="device")
    run, ran = engine.loop.graphs.run, []

    def guarded(key: Any, program: Callable[[Tensor], Tensor], rows: list[int]) -> Tensor:
        def watched(rows_M: Tensor) -> Tensor:
            with no_host_reads():
                return program(rows_M)

        ran.append(key[0])
        return run(key, watched, rows)

    monkeypatch.setattr(engine.loop.graphs, "run", guarded)
    options = dict(c=1, k=2, trigger="entropy > 0.1 and position > 0", max_new_tokens=3, temperature=0.8, seed=1)
    requests = [Request(prompt=[1, 5, 6, 7], **options), Request(prompt=[1, 9], top_k=20, min_p=0.02, **options)]
    assert not any(result.error for result in engine.generate(requests))
    assert {shape.model for shape in ran} == {"base", "oracle"} and {shape.seats for shape in ran} >= {1, 2}


def test_the_guard_can_fail() -> None:
    """A guard that guards nothing."""
    with pytest.raises(AssertionError, match="looked at a value"), no_host_reads():
        torch.ones(1).item()


# --- launches ---


def pretend(shape: str, tokens: int, queries: int, monkeypatch: Any) -> list[str]:
    """Launches of one layer of a model on a GPU of 132 multiprocessors, with tensors that hold nothing.

    A tensor without values cannot be asked for one, so this is also a check of every shape on the way.
    """
    config = ARCHITECTURES[shape]
    monkeypatch.setattr(attention, "num_sms", lambda device: 132)
    meta = torch.device("meta")
    layer = Llama(LlamaConfig(**{**{f: getattr(config, f) for f in config.__slots__}, "num_layers": 1})).to(
        meta, torch.bfloat16
    ).layers[0]  # fmt: skip
    step = TritonOps().layer(layer.release(), 0, config)
    one = LlamaConfig(**{**{f: getattr(config, f) for f in config.__slots__}, "num_layers": 1})
    cache = PagedCache(one, pages=64, page_size=256, dtype=torch.bfloat16, device=meta)
    slots = torch.zeros(tokens // queries, dtype=torch.int64, device=meta)
    grid = TritonGrid(cache, slots, slots, queries)
    grid.rotate_by(*torch.empty(2, 8192, config.head_dim, dtype=torch.bfloat16, device=meta))
    with counted_launches(executed=False) as names:
        out = step(torch.empty(tokens, config.hidden_size, dtype=torch.bfloat16, device=meta), grid)
    assert out.shape == (tokens, config.hidden_size)
    return names


@pytest.mark.parametrize(
    ("shape", "tokens", "queries", "expected"),
    [
        ("1B", 1, 1, ["qkv", "attend", "combine", "linear", "linear", "linear", "reduce"]),
        ("1B", 16, 1, ["qkv", "attend", "combine", "linear", "linear", "linear", "reduce"]),
        ("8B", 1, 1, ["qkv", "reduce", "attend", "combine", "linear", "reduce", "linear", "linear", "reduce"]),
        ("1B", 16, 16, ["qkv", "attend", "combine", "linear", "linear", "linear", "reduce"]),
        ("1B", 32, 1, ["rms_norm", "rope", "attend", "rms_norm", "silu_mul"]),
    ],
)
def test_what_a_layer_launches_on_an_h200(shape, tokens, queries, expected, monkeypatch) -> None:
    """A step that falls back to the unfused form, or a wrapper that splits where it did not."""
    if not interpreting():
        pytest.skip("launches are counted where they need not run")
    names = pretend(shape, tokens, queries, monkeypatch)
    assert len(names) == len(expected), names
    assert all(part in name for part, name in zip(expected, names, strict=True)), names


def test_a_decode_step_is_five_launches_a_layer_and_two_for_the_head() -> None:
    """Where nothing is split, as in the interpreter; the greedy and the drawn token come with the head's two."""
    if not interpreting():
        pytest.skip("a GPU splits what the interpreter does not")
    runner = twin("gqa-tied", layers=2).fused
    slot = runner.cache.pool.open()
    runner.cache.reserve(slot, 8)
    for choice in (None, choice_of([DRAWN])):
        with torch.inference_mode(), counted_launches(executed=False) as names:
            grid = runner.grid(column(slot), column(0), 1, 1)
            hidden = runner.model(column(7), grid, None)
            runner.model.score(hidden, column(7).view(1, 1), choice, want_logits=True)
        assert len(names) == 2 * 5 + 2, names


def test_what_does_not_depend_on_the_layer_is_made_once_a_forward(monkeypatch) -> None:
    """Positions, slots and lengths computed in every layer: five small launches more in each."""
    runner = twin("gqa-tied", layers=3).fused
    slots = [runner.cache.pool.open() for _ in range(2)]
    seen: list[tuple[int, ...]] = []
    call = FusedLayer.__call__

    def noted(self: FusedLayer, x: Tensor, grid: TritonAttention) -> Tensor:
        tensors = [grid.positions_T, grid.slots_T, grid.lengths_M, grid.slots_M, *grid.rope]
        seen.append(tuple(tensor.data_ptr() for tensor in tensors))
        return call(self, x, grid)

    monkeypatch.setattr(FusedLayer, "__call__", noted)
    for slot in slots:
        runner.cache.reserve(slot, 4)
    with counted_launches(executed=False):
        forward(runner, slots, [0, 0], 1)
    assert len(seen) == 3 and len(set(seen)) == 1


def test_there_is_one_copy_of_each_weight() -> None:
    """An 8B has 15 GB of them: cuBLAS and the kernels must read the same tensors, in the checkpoint's layout."""
    config = config_of("biases-untied")
    model = Llama(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    before = {parameter.data_ptr() for parameter in model.parameters()}
    ops: Ops = TritonOps()
    model.prepare(ops, model.positions)
    (step,) = model._steps
    assert isinstance(step, FusedLayer)
    held = {weight.data_ptr() for weight in step.weights if weight is not None}
    held |= {model.head._weight_VE.data_ptr(), model.head._norm.weight_E.data_ptr(), model.embed.data_ptr()}
    assert held == before
