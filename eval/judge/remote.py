"""A judge behind any URL that speaks OpenAI's chat completions.

The key is read from an environment variable that the user names; it goes into one header of each request and nowhere
else, and is cut out of whatever the server says. What a server does not answer is asked for once more, and is an error
after that.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from dodona.engine.errors import DodonaError
from dodona.eval.judge.http import Failure, post
from dodona.eval.judge.pair import Ask, Choice
from dodona.eval.judge.prompt import JudgePrompt
from dodona.eval.judge.verdict import LABELS, Verdict, parse_verdict

_ANSWER: Final = 32  # tokens for the line with the verdict
_TOP: Final = 5  # alternatives of a token that are asked for: every server gives as many
_LONGEST_WAIT: Final = 60.0  # seconds, whatever the server asks for
_HIDDEN: Final = "(the key)"


def is_url(text: str) -> bool:
    """Whether a judge is named by an address."""
    return text.lower().startswith(("http://", "https://"))


def endpoint(url: str) -> str:
    """The address of chat completions: ``/v1/chat/completions`` of a server, ``/chat/completions`` below a path.

    Raises:
        DodonaError: no address of a server, or one with a user or a key in it.
    """
    try:
        parts = urlsplit(url)
        known = bool(parts.hostname) and (parts.port or 0) >= 0
    except ValueError:
        known = False
    if not known or any(character.isspace() for character in url):
        raise DodonaError(f"--judge {url!r} is no address of a server, as http://127.0.0.1:8000/v1 is")
    if parts.username or parts.password:
        raise DodonaError(
            "--judge has a user or a password in its address: name an environment variable with --judge-key-env"
        )
    if parts.query or parts.fragment:
        raise DodonaError(
            "--judge has a query in its address, which would be written into records: leave it out, and name an "
            "environment variable for a key with --judge-key-env"
        )
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = (path or "/v1") + "/chat/completions"
    return f"{parts.scheme.lower()}://{parts.netloc}{path}"


def key_from(variable: str | None) -> str | None:
    """The key in an environment variable; None where none is named.

    Raises:
        DodonaError: the variable is not set, or holds what no header can.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise DodonaError(f"--judge-key-env {variable}: there is no such environment variable, or nothing in it")
    if not (key.isascii() and key.isprintable()):
        raise DodonaError(f"--judge-key-env {variable}: there are characters in it that no key has")
    return key


