"""What all samples of a study depend on: the task, the models that are loaded, and the options of their requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dodona.engine.request import DEFAULT_CONSULTS, Request
from dodona.eval.diversity.sampling import PER_SAMPLE
from dodona.eval.models import Models, Opened
from dodona.eval.run import json_value
from dodona.eval.store import place_name
from dodona.eval.tasks.problem import Task

# Fields of Request that a study sets itself, or whose signals no sample keeps.
NOT_OURS: Final = PER_SAMPLE | {"base_tail", "divergence", "attention_layer", "oracle_tail"}
_OF_CONSULTS: Final = frozenset({"c", "k", "trigger", "when", "step_size", "max_oracle_tokens"})


def models_of(models: Models, requested: Mapping[str, Any]) -> Models:
    """The models that are loaded: with a ``c`` or ``k`` of 0 the base alone.

    Raises:
        DodonaError: there is no such device or dtype.
    """
    _ = models.where
    if models.guided and (requested.get("c") == 0 or requested.get("k") == 0):
        return dataclasses.replace(models, base=models.names[0], oracle=None)
    return models


def config_of(task: Task, opened: Opened, common: Request, *, guided: bool) -> dict[str, Any]:
    """What all samples of a study share, by the options' names.

    Args:
        common: any request of the study.
        guided: whether there is an oracle; of the base alone nothing is said of consults but ``c``, which is 0.
    """
    values = {f.name: getattr(common, f.name) for f in dataclasses.fields(Request) if f.name not in NOT_OURS}
    if guided:
        values["c"] = DEFAULT_CONSULTS if common.c is None else common.c
        values["trigger"] = common.parsed_trigger.text
    else:
        of_oracle = {name for name in values if name.startswith("oracle_")}
        values = {name: value for name, value in values.items() if name not in _OF_CONSULTS | of_oracle} | {"c": 0}
    return {
        "dataset": task.name,
        "kind": task.kind,
        "recipe": task.recipe.name,
        "base_model_id": opened.base_model_id,
        "oracle_model_id": opened.oracle_model_id,
        "weights": list(opened.identities),
        "dtype": str(opened.dtype).removeprefix("torch."),
        "device": opened.device.type,
        "ops": opened.ops,
    } | {name: json_value(value) for name, value in values.items()}


def default_folder(task: Task, models: Models) -> Path:
    """``runs/diversity-<dataset>-<base>-<oracle>``."""
    return Path("runs") / place_name("diversity", task.name, *models.names)
