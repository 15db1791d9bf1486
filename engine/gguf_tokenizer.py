"""Hugging Face tokenizers from the vocabulary in a GGUF file's metadata.

They are built here and not by transformers' GGUF converter: its versions before 5 add a BOS that the file says not to
add and name another end token than the file does, and version 5 leaves out the space that a sentencepiece vocabulary
puts before the text that follows a special token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

# How text is cut before merging, by the file's tokenizer.ggml.pre; the pattern is that of Llama 3's tokenizer.json.
_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_PRE = ("llama-bpe", "llama3", "llama-v3")
BYTE_LEVEL_PRE = ("smollm", "gpt-2", *_LLAMA3_PRE)

_CONTROL, _USER_DEFINED = 3, 4  # llama.cpp's token types that are no pieces of text
_SPACE = "\u2581"  # what sentencepiece writes for one


def byte_level_tokenizer(metadata: dict[str, Any], pre: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a byte-level BPE vocabulary (Llama 3's kind), with text cut as ``pre`` says."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    tokens, merges = metadata["tokenizer.ggml.tokens"], _stored_merges(metadata)
    llama3 = pre in _LLAMA3_PRE
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, ignore_merges=llama3))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not llama3)
    if llama3:
        cut: Any = [pre_tokenizers.Split(Regex(_LLAMA3_PATTERN), "isolated"), byte_level]
    else:
        cut = [pre_tokenizers.Digits(individual_digits=True), byte_level] if pre == "smollm" else [byte_level]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cut)
    tokenizer.decoder = decoders.ByteLevel()
    return _finished(tokenizer, metadata, adds_bos=llama3)


def sentencepiece_tokenizer(metadata: dict[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer of a sentencepiece BPE vocabulary (Llama 1's and 2's kind), as their tokenizer.json has it.

    Two pieces merge where they make a third, the one of the best score first; what no piece covers becomes bytes.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokens = metadata["tokenizer.ggml.tokens"]
    ids = {token: i for i, token in enumerate(tokens)}
    merges = _stored_merges(metadata) or _merges_by_score(ids, metadata["tokenizer.ggml.scores"])
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    options: Any = {} if unknown is None else {"unk_token": tokens[unknown]}
    tokenizer = Tokenizer(models.BPE(ids, merges, byte_fallback=True, fuse_unk=True, **options))
    spaces = normalizers.Replace(" ", _SPACE)
    pieces = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces])
        pieces.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence(pieces)
    return _finished(tokenizer, metadata, adds_bos=True)


def _stored_merges(metadata: dict[str, Any]) -> list[tuple[str, str]]:
    stored: list[str] = metadata.get("tokenizer.ggml.merges", [])
    return [(left, right) for left, _, right in (merge.partition(" ") for merge in stored)]


def _merges_by_score(ids: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to make a piece of two others, best piece first, of one piece the longest left part first."""
    best_first = sorted(ids, key=lambda token: -scores[ids[token]])
    return [
        (token[:cut], token[cut:])
        for token in best_first
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in ids and token[cut:] in ids
    ]


def _finished(tokenizer: Tokenizer, metadata: dict[str, Any], *, adds_bos: bool) -> PreTrainedTokenizerFast:
    """With the special tokens, the chat template, and the BOS that the file (else ``adds_bos``) says to add."""
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    kinds: list[int] = metadata.get("tokenizer.ggml.token_type", [])
    tokenizer.add_tokens(
        [
            AddedToken(token, special=kind == _CONTROL, normalized=False)
            for token, kind in zip(tokens, kinds, strict=False)
            if kind in (_CONTROL, _USER_DEFINED)
        ]
    )
    named = {}
    for role, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        token_id = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if token_id is not None and 0 <= token_id < len(tokens):
            named[f"{role}_token"] = tokens[token_id]
    if metadata.get("tokenizer.ggml.add_bos_token", adds_bos) and "bos_token" in named:
        bos, bos_id = named["bos_token"], metadata["tokenizer.ggml.bos_token_id"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, bos_id)]
        )
    wrap: Any = PreTrainedTokenizerFast  # its constructor is not annotated
    fast: PreTrainedTokenizerFast = wrap(
        tokenizer_object=tokenizer,
        chat_template=metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **named,
    )
    return fast
