"""A server of chat completions on a free port of this machine, whose answers a test scripts."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What to answer a request with."""

    content: str | None = "Verdict: A"  # of the message
    status: int = 200
    body: bytes | None = None  # the whole body, in place of a completion
    headers: dict[str, str] = field(default_factory=dict)
    logprobs: Any = None
    hang: bool = False  # answer nothing until the server is closed
    drip: bool = False  # promise a long body, and send a byte now and then
    cut: bool = False  # promise more than is sent
    drop: bool = False  # close the connection without a word


@dataclass
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][0]["content"])


@dataclass
class Server:
    """What a test holds of it."""

    url: str
    seen: list[Seen]


@contextmanager
def serving(script: Callable[[Seen, int], Reply]) -> Iterator[Server]:
    """A server that answers by a script, which is told of the request and its number from 0."""
    seen: list[Seen] = []
    lock, closing = threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            request = Seen(self.path, dict(self.headers), json.loads(self.rfile.read(length)))
            with lock:
                number = len(seen)
                seen.append(request)
            reply = script(request, number)
            if reply.hang:
                closing.wait(60)
                return
            if reply.drop:
                self.connection.close()
                return
            body = reply.body
            if body is None:
                choice = {"index": 0, "message": {"role": "assistant", "content": reply.content}}
                if reply.logprobs is not None:
                    choice["logprobs"] = reply.logprobs
                body = json.dumps({"choices": [choice]}).encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) + (100 if reply.cut or reply.drip else 0)))
            self.end_headers()
            try:
                self.wfile.write(body)
                while reply.drip and not closing.wait(0.05):
                    self.wfile.write(b" ")
            except OSError:
                pass  # the other side had enough

        def log_message(self, *args: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_port}", seen)
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
