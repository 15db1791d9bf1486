"""Guided decoding as the first experiments did it: the models hand on text, not token ids.

Where the writer changes, the text so far is stripped and cut into tokens anew, so that white space at its end and the
boundaries of its tokens are lost; within one writer's turn ids pass on as they are. The prompt stays as it is. All else
(trigger, draws, budgets, ends) is the engine's own: a ``Sequence`` keeps count of what was written, and only what the
models read is different. Hand on ids, and the texts are those of ``Engine.generate``.

Each turn is a request of its own, which reads everything before it again, and the base writes a few tokens beyond a
consult, which are thrown away. So what a ledger says here is no cost of anything.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np

from dodona.engine.attention_stats import ATTENTION_SIGNALS
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError, TriggerError
from dodona.engine.ledger import Ledger
from dodona.engine.request import Request
from dodona.engine.result import Result, failed_result, make_result
from dodona.engine.sequence import BASE, ORACLE
from dodona.engine.tokenizer import Tokenizer

TURN: Final = 32  # tokens that the base writes at a time while a consult is possible
_SIGNALS: Final = ("entropy", "varentropy", "top_prob", "margin")
_COUNTED: Final = frozenset({"burst_tokens", "base_tokens", "consults"})  # by the sequence, of what was kept


def generate_by_text(
    engine: Engine, requests: Iterable[Request], hand_on: Callable[[str], str] = str.strip
) -> Iterator[Result]:
    """Run requests with text between the models; results as they finish.

    A result's ids and segments are what was written; its ``text`` is what became of it on the way.

    Args:
        requests: read lazily, as many at once as the engine's batch has.
        hand_on: what the text so far becomes where the writer changes.
    """
    waiting = iter(requests)
    running: list[_Told] = []
    while True:
        while len(running) < engine.scheduler.max_batch and (request := next(waiting, None)) is not None:
            try:
                running.append(_Told(engine, hand_on, request))
            except DodonaError as error:  # a prompt that these models cannot read: this run fails, the others go on
                yield failed_result(request, str(error), engine.tokenizer, engine.base_model_id, engine.oracle_model_id)
        if not running:
            return
        turns = {str(number): told for number, told in enumerate(running)}
        for result in engine.generate(told.turn(name) for name, told in turns.items()):
            turns[str(result.request.id)].hear(result)
        yield from (told.result() for told in running if told.sequence.finished)
        running = [told for told in running if not told.sequence.finished]


class _Turn(NamedTuple):
    """What one model is asked."""

    writer: str
    context: list[int]  # what it reads
    text: str  # the part of it that was handed on as text


class _Told:
    """One request on its way."""

    def __init__(self, engine: Engine, hand_on: Callable[[str], str], request: Request) -> None:
        self._engine, self._hand_on = engine, hand_on
        self.sequence = engine.check(request)
        self._context = list(self.sequence.prompt)  # what the writer has read and written
        self._writer: str | None = None  # of the last token
        self._text = ""  # as it was last handed on
        self._since: list[int] = []  # ids written after that
        self._turn: _Turn | None = None

    def turn(self, name: str) -> Request:
        """What to ask for next."""
        sequence, request = self.sequence, self.sequence.request
        writer = ORACLE if sequence.burst_left else BASE
        context, text = self._context, self._text
        if self._writer not in (None, writer):
            text = self._hand_on(text + self._engine.tokenizer.decode(self._since))
            context = [*sequence.prompt, *_tokens(self._engine.tokenizer, text)]
        self._turn = _Turn(writer, list(context), text)
        left = sequence.limit - sequence.generated
        own = {"c": 1, "trigger": "always", "k": float("inf")} if writer == ORACLE else {"c": 0, "trigger": "never"}
        return dataclasses.replace(
            request,
            **own,  # type: ignore[arg-type]
            prompt=context,
            id=name,
            # Where tokens are drawn, each turn draws its own; without a key it does so by what it reads.
            key=None if request.key is None else f"{request.key}@{sequence.generated}",
            when="before",
            max_oracle_tokens=None,
            max_new_tokens=sequence.burst_left or (min(TURN, left) if sequence.can_consult else left),
            stop=(),  # the sequence looks for it
            divergence=False,
            attention_layer=sequence.attention_layer,
            base_tail=True,
            oracle_tail=False,
        )

    def hear(self, result: Result) -> None:
        """Take what was written, as far as it counts."""
        sequence, turn = self.sequence, self._turn
        assert turn is not None
        _add(sequence.ledger, result.ledger)
        if result.finish_reason in ("error", "cancelled"):
            sequence.finish(result.finish_reason, result.error)
            return
        for place, token in enumerate(result.ids):
            self._note(result, place)
            if turn.writer == BASE and self._consults("before", result, place):
                return
            self._write(turn, token)
            sequence.record_logprob(float(result.signals["logprob"][place]))
            if sequence.finished or (turn.writer == BASE and self._consults("after", result, place)):
                return
        if len(self._context) >= self._engine.context:
            sequence.finish("length")

    def result(self) -> Result:
        """The result of what is finished."""
        engine = self._engine
        result = make_result(self.sequence, engine.tokenizer, engine.base_model_id, engine.oracle_model_id)
        return dataclasses.replace(result, text=self._text + engine.tokenizer.decode(self._since))

    def _write(self, turn: _Turn, token: int) -> None:
        if self._writer not in (None, turn.writer):
            self._context, self._text, self._since = turn.context, turn.text, []
        self._writer = turn.writer
        self._context.append(token)
        self._since.append(token)
        self.sequence.commit(token, turn.writer)

    def _note(self, result: Result, place: int) -> None:
        """Note the base's signals of a position, unless the turn before has: the one that a consult ended."""
        sequence = self.sequence
        if sequence.base.recorded > sequence.generated:
            return
        names = (*_SIGNALS, "base_top1", *(ATTENTION_SIGNALS if sequence.attention_layer is not None else ()))
        values = tuple(float(result.signals[name][place]) for name in names)
        sequence.record_base(values[:5], values[5:])

    def _consults(self, when: str, result: Result, place: int) -> bool:
        """Whether the base's turn ends before or after this token: with a consult, or because its trigger failed."""
        sequence, trigger = self.sequence, self.sequence.trigger
        if sequence.request.when != when or not sequence.can_consult:
            return False
        values = sequence.counters(int(when == "after"))
        values |= {name: float(column[place]) for name, column in result.signals.items()}
        values["u"] = sequence.draw(int(values["position"]))
        values |= sequence.ema_columns()
        columns = {
            name: np.array([value], dtype=np.float32)
            for name, value in values.items()
            if name in trigger.names or name == "position" or name.startswith("ema(")
        }
        try:
            fires = bool(trigger.ask(columns)[0])
        except TriggerError as error:
            sequence.finish("error", str(error))
            return True
        if fires:
            sequence.begin_consult()
        return fires


def _tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text that goes on: without those that the tokenizer puts around a whole one."""
    if not text:
        return []
    ids = tokenizer.encode(text, raw=True)
    start = int(bool(ids) and ids[0] == tokenizer.bos_id)
    stop = len(ids) - int(len(ids) > start and ids[-1] in tokenizer.eos_ids)
    return ids[start:stop]


def _add(ledger: Ledger, more: Ledger) -> None:
    for field in dataclasses.fields(Ledger):
        if field.name not in _COUNTED:
            setattr(ledger, field.name, getattr(ledger, field.name) + getattr(more, field.name))
