"""Decode with two Llama models: a small base writes, and a large oracle is consulted where a trigger says so.

    from dodona import Engine

    engine = Engine("1B", oracle="8B")
    result = engine.generate("What is 2+2?", c=5, k=10, trigger="entropy > 2.0")

The names below are loaded when they are first used, so that `import dodona` itself costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dodona.engine.engine import Engine
    from dodona.engine.errors import DodonaError
    from dodona.engine.request import Request
    from dodona.engine.result import Result
    from dodona.engine.sampling import Sampling
    from dodona.engine.trigger import Trigger

__version__ = "0.1.0"
__all__ = ["DodonaError", "Engine", "Request", "Result", "Sampling", "Trigger", "__version__"]


def __getattr__(name: str) -> object:
    homes = {
        "DodonaError": "errors",
        "Engine": "engine",
        "Request": "request",
        "Result": "result",
        "Sampling": "sampling",
        "Trigger": "trigger",
    }
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"dodona.engine.{homes[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
