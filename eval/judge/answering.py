"""Models that answer now: one at a time through the engine, in batches, each answer kept as soon as it is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.request import Prompt, Request
from dodona.eval.judge.files import StageFile, parsed
from dodona.eval.judge.pair import Pair
from dodona.eval.judge.prompt import filled
from dodona.eval.models import Models, Opened

TEMPLATE: Final = "{context}\n\n{question}"


class Question(NamedTuple):
    """What a model is asked for one pair."""

    pair_id: str
    prompt: Prompt
    raw: bool

    @property
    def digest(self) -> str:
        """16 hex digits over the prompt."""
        prompt = self.prompt if isinstance(self.prompt, str) else list(self.prompt)
        return hashlib.sha256(json.dumps([prompt, self.raw]).encode()).hexdigest()[:16]


class Answer(NamedTuple):
    """What came of it."""

    pair_id: str
    digest: str  # of the question
    text: str
    finish_reason: str
    error: str | None
    tokens: int


class Side(NamedTuple):
    """One of the two sides, where a model answers.

    Args:
        letter: a or b.
        models: the one model, and where to load it.
        opened: the same without its weights.
        options: fields of Request, but for ``raw``.
    """

    letter: str
    models: Models
    opened: Opened
    options: Mapping[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """All that its answers depend on beside the questions, by the options' names."""
        common = Request(prompt="", c=0, **self.options)
        fields = ("max_new_tokens", "stop", "temperature", "top_k", "top_p", "min_p", "seed")
        values = {name: getattr(common, name) for name in fields}
        return {
            f"model_{self.letter}": self.opened.base_model_id,
            "weights": list(self.opened.identities),
            "dtype": str(self.opened.dtype).removeprefix("torch."),
            "device": self.opened.device.type,
            "ops": self.opened.ops,
            **values,
            "stop": list(common.stop),
        }


def questions_of(pairs: Sequence[Pair], template: str = TEMPLATE, *, raw: bool = False) -> list[Question]:
    """What to ask a model about pairs that have a question; a context goes before it."""
    return [
        Question(pair.pair_id, filled(template, {"question": pair.question, "context": pair.context or ""}), raw)
        for pair in pairs
        if pair.question is not None
    ]


def answers(
    side: Side,
    questions: Sequence[Question],
    folder: Path,
    *,
    asked: Callable[[int, int], None] = lambda done, total: None,
    step: Callable[[], None] = lambda: None,
) -> dict[str, Answer]:
    """A model's answers by pair, of which those that are there already are not written again.

    Draws are keyed by the pair and not by the model, so that two samples of one model with one seed are the same.

    Raises:
        DodonaError: the file has answers of other settings or to other questions, or cannot be written; or the model
            cannot be loaded.
    """
    path = folder / f"answers-{side.letter}.jsonl"
    found: dict[str, Answer] = {}
    with StageFile(path, f"answers of {side.letter}", side.config) as file:
        for record in file.records:
            answer = parsed(_read, record, path)
            found.setdefault(answer.pair_id, answer)
        digests = {question.pair_id: question.digest for question in questions}
        for pair_id, digest in digests.items():
            if pair_id in found and found[pair_id].digest != digest:
                raise DodonaError(f"{path}: {pair_id} has another question there than here; give another --output-dir")
        left = [question for question in questions if question.pair_id not in found]
        asked(len(questions) - len(left), len(questions))
        if left:
            engine = side.models.load()
            try:
                for answer in _written(engine, side.options, left):
                    file.append(answer._asdict())
                    found[answer.pair_id] = answer
                    step()
            finally:
                engine.close()
    return {pair_id: found[pair_id] for pair_id in digests}


def with_answers(pairs: Sequence[Pair], letter: str, found: Mapping[str, Answer]) -> list[Pair]:
    """The pairs with a side's answers. A failed one is the pair's fault; an empty one is no answer."""
    filled_in = []
    for pair in pairs:
        answer = found.get(pair.pair_id)
        if answer is None:
            filled_in.append(pair)
            continue
        fault = pair.fault
        if answer.error is not None and fault is None:
            fault = f"answer {letter} failed: {answer.error}"
        text = answer.text if answer.text.strip() else None
        if letter == "a":
            filled_in.append(pair._replace(answer_a=text, fault=fault))
        else:
            filled_in.append(pair._replace(answer_b=text, fault=fault))
    return filled_in


def _written(engine: Engine, options: Mapping[str, Any], left: Sequence[Question]) -> Any:
    digests = {question.pair_id: question.digest for question in left}
    requests = (
        Request(
            prompt=question.prompt,
            id=question.pair_id,
            key=f"judge/{question.pair_id}",
            c=0,
            raw=question.raw,
            **options,
        )
        for question in left
    )
    for result in engine.generate(requests):
        pair_id = str(result.request.id)
        yield Answer(pair_id, digests[pair_id], result.text, result.finish_reason, result.error, len(result.ids))


def _read(record: Mapping[str, Any]) -> Answer:
    return Answer(
        str(record["pair_id"]),
        str(record["digest"]),
        str(record["text"]),
        str(record["finish_reason"]),
        None if record["error"] is None else str(record["error"]),
        int(record["tokens"]),
    )
