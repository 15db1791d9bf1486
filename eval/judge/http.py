"""One POST of JSON with a deadline, by the standard library alone.

No redirect is followed: the key would be sent to wherever the answer points. An answer is read up to a limit, and the
deadline holds for the whole of it, so a server that drips bytes cannot hold a run up.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

_MOST: Final = 8 << 20  # bytes of an answer
_LOOPBACK: Final = ("localhost", "127.", "[::1]", "::1")
_LONGEST: Final = 200  # characters of a server's own words in an error


class Failure(Exception):
    """A request that gave nothing.

    Args:
        reason: one line.
        retry: whether a second try may go better.
        wait: seconds that the server asked for before it; None: it did not say.
    """

    def __init__(self, reason: str, *, retry: bool = True, wait: float | None = None) -> None:
        super().__init__(reason)
        self.retry, self.wait = retry, wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def post(url: str, body: Mapping[str, Any], headers: Mapping[str, str], timeout: float) -> Any:
    """The JSON that a server answers.

    Args:
        timeout: seconds for everything.

    Raises:
        Failure: anything else happened.
    """
    deadline = time.monotonic() + timeout
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}, method="POST")
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if (urlsplit(url).hostname or "").startswith(_LOOPBACK):
        handlers.append(urllib.request.ProxyHandler({}))  # this machine is not reached through a proxy
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(request, timeout=timeout) as answer:
            content = _read(answer, deadline, timeout)
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(error, deadline, timeout) from error
    except TimeoutError as error:
        raise Failure(f"no answer within {timeout:g} s") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise Failure(f"no answer within {timeout:g} s") from error
        raise Failure(f"no connection: {_line(str(error.reason))}") from error
    except (http.client.HTTPException, OSError, ValueError) as error:  # the last: a name that no host can have
        raise Failure(f"the connection broke ({type(error).__name__}: {_line(str(error))})") from error
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Failure(f"the answer is not JSON: {_line(content[:_LONGEST].decode(errors='replace'))!r}") from error


def _read(answer: Any, deadline: float, timeout: float) -> bytes:
    content = bytearray()
    while True:
        if time.monotonic() > deadline:
            raise Failure(f"no whole answer within {timeout:g} s")
        part = answer.read1(1 << 16)
        if not part:
            break
        content += part
        if len(content) > _MOST:
            raise Failure(f"the answer is longer than {_MOST >> 20} MiB")
    # read1 does not complain about an answer that is shorter than was promised.
    left = getattr(answer, "length", None)
    if left:
        raise Failure(f"the connection broke {left} bytes before the end of the answer")
    return bytes(content)


def _refused(error: urllib.error.HTTPError, deadline: float, timeout: float) -> Failure:
    retry = error.code in (408, 409, 425, 429) or error.code >= 500
    try:
        said = _read(error, deadline, timeout)[:4096].decode(errors="replace")
    except (Failure, OSError, http.client.HTTPException, AttributeError):
        said = ""
    try:
        content = json.loads(said)
        said = content["error"]["message"] if isinstance(content["error"], dict) else str(content["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    words = _line(str(said))
    reason = f"the server answered {error.code} {_line(error.reason or '')}".rstrip()
    if 300 <= error.code < 400:
        words = "redirects are not followed: give the address that it points to"
    return Failure(f"{reason}: {words}" if words else reason, retry=retry, wait=_wait(error.headers))


def _wait(headers: Any) -> float | None:
    """What Retry-After says in seconds; a date is not read."""
    text = (headers.get("Retry-After") or "") if headers is not None else ""
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
