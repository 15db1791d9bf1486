"""Models with random weights, for benchmarks: real architectures without a download, made on the device."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dodona.engine.config import LlamaConfig, RopeScaling
from dodona.engine.errors import CheckpointError
from dodona.engine.safetensors_folder import read_config
from dodona.engine.tokenizer import load_tokenizer
from dodona.engine.weights import Shapes, Source, slots

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

STD = 0.02  # the initializer_range of the Llama checkpoints
PREFIX = "dummy:"


def _llama3(hidden: int, inner: int, layers: int, heads: int, *, tied: bool) -> LlamaConfig:
    """Llama 3.2 (tied) or 3.1 (untied), as their published config.json files have it."""
    return LlamaConfig(
        vocab_size=128256,
        hidden_size=hidden,
        intermediate_size=inner,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=8,
        head_dim=64 if hidden == 2048 else 128,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=RopeScaling(kind="llama3", factor=32.0 if tied else 8.0),
        tie_word_embeddings=tied,
        attention_bias=False,
        mlp_bias=False,
        bos_token_id=128000,
        eos_token_ids=(128001, 128008, 128009),
    )


ARCHITECTURES = {
    "1B": _llama3(2048, 8192, 16, 32, tied=True),
    "3B": _llama3(3072, 8192, 28, 24, tied=True),
    "8B": _llama3(4096, 14336, 32, 32, tied=False),
    "70B": _llama3(8192, 28672, 80, 64, tied=False),
}


class DummyWeights:
    """Weights drawn from N(0, 0.02^2), norms of one and biases of zero; the same at every load on one kind of device.

    Args:
        what: ``1B``, ``3B``, ``8B``, ``70B``, or a local folder with a config.json (and perhaps a tokenizer).
        name: the model's name in error messages.
        seed: another one gives other weights.

    Raises:
        CheckpointError: when ``what`` is neither.
    """

    source: Source = "dummy"
    dtype = torch.bfloat16  # that of the Llama checkpoints

    def __init__(self, what: str, name: str, seed: int = 0) -> None:
        self.name, self.seed = name, seed
        self._folder: Path | None = None
        if what.upper() in ARCHITECTURES:
            self.config = ARCHITECTURES[what.upper()]
        elif what and (folder := Path(os.path.expanduser(what))).is_dir():
            self._folder, self.config = folder, read_config(folder, name)
        else:
            raise CheckpointError(
                f"{name}: {what!r} is neither one of {', '.join(ARCHITECTURES)} nor a local folder with a config.json"
            )

    @property
    def shapes(self) -> Shapes:
        """Hugging Face name and shape of each tensor."""
        return {tensor: slot.shape for tensor, slot in slots(self.config).items()}

    def fill(self, tensor: str, target: Tensor) -> None:
        """Write the weights of one tensor into ``target``, on its device."""
        if target.dim() == 1:
            target.fill_(0.0 if tensor.endswith(".bias") else 1.0)
            return
        generator = torch.Generator(target.device).manual_seed((self.seed << 32) + zlib.crc32(tensor.encode()))
        target.normal_(0.0, STD, generator=generator)

    def tensors(self, keep: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
        """The kept tensors, made on the CPU."""
        for tensor, shape in self.shapes.items():
            if keep(tensor):
                weight = torch.empty(shape, dtype=self.dtype, device="cpu")
                self.fill(tensor, weight)
                yield tensor, weight

    def digest(self) -> str:
        """The recipe of the weights."""
        return f"normal {STD} seed {self.seed}"

    def fast_tokenizer(self) -> PreTrainedTokenizerFast:
        """The folder's own tokenizer, or a toy one with a token for each id."""
        if self._folder is not None and (self._folder / "tokenizer.json").exists():
            return load_tokenizer(self._folder, self.name)
        return toy_tokenizer(self.config, self.name)


def toy_tokenizer(config: LlamaConfig, name: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of exactly ``vocab_size`` tokens.

    The special tokens have the ids that the configuration gives them, the 256 bytes the first ids left over, and every
    other id is a token ``<id>`` that no text encodes to.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    bos, ends = config.bos_token_id, config.eos_token_ids
    special = {token_id: f"<|eos:{token_id}|>" for token_id in ends if token_id < config.vocab_size}
    if bos is not None and bos < config.vocab_size and bos not in special:
        special[bos] = "<|bos|>"
    free = [i for i in range(min(config.vocab_size, 256 + len(special))) if i not in special]
    if len(free) < 256:
        raise CheckpointError(f"{name}: a vocabulary of {config.vocab_size} is too small for the toy tokenizer's bytes")
    names = {i: f"<{i}>" for i in range(config.vocab_size)} | special
    # CPython's sorted alphabet: the same ids on every machine.
    names |= dict(zip(free, sorted(pre_tokenizers.ByteLevel.alphabet()), strict=False))
    tokenizer = Tokenizer(models.BPE({token: i for i, token in sorted(names.items())}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special.values()])
    roles = {}
    if bos in special:
        roles["bos_token"] = special[bos]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{special[bos]} $A", special_tokens=[(special[bos], bos)]
        )
    if named_ends := [special[i] for i in ends if i in special]:
        roles["eos_token"] = named_ends[0]
    wrap: Any = PreTrainedTokenizerFast  # its constructor is not annotated
    fast: PreTrainedTokenizerFast = wrap(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **roles)
    return fast
