"""The Llama forward pass: the model, and its layers and head in plain PyTorch, which are the reference on CPU and CUDA.

Shape suffixes: T tokens of one ragged forward (all sequences' rows, one after another), N rows whose output is wanted,
M groups of w rows, E hidden size, F intermediate size, H query heads, K key/value heads, D head size,
R = (H + 2K) * D rows of the fused q, k and v, V vocabulary.

The model knows nothing of sequences, lags, pages or graphs: it is given token ids, their positions and an ``Attention``
that writes keys and values and attends. The architecture is that of Llama 3 (Grattafiori et al. 2024, arXiv:2407.21783)
with rotary embeddings in the half-split convention of the Hugging Face checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dodona.engine.config import LlamaConfig, rope_frequencies
from dodona.engine.linear import product
from dodona.engine.placement import on_one
from dodona.engine.scores import Choice, Scores, plain_scores

if TYPE_CHECKING:
    from dodona.engine.ops import Head, LayerStep, Ops


class Attention(Protocol):
    """What the model asks of the KV cache during one forward."""

    def rotate_by(self, cos_PD: Tensor, sin_PD: Tensor) -> None:
        """Take the rotary tables, before the first layer."""
        ...

    def attend(self, layer: int, qkv_TR: Tensor) -> Tensor:
        """Rotate q and k ``[T, (H + 2K) * D]``, append k and v to the caches, attend causally, return ``[T, H*D]``."""
        ...


class LayerWeights(NamedTuple):
    """One decoder layer's weights, with q, k, v and gate, up fused into one matrix each; a bias that is not is None."""

    attn_norm_E: Tensor
    qkv_RE: Tensor
    qkv_bias_R: Tensor | None
    o_EA: Tensor  # A = H * D
    o_bias_E: Tensor | None
    mlp_norm_E: Tensor
    gate_up_2FE: Tensor  # gate's rows, then up's
    gate_up_bias_2F: Tensor | None
    down_EF: Tensor
    down_bias_E: Tensor | None


class Layer(nn.Module):
    """The parameters of one decoder layer, from loading to ``release``."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        hidden, heads, kv_heads = config.hidden_size, config.num_heads, config.num_kv_heads
        rows, inner = (heads + 2 * kv_heads) * config.head_dim, config.intermediate_size
        self.attn_norm = _weight(hidden)
        self.qkv = _weight(rows, hidden)
        self.qkv_bias = _weight(rows) if config.attention_bias else None
        self.o = _weight(hidden, heads * config.head_dim)
        self.o_bias = _weight(hidden) if config.attention_bias else None
        self.mlp_norm = _weight(hidden)
        self.gate_up = _weight(2 * inner, hidden)
        self.gate_up_bias = _weight(2 * inner) if config.mlp_bias else None
        self.down = _weight(hidden, inner)
        self.down_bias = _weight(hidden) if config.mlp_bias else None

    def release(self) -> LayerWeights:
        """Give the weights away, to whoever runs the layer and may keep them in another layout."""
        names = (
            "attn_norm", "qkv", "qkv_bias", "o", "o_bias", "mlp_norm", "gate_up", "gate_up_bias", "down", "down_bias",
        )  # fmt: skip
        weights: list[Any] = []
        for name in names:
            parameter = getattr(self, name)
            weights.append(None if parameter is None else parameter.detach())
            setattr(self, name, None)
        return LayerWeights(*weights)


class PlainLayer:
    """One decoder layer in plain PyTorch.

    Args:
        index: the layer's number, for the attention.
    """

    def __init__(self, weights: LayerWeights, index: int, config: LlamaConfig) -> None:
        self.index, self._eps = index, config.rms_norm_eps
        self._attn_norm_E, self._mlp_norm_E = weights.attn_norm_E, weights.mlp_norm_E
        self._times_qkv = product(weights.qkv_RE, weights.qkv_bias_R)
        self._times_o = product(weights.o_EA, weights.o_bias_E)
        self._times_gate_up = product(weights.gate_up_2FE, weights.gate_up_bias_2F)
        self._times_down = product(weights.down_EF, weights.down_bias_E)

    def __call__(self, x_TE: Tensor, attention: Attention) -> Tensor:
        """The layer's output ``[T, E]``."""
        h_TE = F.rms_norm(x_TE, self._attn_norm_E.shape, self._attn_norm_E, self._eps)
        x_TE = x_TE + self._times_o(attention.attend(self.index, self._times_qkv(h_TE)))
        h_TE = F.rms_norm(x_TE, self._mlp_norm_E.shape, self._mlp_norm_E, self._eps)
        gate_TF, up_TF = self._times_gate_up(h_TE).chunk(2, -1)
        return x_TE + self._times_down(F.silu(gate_TF) * up_TF)


