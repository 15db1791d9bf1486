"""Texts of tokens: each token's own, and where several tokens make one character, which of them shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from dodona.engine.errors import CheckpointError, DodonaError
from dodona.engine.tokenizer import IncrementalDecoder, Tokenizer, load_tokenizer
from dodona.eval.viewer.runs import Array

_TOKENIZER_FILES: Final = [
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
]
_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BROKEN: Final = "\ufffd"


def open_tokenizer(name: str, *, download: bool = True) -> Tokenizer:
    """The tokenizer of a model: an alias, a folder, a GGUF file or a hub id. No weights are read or downloaded.

    A folder needs no more than the tokenizer's files.

    Args:
        download: whether those files may be fetched from the hub.

    Raises:
        DodonaError: there is no such model here, or it has no tokenizer.
    """
    from dodona.engine.checkpoint import HUB_ALIASES, open_checkpoint

    bare = name.partition("@drop=")[0]
    folder = Path(bare).expanduser()
    if folder.is_dir():
        return Tokenizer(load_tokenizer(folder, name), name=name)
    repository = HUB_ALIASES.get(bare.upper(), bare)
    if repository != bare or (re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", bare) and folder.suffix != ".gguf"):
        return Tokenizer(load_tokenizer(_from_hub(repository, download=download), name), name=name)
    return open_checkpoint(bare).tokenizer()


def _from_hub(repository: str, *, download: bool) -> Path:
    """The folder in the hub's cache with the tokenizer's files, which are downloaded if they are not there."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download

    try:
        folder = Path(snapshot_download(repository, local_files_only=True))
        if (folder / "tokenizer.json").exists():
            return folder
    except Exception:  # not in the cache, which the hub's library says in several ways
        pass
    if not download:
        raise CheckpointError(f"the tokenizer of {repository} is not in the local cache")
    try:
        get_hf_file_metadata(hf_hub_url(repository, "tokenizer.json"))  # a download would retry for half a minute
        return Path(snapshot_download(repository, allow_patterns=_TOKENIZER_FILES))
    except Exception as error:  # whatever the hub's library, its HTTP client and its transports raise
        raise CheckpointError(
            f"the tokenizer of {repository} is not in the local cache and cannot be downloaded ({type(error).__name__})"
        ) from error


class TokenTexts:
    """Texts of tokens as a trace has them.

    Args:
        key: equal for texts of one vocabulary.
        texts: by id.
    """

    def __init__(self, key: str, texts: Mapping[int, str]) -> None:
        self.key = key
        self._texts = texts

    def text(self, token_id: int) -> str | None:
        """A token's own text, or None where it is not known."""
        return self._texts.get(token_id)

    def is_special(self, token_id: int) -> bool:
        """Whether it is an end mark or the like, as far as that is known."""
        return False

    def hex(self, token_id: int) -> str | None:
        """The bytes of a token that is a part of a character, as far as they are known."""
        return None

    def exceptions(self, ids: Sequence[int]) -> dict[int, str]:
        """Positions where the text is not the token's own, with what it is there."""
        return {}


class TokenizerTexts(TokenTexts):
    """Texts of tokens as a tokenizer has them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer.fingerprint, {})
        self.tokenizer = tokenizer

    def text(self, token_id: int) -> str | None:
        """As in the base class."""
        return None if self.tokenizer.token(token_id) is None else self.tokenizer.token_text(token_id)

    def is_special(self, token_id: int) -> bool:
        """As in the base class."""
        return token_id in self.tokenizer.special_ids

    def hex(self, token_id: int) -> str | None:
        """As in the base class."""
        stored = self.tokenizer.token(token_id)
        raw = None if stored is None or _BROKEN not in (self.text(token_id) or "") else token_bytes(stored)
        return None if raw is None else raw.hex(" ").upper()

    def exceptions(self, ids: Sequence[int]) -> dict[int, str]:
        """A character that several tokens make shows at the last of them, and the others show nothing."""
        own = {i: self.text(i) or "" for i in set(ids)}
        if "".join(own[i] for i in ids) == self.tokenizer.decode(ids, skip_special=False):
            return {}
        decoder = IncrementalDecoder(self.tokenizer, skip_special=False)
        pieces = [decoder.push(i) for i in ids]
        if left := decoder.flush():
            pieces[-1] += left
        return {position: piece for position, piece in enumerate(pieces) if piece != own[ids[position]]}


class Vocabulary:
    """The tokens that a page shows, numbered as they come; where no texts are known they have ids alone."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.texts: list[str | None] = []  # None: not known
        self.special: list[int] = []  # numbers of end marks and the like
        self.bytes: dict[int, str] = {}  # number -> hex bytes, of tokens that are parts of characters
        self._numbers: dict[tuple[str, int], int] = {}

    def number(self, token_id: int, texts: TokenTexts | None) -> int:
        """The number of a token; equal ids of different vocabularies are different tokens."""
        key = "" if texts is None else texts.key, token_id
        known = self._numbers.get(key)
        if known is not None:
            return known
        number = self._numbers[key] = len(self.ids)
        self.ids.append(token_id)
        self.texts.append(None if texts is None else texts.text(token_id))
        if texts is not None and texts.is_special(token_id):
            self.special.append(number)
        if texts is not None and (raw := texts.hex(token_id)) is not None:
            self.bytes[number] = raw
        return number

    def numbers(self, ids: Sequence[int] | Array, texts: TokenTexts | None) -> Array:
        """The numbers of many tokens, int64."""
        different, where = np.unique(np.asarray(ids, dtype=np.int64), return_inverse=True)
        return np.array([self.number(int(i), texts) for i in different], dtype=np.int64)[where]


def token_bytes(stored: str) -> bytes | None:
    """The bytes of a token's stored form: ``<0xF0>``, or GPT-2's printable stand-ins; None: neither."""
    if match := _BYTE_TOKEN.fullmatch(stored):
        return bytes.fromhex(match[1])
    table = byte_alphabet()
    try:
        return bytes(table[character] for character in stored)
    except KeyError:
        return None


def byte_alphabet() -> dict[str, int]:
    """The character with which byte-level vocabularies write each byte.

    Printable bytes of Latin-1 stand for themselves; the others, in order, for the characters from U+0100 on.
    Source: GPT-2's encoder.py, ``bytes_to_unicode`` (Radford et al. 2019).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


class Tokenizers:
    """Opens each model's tokenizer once.

    Args:
        name: the model whose tokenizer is used for all runs; None: each run's own.

    Raises:
        DodonaError: the tokenizer of ``name`` cannot be opened.
    """

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._opened: dict[tuple[str, bool], TokenizerTexts | DodonaError] = {}
        if name is not None:
            self._opened[name, True] = TokenizerTexts(open_tokenizer(name))

    def get(self, model: str | None, *, download: bool) -> TokenizerTexts | DodonaError | None:
        """A model's tokenizer, or why it cannot be opened; None: no model is named.

        Args:
            download: whether it may be fetched where it is not here.
        """
        name = self._name or model
        if name is None:
            return None
        key = name, download or self._name is not None
        if key not in self._opened:
            try:
                self._opened[key] = TokenizerTexts(open_tokenizer(name, download=download))
            except DodonaError as error:
                self._opened[key] = error
        return self._opened[key]
