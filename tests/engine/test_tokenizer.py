"""Text to ids and back without losing a character, also a token at a time."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dodona.engine.dummy import ARCHITECTURES, toy_tokenizer
from dodona.engine.errors import CheckpointError, RequestError
from dodona.engine.tokenizer import TEMPLATE_DATE, IncrementalDecoder, Tokenizer, check_same_vocabulary, load_tokenizer

EMBEDDED = Path(__file__).parents[2] / "engine" / "embedded" / "base"


def make_toy(**changes: Any) -> Tokenizer:
    """Byte-level, adds a BOS (id 300), ends with 301, no chat template."""
    config = replace(ARCHITECTURES["1B"], vocab_size=310, bos_token_id=300, eos_token_ids=(301,))
    fast = toy_tokenizer(config, "toy")
    for name, value in changes.items():
        setattr(fast, name, value)
    return Tokenizer(fast, name="toy")


def make_byte_fallback() -> Tokenizer:
    """Llama 2's kind: words begin with a metaspace, unknown characters become byte tokens."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581", "a", "b", "\u2581a", "\u2581b"]
    backend = Backend(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            [("\u2581", "a"), ("\u2581", "b")],
            byte_fallback=True,
            unk_token="<unk>",
            fuse_unk=True,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast: Any = PreTrainedTokenizerFast
    return Tokenizer(fast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"))


ARITH = Tokenizer(load_tokenizer(EMBEDDED, "arith-base"), name="arith-base")
TOY = make_toy()
BYTE_FALLBACK = make_byte_fallback()


@given(st.text())
@settings(max_examples=60, deadline=None)
def test_any_text_survives_encoding_and_decoding(text: str) -> None:
    """Catches stripping, Unicode normalisation and clean-up of spaces before punctuation."""
    assert ARITH.decode(ARITH.encode(text, raw=True), skip_special=False) == text
    assert TOY.decode(TOY.encode(text, raw=True)) == text


@pytest.mark.parametrize("text", ["  two  spaces \n\n", " , . ' n't", "\u00e9\u6f22\U0001f600", "e\u0301", ""])
def test_awkward_text_survives(text: str) -> None:
    """Catches ``clean_up_tokenization_spaces``, which turns " ." into "."."""
    assert ARITH.decode(ARITH.encode(text, raw=True)) == text


def test_a_raw_prompt_gets_the_tokenizers_own_bos_once() -> None:
    """Catches a doubled BOS, and a BOS that the tokenizer would not add."""
    assert TOY.encode("hi", raw=True)[0] == TOY.bos_id == 300
    assert TOY.encode("<|bos|>hi", raw=True) == TOY.encode("hi", raw=True)
    assert ARITH.encode("hi", raw=True)[0] != ARITH.bos_id


def test_without_a_template_a_chat_prompt_is_the_raw_one() -> None:
    """Catches a base model whose prompts lose their BOS because there is no template to write it."""
    assert not TOY.has_chat_template
    assert TOY.encode("hi", raw=False) == TOY.encode("hi", raw=True)
    with pytest.raises(RequestError, match="toy has no chat template"):
        TOY.encode_chat([{"role": "user", "content": "hi"}])


def test_a_chat_prompt_is_what_transformers_makes_of_the_template() -> None:
    """Catches tokenising the template's text with special tokens again, which doubles the BOS."""
    fast = load_tokenizer(EMBEDDED, "arith-base")
    made = fast.apply_chat_template([{"role": "user", "content": "1+2"}], add_generation_prompt=True, tokenize=True)
    expected = made["input_ids"] if isinstance(made, Mapping) else made
    assert ARITH.has_chat_template
    assert ARITH.encode("1+2", raw=False) == list(expected)
    assert ARITH.encode("1+2", raw=False).count(1) == 1
    assert ARITH.decode(ARITH.encode("1+2", raw=False), skip_special=False) == "<|begin|><|user|>1+2<|assistant|>"


def test_a_conversation_ends_where_the_answer_begins() -> None:
    """Catches a missing generation prompt: the model would write the user's next turn."""
    roles = ["system", "user", "assistant", "user"]
    ids = ARITH.encode_chat([{"role": role, "content": role[0]} for role in roles])
    text = "<|begin|><|system|>s<|user|>u<|assistant|>a<|end|><|user|>u<|assistant|>"
    assert ARITH.decode(ids, skip_special=False) == text


def test_a_templates_refusal_is_the_users_error_in_one_line() -> None:
    """Catches a jinja traceback for messages in an order that the template does not allow."""
    toy = make_toy(chat_template="{{ raise_exception('roles must alternate\nuser, assistant') }}")
    with pytest.raises(RequestError, match=r"^toy: .*roles must alternate.*$"):
        toy.encode("hi", raw=False)


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ messages[0]['content'] + 1 }}", {"rag": "a", "tools": "b"}])
def test_a_template_that_fails_is_an_error_of_one_line(template: str | dict[str, str]) -> None:
    """Catches a traceback from a template that divides by zero, adds a number to a text, or is none of several."""
    toy = make_toy(chat_template=template)
    with pytest.raises(RequestError, match=r"^toy: the chat template refuses the messages \(.*\)$"):
        toy.encode("hi", raw=False)


