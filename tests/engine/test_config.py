"""The architecture as read from config.json files, and the numbers that memory plans and ledgers take from it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import transformers

from dodona.engine.config import LlamaConfig, RopeScaling, rope_frequencies
from dodona.engine.errors import CheckpointError

SIZES: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}


def read(**changes: Any) -> LlamaConfig:
    return LlamaConfig.from_hf({**SIZES, **changes}, name="tiny")


def in_transformers(**changes: Any) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(**{k: v for k, v in {**SIZES, **changes}.items() if k != "model_type"})


@pytest.mark.parametrize(
    "scaling", [{}, {"rope_type": "linear", "factor": 4.0}, LLAMA3], ids=["default", "linear", "llama3"]
)
def test_the_layouts_of_transformers_4_and_5_give_one_config(scaling: dict[str, Any]) -> None:
    """Catches a rope setting that is read in one layout and silently defaulted in the other."""
    old = read(rope_theta=500000.0, rope_scaling=scaling or None)
    new = read(rope_parameters={"rope_theta": 500000.0, "rope_type": "default", **scaling})
    assert old == new
    assert old.rope_theta == 500000.0
    assert (old.rope_scaling is None) == (not scaling)


def test_the_oldest_layout_names_its_rope_type_type() -> None:
    """Catches reading ``rope_type`` alone, which drops the scaling of checkpoints from 2023."""
    assert read(rope_scaling={"type": "linear", "factor": 2}).rope_scaling == RopeScaling(kind="linear", factor=2.0)


@pytest.mark.parametrize("bias", [False, True])
def test_what_the_installed_transformers_writes_is_read_back(bias: bool) -> None:
    """Catches a field that the installed version of transformers has renamed."""
    theirs = in_transformers(
        head_dim=10, rms_norm_eps=1e-5, tie_word_embeddings=True, attention_bias=bias, mlp_bias=bias
    )
    config = LlamaConfig.from_hf(theirs.to_dict(), name="tiny")
    assert config == LlamaConfig(
        vocab_size=320,
        hidden_size=48,
        intermediate_size=80,
        num_layers=3,
        num_heads=6,
        num_kv_heads=2,
        head_dim=10,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        rope_scaling=None,
        tie_word_embeddings=True,
        attention_bias=bias,
        mlp_bias=bias,
        bos_token_id=1,
        eos_token_ids=(2,),
    )


def test_what_a_config_leaves_out_has_transformers_defaults() -> None:
    """Catches a default of our own, with which an old checkpoint would compute something else than in transformers."""
    sparse = {k: v for k, v in SIZES.items() if k not in ("num_key_value_heads", "max_position_embeddings")}
    theirs = transformers.LlamaConfig(**{k: v for k, v in sparse.items() if k != "model_type"})
    assert LlamaConfig.from_hf(sparse, name="tiny") == LlamaConfig.from_hf(theirs.to_dict(), name="tiny")


def test_head_dim_may_differ_from_hidden_size_over_heads() -> None:
    """Catches deriving head_dim, which is wrong for pruned models."""
    assert read(head_dim=32).head_dim == 32
    assert read(head_dim=None).head_dim == read().head_dim == 8


def test_end_tokens_may_be_one_a_list_or_none() -> None:
    """Catches taking only the first of Llama 3's three end tokens: generation would run on after an answer."""
    assert read(eos_token_id=[128001, 128008, 128009]).eos_token_ids == (128001, 128008, 128009)
    assert read(eos_token_id=7).eos_token_ids == (7,)
    assert read(eos_token_id=None, bos_token_id=None).eos_token_ids == ()
    assert read(bos_token_id=None).bos_token_id is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "qwen2"),
        ({"model_type": "mistral", "architectures": ["MistralForCausalLM"]}, "mistral"),
        ({"model_type": None, "architectures": None}, "no model_type"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"architectures": "LlamaForCausalLM"}, "architectures is 'LlamaForCausalLM', not a list"),
        ({"architectures": 3}, "architectures is 3, not a list"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "'dynamic'"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "'longrope'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "not above low_freq_factor"),
        ({"rope_scaling": {**LLAMA3, "low_freq_factor": None}}, "low_freq_factor is missing"),
        ({"rope_scaling": "linear"}, "'linear', not an object"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"num_key_value_heads": 4}, "6 is not a multiple of num_key_value_heads 4"),
        ({"hidden_size": 50}, "50 is not a multiple of num_attention_heads 6"),
        ({"head_dim": 9}, "head_dim 9 is odd"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers is '3'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"intermediate_size": 80.0}, "intermediate_size is 80.0"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5'"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>'"),
        ({"bos_token_id": 1.0}, "bos_token_id is 1.0"),
    ],
)
def test_a_config_that_dodona_cannot_run_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    """Catches loading another architecture as if it were Llama: fluent nonsense and no error."""
    with pytest.raises(CheckpointError, match=r"^tiny: ") as caught:
        read(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_cannot_be_changed_or_given_unknown_fields() -> None:
    """Catches misspelt options that are silently dropped."""
    config = read()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_layers = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        dataclasses.replace(config, layers=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("theta", [10000.0, 500000.0, 123457.0])
@pytest.mark.parametrize("head_dim", [8, 64, 128])
@pytest.mark.parametrize(
    "scaling", [None, {"rope_type": "linear", "factor": 3.0}, LLAMA3], ids=["default", "linear", "llama3"]
)
def test_rope_frequencies_equal_transformers_bit_for_bit(
    theta: float, head_dim: int, scaling: dict[str, Any] | None
) -> None:
    """Catches a formula that is off by rounding, which flips near-ties and breaks equality with transformers."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    ours = read(head_dim=head_dim, rope_theta=theta, rope_scaling=scaling)
    if int(transformers.__version__.split(".")[0]) >= 5:
        theirs = in_transformers(
            head_dim=head_dim, rope_parameters={"rope_theta": theta, "rope_type": "default", **(scaling or {})}
        )
    else:
        theirs = in_transformers(head_dim=head_dim, rope_theta=theta, rope_scaling=scaling)
    frequencies = rope_frequencies(ours)
    assert frequencies.dtype == torch.float32
    assert frequencies.shape == (head_dim // 2,)
    assert torch.equal(frequencies, LlamaRotaryEmbedding(theirs).inv_freq)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_parameter_count_is_that_of_transformers_model(tied: bool, bias: bool) -> None:
    """Catches a memory plan that forgets biases or counts tied embeddings twice."""
    changes = {"head_dim": 10, "tie_word_embeddings": tied, "attention_bias": bias, "mlp_bias": bias}
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(in_transformers(**changes))
    assert read(**changes).num_parameters == model.num_parameters()


def test_flops_are_those_that_pytorch_counts_in_transformers_model() -> None:
    """Catches a ledger that is off by a factor: the context term, the output matrix or the two of multiply-add."""
    from torch.utils.flop_counter import FlopCounterMode

    model = transformers.LlamaForCausalLM(in_transformers(head_dim=10, attn_implementation="eager"))
    tokens = 12
    with FlopCounterMode(display=False) as counter:  # eager attention multiplies all tokens with all tokens
        model(torch.arange(tokens).unsqueeze(0))
    rope = 2 * tokens * 5  # transformers 4 makes its rotary angles with a product
    assert counter.get_total_flops() - tokens * read(head_dim=10).flops_per_token(tokens) in (0, rope)


def test_kv_bytes_are_those_of_transformers_cache() -> None:
    """Catches a memory plan with query heads in place of key/value heads."""
    model = transformers.LlamaForCausalLM(in_transformers(head_dim=10))
    tokens = 5
    cache = model(torch.arange(tokens).unsqueeze(0), use_cache=True).past_key_values
    stored = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert tokens * read(head_dim=10).kv_bytes_per_token(itemsize=4) == stored
