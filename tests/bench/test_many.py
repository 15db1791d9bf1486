"""Work that is divided among processes: all of it is done once, and a process that ends is an error, not a wait."""

from __future__ import annotations

import pytest

from dodona.bench.many import Divided
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.request import Request

REQUESTS = [
    Request(prompt=f"What is {number} + 7?", c=1, k=2, trigger="every(3)", max_new_tokens=6) for number in range(5)
]


def test_processes_write_what_one_engine_writes() -> None:
    alone = sum(len(result.ids) for result in Engine(device="cpu", max_batch=4).generate(REQUESTS))
    with Divided(REQUESTS, 2, 2) as divided:
        assert divided.run() == alone
        assert divided.run() == alone


def test_a_process_that_ended_is_an_error() -> None:
    with Divided(REQUESTS, 1, 2) as divided:
        divided._processes[0].kill()
        with pytest.raises(DodonaError, match="ended before it answered"):
            divided.run()
