"""A model's layers and head on the kernels: few launches for few rows, cuBLAS's products for many.

A decoder layer of up to ``MAX_ROWS`` tokens is five steps, each one launch, or two where it splits its work over more
programs than its output has blocks:

    norm + q, k, v + rotary embedding + append to the pages          qkv_append
    attention over the live keys                                     attention
    o + bias + residual                                              linear
    norm + gate, up + SiLU * up                                      linear
    down + bias + residual                                           linear

and the head is one pass over the output matrix (``lm_head``) that leaves statistics and tokens, and logits where they
are asked for. With more rows the same matrices go to cuBLAS: there is one copy of each weight, in the checkpoint's
layout, which both read.

Shape suffixes: T tokens, N rows, M groups of w rows, E hidden size, F intermediate size, V vocabulary, A = H * D,
R = (H + 2K) * D.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dodona.engine.config import LlamaConfig
from dodona.engine.llama import Attention, LayerWeights
from dodona.engine.scores import Choice, Scores, last_rows
from dodona.engine.signals import Statistics
from dodona.engine.triton_attention import TritonAttention
from dodona.kernels.linear import linear
from dodona.kernels.lm_head import Draw, lm_head
from dodona.kernels.mlp import silu_mul
from dodona.kernels.norm import Norm, rms_norm
from dodona.kernels.qkv import qkv_append
from dodona.kernels.sample import Filters, Sample, sample
from dodona.kernels.stream import MAX_ROWS
from dodona.kernels.uncertainty import Uncertainty, uncertainty


class FusedLayer:
    """One decoder layer.

    Args:
        index: the layer's number, for the attention.
    """

    def __init__(self, weights: LayerWeights, index: int, config: LlamaConfig) -> None:
        self.weights, self.index, self._heads = weights, index, config.num_heads
        self._attn_norm = Norm(weights.attn_norm_E, config.rms_norm_eps)
        self._mlp_norm = Norm(weights.mlp_norm_E, config.rms_norm_eps)

    def __call__(self, x_TE: Tensor, attention: Attention) -> Tensor:
        """The layer's output ``[T, E]``; x is overwritten."""
        return self._few(x_TE, attention) if len(x_TE) <= MAX_ROWS else self._many(x_TE, attention)

    def _few(self, x_TE: Tensor, attention: Attention) -> Tensor:
        w = self.weights
        out_TA = self._attend(x_TE, attention)
        x_TE = linear(out_TA, w.o_EA, bias_N=w.o_bias_E, residual_MN=x_TE)
        h_TF = linear(x_TE, w.gate_up_2FE, norm=self._mlp_norm, bias_N=w.gate_up_bias_2F, silu_mul=True)
        return linear(h_TF, w.down_EF, bias_N=w.down_bias_E, residual_MN=x_TE)

    def _attend(self, x_TE: Tensor, attention: Attention) -> Tensor:
        w = self.weights
        if not isinstance(attention, TritonAttention):  # flash-attn, which rotates and appends by itself
            return attention.attend(self.index, linear(x_TE, w.qkv_RE, norm=self._attn_norm, bias_N=w.qkv_bias_R))
        q_THD = qkv_append(
            x_TE,
            w.qkv_RE,
            self._attn_norm,
            attention.rope,
            attention.positions_T,
            attention.pages(self.index),
            attention.slots_T,
            heads=self._heads,
            bias_R=w.qkv_bias_R,
        )
        return attention.attend_appended(self.index, q_THD)

    def _many(self, x_TE: Tensor, attention: Attention) -> Tensor:
        w = self.weights
        h_TE = rms_norm(x_TE, self._attn_norm).hidden_TE
        out_TA = attention.attend(self.index, F.linear(h_TE, w.qkv_RE, w.qkv_bias_R))
        _add_product(x_TE, out_TA, w.o_EA, w.o_bias_E)
        h_TE = rms_norm(x_TE, self._mlp_norm).hidden_TE
        h_TF = silu_mul(F.linear(h_TE, w.gate_up_2FE, w.gate_up_bias_2F))
        _add_product(x_TE, h_TF, w.down_EF, w.down_bias_E)
        return x_TE


