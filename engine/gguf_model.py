"""Llama models in GGUF files: the architecture, the weights under Hugging Face names, and the tokenizer.

Everything comes from the file itself and not from transformers' GGUF loader, which holds the whole dequantised model
in memory at once, leaves out Llama 3's rope scaling, and in its versions before 5 adds a BOS that the file says not to
add and names another end token than the file does.
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

from dodona.engine.config import LlamaConfig, RopeScaling, rope_frequencies
from dodona.engine.errors import CheckpointError
from dodona.engine.gguf_file import GgufFile
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

# How text is cut before merging, by the file's tokenizer.ggml.pre; the pattern is that of Llama 3's tokenizer.json.
_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_PRE = ("llama-bpe", "llama3", "llama-v3")
_BYTE_LEVEL_PRE = ("smollm", "gpt-2", *_LLAMA3_PRE)


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
        """The tokenizer from the metadata: built here for byte-level BPE, by transformers for the rest."""
        metadata, path = self._file.metadata, self._file.path
        kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre", "gpt-2")
        if kind is None:
            raise CheckpointError(f"{self.name}: {path} has no tokenizer")
        if kind == "gpt2" and pre in _BYTE_LEVEL_PRE:
            return byte_level_tokenizer(metadata, pre)
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        logger.info("%s: the %s tokenizer (%s) is read by transformers' GGUF converter", self.name, kind, pre)
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, local_files_only=True)
        except Exception as error:  # the converter raises whatever its parser met
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
        if metadata.get("split.count", 1) > 1:
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
        scaling = metadata.get("llama.rope.scaling.type", "none")
        if scaling != "none":
            mapping["rope_scaling"] = {"rope_type": scaling, "factor": metadata.get("llama.rope.scaling.factor")}
        ends = (metadata.get(f"tokenizer.ggml.{end}_token_id") for end in ("eos", "eot", "eom"))
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
                "eos_token_id": sorted({end for end in ends if end is not None}),
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


def byte_level_tokenizer(metadata: dict[str, Any], pre: str) -> PreTrainedTokenizerFast:
    """The Hugging Face tokenizer for a byte-level BPE vocabulary in GGUF metadata."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    kinds: list[int] = metadata.get("tokenizer.ggml.token_type", [])
    merges = [(left, right) for left, _, right in (m.partition(" ") for m in metadata.get("tokenizer.ggml.merges", []))]
    llama3 = pre in _LLAMA3_PRE
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, ignore_merges=llama3))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not llama3)
    if llama3:
        cut: Any = [pre_tokenizers.Split(Regex(_LLAMA3_PATTERN), "isolated"), byte_level]
    else:
        cut = [pre_tokenizers.Digits(individual_digits=True), byte_level] if pre == "smollm" else [byte_level]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cut)
    tokenizer.decoder = decoders.ByteLevel()
    control, user_defined = 3, 4  # llama.cpp's token types
    tokenizer.add_tokens(
        [
            AddedToken(token, special=kind == control, normalized=False)
            for token, kind in zip(tokens, kinds, strict=False)
            if kind in (control, user_defined)
        ]
    )
    named = {}
    for role, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        token_id = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if token_id is not None and 0 <= token_id < len(tokens):
            named[f"{role}_token"] = tokens[token_id]
    if metadata.get("tokenizer.ggml.add_bos_token", llama3) and "bos_token" in named:
        bos, bos_id = named["bos_token"], metadata["tokenizer.ggml.bos_token_id"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_id)]
        )
    wrap: Any = PreTrainedTokenizerFast  # its constructor is not annotated
    fast: PreTrainedTokenizerFast = wrap(
        tokenizer_object=tokenizer,
        chat_template=metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **named,
    )
    return fast


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
