"""What a Llama checkpoint says about its architecture, and the numbers that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dodona.engine.errors import CheckpointError

ARCHITECTURES = ("LlamaForCausalLM", "LLaMAForCausalLM")


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched for longer contexts; the last three fields are those of ``llama3`` alone."""

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaConfig:
    """The architecture of one model. Sizes are counts of elements; ``intermediate_size`` is the MLP's width."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    @classmethod
    def from_hf(cls, mapping: Mapping[str, Any], *, name: str) -> LlamaConfig:
        """Read the contents of a ``config.json``, in the layout of transformers 4 or 5.

        Args:
            mapping: the parsed file. What it leaves out gets the default of transformers' ``LlamaConfig``, but for the
                sizes, which have to be there.
            name: the model's name in error messages.

        Raises:
            CheckpointError: for another architecture, an unsupported option, or numbers that contradict each other.
        """
        _check_architecture(mapping, name)
        read = _Reader(mapping, name)
        heads = read.count("num_attention_heads")
        hidden = read.count("hidden_size")
        if read.absent("head_dim") and hidden % heads:
            raise CheckpointError(f"{name}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
        max_positions = read.count("max_position_embeddings", 2048)
        rope_theta, rope_scaling = _read_rope(mapping, name, max_positions)
        config = cls(
            vocab_size=read.count("vocab_size"),
            hidden_size=hidden,
            intermediate_size=read.count("intermediate_size"),
            num_layers=read.count("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=read.count("num_key_value_heads", heads),
            head_dim=read.count("head_dim", hidden // heads),
            max_position_embeddings=max_positions,
            rms_norm_eps=read.positive("rms_norm_eps", 1e-6),
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
            tie_word_embeddings=read.flag("tie_word_embeddings"),
            attention_bias=read.flag("attention_bias"),
            mlp_bias=read.flag("mlp_bias"),
            bos_token_id=next(iter(token_ids(mapping, "bos_token_id", name, default=1)), None),
            eos_token_ids=token_ids(mapping, "eos_token_id", name, default=2),
        )
        if config.num_heads % config.num_kv_heads:
            raise CheckpointError(
                f"{name}: num_attention_heads {config.num_heads} is not a multiple of "
                f"num_key_value_heads {config.num_kv_heads}"
            )
        if config.head_dim % 2:
            raise CheckpointError(f"{name}: head_dim {config.head_dim} is odd; rotary embeddings need an even one")
        return config

    @property
    def matmul_parameters(self) -> int:
        """Weights that every decoded token is multiplied with: all matrices, the output matrix once, not the lookup."""
        attention = 2 * (self.num_heads + self.num_kv_heads) * self.head_dim * self.hidden_size
        mlp = 3 * self.hidden_size * self.intermediate_size
        return self.num_layers * (attention + mlp) + self.vocab_size * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """All weights, with tied embeddings counted once."""
        norms = (2 * self.num_layers + 1) * self.hidden_size
        qkv_rows = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        attention_biases = self.attention_bias * self.num_layers * (qkv_rows + self.hidden_size)
        mlp_biases = self.mlp_bias * self.num_layers * (2 * self.intermediate_size + self.hidden_size)
        lookup = 0 if self.tie_word_embeddings else self.vocab_size * self.hidden_size
        return self.matmul_parameters + norms + attention_biases + mlp_biases + lookup

    def kv_bytes_per_token(self, itemsize: int) -> int:
        """Bytes that one token takes in the KV cache: ``2 * layers * kv_heads * head_dim * itemsize``."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * itemsize

    def flops_per_token(self, context: float) -> float:
        """Floating point operations of one token's forward that attends to ``context`` tokens (or their average).

        ``2 * matmul_parameters + 4 * layers * heads * head_dim * context``: a multiply and an add for each weight, and
        the same for q.k and for a.v over the live keys (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).
        """
        return 2 * self.matmul_parameters + 4 * self.num_layers * self.num_heads * self.head_dim * context


