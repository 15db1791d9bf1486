"""A model that judges in this process: its verdict is read from the probabilities of the verdict tokens.

The prompt is the user's turn, and the model's own turn begins with ``Verdict:``. The next token's distribution is read
at the tokens of A, B and C alone, so there is no verdict that cannot be read. With ``think`` tokens the model may write
before that; what it wrote goes before ``Verdict:``. Where a tokenizer does not tell the three apart by one token, or on
demand, the model writes its verdict and the text is parsed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.request import Request
from dodona.engine.tokenizer import Tokenizer
from dodona.eval.judge.pair import Ask
from dodona.eval.judge.prompt import JudgePrompt
from dodona.eval.judge.scoring import next_logprobs, no_room
from dodona.eval.judge.verdict import LABELS, Verdict, chosen, parse_verdict
from dodona.eval.models import Models, Opened

OPENING: Final = "Verdict:"
_WRITTEN: Final = 24  # tokens of a verdict that is parsed
_RETRY_TEMPERATURE: Final = 0.7  # a greedy second try would write the same


class Labels(NamedTuple):
    """How the opening and the verdicts after it are written in tokens."""

    opening: list[int]  # what the three have in common, Verdict: and perhaps a space
    ids: list[int]  # of A, B and C after that


def labels_of(tokenizer: Tokenizer) -> Labels | None:
    """The tokens after which the three verdicts part; None where they do not differ in their next token."""
    written = [_plain(tokenizer, f"{OPENING} {label}") for label in LABELS]
    common = 0
    while all(len(ids) > common and ids[common] == written[0][common] for ids in written):
        common += 1
    if any(len(ids) <= common for ids in written):
        return None
    ids = [ids[common] for ids in written]
    return Labels(written[0][:common], ids) if len(set(ids)) == len(ids) else None


@dataclass(slots=True)
class LocalJudge:
    """A model of the engine as the judge; loaded when it is asked for the first time.

    Args:
        models: one model, and where to load it.
        opened: the same without its weights.
        prompt: what it reads.
        think: tokens that it may write before its verdict.
        parse: let it write the verdict, and parse the text.
        raw: no chat template.
        batch: prompts that are read together.
    """

    models: Models
    opened: Opened
    prompt: JudgePrompt
    think: int = 0
    parse: bool = False
    raw: bool = False
    batch: int = 16
    _engine: Engine | None = field(default=None, repr=False)
    _labels: Labels | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.think < 0:
            raise DodonaError(f"--judge-tokens must be 0 or more, not {self.think}")
        if not self.parse:
            self._labels = labels_of(self.opened.tokenizer)

    @property
    def name(self) -> str:
        """The model's."""
        return self.opened.base_model_id

    @property
    def needs_reference(self) -> bool:
        """Whether its prompt shows the true answer."""
        return self.prompt.needs_reference

    @property
    def settings(self) -> Mapping[str, Any]:
        """Model, prompt and the way in which the verdict is read."""
        return {
            "judge": self.name,
            "weights": list(self.opened.identities),
            "dtype": str(self.opened.dtype).removeprefix("torch."),
            "device": self.opened.device.type,
            "ops": self.opened.ops,
            "prompt": self.prompt.name,
            "prompt_digest": self.prompt.digest,
            "think": self.think,
            "read": "tokens" if self._labels is not None else "text",
            "raw": self.raw,
        }

    def judge(self, asks: Sequence[Ask]) -> Iterator[Verdict]:
        """A batch at a time."""
        for at in range(0, len(asks), self.batch):
            yield from self._judge(asks[at : at + self.batch])

    def close(self) -> None:
        """Let go of the model."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _judge(self, asks: Sequence[Ask]) -> list[Verdict]:
        engine = self._loaded()
        found: dict[int, Verdict] = {}
        prompts: dict[int, list[int]] = {}
        for index, ask in enumerate(asks):
            try:
                # In a chat template the model's turn begins here; in a plain text a new line does.
                end = "\n" if self.raw or not engine.tokenizer.has_chat_template else ""
                prompts[index] = engine.tokenizer.encode(self.prompt.render(ask) + end, raw=self.raw)
            except DodonaError as error:
                found[index] = Verdict(None, error=str(error))
        if self._labels is None:
            found |= self._written(engine, prompts)
        else:
            found |= self._read(engine, prompts, self._labels)
        return [found[index] for index in range(len(asks))]

    def _read(self, engine: Engine, prompts: Mapping[int, list[int]], labels: Labels) -> dict[int, Verdict]:
        found: dict[int, Verdict] = {}
        ready: dict[int, list[int]] = {}
        texts: dict[int, str] = {}
        if self.think:
            requests = (
                Request(prompt=ids, id=str(index), c=0, max_new_tokens=self.think, stop=(OPENING,))
                for index, ids in prompts.items()
            )
            for result in engine.generate(requests):
                index = int(result.request.id or 0)
                if result.error is not None:
                    found[index] = Verdict(None, error=result.error)
                    continue
                written = result.ids[:-1] if result.finish_reason == "eos" else list(result.ids)
                if result.finish_reason == "stop":  # the opening may end in a token with more in it: write it anew
                    text = result.text[: result.text.rfind(OPENING)]
                    written = _plain(engine.tokenizer, text) if text.strip() else []
                else:
                    text, written = result.text, [*written, *_plain(engine.tokenizer, "\n")]
                texts[index] = text
                ready[index] = [*prompts[index], *written, *labels.opening]
        else:
            ready = {index: [*ids, *labels.opening] for index, ids in prompts.items()}
        for index in list(ready):
            if reason := no_room(engine, ready[index]):
                found[index] = Verdict(None, error=reason)
                del ready[index]
        rows = next_logprobs(engine, list(ready.values()), labels.ids)
        for index, row in zip(ready, rows, strict=True):
            probabilities = dict(zip(LABELS.values(), (math.exp(value) for value in row), strict=True))
            choice = chosen(probabilities)
            error = None if choice is not None else "the judge's probabilities are no numbers"
            known = probabilities if choice is not None else None
            found[index] = Verdict(choice, known, texts.get(index), error)
        return found

    def _written(self, engine: Engine, prompts: Mapping[int, list[int]]) -> dict[int, Verdict]:
        found: dict[int, Verdict] = {}
        left = dict(prompts)
        for attempt in (1, 2):
            options: dict[str, Any] = {} if attempt == 1 else {"temperature": _RETRY_TEMPERATURE, "sample": 1}
            requests = (
                Request(prompt=ids, id=str(index), c=0, max_new_tokens=self.think + _WRITTEN, **options)
                for index, ids in left.items()
            )
            for result in engine.generate(requests):
                index = int(result.request.id or 0)
                choice = None if result.error else parse_verdict(result.text)
                error = None if choice else result.error or "no verdict could be read in what the judge wrote"
                found[index] = Verdict(choice, None, result.text, error, attempt)
            left = {index: ids for index, ids in prompts.items() if found[index].choice is None}
            if not left:
                break
        return found

    def _loaded(self) -> Engine:
        if self._engine is None:
            self._engine = self.models.load()
        return self._engine


def _plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a text in the middle of another: without the beginning that a tokenizer puts before texts."""
    ids = tokenizer.encode(text, raw=True)
    return ids[1:] if ids and ids[0] == tokenizer.bos_id else ids
