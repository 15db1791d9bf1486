"""Llama models in GGUF files: the architecture, and the weights under Hugging Face names.

Everything comes from the file itself and not from transformers' GGUF loader, which holds the whole dequantised model
in memory at once and leaves out Llama 3's rope scaling.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dodona.engine.config import LlamaConfig, RopeScaling, rope_frequencies, token_ids
from dodona.engine.errors import CheckpointError
from dodona.engine.gguf_file import GgufFile
from dodona.engine.gguf_tokenizer import BYTE_LEVEL_PRE, byte_level_tokenizer, sentencepiece_tokenizer
from dodona.engine.weights import Shapes, Source, digest_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

ROPE_FACTORS = "rope_freqs.weight"
_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")


class GgufWeights:
    """One Llama model in a GGUF file.

    Raises:
        CheckpointError: when the file is torn, one part of several, or holds another architecture.
    """

    source: Source = "gguf"
    dtype = torch.float32  # of the dequantised tensors

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._file = GgufFile(path)
        self._names = {_hf_name(tensor): tensor for tensor in self._file.infos if tensor != ROPE_FACTORS}
        self.config = self._read_config()

    @property
    def shapes(self) -> Shapes:
        """Hugging Face name and shape of each tensor."""
        return {hf_name: self._file.infos[tensor].shape for hf_name, tensor in self._names.items()}

    def tensors(self, keep: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
        """The kept tensors, dequantised to float32 one at a time."""
        for hf_name, tensor in self._names.items():
            if not keep(hf_name):
                continue
            weight = self._file.tensor(tensor)
            # GGUF stores q and k for interleaved rotary pairs, Hugging Face for half-split ones.
            if ".q_proj." in hf_name:
                weight = _half_split(weight, self.config.num_heads)
            elif ".k_proj." in hf_name:
                weight = _half_split(weight, self.config.num_kv_heads)
            yield hf_name, weight

    def digest(self) -> str:
        """Hash over the metadata, the size and sampled blocks."""
        return digest_file(self._file.path, self._file.header_bytes)

    def fast_tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer from the metadata: built here for the kinds that Llama models have, else by transformers."""
        metadata, path = self._file.metadata, self._file.path
        kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "gpt-2")
        if kind is None:
            raise CheckpointError(f"{self.name}: {path} has no tokenizer")
        try:
            if kind == "llama":
                return sentencepiece_tokenizer(metadata)
            if kind == "gpt2" and pre in BYTE_LEVEL_PRE:
                return byte_level_tokenizer(metadata, pre)
            from transformers import AutoTokenizer, PreTrainedTokenizerFast

            logger.info("%s: the %s tokenizer (%s) is read by transformers' GGUF converter", self.name, kind, pre)
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
        except Exception as error:  # a damaged vocabulary; tokenizers and the converter raise whatever they met
            raise CheckpointError(f"{self.name}: the tokenizer in {path} cannot be read ({error})") from error
        assert isinstance(tokenizer, PreTrainedTokenizerFast)
        return tokenizer

    def _read_config(self) -> LlamaConfig:
        metadata, name = self._file.metadata, self.name
        architecture = metadata.get("general.architecture")
        title = f"{metadata.get('general.name', '')} {metadata.get('general.basename', '')}".lower()
        for other in ("mistral", "mixtral"):  # converted under the architecture name llama
            architecture = other if architecture == "llama" and other in title else architecture
        if metadata.get("llama.expert_count"):
            architecture = "a mixture of experts"
        if metadata.get("split.count", 1) not in (0, 1):
            raise CheckpointError(
                f"{name}: {self._file.path} is one of {metadata['split.count']} parts; merge them first (gguf-split)"
            )
        if metadata.get("llama.attention.sliding_window"):
            raise CheckpointError(f"{name}: the model has sliding-window attention; dodona attends to the whole text")
        sizes = {
            "num_hidden_layers": "llama.block_count",
            "hidden_size": "llama.embedding_length",
            "intermediate_size": "llama.feed_forward_length",
            "num_attention_heads": "llama.attention.head_count",
            "num_key_value_heads": "llama.attention.head_count_kv",
            "head_dim": "llama.attention.key_length",
            "max_position_embeddings": "llama.context_length",
            "rms_norm_eps": "llama.attention.layer_norm_rms_epsilon",
            "rope_theta": "llama.rope.freq_base",
        }
        mapping: dict[str, Any] = {hf: metadata[key] for hf, key in sizes.items() if key in metadata}
        factor = metadata.get("llama.rope.scaling.factor", metadata.get("llama.rope.scale_linear"))  # or its old name
        scaling = metadata.get("llama.rope.scaling.type", "linear" if factor else "none")  # as llama.cpp reads it
        if scaling != "none":
            mapping["rope_scaling"] = {"rope_type": scaling, "factor": factor}
        ends = [metadata.get(f"tokenizer.ggml.{end}_token_id") for end in ("eos", "eot", "eom")]
        end_ids = token_ids({"ends": [end for end in ends if end is not None]}, "ends", name)
        embedding = self.shapes.get("model.embed_tokens.weight", (None,))
        config = LlamaConfig.from_hf(
            {
                **mapping,
                "model_type": architecture,
                "vocab_size": embedding[0],
                "tie_word_embeddings": "lm_head.weight" not in self._names,
                "attention_bias": "model.layers.0.self_attn.q_proj.bias" in self._names,
                "mlp_bias": "model.layers.0.mlp.gate_proj.bias" in self._names,
                "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
                "eos_token_id": sorted(end_ids),
            },
            name=name,
        )
        rotated = metadata.get("llama.rope.dimension_count", config.head_dim)
        if rotated != config.head_dim:
            raise CheckpointError(f"{name}: rotary embeddings of {rotated} of {config.head_dim} dimensions of a head")
        return self._with_rope_factors(config)

    def _with_rope_factors(self, config: LlamaConfig) -> LlamaConfig:
        """Recognise Llama 3's rope scaling, which GGUF keeps as a tensor of divisors and not by its parameters."""
        if ROPE_FACTORS not in self._file.infos:
            return config
        divisors = self._file.tensor(ROPE_FACTORS)
        if torch.all(divisors == 1):
            return config
        scaled = replace(config, rope_scaling=RopeScaling(kind="llama3", factor=float(divisors.max())))
        expected = rope_frequencies(config) / rope_frequencies(scaled)
        if divisors.shape != expected.shape or not torch.allclose(divisors, expected, rtol=1e-3):
            raise CheckpointError(
                f"{self.name}: {ROPE_FACTORS} is not Llama 3's rope scaling (low 1, high 4, original context 8192)"
            )
        return scaled


def _hf_name(tensor: str) -> str:
    match = _NAME.fullmatch(tensor)
    if match is not None:
        layer, module, kind = match.groups()
        if layer is None and module in _WHOLE:
            return f"{_WHOLE[module]}.{kind}"
        if layer is not None and module in _IN_LAYER:
            return f"model.layers.{layer}.{_IN_LAYER[module]}.{kind}"
    return tensor


def _half_split(weight: Tensor, heads: int) -> Tensor:
    """Reorder each head's rows from (0, D/2, 1, D/2+1, ...) to (0, 1, ..., D-1)."""
    rows = weight.shape[0]
    return weight.reshape(heads, rows // heads // 2, 2, -1).transpose(1, 2).reshape(weight.shape)
