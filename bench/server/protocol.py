"""The part of the OpenAI completions API that the HTTP design needs: requests read and checked, answers made.

Fields beyond it that are read here are vLLM's: ``ignore_eos`` and ``return_token_ids``. A field that asks for something
this server does not do is refused with its name; one that changes nothing (``user``, say) is passed over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

DEFAULT_MAX_TOKENS = 16  # the API's own


class BadRequest(Exception):
    """A request that cannot be served, in a line."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Completion(NamedTuple):
    """A completion that is asked for."""

    prompt: str | list[int]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stream: bool
    ignore_eos: bool
    return_token_ids: bool


# Fields whose every other value would change the text or the answer, and the values that change nothing.
_NEUTRAL: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("n", (None, 1)),
    ("best_of", (None, 1)),
    ("echo", (None, False)),
    ("logprobs", (None,)),
    ("logit_bias", (None, {})),
    ("presence_penalty", (None, 0)),
    ("frequency_penalty", (None, 0)),
    ("stop", (None, [], "")),
    ("suffix", (None, "")),
)


def read_completion(body: bytes, model: str) -> Completion:
    """The request in a body.

    Raises:
        BadRequest: what is wrong with it.
    """
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise BadRequest("the body must be a JSON object")
    if (asked := fields.get("model", model)) != model:
        raise BadRequest(f"there is no model {asked!r} here; the model is {model!r}", 404)
    for name, neutral in _NEUTRAL:
        if fields.get(name) not in neutral:
            raise BadRequest(f"{name}={fields[name]!r} is not supported by this server")
    return Completion(
        prompt=_prompt(fields.get("prompt")),
        max_tokens=_number(fields, "max_tokens", DEFAULT_MAX_TOKENS, int, 1),
        temperature=_number(fields, "temperature", 1.0, float, 0),  # the API's default
        top_p=_number(fields, "top_p", 1.0, float, 0),
        seed=_number(fields, "seed", 0, int, None),
        stream=_flag(fields, "stream"),
        ignore_eos=_flag(fields, "ignore_eos"),
        return_token_ids=_flag(fields, "return_token_ids"),
    )


def answer(
    model: str,
    text: str,
    finish_reason: str | None,
    usage: tuple[int, int] | None,
    token_ids: tuple[list[int], list[int]] | None,
) -> bytes:
    """A completion as the API writes it.

    Args:
        model: the served name.
        text: what was written.
        finish_reason: "stop" after an end token, "length", or None in the midst of a stream.
        usage: tokens of the prompt and of the completion; None in the midst of a stream.
        token_ids: ids of the prompt and of the completion, where they were asked for.
    """
    choice: dict[str, Any] = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
    if token_ids is not None:
        choice |= {"prompt_token_ids": token_ids[0], "token_ids": token_ids[1]}
    now = time.time()
    whole: dict[str, Any] = {
        "id": f"cmpl-{int(now * 1e6):x}",
        "object": "text_completion",
        "created": int(now),
        "model": model,
        "choices": [choice],
    }
    if usage is not None:
        prompt, written = usage
        whole["usage"] = {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
    return json.dumps(whole).encode()


def error_answer(message: str, status: int) -> bytes:
    """An error as the API writes it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": status}}).encode()


def _prompt(value: object) -> str | list[int]:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]  # a batch of one
    if isinstance(value, str) and value:
        return value
    if isinstance(value, list) and value and all(isinstance(i, int) and not isinstance(i, bool) for i in value):
        return value
    raise BadRequest("prompt must be one text or one list of token ids, and not be empty")


def _number(fields: Mapping[str, Any], name: str, default: Any, kind: type, least: float | None) -> Any:
    value = fields.get(name)
    value = default if value is None else value
    known = isinstance(value, int) or (kind is float and isinstance(value, float))
    if isinstance(value, bool) or not known or (least is not None and not value >= least):
        number = "a whole number" if kind is int else "a number"
        raise BadRequest(f"{name} must be {number}{'' if least is None else f' of {least} or more'}, not {value!r}")
    return kind(value)


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequest(f"{name} must be true or false, not {value!r}")
    return bool(value)
