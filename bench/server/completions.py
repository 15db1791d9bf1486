"""A completions server around one model: the oracle of the HTTP design, in a process of its own.

    POST /v1/completions        text (or ids) in, text out; "stream": true for one event a token
    GET  /v1/models, /health    what is served; whether it is up
    POST /reset_prefix_cache    forget the text of the last call (as vLLM calls it)

One request at a time writes, which is what the HTTP design needs. Connections are kept open, an answer is one write to
the socket, and TCP_NODELAY is set, so that the hop costs what it must and no more.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from dodona import __version__
from dodona.bench.server.kept import Kept
from dodona.bench.server.protocol import BadRequest, Completion, answer, error_answer, read_completion
from dodona.engine.errors import DodonaError
from dodona.engine.tokenizer import IncrementalDecoder

MAX_BODY = 64 << 20  # bytes


class CompletionsServer(ThreadingHTTPServer):
    """Serves one model.

    Args:
        kept: the model.
        name: what it is called in requests.
        address: host and port; port 0 takes a free one, which ``server_port`` then names.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, kept: Kept, name: str, address: tuple[str, int]) -> None:
        super().__init__(address, Handler)
        self.kept, self.name = kept, name
        self.writing = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: CompletionsServer
    protocol_version = "HTTP/1.1"  # keep-alive
    server_version = f"dodona/{__version__}"
    wbufsize = -1  # a whole answer goes out at the flush after each request

    def setup(self) -> None:
        """Send small packets at once, and compute with as many threads as the engine does: OpenMP counts by thread."""
        self._streaming = False
        if threads := self.server.kept.engine.loop.threads:
            torch.set_num_threads(threads)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        super().setup()

    def do_GET(self) -> None:
        """What is served, and whether it is up."""
        if self.path in ("/health", "/ping"):
            self._send(b"{}")
        elif self.path == "/v1/models":
            self._send(self._models())
        else:
            self._refuse(BadRequest(f"there is no {self.path} here", 404))

    def do_POST(self) -> None:
        """A completion, or the end of the kept prefix."""
        try:
            body = self._body()
            if self.path == "/reset_prefix_cache":
                with self.server.writing:
                    self.server.kept.forget()
                self._send(b"{}")
            elif self.path == "/v1/completions":
                self._complete(read_completion(body, self.server.name))
            else:
                raise BadRequest(f"there is no {self.path} here", 404)
        except BadRequest as error:
            self._refuse(error)
        except DodonaError as error:
            if self._streaming:
                self.close_connection = True  # a stream that breaks off is all that its reader can be told
            else:
                self._refuse(BadRequest(str(error)))
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line a request would be part of what is measured."""

    # --- inside ---

    def _complete(self, asked: Completion) -> None:
        server = self.server
        tokenizer = server.kept.engine.tokenizer
        ids = asked.prompt if isinstance(asked.prompt, list) else tokenizer.encode(asked.prompt, raw=True)
        vocab = server.kept.engine.base.config.vocab_size
        if worst := next((i for i in ids if not 0 <= i < vocab), None):
            raise BadRequest(f"{worst} is not a token id of this vocabulary of {vocab}")
        written: list[int] = []
        reason, decoder = "length", IncrementalDecoder(tokenizer)
        options = {"temperature": asked.temperature, "top_p": asked.top_p, "seed": asked.seed}
        pieces = server.kept.complete(ids, asked.max_tokens, ignore_eos=asked.ignore_eos, **options)
        with server.writing, contextlib.closing(pieces):
            for piece in pieces:
                if asked.stream and not written:
                    self._start_stream()
                written.append(piece.token)
                reason = "stop" if piece.ends else reason
                if asked.stream:
                    self._event(answer(server.name, decoder.push(piece.token), None, None, None))
        counts = len(ids), len(written)
        token_ids = (list(ids), written) if asked.return_token_ids else None
        if asked.stream:
            self._event(answer(server.name, decoder.flush(), reason, counts, token_ids))
            self._event(b"[DONE]")
            self.wfile.write(b"0\r\n\r\n")
            self._streaming = False
        else:
            self._send(answer(server.name, tokenizer.decode(written), reason, counts, token_ids))

    def _body(self) -> bytes:
        try:
            length = int(self.headers.get("Content-Length", "0"))
        except ValueError:
            length = -1
        if not 0 <= length <= MAX_BODY or "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.close_connection = True  # where the next request would begin is not known
            raise BadRequest(f"the body needs a Content-Length of at most {MAX_BODY}", 411)
        return self.rfile.read(length)

    def _send(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, error: BadRequest) -> None:
        self._send(error_answer(str(error), error.status), error.status)

    def _start_stream(self) -> None:
        self._streaming = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _event(self, data: bytes) -> None:
        event = b"data: " + data + b"\n\n"
        self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.wfile.flush()

    def _models(self) -> bytes:
        model = {"id": self.server.name, "object": "model", "created": 0, "owned_by": "dodona"}
        return json.dumps({"object": "list", "data": [model]}).encode()
