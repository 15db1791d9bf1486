"""Models as folders that every peer can read: the same weights for all of them, whatever the name stood for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from dodona.engine.checkpoint import Checkpoint, open_checkpoint
from dodona.engine.safetensors_folder import SafetensorsFolder

SHARD_BYTES = 4 << 30


class Prepared(NamedTuple):
    """A model on the disk in Hugging Face format."""

    name: str  # as the user gave it
    folder: Path
    ends: tuple[int, ...]  # end tokens
    context: int
    parameters: int


def prepare(name: str, scratch: Path) -> Prepared:
    """The model's own folder where it has one; else its weights, written once (GGUF is dequantised by it).

    Raises:
        CheckpointError: a model that cannot be used.
    """
    checkpoint = open_checkpoint(name)
    if isinstance(checkpoint.store, SafetensorsFolder) and not checkpoint.dropped_layers:
        folder = checkpoint.store.folder
    else:
        folder = scratch / "".join(letter if letter.isalnum() else "-" for letter in name)
        if not folder.exists():
            _write(checkpoint, folder)
    config = checkpoint.config
    ends = checkpoint.tokenizer().eos_ids
    return Prepared(name, folder, ends, config.max_position_embeddings, config.num_parameters)


def _write(checkpoint: Checkpoint, folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    places: dict[str, str] = {}
    shard: dict[str, Tensor] = {}

    def flush() -> None:
        file = f"model-{len(set(places.values())) + 1:05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(shard, file))
        shard.clear()

    for key, tensor in checkpoint.tensors():
        shard[key] = tensor.contiguous()
        if sum(kept.nbytes for kept in shard.values()) >= SHARD_BYTES:
            flush()
    if shard:
        flush()
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(_hf_config(checkpoint), indent=1), encoding="utf-8")
    checkpoint.store.fast_tokenizer().save_pretrained(folder)


def _hf_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """config.json in the layout of transformers 4, which 5 reads as well."""
    config = checkpoint.config
    rope: dict[str, Any] | None = None
    if (scaling := config.rope_scaling) is not None:
        rope = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            rope |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_position_embeddings,
            }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.eos_token_ids) or None,
        "torch_dtype": str(checkpoint.dtype).removeprefix("torch."),
    }