def test_the_templates_date_does_not_depend_on_the_day() -> None:
    """Catches Llama 3.2's template, which writes today's date into the prompt: tomorrow's records would differ."""
    template = "{% if not date_string is defined %}{% set date_string = 'today' %}{% endif %}{{ date_string }}"
    toy = make_toy(chat_template=template)
    assert toy.decode(toy.encode("hi", raw=False)) == TEMPLATE_DATE


def test_a_token_beyond_the_models_vocabulary_is_refused() -> None:
    """Catches an index error (or a device-side assert) when a tokenizer has added tokens that the model never saw."""
    fast = load_tokenizer(EMBEDDED, "arith-base")
    fast.add_tokens(["<extra>"])
    tokenizer = Tokenizer(fast, name="tiny", model_vocab_size=317)
    assert tokenizer.encode("1", raw=True) == ARITH.encode("1", raw=True)
    with pytest.raises(RequestError, match="'<extra>' with id 317, but the model embeds only 317"):
        tokenizer.encode("1 <extra>", raw=True)


def test_end_tokens_are_the_tokenizers_and_the_models() -> None:
    """Catches stopping on one of them only."""
    fast = load_tokenizer(EMBEDDED, "arith-base")
    assert Tokenizer(fast, model_eos_ids=(9, 2, 7)).eos_ids == (2, 7, 9)
    assert Tokenizer(fast).eos_ids == (2,)


def test_ids_without_a_token_have_no_text() -> None:
    """Catches an exception from a model whose output layer is padded beyond the vocabulary."""
    assert ARITH.vocab_size == 317
    assert ARITH.token(317) is None
    assert ARITH.decode([317, 100000]) == ""
    assert ARITH.token_text(2) == "<|end|>"
    assert ARITH.decode([2]) == ""


def test_a_continuation_keeps_its_leading_space() -> None:
    """Catches sentencepiece decoders, which strip the first token's space: segments would run together."""
    ids = BYTE_FALLBACK.encode("a b", raw=True)
    assert [BYTE_FALLBACK.token(i) for i in ids] == ["\u2581a", "\u2581b"]
    assert BYTE_FALLBACK.decode(ids[1:]) == " b"
    assert BYTE_FALLBACK.token_text(ids[1]) == " b"


@pytest.mark.parametrize("skip_special", [True, False])
@pytest.mark.parametrize("tokenizer", [ARITH, TOY, BYTE_FALLBACK], ids=["arith", "toy", "byte fallback"])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_pieces_of_a_stream_are_the_whole_text(
    tokenizer: Tokenizer, skip_special: bool, data: st.DataObject
) -> None:
    """Catches lost or doubled characters at any split, for ids that no text gives as well: broken UTF-8, specials."""
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=30))
    decoder = IncrementalDecoder(tokenizer, skip_special)
    pieces = [decoder.push(i) for i in ids]
    assert "".join(pieces) + decoder.flush() == tokenizer.decode(ids, skip_special)
    assert decoder.flush() == ""


