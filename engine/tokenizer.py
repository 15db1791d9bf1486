"""Text to token ids and back: exact, never stripped, never re-tokenised, and a stream that splits no character."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dodona.engine.errors import CheckpointError, RequestError
from dodona.engine.json_file import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Llama 3.2's template writes today's date into the prompt unless it is given one: the same command would then decode
# another prompt tomorrow. This is the date that Llama 3.1's template has as its default.
TEMPLATE_DATE = "26 Jul 2024"

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_PLAIN_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast", None)


def load_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerFast:
    """Read the fast tokenizer in a folder, without network and without running code from the folder.

    Raises:
        CheckpointError: when there is none, or transformers cannot read it.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not any((folder / file).exists() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise CheckpointError(f"{name}: {folder} has no tokenizer.json")
    settings = read_json(folder / "tokenizer_config.json", name) if (folder / "tokenizer_config.json").exists() else {}
    # transformers 5 writes a class name that 4 does not know, for what both can read as a plain tokenizer.json.
    plain = (folder / "tokenizer.json").exists() and settings.get("tokenizer_class") in _PLAIN_CLASSES
    loader = PreTrainedTokenizerFast if plain else AutoTokenizer
    try:
        with _errors_only("transformers.tokenization_utils_base") if plain else nullcontext():
            tokenizer = loader.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers raise bare Exception for a broken file
        raise CheckpointError(f"{name}: the tokenizer in {folder} cannot be read ({_first_line(error)})") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise CheckpointError(f"{name}: {folder} has no fast tokenizer (tokenizer.json)")
    return tokenizer


class Tokenizer:
    """A model's tokenizer.

    Args:
        fast: the Hugging Face tokenizer to wrap.
        name: the model's name in error messages.
        model_eos_ids: end tokens that the model's configuration names, beside the tokenizer's own.
        model_vocab_size: rows of the model's embedding; an encoded id beyond it is refused.
    """

    def __init__(
        self,
        fast: PreTrainedTokenizerFast,
        *,
        name: str = "tokenizer",
        model_eos_ids: Sequence[int] = (),
        model_vocab_size: int | None = None,
    ) -> None:
        self.name = name
        self._fast = fast
        self._limit = model_vocab_size
        own = [] if fast.eos_token_id is None else [int(fast.eos_token_id)]
        self.eos_ids: tuple[int, ...] = tuple(sorted({*model_eos_ids, *own}))
        self.bos_id: int | None = None if fast.bos_token_id is None else int(fast.bos_token_id)
        self._anchor_ids = self._find_anchor()
        self._anchor_text = self._decode(self._anchor_ids, skip_special=True)

    @property
    def has_chat_template(self) -> bool:
        """Whether prompts that are not raw are wrapped in a chat template."""
        return bool(self._fast.chat_template)

    @cached_property
    def vocabulary(self) -> Mapping[str, int]:
        """Every token's stored form and its id, added tokens included."""
        return dict(self._fast.get_vocab())

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self.vocabulary.values()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the vocabulary: equal for two tokenizers exactly when each id means the same token to both."""
        pairs = sorted((i, token) for token, i in self.vocabulary.items())
        return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that ``decode`` leaves out when it skips special tokens."""
        return frozenset(i for i, token in self._fast.added_tokens_decoder.items() if token.special)

    def encode(self, text: str, *, raw: bool) -> list[int]:
        """Token ids of a prompt.

        Args:
            text: the prompt.
            raw: take the text as it is, with the special tokens that the tokenizer itself puts around a text (one BOS
                at most, also where the text begins with it). Otherwise it becomes the user's message in the chat
                template, with the opening of an answer after it; without a template that is the same as raw.

        Raises:
            RequestError: for a token that the model has no embedding of.
        """
        if not raw and self.has_chat_template:
            return self.encode_chat([{"role": "user", "content": text}])
        ids = self._encode(text, special=True)
        while len(ids) > 1 and ids[0] == ids[1] == self.bos_id:
            del ids[0]
        return ids

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation in the chat template, ending where the assistant's answer begins.

        Raises:
            RequestError: when there is no template, the template refuses the messages, or a token has no embedding.
        """
        if not self.has_chat_template:
            raise RequestError(f"{self.name} has no chat template: give a raw prompt")
        conversation = [dict(message) for message in messages]
        try:
            text = self._fast.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=True, date_string=TEMPLATE_DATE
            )
        except Exception as error:  # a template is a program: it may divide by zero, add text to numbers, ...
            raise RequestError(f"{self.name}: the chat template refuses the messages ({_first_line(error)})") from error
        return self._encode(str(text), special=False)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text that these ids add to the text before them: nothing is stripped, normalised or cleaned up.

        Ids that end inside a character give U+FFFD there; ids that stand for no token give nothing.
        """
        if not self._anchor_ids:
            return self._decode(ids, skip_special)
        return self._decode([*self._anchor_ids, *ids], skip_special)[len(self._anchor_text) :]

    def token_text(self, token_id: int) -> str:
        """One token's text for display, special tokens included; a part of a character shows as U+FFFD."""
        return self.decode([token_id], skip_special=False)

    def token(self, token_id: int) -> str | None:
        """The token's stored form (``"Ġthe"``), or None where the id stands for none."""
        token = self._fast.convert_ids_to_tokens(token_id) if token_id >= 0 else None
        return token if isinstance(token, str) else None

    def _encode(self, text: str, *, special: bool) -> list[int]:
        ids = [int(i) for i in self._fast(text, add_special_tokens=special, verbose=False)["input_ids"]]
        if self._limit is not None and ids and (worst := max(ids)) >= self._limit:
            raise RequestError(
                f"{self.name}: the prompt has token {self.token(worst)!r} with id {worst}, but the model embeds only "
                f"{self._limit} ids"
            )
        return ids

    def _decode(self, ids: Sequence[int], skip_special: bool) -> str:
        text = self._fast.decode(list(ids), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False)
        return str(text)

    def _find_anchor(self) -> list[int]:
        """Ids to decode in front of others, for tokenizers that drop the leading space of a text's first token."""
        ids = self._fast("a a", add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) < 2 or self._decode(ids, True) == "".join(self._decode([i], True) for i in ids):
            return []
        return [int(ids[0])]


class IncrementalDecoder:
    """Turns ids into text as they come. The pieces, with the last flush, concatenate to ``tokenizer.decode(ids)``.

    Text is held back while it may still change: an incomplete UTF-8 sequence, and in tokenizers with byte fallback a
    run of byte tokens, whose text depends on the whole run.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._pending: list[int] = []  # ids since the last place where the text was complete
        self._sent = 0  # characters of the pending ids' text that were handed out

    def push(self, token_id: int) -> str:
        """Add one id; the text that is complete with it, often empty."""
        token = self._tokenizer.token(token_id)
        if token is None or (self._skip_special and token_id in self._tokenizer.special_ids):
            return ""  # no text, and no end to the character before it
        self._pending.append(token_id)
        if _BYTE_TOKEN.fullmatch(token):
            return ""
        text = self._tokenizer.decode(self._pending, self._skip_special)
        if not text.endswith("\ufffd"):
            return self._send(text, complete=True)
        # At most the last replacement character can still change: an incomplete sequence decodes to exactly one.
        return self._send(text[:-1], complete=False)

    def flush(self) -> str:
        """The text still held back, with U+FFFD for what was never completed."""
        return self._send(self._tokenizer.decode(self._pending, self._skip_special), complete=True)

    def _send(self, text: str, *, complete: bool) -> str:
        piece = text[self._sent :]
        self._sent = 0 if complete else len(text)
        if complete:
            self._pending.clear()
        return piece


def check_same_vocabulary(base: Tokenizer, oracle: Tokenizer, names: tuple[str, str]) -> None:
    """Check that ids can pass between two models.

    Raises:
        CheckpointError: naming both models, the sizes of their vocabularies and the first id that differs.
    """
    if base.fingerprint == oracle.fingerprint:
        return
    first, second = ({i: token for token, i in t.vocabulary.items()} for t in (base, oracle))
    different = min(i for i in first.keys() | second.keys() if first.get(i) != second.get(i))
    here, there = (repr(tokens[different]) if different in tokens else "missing" for tokens in (first, second))
    raise CheckpointError(
        f"{names[0]} and {names[1]} do not share one vocabulary ({base.vocab_size} and {oracle.vocab_size} tokens): "
        f"id {different} is {here} in the one and {there} in the other"
    )


@contextmanager
def _errors_only(name: str) -> Iterator[None]:
    """Without a logger's warnings: transformers 4 has three lines for a class that is not of the name in the file."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
