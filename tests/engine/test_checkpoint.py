"""Folders of safetensors and the names that models are asked for by; every broken one is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import assert_equals_transformers, edit_json, edit_tensors, hf_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dodona.engine import checkpoint as checkpoint_module
from dodona.engine.checkpoint import ALIASES, load_model, open_checkpoint
from dodona.engine.errors import CheckpointError


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
def test_a_folder_loads_as_transformers_saved_it(tmp_path: Path, tied: bool, bias: bool, shards: bool) -> None:
    """Catches a slice in the wrong rows of a fused matrix, a bias left out, a shard not read."""
    theirs = hf_model(tie_word_embeddings=tied, attention_bias=bias, mlp_bias=bias)
    theirs.save_pretrained(tmp_path, max_shard_size="40KB" if shards else "1GB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == shards
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.source, checkpoint.dtype) == ("folder", torch.float32)
    model = load_model(checkpoint, device="cpu")
    assert_equals_transformers(model, theirs.state_dict())
    assert sum(p.numel() for p in model.parameters()) == checkpoint.config.num_parameters


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_the_dtype_is_the_stored_one_unless_another_is_asked_for(tmp_path: Path, stored: torch.dtype) -> None:
    """Catches loading bf16 checkpoints as fp32 at twice the memory, or ignoring the dtype asked for."""
    theirs = hf_model().to(stored)
    theirs.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.dtype == stored
    assert_equals_transformers(load_model(checkpoint, device="cpu"), theirs.state_dict(), stored)
    assert_equals_transformers(
        load_model(checkpoint, device="cpu", dtype=torch.float32), theirs.state_dict(), torch.float32
    )


def test_a_few_tensors_of_another_dtype_do_not_decide_the_dtype(copy: Path) -> None:
    """Catches taking the first tensor's dtype: norms are often kept in float32 beside bf16 matrices."""

    def to_half(tensors: dict[str, Tensor]) -> None:
        tensors.update({n: t.bfloat16() for n, t in tensors.items() if t.dim() == 2})

    edit_tensors(copy, to_half)
    checkpoint = open_checkpoint(copy)
    assert checkpoint.dtype == torch.bfloat16
    assert {p.dtype for p in load_model(checkpoint, device="cpu").parameters()} == {torch.bfloat16}


def test_tied_checkpoints_may_store_the_output_matrix_and_old_ones_rotary_buffers(copy: Path) -> None:
    """Catches refusing real checkpoints for tensors that they hold twice or that follow from the config."""
    edit_json(copy / "config.json", tie_word_embeddings=True)
    edit_tensors(copy, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(5).double()}))
    model = load_model(open_checkpoint(copy), device="cpu")
    assert torch.equal(model.embed, load_file(copy / "model.safetensors")["model.embed_tokens.weight"])