@dataclass(frozen=True, slots=True)
class RemoteJudge:
    """A model behind a URL as the judge.

    Args:
        url: from ``endpoint``.
        model: as the server calls it.
        prompt: what it reads.
        key: sent as a bearer token; None: nothing is sent.
        think: tokens that it may write before its verdict.
        logprobs: ask for the probabilities of what it writes.
        timeout: seconds for one answer.
        wait: seconds before the second try, where the server does not say.
        workers: requests at once.
        sleep: how to wait.
    """

    url: str
    model: str
    prompt: JudgePrompt
    key: str | None = field(default=None, repr=False)
    think: int = 0
    logprobs: bool = True
    timeout: float = 120.0
    wait: float = 2.0
    workers: int = 4
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def __post_init__(self) -> None:
        if self.think < 0:
            raise DodonaError(f"--judge-tokens must be 0 or more, not {self.think}")
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise DodonaError(f"--judge-timeout must be above 0, not {self.timeout:g}")
        if not (math.isfinite(self.wait) and self.wait >= 0):
            raise DodonaError(f"--judge-wait must be 0 or more, not {self.wait:g}")
        if self.workers < 1:
            raise DodonaError(f"--judge-workers must be 1 or more, not {self.workers}")

    @property
    def name(self) -> str:
        """The model at its server."""
        return f"{self.model} at {urlsplit(self.url).netloc}"

    @property
    def needs_reference(self) -> bool:
        """Whether its prompt shows the true answer."""
        return self.prompt.needs_reference

    @property
    def settings(self) -> Mapping[str, Any]:
        """Where it is and what it reads; not the key."""
        return {
            "judge": self.model,
            "url": self.url,
            "prompt": self.prompt.name,
            "prompt_digest": self.prompt.digest,
            "think": self.think,
            "logprobs": self.logprobs,
        }

    def judge(self, asks: Sequence[Ask]) -> Iterator[Verdict]:
        """Several at once, in their order."""
        waiting: deque[Future[Verdict]] = deque()
        left = iter(asks)
        while True:
            while len(waiting) < self.workers and (ask := next(left, None)) is not None:
                waiting.append(self._start(ask))
            if not waiting:
                return
            yield waiting.popleft().result()

    def close(self) -> None:
        """Nothing to let go of."""

    def _start(self, ask: Ask) -> Future[Verdict]:
        """A verdict that a thread of its own asks for; one that still waits for a server holds nobody up at the end."""
        promised: Future[Verdict] = Future()

        def work() -> None:
            try:
                promised.set_result(self._verdict(ask))
            except BaseException as error:
                promised.set_exception(error)

        threading.Thread(target=work, name="judge", daemon=True).start()
        return promised

    def _verdict(self, ask: Ask) -> Verdict:
        text: str | None = None
        error = ""
        for attempt in (1, 2):
            try:
                answer = self._answer(ask)
                text = self._hidden(_text(answer))
                choice = parse_verdict(text)
                if choice is not None:
                    return Verdict(choice, _probabilities(answer), text, None, attempt)
                error, wait = "no verdict could be read in what the judge wrote", 0.0
            except Failure as failure:
                text, error = None, self._hidden(str(failure))
                wait = self.wait if failure.wait is None else failure.wait
                if self.logprobs and str(failure).startswith("the server answered 400"):
                    error += " (--no-judge-logprobs does not ask for probabilities)"
                if not failure.retry:
                    return Verdict(None, None, None, error, attempt)
            if attempt == 1 and wait:
                self.sleep(min(wait, _LONGEST_WAIT))
        return Verdict(None, None, text, error, 2)

    def _answer(self, ask: Ask) -> Mapping[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": self.prompt.render(ask)}],
            "temperature": 0,
            "max_tokens": self.think + _ANSWER,
        }
        if self.logprobs:
            body |= {"logprobs": True, "top_logprobs": _TOP}
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        return _choice(post(self.url, body, headers, self.timeout))

    def _hidden(self, text: str) -> str:
        """The text without the key, should a server repeat it."""
        return text if self.key is None else text.replace(self.key, _HIDDEN)


def _choice(answer: Any) -> Mapping[str, Any]:
    try:
        choice = answer["choices"][0]
        if isinstance(choice["message"]["content"], str):
            found: Mapping[str, Any] = choice
            return found
        raise TypeError
    except (KeyError, IndexError, TypeError) as error:
        said = answer.get("error") if isinstance(answer, Mapping) else None
        words = f": {' '.join(json.dumps(said).split())[:200]}" if said else ""
        raise Failure(f"the answer is JSON but no chat completion{words}") from error


def _text(choice: Mapping[str, Any]) -> str:
    text: str = choice["message"]["content"]
    return text


def _probabilities(choice: Mapping[str, Any]) -> dict[Choice, float] | None:
    """Those of the three verdicts at the last token that is one of them; None where the server gives none.

    A verdict that is not among the alternatives that were given has 0.
    """
    try:
        tokens = choice["logprobs"]["content"]
        for token in reversed(tokens):
            if token["token"].strip() in LABELS:
                found = dict.fromkeys(LABELS.values(), 0.0)
                given = {entry["token"]: float(entry["logprob"]) for entry in [token, *token["top_logprobs"]]}
                for written, value in given.items():
                    if (label := written.strip()) in LABELS and value <= 1e-6:
                        found[LABELS[label]] += math.exp(value)
                return found if 0 < sum(found.values()) <= 1.001 else None
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    return None
