"""The JSON objects that a checkpoint's folder is described by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dodona.engine.errors import CheckpointError


def read_json(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of the model ``name``.

    Raises:
        CheckpointError: naming the file, when it holds no JSON object.
    """
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{name}: {path} cannot be read as JSON ({error})") from error
    if not isinstance(mapping, dict):
        raise CheckpointError(f"{name}: {path} holds no JSON object")
    return mapping
