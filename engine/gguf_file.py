"""The GGUF container: metadata and tensors of one file, each tensor dequantised to float32 when it is asked for.

The format is ggml's (docs/gguf.md there, versions 2 and 3, little-endian). The header is parsed here and not by the
``gguf`` package, whose reader makes several Python objects of every vocabulary entry: seconds for each file opened.
Dequantisation is that package's.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dodona.engine.errors import CheckpointError

MAGIC = b"GGUF"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


class TensorInfo(NamedTuple):
    """One tensor as the header describes it."""

    shape: tuple[int, ...]  # row-major, as PyTorch has it
    kind: int  # ggml's type number
    offset: int  # in the file
    stop: int


class GgufFile:
    """Metadata and tensors of a GGUF file.

    Raises:
        CheckpointError: when the file is no GGUF file, ends too early, or has tensors of an unknown type.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read ({error})") from error
        if self._bytes[:4] != MAGIC:
            raise CheckpointError(f"{path} is not a GGUF file")
        try:
            self._parse()
        except (struct.error, ValueError, MemoryError, OverflowError) as error:
            raise CheckpointError(f"{path} is not a complete GGUF file ({error})") from error
        for name, info in self.infos.items():
            if info.stop > len(self._bytes):
                raise CheckpointError(f"{path} is truncated: {name} ends at byte {info.stop} of {len(self._bytes)}")

    def _parse(self) -> None:
        version = struct.unpack_from("<I", self._bytes, 4)[0]
        if version not in (2, 3):
            raise ValueError(f"version {version}, or big-endian")
        tensors, fields = struct.unpack_from("<QQ", self._bytes, 8)
        self._at = 24
        self.metadata: dict[str, Any] = {}
        for _ in range(fields):
            key = self._string()
            self.metadata[key] = self._value(self._number("I"))
        headers = {}
        for _ in range(tensors):
            name = self._string()
            if name in headers:
                raise ValueError(f"{name} is there twice")
            shape = tuple(self._number("Q") for _ in range(self._number("I")))[::-1]
            headers[name] = (shape, self._number("I"), self._number("Q"))
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"an alignment of {alignment!r}")
        self.header_bytes = -(-self._at // alignment) * alignment
        self.infos = {name: self._info(*header) for name, header in headers.items()}

    def _info(self, shape: tuple[int, ...], kind: int, offset: int) -> TensorInfo:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if not shape or shape[-1] % block:
            raise ValueError(f"a tensor of shape {list(shape)} in blocks of {block}")
        start = self.header_bytes + offset
        return TensorInfo(shape, kind, start, start + int(np.prod(shape)) // block * block_bytes)

    def tensor(self, name: str) -> Tensor:
        """Read and dequantise one tensor: float32, on the CPU, memory of its own."""
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        info = self.infos[name]
        kind = GGMLQuantizationType(info.kind)
        stored = np.frombuffer(self._bytes, np.uint8, info.stop - info.offset, info.offset)
        if kind in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            stored = stored.view(np.float32 if kind == GGMLQuantizationType.F32 else np.float16)
        try:
            values = dequantize(stored.reshape(*info.shape[:-1], -1), kind)
        except NotImplementedError as error:
            raise CheckpointError(f"{self.path}: {name} is stored as {kind.name}, which cannot be read") from error
        return torch.from_numpy(np.array(values, dtype=np.float32).reshape(info.shape))

    def _number(self, code: str) -> int:
        value: int = struct.unpack_from("<" + code, self._bytes, self._at)[0]
        self._at += struct.calcsize("<" + code)
        return value

    def _string(self) -> str:
        length = self._number("Q")
        if length > len(self._bytes) - self._at:
            raise ValueError(f"a string of {length} bytes at byte {self._at}")
        self._at += length
        return self._bytes[self._at - length : self._at].decode("utf-8", errors="replace")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            if kind not in _SCALARS:
                raise ValueError(f"unknown metadata type {kind}")
            return self._number(_SCALARS[kind])
        kind, length = self._number("I"), self._number("Q")
        if length > len(self._bytes) - self._at:
            raise ValueError(f"an array of {length} values at byte {self._at}")
        if kind in _SCALARS:
            values = struct.unpack_from(f"<{length}{_SCALARS[kind]}", self._bytes, self._at)
            self._at += struct.calcsize(f"<{length}{_SCALARS[kind]}")
            return list(values)
        return [self._value(kind) for _ in range(length)]
