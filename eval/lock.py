"""Who may write an experiment's records: one process, or the processes of one launch, and nobody beside them.

The operating system takes the locks back from a process that dies, however it dies. Where a file system has no locks
there is no protection, as for every file of records.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from dodona.engine.errors import DodonaError
from dodona.eval.shard import Shard

try:
    import fcntl
except ImportError:  # not POSIX: no lock
    fcntl = None  # type: ignore[assignment,unused-ignore]

_PATIENCE = 2.0  # seconds; a process that starts holds the lock alone for a moment


class Lock:
    """Held from construction until ``close``. A process alone holds it alone; the processes of a launch share it.

    The file says of how many processes the launch is: those of another number would divide the problems differently.

    Args:
        path: the lock's file, which is made where it is missing and taken away by whoever closes it last.
        owner: what it protects, for the error.
        shard: which process this is.

    Raises:
        DodonaError: somebody else holds it, or its file cannot be written.
    """

    def __init__(self, path: Path, owner: Path, shard: Shard) -> None:
        self.path, self.shard = path, shard
        self._fd = -1
        deadline = time.monotonic() + _PATIENCE
        try:
            while not self._take():
                if time.monotonic() > deadline:
                    raise DodonaError(f"{owner} is being written by another process: wait until it has ended")
                time.sleep(0.02)
            if (launch := self._launch()) != shard.count:
                self.close()
                raise DodonaError(
                    f"{owner} is being written by {launch} processes together: wait until they have ended"
                )
        except OSError as error:
            raise DodonaError(f"{path} cannot be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Give the lock up; closing again does nothing."""
        if self._fd < 0:
            return
        if fcntl is not None:
            with suppress(OSError):  # the others still hold it, or there are no locks
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.path.unlink()
        os.close(self._fd)
        self._fd = -1

    def _take(self) -> bool:
        """One attempt."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            if self._locked(fd) and _is(self.path, fd):
                self._fd, fd = fd, -1
                return True
            return False  # held by another, or its file was taken away meanwhile
        finally:
            if fd >= 0:
                os.close(fd)

    def _locked(self, fd: int) -> bool:
        if fcntl is None:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        except OSError:
            return True  # a file system without locks
        else:
            alone = True
        if self.shard.whole:
            return alone
        if alone:
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(self.shard.count).encode(), 0)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _launch(self) -> int:
        """Of how many processes the launch is that holds the lock."""
        if fcntl is None or self.shard.whole:
            return self.shard.count
        text = os.pread(self._fd, 20, 0)
        return int(text) if text.isdigit() else self.shard.count


def wait_until_free(path: Path) -> bool:
    """Return once nobody holds the lock, dead processes included; False: that cannot be known here."""
    if fcntl is None:
        return False
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:  # whoever closed it last took it away
        return True
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if _is(path, fd):
            path.unlink()
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _is(path: Path, fd: int) -> bool:
    """Whether the open file is still the one of this name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
