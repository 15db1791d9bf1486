"""Models from the Hugging Face hub: from the local cache, or downloaded into it."""

from __future__ import annotations

from pathlib import Path

from dodona.engine.errors import CheckpointError
from dodona.engine.safetensors_folder import SafetensorsFolder, read_config

WANTED = [
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
]


def download(repository: str) -> Path:
    """The folder in the hub's cache that holds this model.

    What is complete in the cache is used as it is, without asking the hub for a newer revision: the same command keeps
    meaning the same weights. Otherwise the config.json comes first, so that a model that dodona cannot run is refused
    before its weights are downloaded. Goes by huggingface_hub's own settings: HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE,
    and HF_TOKEN for gated models.

    Raises:
        CheckpointError: saying which of gated, unknown or unreachable it is, and what to do.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    if (folder := cached(repository)) is not None:
        return folder
    reached = False
    try:
        get_hf_file_metadata(hf_hub_url(repository, "config.json"))  # hf_hub_download would retry for half a minute
        reached = True
        read_config(Path(hf_hub_download(repository, "config.json")).parent, repository)
        return Path(snapshot_download(repository, allow_patterns=WANTED, ignore_patterns=["*/*"]))
    except CheckpointError:
        raise
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repository} is gated: accept its licence on the model's page and set HF_TOKEN to a token of that account"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{repository} is neither a local folder nor a model on the hub (for a private one, set HF_TOKEN)"
        ) from error
    except HFValidationError as error:
        raise CheckpointError(f"{repository} is neither a local folder nor a valid hub id") from error
    except EntryNotFoundError as error:
        if not reached:
            raise CheckpointError(f"{repository} has no config.json on the hub") from error
        raise CheckpointError(f"{repository} could not be downloaded ({_one_line(error)})") from error
    except Exception as error:  # whatever the HTTP client and its transports raise, it is not the user's traceback
        if reached or isinstance(error, HfHubHTTPError):
            raise CheckpointError(f"{repository} could not be downloaded ({_one_line(error)})") from error
        raise CheckpointError(
            f"{repository} is not a local folder, not complete in the local cache, and the hub could not be reached "
            f"({type(error).__name__}); download it where there is a network, or name the folder it is in"
        ) from error


def cached(repository: str) -> Path | None:
    """The snapshot in the local cache, if config, tokenizer and every shard are there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(repository, allow_patterns=WANTED, ignore_patterns=["*/*"], local_files_only=True)
        )
        SafetensorsFolder(folder, repository, "hub")
    except (LocalEntryNotFoundError, HFValidationError, CheckpointError):
        return None
    complete = (folder / "config.json").exists() and any(
        (folder / file).exists() for file in ("tokenizer.json", "tokenizer.model")
    )
    return folder if complete else None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
