"""Which arms and problems a page shows, and what it calls them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from dodona.engine.errors import DodonaError
from dodona.eval.viewer.runs import Collection, ShownArm

BASE_ALONE: Final = "base alone"  # what an arm in which no consult can happen is called


def keep(collection: Collection, arms: Iterable[str], limit: int | None) -> None:
    """Drop the arms that have no run or are not asked for, and all problems but the first ``limit``.

    Args:
        arms: parts of names; an arm with one of them in its name stays. None given: all stay.

    Raises:
        DodonaError: no arm has such a name, or no run is left.
    """
    wanted = list(arms)
    for part in wanted:
        if not any(_is_named(arm, part) for arm in collection.arms.values()):
            known = ", ".join(dict.fromkeys(arm.key.name for arm in collection.arms.values()))
            raise DodonaError(f"--arm {part!r} is in no arm's name; there are: {known}")
    begun = {arm for arm, _ in collection.runs}
    collection.arms = {
        key: arm
        for key, arm in collection.arms.items()
        if key in begun and (not wanted or any(_is_named(arm, part) for part in wanted))
    }
    kept = list(collection.problems)[:limit]
    collection.problems = {key: collection.problems[key] for key in kept}
    collection.runs = {
        (arm, problem): run
        for (arm, problem), run in collection.runs.items()
        if arm in collection.arms and problem in collection.problems
    }


def _is_named(arm: ShownArm, part: str) -> bool:
    return part in arm.key.name or (arm.alone and part in BASE_ALONE)


def name_all(collection: Collection) -> None:
    """Give arms and problems short names, each different from all others.

    An arm's leaves out what all arms have in common, and says where the arm comes from where names are alike.
    """
    arms = list(collection.arms.values())
    one_seed = len({arm.arm.seed for arm in arms if arm.arm is not None}) <= 1
    one_when = len({arm.arm.when for arm in arms if arm.arm is not None and not arm.arm.alone}) <= 1
    for shown in arms:
        shown.label = _label(shown, one_seed, one_when)
    places = _places([source.path for source in collection.sources])
    _tell_apart(arms, lambda arm: places[arm.key.source])
    _tell_apart(arms, lambda arm: _below(arm.file.parent, collection.sources[arm.key.source].path))
    _tell_apart(arms, lambda arm: arm.file.stem)
    _tell_apart(arms, lambda arm: arm.key.config)
    labels: dict[str, int] = {}
    for problem in collection.problems.values():  # two long prompts may begin alike
        labels[problem.label] = labels.get(problem.label, 0) + 1
        if labels[problem.label] > 1:
            problem.label += f" #{labels[problem.label]}"


def _label(shown: ShownArm, one_seed: bool, one_when: bool) -> str:
    arm, name = shown.arm, shown.key.name
    if arm is None:
        return name
    if name.startswith(arm.name):
        rest = name.removeprefix(arm.name)
        if arm.alone:
            name = BASE_ALONE
        elif arm.c == arm.k == math.inf and arm.trigger.strip() == "always":
            name = "oracle alone"
        else:
            name = arm.name.removesuffix(f" seed={arm.seed}")
            name = name.removesuffix(f" {arm.when}") if one_when else name
        return name + ("" if one_seed else f" seed={arm.seed}") + rest
    return name


def _tell_apart(arms: Sequence[ShownArm], place: Callable[[ShownArm], str]) -> None:
    """Add the place to labels that several arms share, where it makes a difference among them."""
    alike: dict[str, list[ShownArm]] = {}
    for arm in arms:
        alike.setdefault(arm.label, []).append(arm)
    for group in alike.values():
        places = [place(arm) for arm in group]
        if len(set(places)) > 1:
            for arm, text in zip(group, places, strict=True):
                arm.label += f" · {text}"


def _below(folder: Path, top: Path) -> str:
    """Where in a source a folder lies."""
    return folder.relative_to(top).as_posix() if folder.is_relative_to(top) else folder.name


def _places(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    whole = [path.resolve() for path in paths]
    parts = [(*path.parts[:-1], path.name if path.is_dir() else path.stem) for path in whole]
    longest = max(map(len, parts), default=0)
    for length in range(1, longest + 1):
        ends = ["/".join(part[-length:]) for part in parts]
        if len(set(ends)) == len(ends):
            return ends
    return [str(path) for path in paths]
