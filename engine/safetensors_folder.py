"""A folder in Hugging Face format: config.json and safetensors, in one file or in shards."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from dodona.engine.config import LlamaConfig, token_ids
from dodona.engine.errors import CheckpointError
from dodona.engine.json_file import read_json
from dodona.engine.tokenizer import load_tokenizer
from dodona.engine.weights import Shapes, Source, digest_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

_ROTARY_BUFFER = re.compile(r".*rotary_emb\.inv_freq")  # made from the config; old checkpoints store it in each layer


class Entry(NamedTuple):
    """One tensor as a safetensors header describes it."""

    dtype: str
    shape: tuple[int, ...]
    start: int  # byte offset after the header
    stop: int


class Shard(NamedTuple):
    """One safetensors file."""

    path: Path
    header_bytes: int  # the eight bytes of its length included
    entries: dict[str, Entry]


class SafetensorsFolder:
    """The weights in a folder; only the headers are read until ``tensors`` is iterated.

    Raises:
        CheckpointError: for missing, torn or quantised files, each named.
    """

    def __init__(self, folder: Path, name: str, source: Source = "folder") -> None:
        self.folder, self.name, self.source = folder, name, source
        self._shards = [_read_header(path) for path in self._files()]
        self._check()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of most bytes."""
        sizes: Counter[str] = Counter()
        for _, entry in self._entries():
            sizes[entry.dtype] += entry.stop - entry.start
        return DTYPES[max(sizes, key=lambda d: sizes[d])] if sizes else torch.float32

    @property
    def shapes(self) -> Shapes:
        """Name and shape of each tensor, from the headers."""
        return {tensor: entry.shape for tensor, entry in self._entries()}

    def tensors(self, keep: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
        """The kept tensors in the order of the files, mapped one at a time, one shard open at a time."""
        from safetensors import SafetensorError, safe_open

        for shard in self._shards:
            try:
                with safe_open(str(shard.path), framework="pt", device="cpu") as file:
                    for tensor in sorted(shard.entries, key=lambda t: shard.entries[t].start):
                        if keep(tensor) and not _ROTARY_BUFFER.fullmatch(tensor):
                            yield tensor, file.get_tensor(tensor)
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{self.name}: {shard.path} cannot be read ({error})") from error

    def digest(self) -> str:
        """Hash over every file's header, size and sampled blocks."""
        return "".join(digest_file(shard.path, shard.header_bytes) for shard in self._shards)

    def fast_tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer beside the weights."""
        return load_tokenizer(self.folder, self.name)

    def _files(self) -> list[Path]:
        if (self.folder / SINGLE).exists():
            return [self.folder / SINGLE]
        if not (self.folder / INDEX).exists():
            raise CheckpointError(f"{self.name}: {self._explain_absence()}")
        weight_map = read_json(self.folder / INDEX, self.name).get("weight_map")
        places = list(weight_map.values()) if isinstance(weight_map, dict) else []
        if not places or not all(isinstance(file, str) and file and Path(file).name == file for file in places):
            raise CheckpointError(f"{self.name}: {self.folder / INDEX} has no usable weight_map")
        files = sorted(set(places))
        if absent := [file for file in files if not (self.folder / file).exists()]:
            raise CheckpointError(
                f"{self.name}: {self.folder / absent[0]} is missing ({len(absent)} of {len(files)} shards are)"
            )
        return [self.folder / file for file in files]

    def _explain_absence(self) -> str:
        if self.source == "hub":
            return "the hub has no safetensors weights of it (model.safetensors or its shards)"
        if any(self.folder.glob("pytorch_model*.bin")) or any(self.folder.glob("*.pth")):
            return (
                f"{self.folder} has PyTorch pickle files only; convert them to safetensors, "
                f"for instance with transformers' save_pretrained"
            )
        if ggufs := sorted(self.folder.glob("*.gguf")):
            return f"{self.folder} has no {SINGLE}; to use the GGUF file in it, name {ggufs[0]}"
        return f"{self.folder} has neither {SINGLE} nor {INDEX}"

    def _entries(self) -> Iterator[tuple[str, Entry]]:
        for shard in self._shards:
            for tensor, entry in shard.entries.items():
                if not _ROTARY_BUFFER.fullmatch(tensor):
                    yield tensor, entry

    def _check(self) -> None:
        found: dict[str, Path] = {}
        for shard in self._shards:
            for tensor in shard.entries:
                if tensor in found and not _ROTARY_BUFFER.fullmatch(tensor):
                    raise CheckpointError(f"{self.name}: {tensor} is in both {found[tensor]} and {shard.path}")
                found[tensor] = shard.path
        for tensor, entry in self._entries():
            if entry.dtype not in DTYPES:
                raise CheckpointError(
                    f"{self.name}: {tensor} in {found[tensor]} is stored as {entry.dtype}; dodona reads "
                    f"bfloat16, float16 and float32, and quantised weights from GGUF files only"
                )
        if self._shards[0].path.name != SINGLE:
            for tensor, file in read_json(self.folder / INDEX, self.name)["weight_map"].items():
                if found.get(tensor) != self.folder / file:
                    raise CheckpointError(f"{self.name}: {self.folder / file} lacks {tensor}, which {INDEX} puts there")


def read_config(folder: Path, name: str) -> LlamaConfig:
    """The architecture in a folder's config.json.

    Its end tokens are those of config.json, of generation_config.json and the tokenizer's: a chat model's config.json
    often names only the one that ends a document, not the one that ends a turn.
    """
    if not (folder / "config.json").exists():
        hint = "".join(f"; to use the GGUF file in it, name {path}" for path in sorted(folder.glob("*.gguf"))[:1])
        raise CheckpointError(f"{name}: {folder} has no config.json{hint}")
    mapping = read_json(folder / "config.json", name)
    ends = token_ids(mapping, "eos_token_id", name, default=2)
    if (folder / "generation_config.json").exists():
        ends += token_ids(read_json(folder / "generation_config.json", name), "eos_token_id", name)
    ends += _tokenizer_end(folder, name)
    return LlamaConfig.from_hf({**mapping, "eos_token_id": sorted(set(ends))}, name=name)


def _tokenizer_end(folder: Path, name: str) -> tuple[int, ...]:
    """The id of the tokenizer's end token, without building the tokenizer."""
    if not (folder / "tokenizer.json").exists():
        return ()
    # transformers 4 writes a second file, which counts where the first does not name the token.
    files = [folder / file for file in ("tokenizer_config.json", "special_tokens_map.json") if (folder / file).exists()]
    named = (read_json(file, name).get("eos_token") for file in files)
    end = next((token for token in named if token is not None), None)
    text = end.get("content") if isinstance(end, dict) else end  # or it is written with its settings
    if not isinstance(text, str):
        return ()
    tokens = read_json(folder / "tokenizer.json", name)
    try:
        added = [token["id"] for token in tokens.get("added_tokens") or [] if token["content"] == text]
        vocabulary = (tokens.get("model") or {}).get("vocab")
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{name}: {folder / 'tokenizer.json'} is no tokenizer's file ({error!r})") from error
    if not added and isinstance(vocabulary, dict) and text in vocabulary:
        added = [vocabulary[text]]
    return tuple(added[:1])


def _read_header(path: Path) -> Shard:
    """Parse a safetensors header and compare the size that it implies with the file's."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        if first.startswith(b"version "):
            raise CheckpointError(f"{path} is a git-lfs pointer, not the weights; run git lfs pull")
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length > size - 8:
            raise CheckpointError(f"{path} is not a complete safetensors file ({size} bytes)")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            entries = {
                str(tensor): Entry(
                    str(e["dtype"]), tuple(e["shape"]), int(e["data_offsets"][0]), int(e["data_offsets"][1])
                )
                for tensor, e in header.items()
            }
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            raise CheckpointError(f"{path} has a broken safetensors header ({error})") from error
    expected = 8 + length + max((entry.stop for entry in entries.values()), default=0)
    if size < expected:
        raise CheckpointError(f"{path} is truncated: {size} bytes of {expected}")
    return Shard(path, 8 + length, entries)
