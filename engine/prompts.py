"""Prompts as ``Engine.generate`` takes them (texts, ids, messages, Requests, iterables of these) made into Requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral
from typing import Any

from dodona.engine.errors import DodonaError, RequestError
from dodona.engine.request import Request, check_unicode, plain
from dodona.engine.tokenizer import Tokenizer
from dodona.engine.transfer import to_host

_OPTIONS = {field.name for field in dataclasses.fields(Request)} - {"prompt"}


def encode(request: Request, tokenizer: Tokenizer, vocab: int) -> list[int]:
    """A request's prompt as token ids.

    Raises:
        RequestError: a prompt without tokens, text that is none, or an id outside the vocabulary.
    """
    prompt = request.prompt
    if isinstance(prompt, str):
        if not prompt:
            raise RequestError("the prompt is empty")
        check_unicode("the prompt", prompt)
        ids = tokenizer.encode(prompt, raw=request.raw)
    elif prompt and isinstance(prompt[0], Mapping):
        for message in prompt:
            if not isinstance(message, Mapping):
                raise RequestError(f"{message!r} in the prompt is not a chat message")
            for text in message.values():
                check_unicode("the prompt", text)
        ids = tokenizer.encode_chat(list(prompt))  # type: ignore[arg-type]
    else:
        ids = list(map(plain, prompt))
        for token in ids:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab:
                raise RequestError(f"{token!r} in the prompt is not a token id of this vocabulary of {vocab}")
    if not ids:
        raise RequestError("the prompt is empty")
    return ids


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse what is no field of Request.

    Raises:
        TypeError: an unknown option.
    """
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; known: {', '.join(sorted(_OPTIONS))}, n")


def is_single(prompts: Any) -> bool:
    """Whether this is one prompt, and not an iterable of several; a mapping or bytes are one, which nobody can run."""
    if isinstance(prompts, (str, bytes, Mapping, Request)):
        return True
    prompts = _listed(prompts)
    return (
        isinstance(prompts, (list, tuple))
        and bool(prompts)
        and (isinstance(prompts[0], Integral) or (isinstance(prompts[0], Mapping) and "role" in prompts[0]))
    )


def as_request(prompt: Any, options: Mapping[str, Any]) -> Request:
    """A prompt with options as a Request.

    Raises:
        RequestError: no prompt, or a field out of range.
    """
    if isinstance(prompt, Request):
        return dataclasses.replace(prompt, **options) if options else prompt
    prompt = _listed(prompt)
    empty = isinstance(prompt, (list, tuple)) and not prompt
    if empty or (is_single(prompt) and not isinstance(prompt, (bytes, Mapping))):
        return Request(prompt=prompt, **options)
    raise RequestError(f"a prompt must be text, token ids, chat messages or a Request, not {type(prompt).__name__}")


def expand(prompts: Iterable[Any], options: Mapping[str, Any], n: int | None) -> Iterator[Request | DodonaError]:
    """Requests of an iterable, ``n`` samples each; a malformed one comes out as its error, to fail alone."""
    for prompt in prompts:
        try:
            request = as_request(prompt, options)
            requests = [request] if n is None else request.samples(n)
        except DodonaError as error:
            yield error
        else:
            yield from requests


def _listed(prompt: Any) -> Any:
    """Ids in an array or a tensor as a list of them."""
    return to_host(prompt) if hasattr(prompt, "tolist") else prompt
