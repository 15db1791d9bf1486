"""Reads data sets from the Hugging Face hub, or from the local copy that `datasets` keeps of what it downloaded."""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from dodona.engine.errors import DodonaError
from dodona.eval.tasks.folders import pick_split
from dodona.eval.tasks.table import Row, Table, numbered

HUB_ID: Final = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_MATH: Final = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)


class Published(NamedTuple):
    """Where on the hub a data set with a name of its own is."""

    repository: str
    configs: tuple[str | None, ...]
    split: str
    task: str


PUBLISHED: Final = {
    "math": Published("EleutherAI/hendrycks_math", _MATH, "test", "math"),
    "math-500": Published("HuggingFaceH4/MATH-500", (None,), "test", "math"),
    "gsm8k": Published("openai/gsm8k", ("main",), "test", "gsm8k"),
    "gpqa": Published("Idavidrein/gpqa", ("gpqa_main",), "train", "gpqa"),
    "gpqa-diamond": Published("Idavidrein/gpqa", ("gpqa_diamond",), "train", "gpqa"),
    "gpqa-extended": Published("Idavidrein/gpqa", ("gpqa_extended",), "train", "gpqa"),
}


def read_published(name: str, split: str | None = None) -> Table:
    """A data set by its own name.

    The parts of one that has several have no order among them. They are mixed in a fixed order that looks random, so
    that the first 100 problems are a fair sample of all.

    Raises:
        DodonaError: it cannot be downloaded; for a gated one, with what to do.
    """
    there = PUBLISHED[name]
    split = split or there.split
    called = name if split == there.split else f"{name}-{split}"
    rows: list[Row] = []
    for config in there.configs:
        part = _download(there.repository, config, split)
        if len(there.configs) == 1:
            return Table(called, there.repository, numbered(part))
        rows += [row._replace(key=f"{config}-{i}") for i, row in enumerate(numbered(part, f"{config}, "))]
    rows.sort(key=lambda row: hashlib.sha256(str(row.key).encode()).digest())
    return Table(called, there.repository, rows)


def read_hub(repository: str, config: str | None, split: str | None) -> Table:
    """Any data set of the hub.

    Raises:
        DodonaError: it cannot be downloaded, or has no such config or split.
    """
    name = repository.partition("/")[2]
    if config is not None:
        name = config if config.startswith(name) else f"{name}-{config}"
    return Table(name, repository, numbered(_download(repository, config, split)))


def _download(repository: str, config: str | None, split: str | None) -> list[dict[str, Any]]:
    import datasets

    with _quiet(), _offline(_unreachable(repository)) as unreachable:
        try:
            splits = datasets.load_dataset(repository, config)
        except Exception as error:  # datasets lets through whatever its transports and builders raise
            raise _load_error(repository, error, unreachable) from error
        rows: list[dict[str, Any]] = splits[pick_split(list(splits), split, repository)].to_list()
        return rows


def _unreachable(repository: str) -> Exception | None:
    """Why the hub cannot be asked, found out by one question: `datasets` would ask six times, in half a minute.

    Raises:
        DodonaError: the hub answers that there is no such data set, or that it is not for everybody.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        HfApi().auth_check(repository, repo_type="dataset")
    except GatedRepoError as error:
        raise _gated(repository) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise DodonaError(
            f"--dataset: {repository} is neither a local file or folder nor a data set on the hub (for a private one, "
            "set HF_TOKEN)"
        ) from error
    except HfHubHTTPError:
        return None  # it answers; what it has against the download, the download will say
    except Exception as error:  # the HTTP client's, and offline mode
        return error
    return None


def _load_error(repository: str, error: Exception, unreachable: Exception | None) -> DodonaError:
    text = " ".join(str(error).split())
    if "gated" in text.lower():
        return _gated(repository)
    several = _several_configs(repository, error, text)
    if several is not None:
        return several
    reason = text[:200] or type(error).__name__
    if unreachable is not None:
        reason = f"the hub cannot be reached ({type(unreachable).__name__}), and there is no local copy from before"
    return DodonaError(f"{repository} cannot be downloaded: {reason}; give a local file or folder as --dataset")


def _several_configs(repository: str, error: Exception, text: str) -> DodonaError | None:
    """The error where a config must be named; `datasets` says it in words only, other words for its local copies."""
    listed = re.search(r"(?:pick one among the available configs|Available): ?\[(.*?)\]", text)
    cached = re.search(r"multiple '.*?' configurations in the cache: (.*?) Please", text)
    if not isinstance(error, ValueError) or (found := listed or cached) is None:
        return None
    names = found[1].replace("'", "")
    return DodonaError(f"--dataset-config must name one of the configs of {repository}: {names}")


def _gated(repository: str) -> DodonaError:
    return DodonaError(
        f"{repository} is gated: accept its terms at https://huggingface.co/datasets/{repository} and set HF_TOKEN to "
        "a token of that account, or give a local file as --dataset"
    )


@contextmanager
def _offline(why: Exception | None) -> Iterator[Exception | None]:
    """With a reason, let `datasets` look in its local copies only, and hand the reason on."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or why is not None
    try:
        yield why
    finally:
        datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars, log lines and warnings of the libraries off the terminal: errors say what is to be known."""
    import datasets
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub", "fsspec", "httpx", "filelock")]
    levels = [logger.level for logger in loggers]
    shown = datasets.are_progress_bars_disabled(), are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        datasets.disable_progress_bars()
        disable_progress_bars()
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if not shown[0]:
                datasets.enable_progress_bars()
            if not shown[1]:
                enable_progress_bars()
