"""Where a checkpoint's tensors go: from Hugging Face names to rows of the model's fused parameters."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from dodona.engine.config import LlamaConfig
from dodona.engine.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from dodona.engine.llama import Llama
    from dodona.engine.placement import Placement

Source = Literal["folder", "hub", "gguf", "dummy"]
Shapes = Mapping[str, tuple[int, ...]]

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


class WeightStore(Protocol):
    """The tensors of one checkpoint, under Hugging Face names."""

    @property
    def source(self) -> Source:
        """What kind of place they are in."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that (most of) them are stored in."""
        ...

    @property
    def shapes(self) -> Shapes:
        """Name and shape of each, known without reading one."""
        ...

    def tensors(self, keep: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
        """Read the kept ones, one at a time, to the CPU."""
        ...

    def digest(self) -> str:
        """A hash that changes with the weights, without reading them all."""
        ...

    def fast_tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer that belongs to them."""
        ...


class Slot(NamedTuple):
    """Where one checkpoint tensor goes."""

    parameter: str  # name in Llama.named_parameters()
    start: int  # first row there
    shape: tuple[int, ...]


def slots(config: LlamaConfig) -> dict[str, Slot]:
    """The slot of every tensor that a checkpoint of this architecture has to hold, in the order of the forward pass."""
    hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
    q_rows, kv_rows = config.num_heads * dim, config.num_kv_heads * dim
    table = {"model.embed_tokens.weight": Slot("embed", 0, (config.vocab_size, hidden))}

    def product(layer: int, module: str, fused: str, start: int, rows: int, columns: int, bias: bool) -> None:
        table[f"model.layers.{layer}.{module}.weight"] = Slot(f"layers.{layer}.{fused}", start, (rows, columns))
        if bias:
            table[f"model.layers.{layer}.{module}.bias"] = Slot(f"layers.{layer}.{fused}_bias", start, (rows,))

    for i in range(config.num_layers):
        table[f"model.layers.{i}.input_layernorm.weight"] = Slot(f"layers.{i}.attn_norm", 0, (hidden,))
        product(i, "self_attn.q_proj", "qkv", 0, q_rows, hidden, config.attention_bias)
        product(i, "self_attn.k_proj", "qkv", q_rows, kv_rows, hidden, config.attention_bias)
        product(i, "self_attn.v_proj", "qkv", q_rows + kv_rows, kv_rows, hidden, config.attention_bias)
        product(i, "self_attn.o_proj", "o", 0, hidden, q_rows, config.attention_bias)
        table[f"model.layers.{i}.post_attention_layernorm.weight"] = Slot(f"layers.{i}.mlp_norm", 0, (hidden,))
        product(i, "mlp.gate_proj", "gate_up", 0, inner, hidden, config.mlp_bias)
        product(i, "mlp.up_proj", "gate_up", inner, inner, hidden, config.mlp_bias)
        product(i, "mlp.down_proj", "down", 0, hidden, inner, config.mlp_bias)
    table["model.norm.weight"] = Slot("norm", 0, (hidden,))
    if not config.tie_word_embeddings:
        table["lm_head.weight"] = Slot("lm_head", 0, (config.vocab_size, hidden))
    return table


def check_shapes(shapes: Shapes, config: LlamaConfig, name: str) -> None:
    """Check that a checkpoint holds just the tensors of its architecture, before any is read.

    Raises:
        CheckpointError: naming what is missing, unexpected or of another shape.
    """
    if config.num_layers > len(shapes):  # a damaged number, which the table below would take all memory for
        raise CheckpointError(f"{name}: {config.num_layers} layers, but the checkpoint has only {len(shapes)} tensors")
    wanted = slots(config)
    spare = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if missing := [n for n in wanted if n not in shapes]:
        raise CheckpointError(f"{name}: the checkpoint lacks {_listed(missing)}")
    if unexpected := [n for n in shapes if n not in wanted and n not in spare]:
        raise CheckpointError(f"{name}: a Llama model has no place for {_listed(unexpected)} of the checkpoint")
    for tensor, slot in wanted.items():
        if tuple(shapes[tensor]) != slot.shape:
            raise CheckpointError(
                f"{name}: {tensor} has shape {list(shapes[tensor])} in the checkpoint, but its config.json "
                f"makes it {list(slot.shape)}"
            )


def renumbered(tensor: str, dropped: Collection[int]) -> str | None:
    """The tensor's name once these layers are gone, or None for a tensor of such a layer."""
    match = _LAYER.fullmatch(tensor)
    if match is None:
        return tensor
    layer = int(match[1])
    if layer in dropped:
        return None
    return f"model.layers.{layer - sum(d < layer for d in dropped)}.{match[2]}"


class ParameterFiller:
    """Gives a model on the meta device its parameters: each is allocated once, when its first slice arrives."""

    def __init__(self, model: Llama, *, placement: Placement, dtype: torch.dtype) -> None:
        self._model, self._placement, self._dtype = model, placement, dtype
        self._shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self._unfilled = slots(model.config)
        self._allocated: dict[str, Tensor] = {}
        assert {slot.parameter for slot in self._unfilled.values()} == self._shapes.keys()

    def take(self, tensor: str) -> Tensor | None:
        """The slice to write this tensor into; None where the model has no use for it (a tied output matrix)."""
        slot = self._unfilled.pop(tensor, None)
        if slot is None:
            return None
        if slot.parameter not in self._allocated:
            layer = re.match(r"layers\.(\d+)\.", slot.parameter)
            device = self._placement.first if layer is None else self._placement.layers[int(layer[1])]
            empty = torch.empty(self._shapes[slot.parameter], device=device, dtype=self._dtype)
            self._allocated[slot.parameter] = empty
            module, _, attribute = slot.parameter.rpartition(".")
            setattr(self._model.get_submodule(module), attribute, nn.Parameter(empty, requires_grad=False))
        return self._allocated[slot.parameter].narrow(0, slot.start, slot.shape[0])

    def unfilled(self) -> list[str]:
        """Tensors that are still to come."""
        return list(self._unfilled)


def digest_file(path: Path, header_bytes: int) -> str:
    """Hash of a file's size, its header and 64 blocks of 4 KiB spread evenly over the rest.

    Two trainings of one architecture have the same header and size, so a hash of those alone would not tell them apart.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(header_bytes))
        for block in range(64):
            file.seek(header_bytes + max(0, size - header_bytes - 4096) * block // 63, os.SEEK_SET)
            digest.update(file.read(4096))
    return digest.hexdigest()


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")