def rope_frequencies(config: LlamaConfig) -> Tensor:
    """Inverse frequencies ``[head_dim / 2]``, float32, in radians a position; equal to transformers' bit for bit.

    ``theta^(-2i/D)``; linear scaling divides all by the factor (Chen et al. 2023, arXiv:2306.15595). Llama 3's leaves
    wavelengths under ``original/high_freq_factor`` alone, divides those over ``original/low_freq_factor`` by the factor
    and interpolates between (``rope_scaling`` of Llama 3.1's reference code).
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu") / config.head_dim
    frequencies = torch.reciprocal(torch.pow(config.rope_theta, exponents))
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    original, low, high = scaling.original_max_position_embeddings, scaling.low_freq_factor, scaling.high_freq_factor
    wavelengths = 2 * math.pi / frequencies
    stretched = torch.where(wavelengths > original / low, frequencies / scaling.factor, frequencies)
    smooth = (original / wavelengths - low) / (high - low)
    blended = (1 - smooth) * stretched / scaling.factor + smooth * stretched
    between = ~(wavelengths < original / high) & ~(wavelengths > original / low)
    return torch.where(between, blended, stretched)


def token_ids(mapping: Mapping[str, Any], key: str, name: str, *, default: int | None = None) -> tuple[int, ...]:
    """The ids under ``key``: none for null, one for an integer, all of a list. A missing key gives ``default``."""
    value = mapping.get(key, default)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise CheckpointError(f"{name}: {key} is {value!r}, not a token id or a list of them")
    return tuple(dict.fromkeys(i for i in ids if i >= 0))


def _check_architecture(mapping: Mapping[str, Any], name: str) -> None:
    model_type = mapping.get("model_type")
    architectures = mapping.get("architectures") or []
    if not isinstance(architectures, list):
        raise CheckpointError(f"{name}: architectures is {architectures!r}, not a list")
    wrong = [a for a in architectures if a not in ARCHITECTURES]
    if model_type not in (None, "llama") or (model_type is None and not architectures):
        found = model_type or "unknown (config.json has no model_type)"
        raise CheckpointError(f"{name}: the architecture is {found}; dodona runs llama models only")
    if wrong:
        raise CheckpointError(f"{name}: the architecture is {wrong[0]}; dodona runs LlamaForCausalLM only")
    if quantization := mapping.get("quantization_config"):
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, Mapping) else quantization
        raise CheckpointError(
            f"{name}: the weights are quantised ({method}); dodona reads bfloat16, float16 and float32, and GGUF files"
        )
    activation = mapping.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise CheckpointError(f"{name}: hidden_act is {activation!r}; dodona knows silu only")


def _read_rope(mapping: Mapping[str, Any], name: str, max_positions: int) -> tuple[float, RopeScaling | None]:
    """Theta and scaling from ``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling`` (4)."""
    nested = mapping.get("rope_scaling") or mapping.get("rope_parameters") or {}
    if not isinstance(nested, Mapping):
        raise CheckpointError(f"{name}: the rope parameters are {nested!r}, not an object")
    read = _Reader({**{k: mapping[k] for k in ("rope_theta", "partial_rotary_factor") if k in mapping}, **nested}, name)
    if read.positive("partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError(f"{name}: partial_rotary_factor is not 1; dodona rotates whole heads only")
    theta = read.positive("rope_theta", 10000.0)
    kind = nested.get("rope_type", nested.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling(kind="linear", factor=read.positive("factor"))
    if kind != "llama3":
        raise CheckpointError(f"{name}: the rope type is {kind!r}; dodona knows default, linear and llama3")
    scaling = RopeScaling(
        kind="llama3",
        factor=read.positive("factor"),
        low_freq_factor=read.positive("low_freq_factor"),
        high_freq_factor=read.positive("high_freq_factor"),
        original_max_position_embeddings=read.count("original_max_position_embeddings", max_positions),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise CheckpointError(
            f"{name}: high_freq_factor {scaling.high_freq_factor} is not above "
            f"low_freq_factor {scaling.low_freq_factor}"
        )
    return theta, scaling


@dataclass(frozen=True, slots=True)
class _Reader:
    """Typed look-ups in a parsed JSON object; a null counts as missing, and a missing value without default raises."""

    mapping: Mapping[str, Any]
    name: str

    def absent(self, key: str) -> bool:
        return self.mapping.get(key) is None

    def count(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise CheckpointError(f"{self.name}: {key} is {value!r}, not a positive integer")
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
            raise CheckpointError(f"{self.name}: {key} is {value!r}, not a positive number")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self._get(key, False)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.name}: {key} is {value!r}, neither true nor false")
        return value

    def _get(self, key: str, default: object) -> object:
        value = default if self.absent(key) else self.mapping[key]
        if value is None:
            raise CheckpointError(f"{self.name}: {key} is missing from its config.json")
        return value