@given(st.text())
@example("\ufffd")
@settings(max_examples=60, deadline=None)
def test_a_stream_of_real_text_never_shows_half_a_character(text: str) -> None:
    """Catches a replacement character that is printed and then taken back."""
    decoder = IncrementalDecoder(TOY)
    shown = ""
    for token in TOY.encode(text, raw=True):
        shown += decoder.push(token)
        assert text.startswith(shown)
    assert shown == text or text.endswith("\ufffd")  # which looks as a character to be completed does
    assert shown + decoder.flush() == text


def test_a_broken_character_is_held_back_only_as_long_as_it_may_be_completed() -> None:
    """Catches a stream that falls silent after one invalid byte."""
    lead, letter = (TOY.vocabulary[c] for c in ("\u00e6", "a"))  # byte 0xE6 opens a character of three bytes
    decoder = IncrementalDecoder(TOY)
    assert [decoder.push(i) for i in (lead, lead, letter)] == ["", "\ufffd", "\ufffda"]


def test_the_fingerprint_is_that_of_the_vocabulary() -> None:
    """Catches two copies of one tokenizer counting as different, or two vocabularies of one size as equal."""
    again = Tokenizer(load_tokenizer(EMBEDDED.parent / "oracle", "arith-oracle"))
    fast = load_tokenizer(EMBEDDED, "arith-base")
    fast.add_tokens(["<extra>"])
    assert ARITH.fingerprint == again.fingerprint
    check_same_vocabulary(ARITH, again, ("arith-base", "arith-oracle"))
    assert ARITH.fingerprint != Tokenizer(fast).fingerprint


def test_two_vocabularies_are_told_apart_by_names_sizes_and_first_difference() -> None:
    """Catches ids passed between models that read them differently: fluent text about something else."""
    fast = load_tokenizer(EMBEDDED, "arith-base")
    fast.add_tokens(["<extra>"])
    with pytest.raises(CheckpointError) as caught:
        check_same_vocabulary(ARITH, Tokenizer(fast), ("small", "large"))
    message = (
        "small and large do not share one vocabulary (317 and 318 tokens): id 317 is missing in the one and '<extra>'"
    )
    assert message in str(caught.value)
    with pytest.raises(CheckpointError, match=r"\(317 and 310 tokens\): id 0 is '<\|pad\|>' in the one and '!' in the"):
        check_same_vocabulary(ARITH, TOY, ("small", "large"))


def copy_tokenizer(folder: Path, **changes: Any) -> Path:
    """The embedded tokenizer in another folder, with another tokenizer_config.json."""
    for file in EMBEDDED.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((EMBEDDED / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize("class_name", ["TokenizersBackend", "PreTrainedTokenizerFast", None])
def test_a_tokenizer_saved_by_either_transformers_is_read(
    tmp_path: Path, class_name: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Catches transformers 4 not knowing the class that 5 writes for a plain tokenizer, and its warnings of that."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    folder = copy_tokenizer(tmp_path, tokenizer_class=class_name)
    assert Tokenizer(load_tokenizer(folder, "tiny")).encode("1+2", raw=True) == ARITH.encode("1+2", raw=True)
    assert not caplog.records


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("tokenizer.json", '{"version": "1.0"', "cannot be read"),
        ("tokenizer_config.json", "{", "tokenizer_config.json cannot be read as JSON"),
        ("tokenizer_config.json", "[1]", "tokenizer_config.json holds no JSON object"),
    ],
)
def test_a_broken_tokenizer_is_named(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    """Catches a Rust panic's or a JSON parser's traceback."""
    folder = copy_tokenizer(tmp_path)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tokenizer(folder, "tiny")
    assert str(caught.value).startswith("tiny: ")
    assert "\n" not in str(caught.value)
