"""Work for a process of its own; without torch, so that such a process starts at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable


def fragile_work(prefix: str) -> Callable[[str], str]:
    """Gives prefix and name, unless the name says otherwise."""

    def work(name: str) -> str:
        if name == "dies":
            os._exit(3)
        if name == "ends":
            os._exit(0)
        if name == "hangs":
            time.sleep(600)
        if name == "raises":
            raise ValueError("of\n two lines")
        return f"{prefix} {name}"

    return work