class PlainHead:
    """Final norm and output product in plain PyTorch, and what follows from the logits."""

    def __init__(self, norm_E: Tensor, weight_VE: Tensor, config: LlamaConfig) -> None:
        self._norm_E, self._eps = norm_E, config.rms_norm_eps
        self._times_head = product(weight_VE, None)

    def logits(self, hidden_NE: Tensor) -> Tensor:
        """Scores ``[N, V]`` in the model's dtype."""
        return self._times_head(F.rms_norm(hidden_NE, self._norm_E.shape, self._norm_E, self._eps))

    def score(self, hidden_NE: Tensor, ids_Mw: Tensor, choice: Choice | None, *, want_logits: bool) -> Scores:
        """See ``Llama.score``."""
        scores = plain_scores(self.logits(hidden_NE), ids_Mw, choice)
        return scores if want_logits else scores._replace(logits_NV=None)


class Llama(nn.Module):
    """A Llama decoder: ``forward`` gives hidden states of the wanted rows, ``logits`` and ``score`` what they say.

    Load the parameters, call ``prepare`` once, then run.
    """

    head: Head

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = _weight(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = _weight(config.hidden_size)
        if not config.tie_word_embeddings:
            self.lm_head = _weight(config.vocab_size, config.hidden_size)
        self.placement = on_one(config, torch.device("cpu"))  # set where the parameters get their memory
        self.positions = config.max_position_embeddings  # of the rotary tables
        self._steps: list[LayerStep] = []
        self._rope: tuple[Tensor, Tensor] | None = None

    def prepare(self, ops: Ops, positions: int) -> Llama:
        """Give the weights to these operations, in the layouts that they want; returns the model itself.

        Args:
            positions: the most that a sequence will have.
        """
        self.positions = min(self.positions, positions)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            self._steps.append(ops.layer(layer.release(), index, self.config))
        last = self.embed if self.config.tie_word_embeddings else self.lm_head
        self.head = ops.head(self.norm.detach(), last.detach(), self.config)
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
        """Cosines and signed sines ``[positions, D]``, made once, in float32 and then rounded to the model's dtype.

        The sine's first half is negated, so that the rotation is ``x * cos + roll(x, D/2) * sin``.
        """
        if self._rope is None:
            positions = torch.arange(self.positions, dtype=torch.float32, device="cpu")
            angles = torch.outer(positions, rope_frequencies(self.config))
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
            The last layer's output ``[N, E]``, before the final norm, which belongs to the head.
        """
        attention.rotate_by(*self.rope_tables())
        x_TE = F.embedding(ids_T, self.embed)
        if self.placement.spread:
            x_TE = self._hop(x_TE, attention)
        else:
            for step in self._steps:
                x_TE = step(x_TE, attention)
        return x_TE if wanted_N is None else x_TE[wanted_N]

    def _hop(self, x_TE: Tensor, attention: Attention) -> Tensor:
        """All layers, each on its own device, and back."""
        for step, device in zip(self._steps, self.placement.layers, strict=True):
            x_TE = step(x_TE.to(device, non_blocking=True), attention)
        return x_TE.to(self.placement.first, non_blocking=True)

    def logits(self, hidden_NE: Tensor) -> Tensor:
        """Scores ``[N, V]`` in the model's dtype, of what ``forward`` returned."""
        return self.head.logits(hidden_NE)

    def score(self, hidden_NE: Tensor, ids_Mw: Tensor, choice: Choice | None, *, want_logits: bool) -> Scores:
        """Statistics of every row, log-probabilities of given ids, and a token after the last row of each group.

        Args:
            hidden_NE: of N = M * w rows, what ``forward`` returned.
            ids_Mw: int64, whose log-probabilities are wanted; any id where none is.
            choice: how tokens are drawn; None: each the most likely one.
            want_logits: whether the logits are needed too; without, there may be none.
        """
        return self.head.score(hidden_NE, ids_Mw, choice, want_logits=want_logits)


def _weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape), requires_grad=False)
