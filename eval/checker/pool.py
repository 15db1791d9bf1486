"""Asks Math-Verify in processes of its own, each with a time limit on the wall clock.

No signals and no threads: it works from any thread, and nothing waits at the interpreter's exit. A process is started
from a line of code, not from the caller's script, so that no `if __name__ == "__main__"` is needed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import selectors
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from importlib.util import find_spec
from typing import Final

from dodona.eval.checker.clock import Clock
from dodona.eval.checker.equal import Judgement
from dodona.eval.checker.symbols import words

START_SECONDS = 60.0  # that a process may take to import sympy, on a machine that is busy
MOST_WORKERS = 2
MOST_FAILED_STARTS = 3  # then it is not tried again
METHOD: Final = "math-verify"

READY: Final = "ready"
NO_RESULT: Final = "no result"  # begins the reason where the time was over

LONGEST = 400  # characters of an answer
DEEPEST = 15  # brackets
MOST_DIGITS = 40  # of a number
MOST_POWERS = 30

_COMMANDS: Final = words(
    "frac sqrt binom cdot times div pm mp pi infty leq geq neq lt gt le ge ne in notin cup cap setminus emptyset mid "
    "mathbb begin end sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp sum prod int lim to "
    "lfloor rfloor lceil rceil vert lvert rvert langle rangle alpha beta gamma delta epsilon theta lambda mu rho sigma "
    "tau phi omega det max min left right quad dfrac tfrac text mathrm displaystyle cfrac subset varnothing "
    "leqslant geqslant lbrace rbrace"
)
_ENVIRONMENTS: Final = frozenset({"pmatrix", "bmatrix", "matrix", "vmatrix"})
_SAFE: Final = re.compile(
    r"(?:[A-Za-z0-9\s+\-*/^_=<>()\[\]{},;:.!|&$]|\\(?P<command>[A-Za-z]+)|\\[\\{}|,;:! $%])*", re.ASCII
)
_START: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from dodona.eval.checker.worker import serve; serve()"
)

_log = logging.getLogger(__name__)


def refusal(latex: str) -> str | None:
    """Why an answer is not given to Math-Verify, or None: its characters and commands are from a list."""
    if len(latex) > LONGEST:
        return f"longer than {LONGEST} characters"
    if not _SAFE.fullmatch(latex):
        return "a character that no answer needs"
    for command in re.findall(r"(?<!\\)(?:\\\\)*\\([A-Za-z]+)", latex):
        if command not in _COMMANDS:
            return f"\\{command} is not on the list"
    if not set(re.findall(r"\\(?:begin|end)\s*\{([^}]*)\}", latex)) <= _ENVIRONMENTS:
        return "an environment that is not on the list"
    if any(
        not re.fullmatch(r"[A-Za-z ,]{0,20}", inner) for inner in re.findall(r"\\(?:text|mathrm)\s*\{([^}]*)", latex)
    ):
        return "a text that is no word"
    if latex.count("^") > MOST_POWERS:
        return "too many powers"
    if re.search(rf"\d{{{MOST_DIGITS + 1}}}", latex) or re.search(r"\d\s*_", latex):
        return "a number too long, or with a base"
    deepest = depth = 0
    for char in latex:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return "nested too deep" if deepest > DEEPEST else None


class WorkerFailed(Exception):
    """A process gave no answer: it did not start, died, or took too long. It is ended."""


class Pool:
    """Up to two busy processes and a spare one, started when they are needed; safe to ask from several threads."""

    def __init__(self, workers: int = MOST_WORKERS) -> None:
        self._places = threading.BoundedSemaphore(workers)
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        self._failed_starts = 0
        self._installed: bool | None = None

    def equal(self, gold: str, answer: str, seconds: float) -> Judgement:
        """Whether Math-Verify calls them equal. Whatever goes wrong there is a reason, and not equal.

        Args:
            seconds: for this question; its process is ended then. Starting the first one is not counted.
        """
        for text in (gold, answer):
            if reason := refusal(text):
                return Judgement(False, METHOD, f"not asked: {reason}")
        if not self._usable():
            return Judgement(False, METHOD, "not asked: Math-Verify is not there")
        with self._places:
            worker = self._take()
            try:
                worker.wait_until_ready()
            except WorkerFailed as error:
                with self._lock:
                    self._failed_starts += 1
                return Judgement(False, METHOD, str(error))
            with self._lock:
                if not self._idle:
                    self._idle.append(Worker())  # at hand when this one hangs, so that a hang costs its limit alone
            try:
                judgement = worker.ask(gold, answer, seconds)
            except WorkerFailed as error:
                judgement, worker = Judgement(False, METHOD, str(error)), Worker()
            with self._lock:
                self._failed_starts = 0
                self._idle.append(worker)
            return judgement

    def _usable(self) -> bool:
        with self._lock:
            if self._installed is None:
                self._installed = all(map(find_spec, ("math_verify", "latex2sympy2_extended")))
                if not self._installed:
                    _log.warning("math-verify is not installed; an answer that only it could compare counts as wrong")
            if self._failed_starts == MOST_FAILED_STARTS:
                self._failed_starts += 1
                _log.warning("Math-Verify does not start; an answer that only it could compare counts as wrong")
            return self._installed and self._failed_starts < MOST_FAILED_STARTS

    def _take(self) -> Worker:
        with self._lock:
            while self._idle:
                worker = next((one for one in self._idle if one.ready), self._idle[0])  # else the one started first
                self._idle.remove(worker)
                if worker.alive:
                    return worker
        return Worker()

    def close(self) -> None:
        """End the processes that wait for questions."""
        with self._lock:
            while self._idle:
                self._idle.pop().kill()


class Worker:
    """One process, which starts in the background; see worker.py for what it does."""

    def __init__(self) -> None:
        self.ready = False  # as far as somebody has waited for it
        self._failure: str | None = None
        self._received = b""
        path = [os.path.abspath(entry) for entry in sys.path]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, json.dumps(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
        except OSError as error:
            self._failure = f"Math-Verify's process cannot be started: {error.strerror or error}"
            return
        self._finalizer = weakref.finalize(self, _end, self._process, os.getpid())

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._failure is None and self._process.poll() is None

    def wait_until_ready(self) -> None:
        """Return when it can be asked.

        Raises:
            WorkerFailed: it does not start.
        """
        if self._failure is not None:
            raise WorkerFailed(self._failure)
        if not self.ready:
            self.ready = self._line(START_SECONDS) == READY
        if not self.ready:
            self.kill()
            raise WorkerFailed("Math-Verify did not start")

    def ask(self, gold: str, answer: str, seconds: float) -> Judgement:
        """One question.

        Raises:
            WorkerFailed: no answer within so many seconds; the process is ended.
        """
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({"gold": gold, "answer": answer}).encode() + b"\n")
        except (OSError, ValueError):
            self.kill()
            raise WorkerFailed("Math-Verify's process died") from None
        line = self._line(seconds)
        if not line:
            self.kill()
            raise WorkerFailed(f"{NO_RESULT} in {seconds:.1f} s" if line is None else "Math-Verify's process died")
        reply = json.loads(line)
        return Judgement(reply["equal"] is True, METHOD, str(reply["reason"]))

    def _line(self, seconds: float) -> str | None:
        """The next line that it writes; None where none comes in time, nothing where it ended."""
        assert self._process.stdout is not None
        clock, pipe = Clock(seconds), self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(clock.left):
                    return None
                part = os.read(pipe, 1 << 16)
                if not part:
                    return ""
                self._received += part
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()

    def kill(self) -> None:
        """End it now."""
        if self._failure is None:
            self._finalizer()


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:  # in a fork it is its parent's
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
