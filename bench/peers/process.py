"""The other end of a peer's process: starts it in its interpreter, hands it work, and sees to it that it ends.

Peers in our own interpreter are forked from a process that has imported torch and transformers and nothing more, which
saves seconds a peer; another interpreter is started anew. Both are told what to do over one connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from dodona.bench.peers import worker
from dodona.bench.peers.load import Setup
from dodona.bench.peers.work import Outcome, Unavailable, Work
from dodona.engine.errors import DodonaError

PATIENCE = 1800.0  # seconds for one answer
LEAVE = 20.0  # seconds that a process may take to end
PRELOADED = ("torch", "transformers.models.llama.modeling_llama", *dict.fromkeys(maker[1] for maker in worker.MAKERS))


class _Handle(NamedTuple):
    """A running process, however it was started."""

    wait: Callable[[float | None], int | None]  # seconds to its exit code; None: it still runs
    kill: Callable[[], None]


class PeerProcess:
    """A peer's process, which loads while others do; ``wait`` for it before others are measured.

    Args:
        setup: what it is told.
        python: its interpreter; None: this one. Another one needs torch and what the peer needs, not dodona.
        scratch: a folder for its log, and for the one link that makes dodona importable there.
        patience: seconds that an answer may take.

    Raises:
        DodonaError: an interpreter that cannot be run.
    """

    def __init__(self, setup: Setup, *, python: str | None, scratch: Path, patience: float = PATIENCE) -> None:
        self.setup, self.patience = setup, patience
        self.facts: dict[str, Any] = {}
        self._failure: Exception | None = None
        self._log = scratch / f"{setup.peer}-{setup.dtype}-{id(self)}.log"
        self._connection, theirs = Pipe()
        with theirs:
            if python is None:
                self._handle = _forked(theirs, self._log)
            else:
                self._handle = _started(theirs, self._log, python, setup.threads, scratch)
        self._say(setup.as_json())

    def wait(self) -> PeerProcess:
        """Wait until it has loaded.

        Raises:
            Unavailable: it cannot run here.
            DodonaError: it failed.
        """
        if self._failure is not None:
            raise self._failure
        if not self.facts:
            self.facts = self._answer()["ready"]
        return self

    def run(self, work: Work, *, watch: bool = False) -> Outcome:
        """Do the work once.

        Raises:
            DodonaError: it failed, or took too long.
        """
        self.wait()
        self._say({"work": work.as_json(), "watch": watch})
        return Outcome(**self._answer())

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        if self._handle.wait(LEAVE) is None:
            self._handle.kill()
            self._handle.wait(None)

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._handle.kill()
        self.close()

    # --- inside ---

    def _say(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it has died; the answer says how
            self._connection.send_bytes(json.dumps(message).encode())

    def _answer(self) -> dict[str, Any]:
        try:
            return self._next()
        except (Unavailable, DodonaError) as error:
            self._failure = error
            raise

    def _next(self) -> dict[str, Any]:
        name = self.setup.peer
        try:
            if not self._connection.poll(self.patience):
                self._handle.kill()
                raise DodonaError(f"{name} gave no answer within {self.patience:.0f} s")
            message: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            code = self._handle.wait(None)
            raise DodonaError(f"{name}'s process ended with exit code {code}{self._last_words()}") from None
        if "unavailable" in message:
            raise Unavailable(message["unavailable"])
        if "failed" in message:
            raise DodonaError(f"{name} failed: {message['failed']}")
        return message

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return f": {lines[-1][:300]}" if lines else ""


def _forked(connection: Any, log: Path) -> _Handle:
    context = get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    process = context.Process(target=worker.serve_logged, args=(connection, str(log)), daemon=True)
    process.start()

    def wait(seconds: float | None) -> int | None:
        process.join(seconds)
        return process.exitcode

    return _Handle(wait, process.kill)


def _started(connection: Any, log: Path, python: str, threads: int, scratch: Path) -> _Handle:
    # OMP_NUM_THREADS, because threads other than the main one do not inherit torch.set_num_threads.
    env = os.environ | {"PYTHONPATH": str(_alone(scratch)), "OMP_NUM_THREADS": str(threads)}
    number = connection.fileno()
    try:
        with log.open("w") as stream:
            process = subprocess.Popen(
                [python, "-m", "dodona.bench.peers.worker", str(number)],
                pass_fds=(number,),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=env,
                cwd=scratch,
            )
    except OSError as error:
        raise DodonaError(f"--python {python} cannot be run: {error.strerror}") from error

    def wait(seconds: float | None) -> int | None:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    return _Handle(wait, process.kill)


def _alone(scratch: Path) -> Path:
    """A folder that holds dodona and nothing else: beside it in a checkout lie names that must not be importable."""
    folder = scratch / "path"
    link = folder / "dodona"
    if not link.exists():
        folder.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(str(sys.modules["dodona"].__file__)).resolve().parent, target_is_directory=True)
    return folder
