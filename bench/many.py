"""Guided throughput of many sequences against one at a time: ``dodona bench decode --parts batch``.

The embedded pair runs its 64 in one process (on one thread, in float32 and bfloat16; on all of torch's), and divided
among processes with an engine on one thread each, as ``torchrun -m dodona eval`` divides them. SmolLM2 runs 16. The
host's share is of the time of one more run, outside the models' forwards.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch

from dodona.bench.decode import BASE, ORACLE, measured
from dodona.engine.engine import Engine
from dodona.engine.errors import DodonaError
from dodona.engine.request import Request

AT_ONCE = 64
START = 120.0  # seconds that an engine may take until it is there
PATIENCE = 600.0  # seconds for one answer


def many_against_one(repeats: int, problems: int = 8 * AT_ONCE, processes: int = 2) -> dict[str, Any]:
    """Guided tokens/s of many sequences and of one at a time.

    Args:
        problems: arithmetic problems that are answered in one run of many.
        processes: among which the embedded pair's sequences are divided in one of the runs.

    Raises:
        DodonaError: a process ended before it answered.
    """
    from dodona.eval.arith.problems import held_out_problems

    asked = _requests([problem.question for problem in held_out_problems(problems)], 128)
    spoken = _requests([f"Write a sentence about the number {number}." for number in range(16)], 48)
    pair = Engine(device="cpu", max_batch=AT_ONCE)
    wide = Engine(device="cpu", max_batch=AT_ONCE, threads=torch.get_num_threads())
    brief = Engine(device="cpu", max_batch=AT_ONCE, dtype="bfloat16")
    smollm2 = Engine(BASE, oracle=ORACLE, device="cpu", dtype="bfloat16", max_batch=16, max_length=512)
    with Divided(asked, processes, AT_ONCE // processes) as divided:
        ways: dict[str, Callable[[], int]] = {
            "many, all threads": partial(_tokens, wide, asked),
            f"many, {processes} processes": divided.run,
        }
        return {
            f"embedded pair x {AT_ONCE}": _compared(pair, asked, 8, repeats, ways),
            f"embedded pair bf16 x {AT_ONCE}": _compared(brief, asked, 8, repeats, {}),
            "smollm2 bf16 x 16": _compared(smollm2, spoken, 2, repeats, {}),
        }


class Divided:
    """Processes with an engine each, which answer their share of the requests whenever told to.

    Args:
        requests: all of them; each process takes every ``count``-th.
        max_batch: sequences at once in each process.

    Raises:
        DodonaError: a process does not start.
    """

    def __init__(self, requests: Sequence[Request], count: int, max_batch: int) -> None:
        context = get_context("spawn")
        self._ends: list[Connection] = []
        self._processes = []
        for index in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_answer, args=(theirs, requests[index::count], max_batch), daemon=True)
            process.start()
            theirs.close()
            self._ends.append(ours)
            self._processes.append(process)
        self._receive(START)

    def run(self) -> int:
        """Tokens that all processes wrote; returns when the last has.

        Raises:
            DodonaError: a process ended or did not answer.
        """
        for end in self._ends:
            with contextlib.suppress(OSError):  # of a process that has ended, which shows below
                end.send(True)
        return sum(self._receive(PATIENCE))

    def _receive(self, patience: float) -> list[int]:
        found = []
        for end in self._ends:
            try:
                if not end.poll(patience):
                    raise DodonaError(f"a process of the benchmark did not answer within {patience:.0f} s")
                found.append(end.recv())
            except (EOFError, OSError) as error:
                raise DodonaError("a process of the benchmark ended before it answered; its error is above") from error
        return found

    def __enter__(self) -> Divided:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        for end in self._ends:
            end.close()  # which ends the process
        for process in self._processes:
            process.join(PATIENCE if kind is None else 0.0)
            process.kill()


def _answer(connection: Connection, requests: Sequence[Request], max_batch: int) -> None:
    """A process's work: answer the requests whenever something arrives, until the other end is closed."""
    engine = Engine(device="cpu", max_batch=max_batch)
    connection.send(0)
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        connection.send(_tokens(engine, requests))


def _compared(
    engine: Engine, requests: Sequence[Request], few: int, repeats: int, ways: dict[str, Callable[[], int]]
) -> dict[str, Any]:
    """Rates of the first ``few`` requests one at a time, of all at once, and of all in other ways."""

    def one() -> int:
        return sum(len(engine.generate(request).ids) for request in requests[:few])

    runs: dict[str, Callable[[], int]] = {"one": one, "many": partial(_tokens, engine, requests)}
    rates = measured(runs | ways, repeats)
    engine.loop.model_seconds = 0.0
    started = time.perf_counter()
    _tokens(engine, requests)
    whole = time.perf_counter() - started
    return {
        "tokens_per_second": rates,
        "ratio": {name: rates[name]["p50"] / rates["one"]["p50"] for name in rates if name != "one"},
        "host_share": 1 - engine.loop.model_seconds / whole,
    }


def _requests(prompts: Sequence[str], tokens: int) -> list[Request]:
    return [Request(prompt=text, c=3, k=5, trigger="entropy > 0.5", max_new_tokens=tokens) for text in prompts]


def _tokens(engine: Engine, requests: Sequence[Request]) -> int:
    return sum(len(result.ids) for result in engine.generate(requests))
