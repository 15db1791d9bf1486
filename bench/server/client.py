"""A client of an OpenAI-style completions server: one connection, kept open, one request at a time.

Works with the server beside it, and with vLLM and SGLang. Their extensions are used where they are understood: a server
that refuses ``ignore_eos`` or ``return_token_ids`` is asked once more without them, and never again with them.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from dodona.engine.errors import DodonaError

PATIENCE = 600.0  # seconds for one answer
_EXTENSIONS = ("return_token_ids", "ignore_eos")


class Answer(NamedTuple):
    """What the server wrote."""

    text: str
    finish_reason: str  # "stop" or "length"
    prompt_ids: list[int] | None  # as the server read the prompt, where it says so
    token_ids: list[int] | None
    written: int | None  # tokens by the server's own count


class CompletionsClient:
    """A connection to a server.

    Args:
        url: ``http://host:port``, also with a path before ``/v1``; ``/v1`` at the end is allowed.
        model: the served name; None: the first that the server lists.
        ignore_eos: ask the server to go on after end tokens.
        key: a bearer token; None: that of the environment's OPENAI_API_KEY, if any.

    Raises:
        DodonaError: nobody answers there, or it is no completions server.
    """

    def __init__(self, url: str, *, model: str | None = None, ignore_eos: bool = False, key: str | None = None) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DodonaError(f"--url takes http://HOST:PORT, not {url!r}")
        self.url = url
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        try:
            port = parts.port
        except ValueError as error:
            raise DodonaError(f"--url {url}: {error}") from error
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(parts.hostname, port, timeout=PATIENCE, context=context)
        else:
            self._connection = http.client.HTTPConnection(parts.hostname, port, timeout=PATIENCE)
        self._headers = {"Content-Type": "application/json"}
        if token := key if key is not None else os.environ.get("OPENAI_API_KEY"):
            self._headers["Authorization"] = f"Bearer {token}"
        self._extras: dict[str, Any] = {"return_token_ids": True} | ({"ignore_eos": True} if ignore_eos else {})
        self.refused: list[str] = []  # extensions that the server does not know
        self.model = model if model is not None else self._first_model()

    def __enter__(self) -> CompletionsClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def complete(self, text: str, max_tokens: int) -> Answer:
        """The greedy continuation of a text.

        Raises:
            DodonaError: the server's refusal in a line, or an answer that is no completion.
        """
        fields = {"model": self.model, "prompt": text, "max_tokens": max_tokens, "temperature": 0}
        status, body = self._ask("POST", "/v1/completions", fields | self._extras)
        unknown = [name for name in _EXTENSIONS if name in self._extras and name in body]
        if status in (400, 422) and unknown:
            if "ignore_eos" in unknown:
                raise DodonaError(f"{self.url} does not know ignore_eos: leave out --ignore-eos")
            self.refused += unknown
            for name in unknown:
                del self._extras[name]
            status, body = self._ask("POST", "/v1/completions", fields | self._extras)
        if status == 404:
            raise DodonaError(
                f"{self.url} has no completions of {self.model!r} at {self._path}/v1/completions ({_reason(body)}): "
                "start vLLM, SGLang or another server with the OpenAI completions API, and see --url-model"
            )
        if status != 200:
            raise DodonaError(f"{self.url} answered {status}: {_reason(body)}")
        return self._read(body)

    def forget(self) -> bool:
        """Ask the server to empty its prefix cache, as vLLM (in development mode) or SGLang calls that; whether it did.

        Raises:
            DodonaError: the server does not answer.
        """
        return any(self._ask("POST", path, {})[0] == 200 for path in ("/reset_prefix_cache", "/flush_cache"))

    # --- inside ---

    def _read(self, body: str) -> Answer:
        try:
            whole = json.loads(body)
            choice = whole["choices"][0]
            text, reason = choice["text"], choice["finish_reason"]
            usage = whole.get("usage") or {}
            prompt_ids, token_ids = choice.get("prompt_token_ids"), choice.get("token_ids")
            answer = Answer(text, reason, prompt_ids, token_ids, usage.get("completion_tokens"))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DodonaError(f"{self.url}: the answer is no completion ({type(error).__name__}: {error})") from error
        if not isinstance(text, str) or reason not in ("stop", "length"):
            raise DodonaError(f"{self.url}: the answer has text {text!r:.40} and finish_reason {reason!r}")
        return answer

    def _first_model(self) -> str:
        status, body = self._ask("GET", "/v1/models", None)
        try:
            return str(json.loads(body)["data"][0]["id"])
        except (ValueError, LookupError, TypeError) as error:
            raise DodonaError(
                f"{self.url} lists no model ({self._path}/v1/models answered {status}): name it with --url-model"
            ) from error

    def _ask(self, method: str, path: str, fields: dict[str, Any] | None) -> tuple[int, str]:
        body = None if fields is None else json.dumps(fields).encode()
        for attempt in range(2):
            fresh = self._connection.sock is None
            try:
                self._connection.request(method, self._path + path, body, self._headers)
                response = self._connection.getresponse()
                return response.status, response.read().decode(errors="replace")
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                # A server may close an idle connection; a new one that fails is another matter.
                if fresh or attempt or isinstance(error, TimeoutError):
                    raise DodonaError(f"{self.url} does not answer: {error or type(error).__name__}") from error
        raise AssertionError("not reached")


def _reason(body: str) -> str:
    """What an error answer says, in a line."""
    try:
        whole = json.loads(body)
        error = whole.get("error", whole)
        message = error.get("message") if isinstance(error, dict) else error
        message = message or whole.get("detail") or body
    except (ValueError, AttributeError):
        message = body
    return " ".join(str(message).split())[:300] or "without a reason"
