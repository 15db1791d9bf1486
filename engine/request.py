"""What a caller asks for: one prompt, its consult budget, trigger, sampling and limits, with every default."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias

import numpy as np

from dodona.engine.errors import RequestError
from dodona.engine.sampling import Sampling
from dodona.engine.trigger import Trigger
from dodona.engine.trigger_parser import parse_trigger

Prompt: TypeAlias = str | Sequence[int] | Sequence[Mapping[str, str]]
When: TypeAlias = Literal["before", "after"]

DEFAULT_CONSULTS = 5
_MOST = 2**31 - 1  # of a count: what a trace's columns hold
_MOST_SEED = 2**63 - 1
_REALS = ("temperature", "top_p", "min_p", "oracle_temperature", "oracle_top_p", "oracle_min_p")
_COUNTS = (
    *("c", "k", "step_size", "max_oracle_tokens", "max_new_tokens", "seed", "sample"),
    *("top_k", "oracle_top_k", "attention_layer"),
)
_FLAGS = ("ignore_eos", "raw", "base_tail", "divergence", "oracle_tail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sequence to generate. Every field has a default but the prompt. NumPy's numbers become Python's.

    Raises:
        RequestError: a field out of range.
        TriggerError: a trigger that cannot be read, or one that asks for what is not known when it decides.
    """

    prompt: Prompt  # text, token ids, or chat messages ({"role", "content"})
    c: float | None = None  # consult budget, inf allowed; None: 5 where an oracle is loaded, else 0
    k: float = 10  # tokens a consult, inf allowed; 0 means that no consult can happen
    trigger: str | Trigger = "random"
    when: When = "before"  # the trigger decides before the base's token is committed, or after
    step_size: int = 10  # base tokens between two boundaries, where the trigger does not set its own
    max_oracle_tokens: int | None = None  # cap on oracle tokens; may cut the last burst short
    max_new_tokens: int = 256
    ignore_eos: bool = False  # no end token of either model ends the text
    stop: tuple[str, ...] = ()  # the token that completes one of these in the text ends it (special tokens are no text)
    seed: int = 0
    key: str | None = None  # request key of the random draws; None: a hash of the prompt's ids
    sample: int = 0  # which of several samples of this prompt; part of the request key
    temperature: float = 0.0  # of the draws, not of the signals; 0 is greedy
    top_k: int = 0  # draw from the k most likely tokens, ties with the last included; 0 is off
    top_p: float = 1.0  # in (0, 1]: of what top-k left, from the most likely tokens that hold this share of the mass
    min_p: float = 0.0  # in [0, 1]: leave out tokens below this share of the likeliest one's probability; 0 is off
    oracle_temperature: float | None = None  # None: as the base's; likewise below
    oracle_top_k: int | None = None
    oracle_top_p: float | None = None
    oracle_min_p: float | None = None
    raw: bool = False  # True: the prompt as it is, without the chat template
    base_tail: bool = True  # the base also reads a text's last burst, so that its signals cover every position
    divergence: bool = False  # also KL and JS of the two models at every position that both have looked at
    attention_layer: int | None = None  # also the attention signals of this layer of the base; -1 is the last
    oracle_tail: bool = False  # the oracle also reads the base tokens after the last consult, for its opinion of them
    id: str | None = None  # copied to the result, never looked at

    def __post_init__(self) -> None:
        for name in (*_REALS, *_COUNTS):
            object.__setattr__(self, name, plain(getattr(self, name)))
        for name in _FLAGS:
            value = getattr(self, name)
            if not isinstance(value, (bool, np.bool_)):
                raise RequestError(f"{name} must be True or False, not {value!r}")
            object.__setattr__(self, name, bool(value))
        for name in _REALS:
            value = getattr(self, name)
            if not isinstance(value, Real) and not (value is None and name.startswith("oracle_")):
                raise RequestError(f"{name} must be a number, not {value!r}")
        if self.c is not None:
            _check_count("c", self.c)
        _check_count("k", self.k)
        if self.when not in ("before", "after"):
            raise RequestError(f"when must be 'before' or 'after', not {self.when!r}")
        _check_whole("max_new_tokens", self.max_new_tokens, least=1)
        _check_whole("step_size", self.step_size, least=1)
        _check_whole("sample", self.sample, least=0)
        _check_whole("seed", self.seed, least=-_MOST_SEED, most=_MOST_SEED)
        if self.max_oracle_tokens is not None:
            _check_whole("max_oracle_tokens", self.max_oracle_tokens, least=0)
        if self.attention_layer is not None:
            _check_whole("attention_layer", self.attention_layer, least=-_MOST)
        several = isinstance(self.stop, Iterable) and not isinstance(self.stop, str)
        object.__setattr__(self, "stop", tuple(self.stop) if several else (self.stop,))
        if not all(isinstance(text, str) and text for text in self.stop):
            raise RequestError(f"stop must be one or more texts that are not empty, not {self.stop!r}")
        for text in self.stop:
            check_unicode("stop", text)
        check_unicode("key", self.key)
        object.__setattr__(self, "trigger", parse_trigger(self.trigger, when=self.when))
        _ = self.base_sampling  # its own checks
        try:
            _ = self.oracle_sampling
        except RequestError as error:
            raise RequestError(f"oracle_{error}") from None

    @property
    def parsed_trigger(self) -> Trigger:
        """The trigger, which construction has parsed."""
        assert isinstance(self.trigger, Trigger)
        return self.trigger

    @property
    def base_sampling(self) -> Sampling:
        """How the base's tokens are drawn."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p)

    @property
    def oracle_sampling(self) -> Sampling:
        """How the oracle's tokens are drawn: its own settings where given, else the base's."""
        return Sampling(
            self.temperature if self.oracle_temperature is None else self.oracle_temperature,
            self.top_k if self.oracle_top_k is None else self.oracle_top_k,
            self.top_p if self.oracle_top_p is None else self.oracle_top_p,
            self.min_p if self.oracle_min_p is None else self.oracle_min_p,
        )

    def samples(self, n: int) -> list[Request]:
        """``n`` requests that differ in their draws alone."""
        n = plain(n)
        _check_whole("n", n, least=1)
        return [replace(self, sample=self.sample + i) for i in range(n)]


def parse_budget(text: str) -> float:
    """A budget from text: a whole number, or ``inf``.

    Raises:
        ValueError: anything else.
    """
    return math.inf if text.strip().lower() in ("inf", "infinity") else int(text)


def plain(value: Any) -> Any:
    """A number of NumPy's, as the rows of a table hold it, as Python's own, which JSON takes; all else as it is."""
    if type(value) in (bool, int, float):
        return value
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else value


def check_unicode(name: str, text: object) -> None:
    """Refuse a text that no tokenizer reads and no hash takes, such as half of a surrogate pair.

    Raises:
        RequestError: naming it.
    """
    try:
        str(text).encode()
    except UnicodeError as error:
        raise RequestError(f"{name} is not valid Unicode text: {error}") from error


def _check_count(name: str, value: object) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or (isinstance(value, float) and (value == math.inf or value.is_integer()))) or value < 0:  # type: ignore[operator]
        raise RequestError(f"{name} must be a whole number of 0 or more, or inf, not {value!r}")
    if _MOST < value < math.inf:  # type: ignore[operator]
        raise RequestError(f"{name} must be {_MOST} at most, or inf, not {value!r}")


def _check_whole(name: str, value: object, *, least: int, most: int = _MOST) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least:  # type: ignore[operator]
        bound = f" of {least} or more" if whole or least >= 0 else ""
        raise RequestError(f"{name} must be a whole number{bound}, not {value!r}")
    if value > most:  # type: ignore[operator]
        raise RequestError(f"{name} must be {most} at most, not {value!r}")
