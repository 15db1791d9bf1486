"""A model behind our completions server, as a process beside the peers that talk to it."""

from __future__ import annotations

import threading

from dodona.bench.peers.load import Setup
from dodona.bench.server.completions import CompletionsServer
from dodona.bench.server.kept import Kept
from dodona.engine.engine import Engine


class Served:
    """A running server, until its process ends; ``facts`` has its URL, where its work comes."""

    def __init__(self, setup: Setup) -> None:
        engine = Engine(
            setup.oracle if setup.options["model"] == "oracle" else setup.base,
            device=setup.device,
            dtype=setup.dtype,
            threads=setup.threads,
            max_batch=1,
            max_length=setup.length,
            ops=setup.options.get("ops"),
        )
        server = CompletionsServer(Kept(engine), setup.options["model"], ("127.0.0.1", 0))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.facts = {"url": f"http://127.0.0.1:{server.server_port}"}
