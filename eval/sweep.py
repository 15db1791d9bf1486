"""Sweep files: which models solve which tasks over which grid, read from TOML.

    output_dir = "runs/sweep"

    [[models]]                    # each pair of models ...
    base = "1B"
    oracle = "8B"

    [[tasks]]                     # ... on each task: one folder a pair of both
    dataset = "math-500"
    num_samples = 100
    max_new_tokens = 2048         # options of generation may stand here, too

    [grid]
    c = [0, 1, 5]
    k = [1, 10]
    trigger = ["random", "entropy > 1.0"]

    [options]                     # of generation, for all tasks
    temperature = 0.0

    [engine]                      # of all models; may stand in [[models]], too
    max_batch = 32

What is wrong with a file is found before anything is run.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from dodona.engine.errors import DodonaError
from dodona.engine.request import DEFAULT_CONSULTS, Request
from dodona.eval.arms import Arm, grid
from dodona.eval.job import Job
from dodona.eval.models import NUMBERS, SIZES, WORDS, Models
from dodona.eval.run import PER_RUN
from dodona.eval.store import Place, place_name
from dodona.eval.tasks.options import load_task
from dodona.eval.tasks.spec import TaskSpec, spec_from

ENGINE_WORDS: Final = ("device", "dtype", *WORDS)
ENGINE: Final = (*ENGINE_WORDS, *NUMBERS, *SIZES)
GRID: Final = ("c", "k", "trigger", "when", "seed")
OPTIONS: Final = tuple(f.name for f in dataclasses.fields(Request) if f.name not in PER_RUN)
MODELS: Final = ("base", "oracle", "name", *ENGINE)
TOP: Final = ("output_dir", "models", "tasks", "grid", "options", "engine")
_TASK: Final = tuple(f.name for f in dataclasses.fields(TaskSpec) if f.name != "all_samples")
TASKS: Final = (*_TASK, "name", *OPTIONS)


@dataclass(frozen=True, slots=True)
class Pairing:
    """One entry of [[models]] with one of [[tasks]]: an experiment of its own, in a folder of its own."""

    models: Models
    task: TaskSpec
    arms: Sequence[Arm]
    folder: Path
    options: Mapping[str, Any] = field(default_factory=dict)

    def job(self, *, note: Callable[[str], None] | None = None) -> Job:
        """The job, with its problems read; ``note`` is told what the user should know about them.

        Raises:
            DodonaError: the data set cannot be read, or an option is out of range.
        """
        task, problems = load_task(self.task, note=note)
        options = {**task.recipe.options(), **self.options}
        return Job(task, problems, self.arms, self.models, Place(self.folder, setting="output_dir"), options)


def read_sweep(path: str | Path) -> list[Pairing]:
    """The pairings of a sweep file: models by models, and tasks in their order.

    Raises:
        DodonaError: the file cannot be read, is not TOML, or holds something that is unknown, out of range or of the
            wrong type.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DodonaError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DodonaError(f"{path} is not valid UTF-8, as TOML must be") from error
    try:
        return pairings(parse_toml(text))
    except DodonaError as error:
        raise DodonaError(f"{path}: {error}") from error


def pairings(content: Mapping[str, Any]) -> list[Pairing]:
    """As ``read_sweep``, from the parsed file."""
    _check_keys("the file", content, TOP)
    output = Path(_text("output_dir", content.get("output_dir", "runs/sweep"))).expanduser()
    engine = _engine("[engine]", _table(content, "engine"))
    options = _options("[options]", _table(content, "options"))
    models = [_models(entry, engine) for entry in _tables(content, "models")] or [(Models.from_options(engine), None)]
    tasks = [_task(entry, options) for entry in _tables(content, "tasks")]
    if not tasks:
        raise DodonaError('there are no [[tasks]]: each has a dataset, as in dataset = "arith"')
    guided = _arms(_table(content, "grid"))
    alone = grid([0], [0], ["never"], ["before"], list(dict.fromkeys(arm.seed for arm in guided)))
    found = [
        Pairing(
            pair,
            spec,
            guided if pair.guided else alone,
            output / place_name(*([task_name] if task_name else [spec.dataset]), *([name] if name else pair.names)),
            chosen,
        )
        for pair, name in models
        for spec, task_name, chosen in tasks
    ]
    for index, pairing in enumerate(found):
        if any(pairing.folder == other.folder for other in found[:index]):
            raise DodonaError(
                f"two pairs of models and task would share the folder {pairing.folder}: "
                'give one of them a name of its own, as in name = "level-5"'
            )
    return found


