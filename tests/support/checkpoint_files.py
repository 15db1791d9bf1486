"""Checkpoint files for tests, good ones to break, and the comparison of a loaded model with what went into them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from dodona.engine.llama import Llama

EMBEDDED = Path(__file__).resolve().parents[2] / "engine" / "embedded" / "base"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def hf_model(**changes: Any) -> transformers.LlamaForCausalLM:
    """A tiny model of transformers; ``changes`` go to its config."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 317,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "max_position_embeddings": 256,
        "eos_token_id": 2,
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **changes}))
    for parameter in model.parameters():  # norms and biases too, so that none can be mistaken for another
        torch.nn.init.normal_(parameter)
    return model


def edit_json(path: Path, **changes: Any) -> None:
    """Change some keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of a folder's only safetensors file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})  # as save_pretrained writes it


def assert_equals_transformers(model: Llama, state: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Each fused parameter against the concatenation of what transformers has, and nothing left over."""
    expected = {"embed": state["model.embed_tokens.weight"], "norm": state["model.norm.weight"]}
    if not model.config.tie_word_embeddings:
        expected["lm_head"] = state["lm_head.weight"]
    for i in range(model.config.num_layers):
        layer = f"model.layers.{i}"
        expected[f"layers.{i}.attn_norm"] = state[f"{layer}.input_layernorm.weight"]
        expected[f"layers.{i}.mlp_norm"] = state[f"{layer}.post_attention_layernorm.weight"]
        for kind, suffix in {"weight": "", "bias": "_bias"}.items():
            for fused, parts in {
                "qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
                "o": ["self_attn.o_proj"],
                "gate_up": ["mlp.gate_proj", "mlp.up_proj"],
                "down": ["mlp.down_proj"],
            }.items():
                if f"{layer}.{parts[0]}.{kind}" in state:
                    expected[f"layers.{i}.{fused}{suffix}"] = torch.cat([state[f"{layer}.{p}.{kind}"] for p in parts])
    parameters = dict(model.named_parameters())
    assert parameters.keys() == expected.keys()
    for name, parameter in parameters.items():
        assert parameter.dtype == dtype
        assert not parameter.requires_grad
        assert torch.equal(parameter, expected[name].to(dtype)), name


def write_gguf(path: Path, theirs: transformers.LlamaForCausalLM, **changes: Any) -> Path:
    """A GGUF file as llama.cpp's converter writes it: q and k permuted. None leaves a key or a tensor out."""
    from gguf import GGUFWriter

    config = theirs.config
    fields = {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": 131072,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.rope.dimension_count": config.head_dim,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": 7,
        **{key.replace("__", "."): value for key, value in changes.items() if key != "tensors"},
    }
    writer = GGUFWriter(path, fields.pop("general.architecture", "llama"))
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("llama.rope.freq_base", 500000.0)
    for key, value in fields.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    short = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "o_proj": "attn_output"}
    short |= {f"{x}_proj": f"attn_{x}" for x in "qkv"} | {f"{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")}
    tensors = {}
    for name, tensor in theirs.state_dict().items():
        part = name.split(".")
        if part[1] == "layers":
            heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(part[-2])
            if heads:  # convert_hf_to_gguf.py, LlamaModel.permute
                tensor = tensor.reshape(heads, 2, config.head_dim // 2, -1).transpose(1, 2).reshape(tensor.shape)
            tensors[f"blk.{part[2]}.{short[part[-2]]}.{part[-1]}"] = tensor
        else:
            tensors[{"embed_tokens": "token_embd", "norm": "output_norm"}.get(part[-2], "output") + ".weight"] = tensor
    for name, tensor in {**tensors, **changes.get("tensors", {})}.items():
        if tensor is not None:
            writer.add_tensor(name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
