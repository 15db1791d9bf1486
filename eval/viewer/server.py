"""Serves one page on this machine's own address, and nothing else."""

from __future__ import annotations

from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dodona.engine.errors import DodonaError

ADDRESS = "127.0.0.1"


def make_server(page: bytes, port: int) -> ThreadingHTTPServer:
    """A server of the page at ``/``; port 0 is any free one (``server_address[1]`` says which).

    Raises:
        DodonaError: the port is taken, or not allowed.
    """

    class Handler(BaseHTTPRequestHandler):
        """Knows one path."""

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            found = self.path.partition("?")[0] == "/"
            body, kind = (page, "text/html; charset=utf-8") if found else (b"not found\n", "text/plain")
            self.send_response(HTTPStatus.OK if found else HTTPStatus.NOT_FOUND)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: the terminal is the user's."""

    try:
        return ThreadingHTTPServer((ADDRESS, port), Handler)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DodonaError(f"--serve {port}: {reason}; without a number any free port is taken") from error