def parse_toml(text: str) -> Mapping[str, Any]:
    """The contents of a TOML file.

    Raises:
        DodonaError: it is not TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DodonaError(f"not TOML: {error}") from error


# --- tables ---


def _models(entry: Mapping[str, Any], engine: Mapping[str, Any]) -> tuple[Models, str | None]:
    where = "[[models]]"
    _check_keys(where, entry, MODELS)
    if entry.get("base") is None:
        raise DodonaError(f"{where} needs a base, as in base = '1B'; without [[models]] the embedded pair is used")
    own = _engine(where, {key: value for key, value in entry.items() if key in ENGINE})
    names = {key: _text(f"{where} {key}", entry[key]) for key in ("base", "oracle", "name") if key in entry}
    name = names.pop("name", None)
    return Models.from_options({**engine, **own}, **names), name


def _task(entry: Mapping[str, Any], common: Mapping[str, Any]) -> tuple[TaskSpec, str | None, Mapping[str, Any]]:
    where = "[[tasks]]"
    _check_keys(where, entry, TASKS)
    if "dataset" not in entry:
        raise DodonaError(f'{where} needs a dataset, as in dataset = "arith"')
    name = _text(f"{where} name", entry["name"]) if "name" in entry else None
    own = _options(where, {key: value for key, value in entry.items() if key in OPTIONS})
    chosen = {**common, **own}
    Request(prompt="", **chosen)
    try:
        spec = spec_from({key: value for key, value in entry.items() if key in _TASK})
        _ = spec.selection  # a count out of range
    except DodonaError as error:
        raise DodonaError(f"{where} {error}") from error
    return spec, name, chosen


def _arms(entry: Mapping[str, Any]) -> list[Arm]:
    where = "[grid]"
    _check_keys(where, entry, GRID)
    default = Request(prompt="")
    return grid(
        _list(where, entry, "c", _budget, [DEFAULT_CONSULTS]),
        _list(where, entry, "k", _budget, [default.k]),
        _list(where, entry, "trigger", _text, [default.parsed_trigger.text]),
        _list(where, entry, "when", _text, [default.when]),
        _list(where, entry, "seed", _whole, [default.seed]),
    )


def _options(where: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    _check_keys(where, entry, OPTIONS)
    given = {name: _OPTION_TYPES[name](f"{where} {name}", value) for name, value in entry.items()}
    Request(prompt="", **given)
    return given


def _engine(where: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    _check_keys(where, entry, ENGINE)
    readers: dict[str, Callable[[str, Any], Any]] = {name: partial(_whole, least=1) for name in SIZES}
    readers |= dict.fromkeys(NUMBERS, _number) | dict.fromkeys(ENGINE_WORDS, _text)
    return {name: readers[name](f"{where} {name}", value) for name, value in entry.items()}


# --- values ---


def _check_keys(where: str, entry: Mapping[str, Any], known: Collection[str]) -> None:
    for key in entry:
        if key not in known:
            near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise DodonaError(f"{where} has no key {key!r}: {hint}")


def _table(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key, {})
    if not isinstance(value, Mapping):
        raise DodonaError(f"[{key}] is a table, not {_shown(value)}")
    return value


def _tables(content: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = content.get(key, [])
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise DodonaError(f"[[{key}]] are tables, each with two brackets, not {_shown(value)}")
    return value


def _list(
    where: str, entry: Mapping[str, Any], key: str, read: Callable[[str, Any], Any], default: list[Any]
) -> list[Any]:
    if key not in entry:
        return default
    value = entry[key]
    values = value if isinstance(value, list) else [value]
    if not values:
        raise DodonaError(f"{where} {key} is empty: leave it out for the default, {default[0]}")
    return [read(f"{where} {key}", one) for one in values]


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DodonaError(f"{where} must be a text, not {_shown(value)}")
    return value


def _texts(where: str, value: Any) -> tuple[str, ...]:
    return tuple(_text(where, one) for one in (value if isinstance(value, list) else [value]))


def _whole(where: str, value: Any, *, least: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
        bound = "" if least is None else f" of {least} or more"
        raise DodonaError(f"{where} must be a whole number{bound}, not {_shown(value)}")
    return value


def _budget(where: str, value: Any) -> float:
    if value in ("inf", float("inf")):
        return float("inf")
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DodonaError(f'{where} must be whole numbers of 0 or more, or "inf", not {_shown(value)}')
    return value


def _number(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DodonaError(f"{where} must be a number, not {_shown(value)}")
    return value


def _truth(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise DodonaError(f"{where} must be true or false, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _reader(name: str, default: Any) -> Callable[[str, Any], Any]:
    if isinstance(default, bool):
        return _truth
    if name == "stop":
        return _texts
    return _number if name.endswith(("temperature", "top_p", "min_p")) else _whole


_OPTION_TYPES: Final[Mapping[str, Callable[[str, Any], Any]]] = MappingProxyType(
    {f.name: _reader(f.name, f.default) for f in dataclasses.fields(Request) if f.name not in PER_RUN}
)
