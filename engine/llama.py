"""The Llama forward pass in plain PyTorch: the reference backend, on CPU or CUDA.

Shape suffixes: T tokens of one ragged forward (all sequences' rows, one after another), N rows whose output is wanted,
E hidden size, F intermediate size, H query heads, K key/value heads, D head size, V vocabulary.

The model knows nothing of sequences, lags or pages: it is given token ids, their positions and an ``Attention`` that
writes keys and values and attends. The architecture is that of Llama 3 (Grattafiori et al. 2024, arXiv:2407.21783) with
rotary embeddings in the half-split convention of the Hugging Face checkpoints.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dodona.engine.config import LlamaConfig, rope_frequencies
from dodona.engine.linear import Product
from dodona.engine.ops import Ops


class Attention(Protocol):
    """What the model asks of the KV cache during one forward."""

    def rotate_by(self, cos_PD: Tensor, sin_PD: Tensor) -> None:
        """Take the rotary tables, before the first layer."""
        ...

    def attend(self, layer: int, qkv_TR: Tensor) -> Tensor:
        """Rotate q and k ``[T, (H + 2K) * D]``, append k and v to the caches, attend causally, return ``[T, H*D]``."""
        ...


class Layer(nn.Module):
    """Weights of one decoder layer, with q, k, v and gate, up fused into one product each.

    ``prepare`` turns the matrices into the products ``times_qkv``, ``times_o``, ``times_gate_up``, ``times_down`` and
    lets go of the parameters, which the products may have copied into another layout.
    """

    times_qkv: Product
    times_o: Product
    times_gate_up: Product
    times_down: Product

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        hidden, heads, kv_heads = config.hidden_size, config.num_heads, config.num_kv_heads
        rows, inner = (heads + 2 * kv_heads) * config.head_dim, config.intermediate_size
        self.attn_norm = _weight(hidden)
        self.qkv = _weight(rows, hidden)
        self.o = _weight(hidden, heads * config.head_dim)
        self.mlp_norm = _weight(hidden)
        self.gate_up = _weight(2 * inner, hidden)
        self.down = _weight(hidden, inner)
        self.qkv_bias = _weight(rows) if config.attention_bias else None
        self.o_bias = _weight(hidden) if config.attention_bias else None
        self.gate_up_bias = _weight(2 * inner) if config.mlp_bias else None
        self.down_bias = _weight(hidden) if config.mlp_bias else None

    def prepare(self, ops: Ops) -> None:
        """Make the products from the loaded matrices."""
        for name in ("qkv", "o", "gate_up", "down"):
            setattr(self, f"times_{name}", ops.product(getattr(self, name), getattr(self, f"{name}_bias")))
            setattr(self, name, None)


class Llama(nn.Module):
    """A Llama decoder. ``forward`` gives normalised hidden states of the wanted rows, ``logits`` their scores.

    Load the parameters, call ``prepare`` once, then run.
    """

    ops: Ops
    times_head: Product

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = _weight(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = _weight(config.hidden_size)
        if not config.tie_word_embeddings:
            self.lm_head = _weight(config.vocab_size, config.hidden_size)
        self._rope: tuple[Tensor, Tensor] | None = None

    def prepare(self, ops: Ops) -> Llama:
        """Choose the operations and give them the weights in the layouts that they want; returns the model itself."""
        self.ops = ops
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.prepare(ops)
        self.times_head = ops.product(self.embed if self.config.tie_word_embeddings else self.lm_head, None)
        if not self.config.tie_word_embeddings:
            del self.lm_head
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed.device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype; activations and KV cache have it too."""
        return self.embed.dtype

    def rope_tables(self) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines ``[max_position, D]``, made once, in float32 and then rounded to the model's dtype.

        The sine's first half is negated, so that the rotation is ``x * cos + roll(x, D/2) * sin``.
        """
        if self._rope is None:
            positions = torch.arange(self.config.max_position_embeddings, dtype=torch.float32)
            angles = torch.outer(positions, rope_frequencies(self.config).to(torch.float32))
            cos, sin = angles.cos(), angles.sin()
            self._rope = (
                torch.cat((cos, cos), -1).to(self.device, self.dtype),
                torch.cat((-sin, sin), -1).to(self.device, self.dtype),
            )
        return self._rope

    def forward(self, ids_T: Tensor, attention: Attention, wanted_N: Tensor | None) -> Tensor:
        """Run one ragged forward.

        Args:
            ids_T: token ids, int64.
            attention: knows each token's sequence and position, appends to the caches and attends.
            wanted_N: indices into T of the rows to return; None for all of them.

        Returns:
            Hidden states ``[N, E]`` after the final norm.
        """
        ops, eps = self.ops, self.config.rms_norm_eps
        attention.rotate_by(*self.rope_tables())
        x_TE = F.embedding(ids_T, self.embed)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            h_TE = ops.rms_norm(x_TE, layer.attn_norm, eps)
            x_TE = x_TE + layer.times_o(attention.attend(index, layer.times_qkv(h_TE)))
            h_TE = ops.rms_norm(x_TE, layer.mlp_norm, eps)
            x_TE = x_TE + layer.times_down(ops.silu_mul(layer.times_gate_up(h_TE)))
        if wanted_N is not None:
            x_TE = x_TE[wanted_N]
        return ops.rms_norm(x_TE, self.norm, eps)

    def logits(self, hidden_NE: Tensor) -> Tensor:
        """Scores ``[N, V]`` in the model's dtype."""
        return self.times_head(hidden_NE)


def _weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape), requires_grad=False)
