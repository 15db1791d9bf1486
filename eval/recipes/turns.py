"""Takes the system turn out of a prompt in Llama 3's format, where the chat template put it there by itself.

Llama 3's templates open every conversation with a system turn that holds two dates. Meta's recipes have user turns
only, and a date in the prompt moves scores a little, so for the problems of a task that turn is cut out again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from dodona.engine.request import Prompt

if TYPE_CHECKING:
    from dodona.engine.tokenizer import Tokenizer

_START: Final = "<|start_header_id|>"
_END: Final = "<|end_header_id|>"
_TURN_END: Final = "<|eot_id|>"


def user_turns(prompt: Prompt, tokenizer: Tokenizer) -> str | list[int] | None:
    """The prompt in the model's chat template, without a system turn that nobody asked for.

    Returns:
        The whole prompt with its special tokens, to be used raw: as text where that is read back as the same ids, else
        the ids. None where the prompt can be used as it is: it is not to be put into a template, the template adds no
        such turn, or the format is not Llama 3's.
    """
    messages = _messages(prompt)
    if messages is None or not tokenizer.has_chat_template or any(m["role"] == "system" for m in messages):
        return None
    tokens = tokenizer.vocabulary
    if not {_START, _END, _TURN_END} <= tokens.keys():
        return None
    ids = tokenizer.encode_chat(messages)
    at = 1 if ids[:1] == [tokenizer.bos_id] else 0
    if ids[at : at + 1] != [tokens[_START]] or tokenizer.decode(ids[at + 1 : ids.index(tokens[_END])]) != "system":
        return None
    left = ids[:at] + ids[ids.index(tokens[_TURN_END]) + 1 :]
    text = tokenizer.decode(left, skip_special=False)
    return text if tokenizer.encode(text, raw=True) == left else left


def _messages(prompt: Prompt) -> list[Mapping[str, str]] | None:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if prompt and isinstance(prompt[0], Mapping):
        return list(prompt)  # type: ignore[arg-type]
    return None
