"""The signals that are computed where they are asked for: attention of a layer over live keys, KL and JS."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_models import reference, save_tiny
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from dodona.engine.attention_stats import ATTENTION_SIGNALS
from dodona.engine.divergence import divergence_of_logits
from dodona.engine.engine import Engine
from dodona.engine.errors import RequestError
from dodona.engine.replay import replay
from dodona.engine.request import Request
from dodona.engine.trace import TraceWriter, read_traces

PROMPT = [1, *range(5, 24)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return save_tiny(folder / "base", "gqa-tied", seed=3, layers=3), save_tiny(folder / "oracle", "mha-untied", seed=4)


@pytest.fixture(scope="module")
def engine(folders):
    return Engine(folders[0], oracle=folders[1], device="cpu", page_size=8)


def attention_of(model, ids: list[int], layer: int) -> dict[str, np.ndarray]:
    """The four signals at every position by their definitions, from transformers' weights and one whole forward."""
    with torch.no_grad():
        hidden = model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer]
        block = model.model.layers[layer]
        x = block.input_layernorm(hidden)
        config, size = model.config, block.self_attn.head_dim
        cos, sin = model.model.rotary_emb(x, torch.arange(len(ids)).unsqueeze(0))
        q = block.self_attn.q_proj(x).view(1, len(ids), -1, size).transpose(1, 2)
        k = block.self_attn.k_proj(x).view(1, len(ids), -1, size).transpose(1, 2)
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        k = k.repeat_interleave(config.num_attention_heads // config.num_key_value_heads, 1)
        scores = (q @ k.transpose(-1, -2))[0].double() / math.sqrt(size)
    rows = []
    for position in range(len(ids)):
        live = scores[:, position, : position + 1]
        a = live.softmax(-1)
        entropy = -(a * a.log()).sum(-1)
        rows.append((entropy.mean(), entropy.var(correction=0), (a - a.mean(0)).abs().mean(), live.abs().mean()))
    return dict(zip(ATTENTION_SIGNALS, np.array(rows).T, strict=True))


@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_attention_signals_equal_their_definitions_over_live_keys(folders, engine, layer):
    """Catches a second softmax, padding that counts as keys, an axis of length one, or another layer's queries."""
    for c in (0, 3):
        result = engine.generate(PROMPT, c=c, k=4, trigger="every(5)", max_new_tokens=30, attention_layer=layer)
        expected = attention_of(reference(folders[0]), PROMPT + result.ids, layer % 3)
        first = len(PROMPT) - 1  # the query whose output gives generated position 0
        for name in ATTENTION_SIGNALS:
            np.testing.assert_allclose(
                result.signals[name],
                expected[name][first : first + len(result.ids)],
                rtol=1e-3,
                atol=1e-5,
                err_msg=name,
            )


def test_attention_signals_do_not_depend_on_batch_mates(engine):
    """Catches rows of one forward that get another sequence's keys."""
    requests = [
        Request(
            prompt=PROMPT[: 3 + 4 * i],
            c=2,
            k=3,
            trigger="every(4)",
            max_new_tokens=20,
            attention_layer=i % 3,
            id=str(i),
        )
        for i in range(5)
    ] + [Request(prompt=PROMPT, c=1, k=2, trigger="every(3)", max_new_tokens=9, id="none")]
    together = {result.request.id: result for result in engine.generate(iter(requests))}
    assert "attn_entropy" not in together["none"].signals
    for request in requests[:-1]:
        alone = engine.generate(request)
        for name in ATTENTION_SIGNALS:
            np.testing.assert_allclose(together[request.id].signals[name], alone.signals[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "trigger", ["attn_entropy > 1.9", "interaction_strength < 0.9 and entropy > 0.5", "ema(agreement, 0.5) < 0.02"]
)
def test_a_trigger_on_attention_decides_live_as_in_the_replay(engine, trigger, when, tmp_path):
    """Invariant 7 for attention signals. Catches a trigger that reads last step's attention, or none."""
    requests = [
        Request(prompt=PROMPT[: 4 + 5 * i], c=3, k=3, trigger=trigger, when=when, max_new_tokens=30) for i in range(4)
    ]
    results = list(engine.generate(iter(requests)))
    with TraceWriter(tmp_path / "trace.parquet") as writer:
        for result in results:
            writer.write(result)
    assert [replay(columns) for columns in read_traces(tmp_path / "trace.parquet")] == [
        result.cheat_positions for result in results
    ]
    assert any(result.consults for result in results)
    last = engine.generate(requests[-1], attention_layer=-1)
    for name in ATTENTION_SIGNALS:  # of the last layer, unless another is asked for
        np.testing.assert_allclose(results[-1].signals[name], last.signals[name], rtol=1e-4, atol=1e-6)


def test_logits_made_in_blocks_are_those_made_at_once(engine, monkeypatch):
    """Catches rows of a block that get another one's positions, attention or hidden states, or are left out."""
    options = {"c": 2, "k": 7, "trigger": "every(8)", "max_new_tokens": 30, "ignore_eos": True}
    options |= {"attention_layer": -1, "divergence": True, "oracle_tail": True}
    expected = engine.generate(PROMPT, **options).signals
    for module in ("loop", "divergence"):
        monkeypatch.setattr(f"dodona.engine.{module}._LOGITS_AT_ONCE", 3 * engine.base.config.vocab_size)
    found = engine.generate(PROMPT, **options).signals
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_kl_and_js_equal_teacher_forced_float64(folders, engine):
    """Catches hidden states of another position, a swapped direction, or a divergence of renormalised top tokens."""
    result = engine.generate(PROMPT, c=2, k=4, trigger="every(6)", max_new_tokens=40, divergence=True, oracle_tail=True)
    text = torch.tensor([PROMPT + result.ids])
    with torch.no_grad():
        rows = [reference(folder)(text).logits[0, len(PROMPT) - 1 : -1].double().log_softmax(-1) for folder in folders]
    base, oracle = rows
    middle = torch.logaddexp(base, oracle) - math.log(2)
    kl = (base.exp() * (base - oracle)).sum(-1)
    js = ((base.exp() * (base - middle)).sum(-1) + (oracle.exp() * (oracle - middle)).sum(-1)) / 2
    np.testing.assert_allclose(result.signals["kl"], kl.numpy(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(result.signals["js"], js.numpy(), rtol=1e-3, atol=1e-5)


def test_divergence_is_null_where_only_one_model_has_looked(engine, tmp_path):
    """Catches values that are made up for the tail, and a trace that loses them."""
    result = engine.generate(PROMPT, c=1, k=2, trigger="at(4)", max_new_tokens=20, divergence=True)
    assert not np.isnan(result.signals["js"][:6]).any() and np.isnan(result.signals["js"][6:]).all()
    alone = engine.generate(PROMPT, c=0, max_new_tokens=5, divergence=True)
    assert np.isnan(alone.signals["kl"]).all() and len(alone.signals["kl"]) == 5
    with TraceWriter(tmp_path / "trace.parquet") as writer:
        writer.write(result)
    (columns,) = read_traces(tmp_path / "trace.parquet")
    np.testing.assert_allclose(columns["js"], result.signals["js"])


def test_divergence_of_extreme_rows_is_finite_or_infinite_and_never_negative():
    """Catches 0 * inf, and rounding below 0 or above ln 2."""
    inf = math.inf
    base = torch.tensor([[0.0, 0.0, -inf], [500.0, 0.0, 0.0], [1.0, 2.0, 3.0], [0.0, -inf, -inf]])
    oracle = torch.tensor([[0.0, -inf, 0.0], [0.0, 500.0, 0.0], [1.0, 2.0, 3.0], [-inf, 0.0, -inf]])
    kl, js = divergence_of_logits(base, oracle)
    assert kl[0] == inf and kl[2] == 0 and js[2] == 0 and kl[3] == inf
    assert js[1] == pytest.approx(math.log(2)) and js[3] == pytest.approx(math.log(2)) and 0 < js[0] < math.log(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_layer": 3}, "none of the base's 3 layers"),
        ({"attention_layer": -4}, "none of the base's 3 layers"),
        ({"attention_layer": 1.5}, "attention_layer must be a whole number"),
    ],
)
def test_layers_that_are_not_there_are_refused(engine, options, message):
    """One clear line."""
    with pytest.raises(RequestError, match=message):
        engine.generate(PROMPT, max_new_tokens=3, **options)


def test_signals_that_a_loop_or_a_lone_base_cannot_give_are_refused(folders):
    """Catches a silent null column."""
    device = Engine(folders[0], oracle=folders[1], device="cpu", loop="device", page_size=8)
    for options in ({"divergence": True}, {"attention_layer": 0}, {"c": 1, "trigger": "attn_entropy > 1"}):
        with pytest.raises(RequestError, match="set loop='host'"):
            device.generate(PROMPT, max_new_tokens=3, **options)
    with pytest.raises(RequestError, match="none is loaded"):
        Engine(folders[0], device="cpu").generate(PROMPT, max_new_tokens=3, divergence=True)
