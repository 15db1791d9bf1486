"""The invariants of docs/design.md for both loops, against transformers alone (fp32, CPU, token for token)."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from naive_reference import guided, signals_of
from tiny_models import SHAPES, reference, save_tiny

from dodona.engine.engine import Engine
from dodona.engine.replay import replay
from dodona.engine.request import Request
from dodona.engine.trace import TraceWriter, read_traces

PAIRS = [
    ("gqa-tied", "mha-untied"),
    ("llama3-rope", "gqa-tied"),
    ("wide-heads", "llama3-rope"),
    ("biases", "wide-heads"),
]
HOST = {"loop": "host"}
DEVICE = [{"loop": "device", "lookahead": lookahead} for lookahead in (1, 2, 8)]
CASES = [(PAIRS[0], loop) for loop in (HOST, *DEVICE)] + [
    (names, loop) for names in PAIRS[1:] for loop in (HOST, DEVICE[1])
]
INF = math.inf


class Pair:
    """Two tiny checkpoints, our engine over both, and the same two in transformers."""

    def __init__(self, folder, base: str, oracle: str, loop: dict) -> None:
        self.loop = loop
        self.base_folder = save_tiny(folder / "base", base, seed=1, layers=2)
        self.oracle_folder = save_tiny(folder / "oracle", oracle, seed=2)
        self.engine = Engine(self.base_folder, oracle=self.oracle_folder, device="cpu", page_size=8, chunk=16, **loop)
        self.base, self.oracle = reference(self.base_folder), reference(self.oracle_folder)


def case_name(case) -> str:
    (base, oracle), loop = case
    return f"{base}+{oracle}-" + "".join(str(value) for value in loop.values())


@pytest.fixture(scope="module", params=CASES, ids=case_name)
def pair(request, tmp_path_factory):
    names, loop = request.param
    return Pair(tmp_path_factory.mktemp("pair"), *names, loop)


def prompts(seed: int, count: int, longest: int = 40) -> list[list[int]]:
    rng = random.Random(seed)
    return [[1] + [rng.randrange(3, 317) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def transformers_greedy(model, prompt: list[int], max_new_tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=2,
        pad_token_id=0,
    )  # fmt: skip
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("loop", (HOST, DEVICE[1]), ids=("host", "device"))
@pytest.mark.parametrize("shape", SHAPES)
def test_the_base_alone_equals_transformers_generate(shape, loop, tmp_path):
    """Catches wrong rope, grouped heads, biases, norms, tied heads, cache offsets: anything that moves one token."""
    folder = save_tiny(tmp_path / "model", shape, seed=5)
    engine, model = Engine(folder, device="cpu", page_size=8, chunk=16, **loop), reference(folder)
    for prompt in prompts(1, 4, longest=60):
        result = engine.generate(prompt, c=0, max_new_tokens=40)
        assert result.ids == transformers_greedy(model, prompt, 40)
        assert set(result.sources) <= {0}


def test_no_consults_equals_the_base_alone_with_an_oracle_loaded(pair):
    """Catches an oracle that leaks into a run that never consults it."""
    for prompt in prompts(2, 3):
        result = pair.engine.generate(prompt, c=0, max_new_tokens=30)
        assert result.ids == transformers_greedy(pair.base, prompt, 30)
        assert result.ledger.oracle_forwards == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_always_without_limits_equals_the_oracle_alone(pair, when):
    """Catches a burst that ends early, or base tokens that slip in; after the commit, the first token is the base's."""
    for prompt in prompts(3, 3):
        result = pair.engine.generate(prompt, c=INF, k=INF, trigger="always", when=when, max_new_tokens=30)
        if when == "before":
            assert result.ids == transformers_greedy(pair.oracle, prompt, 30)
            assert set(result.sources) == {1}
        elif len(result.ids) > 1:
            assert result.ids[1:] == transformers_greedy(pair.oracle, prompt + result.ids[:1], 29)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "trigger", ["always", "random", "entropy > 1.0", "every(3)", "margin < 0.3 and since_consult >= 4"]
)
def test_the_base_as_its_own_oracle_writes_the_base_text(pair, when, trigger):
    """Catches a hand-off that loses, repeats or shifts a token, whatever the trigger does."""
    engine = Engine(pair.base_folder, oracle=pair.base_folder, device="cpu", page_size=8, chunk=16, **pair.loop)
    for prompt in prompts(4, 2):
        result = engine.generate(prompt, c=INF, k=3, trigger=trigger, when=when, max_new_tokens=30)
        assert result.ids == transformers_greedy(pair.base, prompt, 30)


TRIGGERS = {
    "entropy > 1.5": lambda s: s["entropy"] > 1.5,
    "varentropy > 1.0 and position >= 3": lambda s: s["varentropy"] > 1.0 and s["position"] >= 3,
    "margin < 0.3 and since_consult >= 4": lambda s: s["margin"] < 0.3 and s["since_consult"] >= 4,
    "0.8*entropy - 1.2*margin > 0.9 or top_prob < 0.1": lambda s: (
        0.8 * s["entropy"] - 1.2 * s["margin"] > 0.9 or s["top_prob"] < 0.1
    ),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("text", TRIGGERS)
def test_a_guided_run_equals_the_naive_decoder(pair, when, text):
    """Invariant 4. The naive decoder keeps no cache and shares no code; its signals at every position must be ours."""
    rng = random.Random(f"{text}{when}")
    for prompt in prompts(hash(text) % 1000, 2, longest=30):
        c, k = rng.choice([1, 2, 5, INF]), rng.choice([1, 2, 5, 9])
        expected = guided(
            pair.base, pair.oracle, prompt, c=c, k=k, fires=TRIGGERS[text], when=when, max_new_tokens=28, eos={2}
        )
        result = pair.engine.generate(prompt, c=c, k=k, trigger=text, when=when, max_new_tokens=28)
        assert result.ids == expected.ids
        assert [token.source for token in result.tokens] == expected.sources
        assert result.cheat_positions == expected.starts
        for name in ("entropy", "varentropy", "top_prob", "margin"):
            ours = result.signals[name]
            theirs = np.array([row[name] for row in expected.signals[: len(ours)]])
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5, err_msg=name)


