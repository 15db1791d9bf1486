"""Models from the hub, tested without a network: a cache laid out by hand, and the errors of huggingface_hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import edit_json

from dodona.engine.checkpoint import open_checkpoint
from dodona.engine.errors import CheckpointError


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
    real: Any = huggingface_hub.snapshot_download

    def snapshot_download(name: str, *, local_files_only: bool = False, **options: Any) -> str:
        assert local_files_only, "the weights were downloaded"
        return str(real(name, local_files_only=True, **options))

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: str(copy / "config.json"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match="the architecture is mistral"):
        open_checkpoint("org/other")


def test_only_what_is_read_is_downloaded() -> None:
    """Catches downloading a repository's second copy of its weights in another format."""
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

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
