"""Tiny Llama checkpoints for tests, in the shapes that matter: GQA, tied and untied heads, llama3 rope, biases."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

EMBEDDED = Path(__file__).resolve().parents[2] / "engine" / "embedded"
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPES = {
    "gqa-tied": dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True),
    "mha-untied": dict(hidden_size=48, num_attention_heads=3, num_key_value_heads=3, tie_word_embeddings=False),
    "llama3-rope": dict(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=1, tie_word_embeddings=False, rope=LLAMA3_ROPE
    ),
    "wide-heads": dict(
        hidden_size=48, num_attention_heads=3, num_key_value_heads=1, head_dim=32, tie_word_embeddings=True
    ),
    "biases": dict(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, attention_bias=True,
        mlp_bias=True,
    ),
}  # fmt: skip


def save_tiny(folder: Path, shape: str, *, seed: int = 0, layers: int = 3, spread: float = 0.15) -> Path:
    """Save a random Llama with the embedded tokenizer; ``spread`` is wide enough for varied, confident tokens."""
    options = dict(SHAPES[shape])
    rope = options.pop("rope", None)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=317,
        intermediate_size=96,
        num_hidden_layers=layers,
        max_position_embeddings=512,
        eos_token_id=2,
        bos_token_id=1,
        pad_token_id=0,
        **options,
    )
    if rope is not None and hasattr(config, "rope_parameters"):
        config.rope_parameters = rope
    elif rope is not None:  # transformers 4
        config.rope_theta = rope["rope_theta"]
        config.rope_scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 or "bias" in name:
            torch.nn.init.normal_(parameter, std=spread)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(EMBEDDED / "base" / name, folder / name)
    return folder


def reference(folder: Path) -> LlamaForCausalLM:
    """The same checkpoint in transformers, float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