def test_tensors_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a loader that reads a whole shard, or all of them, before it hands out the first tensor."""
    hf_model().save_pretrained(tmp_path, max_shard_size="40KB")
    read: list[str] = []
    real = safe_open

    class Counting:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.file: Any = real(*args, **kwargs)

        def __enter__(self) -> Counting:
            self.file.__enter__()
            return self

        def __exit__(self, *exception: Any) -> None:
            self.file.__exit__(*exception)

        def get_tensor(self, name: str) -> Tensor:
            read.append(name)
            tensor: Tensor = self.file.get_tensor(name)
            return tensor

    monkeypatch.setattr("safetensors.safe_open", Counting)
    checkpoint = open_checkpoint(f"{tmp_path}@drop=1")
    assert read == []
    for handed_out, _ in enumerate(checkpoint.tensors(), start=1):
        assert len(read) == handed_out
    assert not any(name.startswith("model.layers.1.") for name in read)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from /proc")
def test_streaming_keeps_one_shard_in_memory_at_most(tmp_path: Path) -> None:
    """Catches shards that stay mapped: host memory would grow to the whole model, 140 GB for the largest."""
    hidden, shard_bytes = 1024, 64 << 20
    config = {"vocab_size": 16384, "hidden_size": hidden, "intermediate_size": 16384, "num_hidden_layers": 3}
    edit = {"num_attention_heads": 16, "num_key_value_heads": 1, "tie_word_embeddings": True, "model_type": "llama"}
    (tmp_path / "config.json").write_text(json.dumps({**config, **edit}))
    names = {"model.embed_tokens.weight": (16384, hidden), "model.norm.weight": (hidden,)}
    for i in range(3):
        for module, rows in {"q": hidden, "k": 64, "v": 64, "o": hidden}.items():
            names[f"model.layers.{i}.self_attn.{module}_proj.weight"] = (rows, hidden)
        names[f"model.layers.{i}.mlp.gate_proj.weight"] = (16384, hidden)
        names[f"model.layers.{i}.mlp.up_proj.weight"] = (16384, hidden)
        names[f"model.layers.{i}.mlp.down_proj.weight"] = (hidden, 16384)
        names[f"model.layers.{i}.input_layernorm.weight"] = names["model.norm.weight"]
        names[f"model.layers.{i}.post_attention_layernorm.weight"] = names["model.norm.weight"]
    weight_map: dict[str, str] = {}
    shard: dict[str, Tensor] = {}

    def write() -> None:
        file = f"model-{len(set(weight_map.values())):05}.safetensors"
        save_file(shard, tmp_path / file)
        weight_map.update(dict.fromkeys(shard, file))
        shard.clear()

    for name, shape in names.items():
        if sum(t.nbytes for t in shard.values()) + 2 * torch.Size(shape).numel() > shard_bytes:
            write()
        shard[name] = torch.ones(shape, dtype=torch.bfloat16)
    write()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    sizes = [path.stat().st_size for path in tmp_path.glob("*.safetensors")]
    assert sum(sizes) > 4 * max(sizes)
    script = (
        "import re, sys; from pathlib import Path\n"
        "from safetensors import safe_open; from dodona.engine.checkpoint import open_checkpoint\n"
        "status = lambda key: int(re.search(key + r':\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) << 10\n"
        "checkpoint = open_checkpoint(sys.argv[1])\n"
        "Path('/proc/self/clear_refs').write_text('5')\n"  # the peak starts anew here
        "before = status('VmRSS')\n"
        "total = sum(float(t.sum()) for _, t in checkpoint.tensors())\n"
        "print(total > 0, status('VmHWM') - before)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    correct, peak = result.stdout.split()
    assert correct == "True"
    assert int(peak) < 1.3 * max(sizes)


# Broken folders


def break_config(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: edit_json(folder / "config.json", **changes)


def break_tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    return lambda folder: edit_tensors(folder, change)


def break_bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return apply


def to_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def to_gguf(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "tiny.gguf")


def to_a_folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()


NORM = "model.layers.1.input_layernorm.weight"
Q = "model.layers.0.self_attn.q_proj.weight"
FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "other architecture": (break_config(model_type="qwen2", architectures=["Qwen2ForCausalLM"]), "qwen2"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read as JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "config.json holds no JSON object"),
    "config too deep": (lambda f: (f / "config.json").write_text("[" * 100000), "config.json cannot be read as JSON"),
    "a billion layers": (break_config(num_hidden_layers=10**9), r"1000000000 layers, but .* has only 30 tensors"),
    "weights a folder": (to_a_folder, "cannot be read .*model.safetensors"),
    "tokens without ids": (
        lambda f: edit_json(f / "tokenizer.json", added_tokens=[{"content": "<|end|>"}]),
        "tokenizer.json is no tokenizer's file",
    ),
    "no such tokenizer": (
        lambda f: edit_json(f / "tokenizer.json", added_tokens=None, model="x"),
        "tokenizer.json is no tokenizer's file",
    ),
    "missing tensor": (break_tensors(lambda t: t.pop(NORM)), f"lacks {NORM}"),
    "missing many": (break_config(num_hidden_layers=9), "lacks model.layers.3.input_layernorm.weight, .* and 51 more"),
    "missing output": (break_tensors(lambda t: t.pop("lm_head.weight")), "lacks lm_head.weight"),
    "unexpected tensor": (
        break_tensors(lambda t: t.update(extra=torch.ones(1))),
        "a Llama model has no place for extra of the checkpoint",
    ),
    "unexpected bias": (
        break_tensors(lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(60)})),
        "no place for model.layers.0.self_attn.q_proj.bias",
    ),
    "too few layers in config": (break_config(num_hidden_layers=2), "no place for model.layers.2"),
    "other shape": (
        break_tensors(lambda t: t.update({Q: torch.ones(60, 47)})),
        rf"{Q} has shape \[60, 47\] in the checkpoint, but its config.json makes it \[60, 48\]",
    ),
    "float8": (
        break_tensors(lambda t: t.update({Q: t[Q].to(torch.float8_e4m3fn)})),
        f"{Q} in .*model.safetensors is stored as F8_E4M3",
    ),
    "int8": (break_tensors(lambda t: t.update({Q: t[Q].to(torch.int8)})), f"{Q} in .* is stored as I8"),
    "double": (break_tensors(lambda t: t.update({Q: t[Q].double()})), f"{Q} in .* is stored as F64"),
    "quantised": (break_config(quantization_config={"quant_method": "gptq"}), "gptq"),
    "truncated": (break_bytes(lambda b: b[:-1]), r"model.safetensors is truncated: \d+ bytes of \d+"),
    "header truncated": (break_bytes(lambda b: b[:100]), "model.safetensors is not a complete safetensors file"),
    "empty": (break_bytes(lambda b: b""), "model.safetensors is not a complete safetensors file"),
    "broken header": (break_bytes(lambda b: b[:8] + b"x" + b[9:]), "model.safetensors has a broken .* header"),
    "odd header": (
        break_bytes(lambda b: (12).to_bytes(8, "little") + b'{"a":[1, 2]}'),
        "model.safetensors has a broken safetensors header",
    ),
    "git-lfs": (break_bytes(lambda b: b"version https://git-lfs.github.com/spec/v1\n"), "git-lfs pointer"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has neither model.safetensors nor"),
    "pickle only": (to_pickle, "convert them to safetensors"),
    "gguf inside": (to_gguf, r"name .*tiny.gguf"),
}


@pytest.mark.parametrize(("damage", "message"), FOLDERS.values(), ids=FOLDERS.keys())
def test_a_broken_folder_is_refused_in_one_clear_line(
    copy: Path, damage: Callable[[Path], object], message: str
) -> None:
    """Catches a traceback, a message without the file's or tensor's name, and weights that are silently left random."""
    damage(copy)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(copy)
    assert "\n" not in str(caught.value)
    assert str(copy) in str(caught.value)


def break_index(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        change(index)
        path.write_text(json.dumps(index))

    return apply


def duplicate_a_tensor(folder: Path) -> None:
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    tensors = load_file(first)
    name = next(iter(tensors))
    save_file({**load_file(second), name: tensors[name]}, second)


def truncate_a_shard(folder: Path) -> None:
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-4])


SHARDED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing shard": (
        lambda f: sorted(f.glob("*.safetensors"))[1].unlink(),
        r"model-00002-of-0\d+.safetensors is missing \(1 of \d+ shards are\)",
    ),
    "truncated shard": (truncate_a_shard, "model-00002-of-.*.safetensors is truncated"),
    "tensor twice": (duplicate_a_tensor, "is in both .*model-00001.* and .*model-00002"),
    "no weight map": (break_index(lambda i: i.pop("weight_map")), "no usable weight_map"),
    "path in the index": (
        break_index(lambda i: i["weight_map"].update({Q: "../other/model.safetensors"})),
        "no usable weight_map",
    ),
    "number in the index": (break_index(lambda i: i["weight_map"].update({Q: 3})), "no usable weight_map"),
    "list in the index": (break_index(lambda i: i["weight_map"].update({Q: ["a"]})), "no usable weight_map"),
    "nothing in the index": (break_index(lambda i: i["weight_map"].update({Q: ""})), "no usable weight_map"),
    "index at odds": (
        break_index(lambda i: i["weight_map"].update({Q: i["weight_map"]["lm_head.weight"]})),
        f"lacks {Q}, which model.safetensors.index.json puts there",
    ),
    "index not JSON": (lambda f: (f / "model.safetensors.index.json").write_text("{"), "cannot be read as JSON"),
}


@pytest.mark.parametrize(("damage", "message"), SHARDED.values(), ids=SHARDED.keys())
def test_broken_shards_are_refused_by_name(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    """Catches half a download taken for a model."""
    hf_model().save_pretrained(tmp_path, max_shard_size="40KB")
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_that_changes_after_opening_is_still_the_users_error(copy: Path) -> None:
    """Catches a safetensors exception from a file that was replaced between open_checkpoint and load_model."""
    checkpoint = open_checkpoint(copy)
    break_bytes(lambda b: b[:200])(copy)
    with pytest.raises(CheckpointError, match=r"model.safetensors cannot be read"):
        load_model(checkpoint, device="cpu")


# Names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smolm2", "did you mean smollm2"),
        ("arith", "did you mean arith-"),
        ("9B", "one of 1B, 3B, 8B, 70B, arith-base, arith-oracle, smollm2"),
        ("no/such/folder", "neither an existing folder"),
        ("../folder", "neither an existing folder"),
        ("/no-such-folder", "neither an existing folder"),
        ("folder/model.gguf", "neither an existing folder"),
        ("x" * 5000, "neither an existing folder"),
        ("a\0b", "neither an existing folder"),
        ("", "neither an existing folder"),
        ("dummy:9B", "'9B' is neither one of 1B, 3B, 8B, 70B nor a local folder"),
        ("dummy:", "nor a local folder"),
        ("dummy:~nobody-of-this-name", "nor a local folder"),
        (__file__, "a model is a folder with a config.json, or a .gguf file"),
    ],
)
def test_a_name_that_is_no_model_gets_the_list_of_aliases(name: str, message: str) -> None:
    """Catches a misspelt alias that is sent to the hub, and an error that does not say what would have worked."""
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


def test_every_alias_is_known(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    """Catches an alias that is listed in messages but does not work, and one that means another model than it says."""
    asked: list[str] = []

    def download(repository: str) -> Path:
        asked.append(repository)
        return saved

    monkeypatch.setattr(checkpoint_module, "download", download)
    for name in ("1B", "3B", "8B", "70B", "8b"):
        assert (open_checkpoint(name).source, open_checkpoint(name).name) == ("hub", name)
    assert asked[::2] == [
        "meta-llama/Llama-3.2-1B-Instruct",
        "meta-llama/Llama-3.2-3B-Instruct",
        "meta-llama/Llama-3.1-8B-Instruct",
        "meta-llama/Llama-3.1-70B-Instruct",
        "meta-llama/Llama-3.1-8B-Instruct",
    ]
    assert {"1B", "70B", "arith-base", "arith-oracle", "smollm2", "dummy:8B"} <= set(ALIASES)


@pytest.mark.parametrize("name", ["arith-base", "arith-oracle"])
def test_the_embedded_pair_loads(name: str) -> None:
    """Catches a package without its models, and models without their end token."""
    checkpoint = open_checkpoint(name)
    model = load_model(checkpoint, device="cpu")
    assert checkpoint.config.vocab_size == checkpoint.tokenizer().vocab_size == model.embed.shape[0]
    assert checkpoint.config.eos_token_ids == checkpoint.tokenizer().eos_ids == (2,)
    assert checkpoint.tokenizer().has_chat_template


def test_dropped_layers_are_gone_and_the_others_move_up(saved: Path) -> None:
    """Catches a weaker base that is in truth the same model, or that has its layers in the wrong order."""
    whole, without = open_checkpoint(saved), open_checkpoint(f"{saved}@drop=1")
    assert (without.config.num_layers, without.dropped_layers) == (2, (1,))
    model, full = load_model(without, device="cpu"), load_model(whole, device="cpu")
    for mine, whole_models in {"0.qkv": "0.qkv", "1.qkv": "2.qkv", "1.mlp_norm": "2.mlp_norm"}.items():
        assert torch.equal(model.get_parameter(f"layers.{mine}"), full.get_parameter(f"layers.{whole_models}"))
    assert without.identity != whole.identity
    assert open_checkpoint(f"{saved}@drop=0,2").config.num_layers == 1
    assert len(load_model(open_checkpoint("dummy:" + str(saved) + "@drop=0,2"), device="cpu").layers) == 1


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("3", "there is no layer 3; the model's are 0 to 2"),
        ("", "takes layer numbers"),
        ("1,", "takes layer numbers"),
        ("-1", "takes layer numbers"),
        ("a", "takes layer numbers"),
        ("1,1", "names a layer twice"),
        ("0,1,2", "leaves no layer"),
    ],
)
def test_layers_that_cannot_be_dropped_are_refused(saved: Path, drop: str, message: str) -> None:
    """Catches a misspelt layer that is ignored: the experiment would run with the whole model."""
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(f"{saved}@drop={drop}")


# End tokens, identity


def test_end_tokens_come_from_all_three_places(copy: Path) -> None:
    """Catches Llama 3's chat models, whose config.json may name the end of a document and not the end of a turn."""
    edit_json(copy / "config.json", eos_token_id=7)
    edit_json(copy / "generation_config.json", eos_token_id=[7, 9])
    assert open_checkpoint(copy).config.eos_token_ids == (2, 7, 9)
    assert open_checkpoint(copy).tokenizer().eos_ids == (2, 7, 9)
    edit_json(copy / "tokenizer_config.json", eos_token={"content": "<|pad|>", "special": True})
    assert open_checkpoint(copy).config.eos_token_ids == (0, 7, 9)
    for file in ("generation_config.json", "tokenizer.json"):
        (copy / file).unlink()
    assert open_checkpoint(copy).config.eos_token_ids == (7,)
    with pytest.raises(CheckpointError, match=r"has no tokenizer.json"):
        open_checkpoint(copy).tokenizer()