class FusedHead:
    """Final norm, output product, statistics, tokens."""

    def __init__(self, norm_E: Tensor, weight_VE: Tensor, config: LlamaConfig) -> None:
        self._norm, self._weight_VE = Norm(norm_E, config.rms_norm_eps), weight_VE

    def logits(self, hidden_NE: Tensor) -> Tensor:
        """Scores ``[N, V]`` in the model's dtype."""
        if len(hidden_NE) <= MAX_ROWS:
            return linear(hidden_NE, self._weight_VE, norm=self._norm)
        return F.linear(rms_norm(hidden_NE, self._norm).hidden_TE, self._weight_VE)

    def score(self, hidden_NE: Tensor, ids_Mw: Tensor, choice: Choice | None, *, want_logits: bool) -> Scores:
        """See ``Llama.score``."""
        ids_N = ids_Mw.flatten()
        drawn: Sample | None = None
        logits_NV: Tensor | None = None
        if len(hidden_NE) <= MAX_ROWS:
            last_alone = ids_Mw.shape[1] == 1
            stats, drawn, logits_NV = lm_head(
                hidden_NE,
                self._weight_VE,
                norm=self._norm,
                ids_B=ids_N,
                draw=_draw(choice) if choice is not None and last_alone else None,
                want_logits=want_logits or (choice is not None and not last_alone),
            )
        else:
            logits_NV = self.logits(hidden_NE)
            stats = uncertainty(logits_NV, ids_N)
        found, last = statistics_of(stats), Uncertainty._make(last_rows(column, ids_Mw) for column in stats)
        if choice is not None and drawn is None:
            assert logits_NV is not None
            drawn = sampled(last_rows(logits_NV, ids_Mw), last, choice)
        if drawn is None:
            token_M, token_logprob_M = last_rows(found.top1, ids_Mw), last.top_logit - last.lse
        else:
            token_M, token_logprob_M = drawn.id.clamp_min(0), drawn.logprob
        return Scores(found, stats.logprob.view_as(ids_Mw), token_M, token_logprob_M, logits_NV)


def statistics_of(found: Uncertainty) -> Statistics:
    """The engine's statistics; a broken row has NaN in them, and some token as its top1."""
    return Statistics(
        found.lse,
        found.entropy,
        found.varentropy,
        found.top1.clamp_min(0),
        found.top_prob,
        found.margin,
        found.top_logit,
    )


def sampled(logits_NV: Tensor, stats: Uncertainty, choice: Choice) -> Sample:
    """The draw of each row of logits, whose statistics are known."""
    temperature_N, keys_N2, positions_N, (top_k_N, top_p_N, min_p_N), _ = _draw(choice)
    dense = {name: getattr(stats, name).contiguous() for name in ("top_logit", "top_prob", "error")}
    return sample(
        logits_NV,
        temperature_N,
        keys_N2,
        positions_N,
        top_k_B=top_k_N,
        top_p_B=top_p_N,
        min_p_B=min_p_N,
        statistics=stats._replace(**dense),
    )


def _draw(choice: Choice) -> Draw:
    settings, filters = choice.settings, Filters()
    if settings.ordered:
        filters = filters._replace(top_k=settings.top_k_N.contiguous(), top_p=settings.top_p_N.contiguous())
    if settings.min_p:
        filters = filters._replace(min_p=settings.min_p_N.contiguous())
    return Draw(settings.temperature_N.contiguous(), choice.keys_M2.contiguous(), choice.positions_M, filters)


def _add_product(x_TE: Tensor, h_TK: Tensor, weight_EK: Tensor, bias_E: Tensor | None) -> None:
    """Add a product to x in place: cuBLAS adds it to its own sums, which saves a launch and a rounding."""
    if bias_E is not None:
        x_TE.add_(bias_E)
    x_TE.addmm_(h_TK, weight_EK.T)
