"""A peer's process: it is told its setup and then one run after another over a connection, and answers each.

Messages are JSON objects. The process ends when the connection does.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import traceback
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from dodona.bench.peers.load import Setup
from dodona.bench.peers.work import Subject, Unavailable, Work

# Peer: module, and what in it makes it from its setup.
MAKERS = (
    ("dodona", "dodona.bench.peers.ours", "Ours"),
    ("naive", "dodona.bench.peers.loops", "naive"),
    ("careful", "dodona.bench.peers.loops", "careful"),
    ("generate", "dodona.bench.peers.generate", "alone"),
    ("compiled", "dodona.bench.peers.generate", "compiled"),
    ("assisted", "dodona.bench.peers.generate", "assisted"),
    ("http", "dodona.bench.peers.hop", "Http"),
    ("url", "dodona.bench.peers.hop", "Http"),
    ("two-servers", "dodona.bench.peers.hop", "TwoServers"),
    ("servers-by-token", "dodona.bench.peers.hop", "ServersByToken"),
    ("server", "dodona.bench.peers.serve", "Served"),
)


def serve_logged(connection: Connection, log: str) -> None:
    """``serve``, with what libraries print in a file."""
    with open(log, "w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.exit(serve(connection))


def serve(connection: Connection) -> int:
    """Serve runs until the connection ends; returns the exit code."""

    def say(message: dict[str, Any]) -> None:
        connection.send_bytes(json.dumps(message).encode())

    try:
        setup = Setup.from_json(json.loads(connection.recv_bytes()))
        subject = make(setup)
        say({"ready": facts() | getattr(subject, "facts", {})})
        while True:
            message = json.loads(connection.recv_bytes())
            if not isinstance(subject, Subject):
                raise TypeError(f"the peer {setup.peer} is a server, whose work comes over HTTP")
            say(subject.run(Work.from_json(message["work"]), message["watch"]).as_json())
    except (EOFError, ConnectionError):
        return 0
    except KeyboardInterrupt:
        return 130
    except Unavailable as reason:
        say({"unavailable": str(reason)})
        return 0
    except Exception as error:
        traceback.print_exc()
        say({"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"})
        return 1


def make(setup: Setup) -> object:
    """The peer that a setup names: a Subject, or a server beside the others."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(setup.threads)
    module, maker = next((module, maker) for name, module, maker in MAKERS if name == setup.peer)
    return getattr(import_module(module), maker)(setup)


def facts() -> dict[str, Any]:
    """Versions in this interpreter."""
    from importlib import metadata

    import torch

    found: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__}
    with contextlib.suppress(metadata.PackageNotFoundError):
        found["transformers"] = metadata.version("transformers")
    return found | {"threads": torch.get_num_threads()}


if __name__ == "__main__":
    sys.exit(serve(Connection(int(sys.argv[1]))))
