"""Work on a device, one piece after another in a process of its own, which may die or hang without ending the run.

A kernel that reads outside its memory leaves the process's CUDA context unusable: every later call fails, whatever it
does. So after each piece the device is tried out, and where it does not answer the rest goes to a fresh process.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Generator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

START = 120.0  # seconds that a process may take until it is there
LEAST = 30.0  # that it is given even where there is hardly any time left
LEAVE = 10.0  # that a killed one may take to be gone, which it may never be where it hangs in the driver

OURS = ("engine", "kernels", "bench/gpu")  # where the place of an error is worth a word
_ROOT = Path(__file__).resolve().parent.parent

Work = Callable[[str], Any]  # the name of a piece to its result; an exception is a result that `Lost` describes


class Lost(NamedTuple):
    """A piece of work without a result."""

    reason: str


def results(
    make: Callable[..., Work], options: tuple[Any, ...], names: Sequence[str], patience: float | Callable[[], float]
) -> Generator[tuple[str, Any], None, None]:
    """Each name with its result, or with `Lost`.

    Args:
        make: makes the work, in the new process; a function of a module. Called again for each process.
        options: its arguments.
        names: what to work on, in this order.
        patience: seconds that one piece may take, or what says so when one begins; in the first of a process, `make`
            included.
    """
    todo = list(names)
    while todo:
        ours, theirs = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=_serve, args=(theirs, make, options, todo))
        process.start()
        theirs.close()
        try:
            allowed, done = (min(START, max(LEAST, patience())) if callable(patience) else START), 0
            while todo:
                if not ours.poll(allowed):
                    yield todo.pop(0), Lost(f"no result within {allowed:.0f} s")
                    break
                try:
                    message = ours.recv()
                except EOFError:
                    process.join()
                    if process.exitcode != 0 or not done:
                        yield todo.pop(0), Lost(f"the process died with exit code {process.exitcode}")
                    break
                allowed = patience() if callable(patience) else patience
                if message is not None:
                    done += 1
                    yield todo.pop(0), message[0]
        finally:
            ours.close()
            if process.is_alive():
                process.kill()
            process.join(LEAVE)


def reason(error: BaseException) -> str:
    """An exception in a line: what it says, and the last of our lines that it passed."""
    message = " ".join(str(error).split())
    places = [place for frame in traceback.extract_tb(error.__traceback__) if (place := _place(frame))]
    return f"{type(error).__name__}: {message[:500]}" + (f" ({places[-1]})" if places else "")


def _place(frame: traceback.FrameSummary) -> str | None:
    """A line of ours as ``engine/step.py:12``; None where it is somebody else's."""
    path = Path(frame.filename).resolve()
    if not path.is_relative_to(_ROOT):
        return None
    name = path.relative_to(_ROOT).as_posix()
    return f"{name}:{frame.lineno}" if name.startswith(tuple(f"{folder}/" for folder in OURS)) else None


def _serve(connection: Connection, make: Callable[..., Work], options: tuple[Any, ...], names: Sequence[str]) -> None:
    work: Work | None = None
    connection.send(None)  # it is there
    for name in names:
        try:
            work = work or make(*options)
            result = work(name)
        except Exception as error:
            result = Lost(reason(error))
        connection.send((result,))
        if not device_answers():
            return


def device_answers() -> bool:
    """Whether the device still works for this process; True where none is in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
        return True
    except RuntimeError:
        return False
