"""A part of the GPU check, in a process of its own, whose pieces do what their names say."""

from __future__ import annotations

import math
import os
import time
from typing import Any

from dodona.bench.apart import Work
from dodona.bench.gpu.options import Options
from dodona.bench.gpu.piece import outcome, skipped


def fragile(options: Options) -> Work:
    """Pieces that do what their names say."""

    def work(name: str) -> dict[str, Any]:
        if name == "dies":
            os._exit(5)
        if name == "hangs":
            time.sleep(600)
        if name == "raises":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if name == "wrong":
            return outcome({"x": 1}, ["1 is not 2"])
        if name == "nowhere":
            return skipped("needs a CUDA device")
        return outcome({"x": math.inf, "base": options.base})

    return work