def test_the_oracle_columns_equal_teacher_forced_oracle_logits(pair):
    """Invariant 8, and the base's logprob column: catches rows that are shifted by one or belong to another token."""
    for prompt in prompts(6, 3):
        result = pair.engine.generate(
            prompt, c=3, k=4, trigger="entropy > 1.5", max_new_tokens=40, oracle_tail=True, base_tail=True
        )
        text = torch.tensor([prompt + result.ids])
        with torch.no_grad():
            oracle = pair.oracle(text).logits[0, len(prompt) - 1 : -1].double()
            base = pair.base(text).logits[0, len(prompt) - 1 : -1].double()
        ids = torch.tensor(result.ids)
        rows = torch.arange(len(ids))
        logp = oracle.log_softmax(-1)
        expected = {
            "oracle_logprob": logp[rows, ids],
            "oracle_rank": 1 + (oracle > oracle[rows, ids].unsqueeze(1)).sum(-1),
            "oracle_top1": oracle.argmax(-1),
            "oracle_entropy": -(logp.exp() * logp).sum(-1),
            "oracle_margin": torch.tensor([signals_of(row)["margin"] for row in oracle]),
            "agree": oracle.argmax(-1) == base.argmax(-1),
            "logprob": base.log_softmax(-1)[rows, ids],
            "base_top1": base.argmax(-1),
        }
        for name, values in expected.items():
            np.testing.assert_allclose(result.signals[name], values.numpy(), rtol=2e-4, atol=5e-5, err_msg=name)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "trigger",
    [
        "entropy > 1.2",
        "random(p0=0.5, step_size=4)",
        "uniform(L=20)",
        "every(5)",
        "at(2, 3, 11)",
        "ema(entropy, 0.8) > 1.2 and u < 0.7",
        "boundary and since_consult > 6",
    ],
)
def test_replaying_the_trigger_over_the_trace_gives_the_consults_that_happened(pair, when, trigger, tmp_path):
    """Invariant 7: the same text decides the same online (torch) and offline (NumPy on Parquet columns)."""
    requests = [
        Request(prompt=prompt, c=c, k=k, trigger=trigger, when=when, max_new_tokens=30, seed=7, max_oracle_tokens=cap)
        for prompt, (c, k, cap) in zip(
            prompts(8, 4), [(2, 3, None), (INF, 1, None), (4, 4, 9), (1, INF, 12)], strict=True
        )
    ]
    results = list(pair.engine.generate(requests))
    with TraceWriter(tmp_path / "trace.parquet") as trace:
        for result in results:
            trace.write(result)
    replayed = [replay(columns) for columns in read_traces(tmp_path / "trace.parquet")]
    assert replayed == [result.cheat_positions for result in results]
    assert any(replayed)


def test_the_ledger_equals_the_forwards_that_really_ran(pair, monkeypatch):
    """Invariant 9: counts are compared with what the two models were called with, batch members and all."""
    ran: dict[str, list[int]] = {"base": [], "oracle": []}
    if pair.loop == HOST:
        for name in ran:
            model = getattr(pair.engine, name).model
            original = model.forward
            monkeypatch.setattr(
                model,
                "forward",
                lambda ids, *rest, log=ran[name], f=original: (log.append(ids.shape[0]), f(ids, *rest))[1],
            )
    else:  # a program's forward is padded, and may find nothing to read: what counts is the tokens it was given
        for name, step in pair.engine.loop._steps.items():
            original = step._forward
            monkeypatch.setattr(
                step,
                "_forward",
                lambda *args, log=ran[name], f=original: (log.extend(n for n in args[-1].tolist() if n), f(*args))[1],
            )
    results = [
        pair.engine.generate(prompt, c=3, k=4, trigger="entropy > 1.5", max_new_tokens=30, oracle_tail=True)
        for prompt in prompts(9, 4)
    ]
    ledgers = [result.ledger for result in results]
    assert sum(ledger.base_fed for ledger in ledgers) == sum(ran["base"])
    assert sum(ledger.oracle_fed for ledger in ledgers) == sum(ran["oracle"])
    assert sum(ledger.base_forwards for ledger in ledgers) == len(ran["base"])
    assert sum(ledger.oracle_forwards for ledger in ledgers) == len(ran["oracle"])
    for result, ledger in zip(results, ledgers, strict=True):
        assert ledger.burst_tokens == int(result.sources.sum())
        assert ledger.base_tokens + ledger.burst_tokens == len(result.ids)
        assert ledger.consults == result.consults
        assert ledger.prefill_tokens == len(result.prompt_ids)
        assert ledger.wasted_steps == ledger.consults  # the trigger decides before the commit
        for name, fed in (("base", ledger.base_fed), ("oracle", ledger.oracle_fed)):
            flops = sum(getattr(pair.engine, name).config.flops_per_token(seen) for seen in range(1, fed + 1))
            assert getattr(ledger, f"{name}_flops") == pytest.approx(flops)


def test_both_caches_give_every_page_back(pair):
    """Catches slots and pages that leak with every request."""
    list(pair.engine.generate(prompts(10, 9), c=2, k=3, trigger="random", max_new_tokens=20))
    for runner in (pair.engine.base, pair.engine.oracle):
        assert runner.cache.pool.free_pages == runner.cache.pool.pages
        assert runner.cache.pool.open_slots == 0
