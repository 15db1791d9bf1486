"""How good a sample looks: an outcome reward model, any function, or the mean log-probability."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from dodona.engine.errors import DodonaError

Pair = tuple[str, str]  # question, what a model wrote

LOGPROB: Final = "logprob"  # the reward that every study has
_BATCH: Final = 8
_HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")


class Reward(Protocol):
    """Rates texts."""

    @property
    def name(self) -> str:
        """As tables show it."""
        ...

    @property
    def identity(self) -> str:
        """Content hash or version: rewards of another identity are not mixed with these."""
        ...

    def rate(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, float]]:
        """Places in ``pairs`` with their rewards, in any order; NaN for what cannot be rated."""
        ...


@dataclass(frozen=True, slots=True)
class FunctionReward:
    """Any function of the question and the text.

    Raises:
        DodonaError: while rating, when the function raises or gives no number.
    """

    name: str
    function: Callable[[str, str], float]

    @property
    def identity(self) -> str:
        """A hash of the function's source, where there is one."""
        try:
            source = inspect.getsource(self.function)
        except (OSError, TypeError):
            return self.name
        return hashlib.sha256(source.encode()).hexdigest()[:16]

    def rate(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, float]]:
        """See ``Reward``."""
        for place, (question, text) in enumerate(pairs):
            try:
                value = float(self.function(question, text))
            except Exception as error:  # whatever somebody's function does
                raise DodonaError(f"--reward {self.name} failed: {type(error).__name__}: {error}") from error
            yield place, value


def function_reward(place: str) -> FunctionReward:
    """The reward at ``module:function``; the working directory's modules are found, too.

    Raises:
        DodonaError: there is none.
    """
    module, colon, function = place.partition(":")
    if not (module and colon and function):
        raise DodonaError(f"--reward must be MODULE:FUNCTION, as in my_rewards:length, not {place!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise DodonaError(f"--reward {place} cannot be used: {error}") from error
    if not callable(found):
        raise DodonaError(f"--reward {place} is no function")
    return FunctionReward(place, found)


@dataclass(slots=True)
class PlusMinus:
    """An outcome reward model that is a causal LM: after question and solution it says + or -.

    The reward is the probability of "+" among the two, from the logits of the token that the assistant would write:
    p(+) / (p(+) + p(-)). The user's turn is the question, a space and the solution, in the model's chat template; the
    same as plain text where it has none. A text that is longer than the model's context has no reward (NaN).

    Args:
        model: a folder or a hub id that transformers can load.
        device: as torch names it; None: CUDA where there is one.

    Raises:
        DodonaError: for a name that is neither; while loading, when the model or one of the two tokens is not there.

    Source: W. Xiong et al., "An Implementation of Generative PRM" (2024), whose models, such as
    RLHFlow/Llama3.1-8B-ORM-Mistral-Data, are used in this way.
    """

    model: str
    device: str | None = None
    _loaded: tuple[Any, Any, int, int] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not Path(self.model).is_dir() and not _HUB_ID.fullmatch(self.model):
            raise DodonaError(
                f"--reward-model {self.model} cannot be loaded: it is no folder and no hub id (OWNER/NAME)"
            )

    @property
    def name(self) -> str:
        """The model's."""
        return Path(self.model).name

    @property
    def identity(self) -> str:
        """A hash of the weights' files, of a folder; else the model's name."""
        return weights_identity(Path(self.model)) or self.model

    def rate(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, float]]:
        """See ``Reward``."""
        import torch

        model, tokenizer, plus, minus = self._load()
        limit = int(getattr(model.config, "max_position_embeddings", sys.maxsize))
        encoded = [self._encode(tokenizer, question, text) for question, text in pairs]
        fits = []
        for place, ids in enumerate(encoded):
            if not 0 < len(ids) <= limit:
                yield place, math.nan
            else:
                fits.append(place)
        fits.sort(key=lambda place: (len(encoded[place]), place))
        for start in range(0, len(fits), _BATCH):
            places = fits[start : start + _BATCH]
            width = max(len(encoded[place]) for place in places)
            tokens = torch.zeros(len(places), width, dtype=torch.int64)
            mask = torch.zeros_like(tokens)
            for row, place in enumerate(places):
                tokens[row, : len(encoded[place])] = torch.tensor(encoded[place])
                mask[row, : len(encoded[place])] = 1
            with torch.inference_mode():
                logits = model(input_ids=tokens.to(model.device), attention_mask=mask.to(model.device)).logits
            last = logits[torch.arange(len(places)), mask.sum(dim=1) - 1].float()
            chances = torch.sigmoid(last[:, plus] - last[:, minus]).tolist()
            yield from zip(places, chances, strict=True)

    def _encode(self, tokenizer: Any, question: str, text: str) -> list[int]:
        content = f"{question} {text}"
        if tokenizer.chat_template is None:
            return list(tokenizer(f"{content} ")["input_ids"])
        turns = [{"role": "user", "content": content}]
        return list(tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=True, return_dict=False))

    def _load(self) -> tuple[Any, Any, int, int]:
        if self._loaded is None:
            import torch
            from transformers import AutoModelForCausalLM, AutoTokenizer

            device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
            try:
                dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
                with no_bars():
                    tokenizer = AutoTokenizer.from_pretrained(self.model)
                    model = AutoModelForCausalLM.from_pretrained(self.model, dtype=dtype).to(device).eval()
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                raise DodonaError(f"--reward-model {self.model} cannot be loaded: {_first_line(error)}") from error
            plus, minus = (tokenizer.encode(sign, add_special_tokens=False) for sign in "+-")
            if not plus or not minus or plus[-1] == minus[-1] or tokenizer.unk_token_id in (plus[-1], minus[-1]):
                raise DodonaError(f"--reward-model {self.model} has no tokens of their own for + and -")
            self._loaded = model, tokenizer, plus[-1], minus[-1]
        return self._loaded


@contextmanager
def no_bars() -> Iterator[None]:
    """transformers' own progress bars are hidden meanwhile: the command has one."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def weights_identity(folder: Path) -> str | None:
    """16 hex digits over a folder's safetensors files; None where there are none."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def slug(name: str) -> str:
    """A reward's name as part of a file's name."""
    plain = re.sub(r"[^A-Za-z0-9.=-]+", "-", name).strip("-.")
    return plain if plain == name else f"{plain[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