@pytest.mark.parametrize("end", ["<|pad|>", {"content": "<|pad|>", "special": True}])
def test_an_end_token_may_stand_in_transformers_4s_second_file(copy: Path, end: str | dict[str, Any]) -> None:
    """Catches a text that runs on after the tokenizer's end token, because only one of its two files was looked at."""
    edit_json(copy / "config.json", eos_token_id=7)
    edit_json(copy / "generation_config.json", eos_token_id=7)
    (copy / "special_tokens_map.json").write_text(json.dumps({"eos_token": end}))
    assert open_checkpoint(copy).config.eos_token_ids == (2, 7)  # the first file names one
    edit_json(copy / "tokenizer_config.json", eos_token=None)
    assert open_checkpoint(copy).config.eos_token_ids == (0, 7)
    (copy / "tokenizer_config.json").unlink()
    assert open_checkpoint(copy).config.eos_token_ids == (0, 7)


def test_the_identity_follows_the_weights_and_not_the_path(saved: Path, copy: Path) -> None:
    """Catches a cache or a resumed run that takes a retrained model, of equal shapes and size, for the old one."""
    identity = open_checkpoint(saved).identity
    assert identity == open_checkpoint(copy).identity
    assert len(identity) == 16
    edit_tensors(copy, lambda t: t.update({n: x + 1 for n, x in t.items()}))
    assert (copy / "model.safetensors").stat().st_size == (saved / "model.safetensors").stat().st_size
    assert open_checkpoint(copy).identity != identity
