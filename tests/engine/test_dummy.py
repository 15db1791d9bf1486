"""Random weights for benchmarks: real architectures, the same at every load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoint_files import edit_json

from dodona.engine.checkpoint import load_model, open_checkpoint
from dodona.engine.errors import CheckpointError


@pytest.mark.parametrize(
    ("name", "parameters", "kv_bytes"),
    [
        ("dummy:1B", 1_235_814_400, 32_768),
        ("dummy:3B", 3_212_749_824, 114_688),
        ("dummy:8B", 8_030_261_248, 131_072),
        ("dummy:70B", 70_553_706_496, 327_680),
    ],
)
def test_dummies_have_the_published_sizes(name: str, parameters: int, kv_bytes: int) -> None:
    """Catches a benchmark of a model that nobody else has: a layer, a head or a vocabulary off."""
    config = open_checkpoint(name).config
    assert config.num_parameters == parameters
    assert config.kv_bytes_per_token(2) == kv_bytes
    assert config.rope_scaling is not None
    assert config.rope_scaling.factor == (32 if config.tie_word_embeddings else 8)
    assert config.eos_token_ids == (128001, 128008, 128009)


def test_a_dummy_is_the_same_at_every_load_and_random_everywhere_else(saved: Path) -> None:
    """Catches layers that share one random matrix, unseeded weights, and norms of zero that make every logit equal."""
    checkpoint = open_checkpoint(f"dummy:{saved}")
    assert (checkpoint.source, checkpoint.dtype) == ("dummy", torch.bfloat16)
    first, second = (load_model(checkpoint, device="cpu", dtype=torch.float32) for _ in range(2))
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name))
        if parameter.dim() == 1:
            assert torch.equal(parameter, torch.ones_like(parameter))
        else:
            assert float(parameter.std()) == pytest.approx(0.02, rel=0.05)
    assert not torch.equal(first.get_parameter("layers.0.qkv"), first.get_parameter("layers.1.qkv"))
    assert checkpoint.tokenizer().fingerprint == open_checkpoint(saved).tokenizer().fingerprint
    assert checkpoint.identity == open_checkpoint(f"dummy:{saved}").identity != open_checkpoint("dummy:1B").identity


def test_a_dummys_toy_tokenizer_has_a_token_for_each_id(copy: Path) -> None:
    """Catches a random model that writes ids which the tokenizer cannot decode, and prompts it has no embedding of."""
    (copy / "tokenizer.json").unlink()
    edit_json(copy / "config.json", bos_token_id=1, eos_token_id=[2, 300])
    tokenizer = open_checkpoint(f"dummy:{copy}").tokenizer()
    assert tokenizer.vocab_size == 317
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (1, (2, 300))
    text = "any text \u00e9\U0001f600\n"
    ids = tokenizer.encode(text, raw=True)
    assert (ids[0], tokenizer.decode(ids)) == (1, text)
    assert len(set(map(tokenizer.token_text, range(260, 317)))) == 57
    assert all(tokenizer.token(i) for i in range(317))
    edit_json(copy / "config.json", vocab_size=257)
    with pytest.raises(CheckpointError, match="a vocabulary of 257 is too small"):
        open_checkpoint(f"dummy:{copy}").tokenizer()


def test_dummies_of_one_vocabulary_share_their_tokenizer() -> None:
    """Catches a benchmark pair that the vocabulary check refuses."""
    small, large = open_checkpoint("dummy:1B").tokenizer(), open_checkpoint("dummy:8B").tokenizer()
    assert small.fingerprint == large.fingerprint
    assert small.vocab_size == 128256
    assert small.encode("hi", raw=False)[0] == small.bos_id == 128000
