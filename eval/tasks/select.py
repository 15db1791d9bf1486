"""Picks the problems that are asked for; what is not there is one error that says what is."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from dodona.engine.errors import DodonaError
from dodona.eval.tasks.problem import Level, Problem, Selection

T = TypeVar("T")

MOST_NAMED = 20  # levels or subjects in an error


def select(
    name: str, problems: Sequence[Problem], selection: Selection, note: Callable[[str], None] | None = None
) -> list[Problem]:
    """The problems of a selection, in the order of the task.

    Raises:
        DodonaError: an id, a level or a subject that no problem has; filters that leave nothing; a start beyond them.
    """
    chosen = list(problems)
    if selection.ids:
        wanted = _known_ids(name, problems, selection.ids)
        chosen = [problem for problem in chosen if problem.problem_id in wanted]
    if selection.levels:
        levels = _known_levels(name, problems, selection.levels)
        chosen = [problem for problem in chosen if problem.level in levels]
    if selection.subjects:
        subjects = _known_subjects(name, problems, selection.subjects)
        chosen = [problem for problem in chosen if problem.subject in subjects]
    if not chosen:
        raise DodonaError(f"{name} has no problem that is all of {_filters(selection)}")
    of_these = f" of {_filters(selection)}" if _filters(selection) else ""
    if selection.start_index >= len(chosen):
        raise DodonaError(
            f"--start-index {selection.start_index} is beyond the last: {name} has {len(chosen)} problems{of_these}, "
            "counted from 0"
        )
    rest = chosen[selection.start_index :]
    taken = rest[: selection.num_samples]
    if note is not None:
        if selection.num_samples is not None and len(taken) < selection.num_samples:
            start = f" from index {selection.start_index} on" if selection.start_index else ""
            count = f"{len(taken)} problem{'s' if len(taken) > 1 else ''}"
            note(f"{name} has {count}{of_these}{start}, fewer than the {selection.num_samples} asked for")
        count_of_subjects = len({problem.subject for problem in chosen})
        if count_of_subjects > 1 and 1 < len(taken) < len(chosen) and len({problem.subject for problem in taken}) == 1:
            note(
                f"these {len(taken)} problems of {name} are all {taken[0].subject}; it has {count_of_subjects} subjects"
            )
    return taken


def read_level(value: object) -> Level | None:
    """A level as a number where it is one: ``Level 3``, ``3`` and 3 are 3; ``Level ?`` and nothing are None."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, float):
        value = int(value) if value.is_integer() else value if math.isfinite(value) else ""
    text = " ".join(str(value).split())
    text = re.sub(r"^level\s*", "", text, flags=re.IGNORECASE) or text
    if re.fullmatch(r"[+-]?[0-9]{1,9}(\.0+)?", text):
        return int(text.partition(".")[0])  # 3.0 is what a table with gaps makes of 3
    return None if text in ("", "?") else text


def _known_ids(name: str, problems: Sequence[Problem], wanted: Iterable[str]) -> set[str]:
    known = [problem.problem_id for problem in problems]
    some = ", ".join(known if len(known) < 5 else [*known[:3], "...", known[-1]])
    there = f"its {len(known)} ids are {some}" if len(known) > 1 else f"its one id is {some}"
    return _resolve(wanted, {i: {i} for i in known}, str.strip, f"--ids: {name} has no problem", there)


def _known_levels(name: str, problems: Sequence[Problem], wanted: Iterable[Level]) -> set[Level]:
    known = {problem.level for problem in problems if problem.level is not None}
    if not known:
        raise DodonaError(f"--level: the problems of {name} have no levels")
    by_text: dict[str, set[Level]] = {}
    for level in known:
        by_text.setdefault(_level_text(level), set()).add(level)
    listed = _listed(sorted(known, key=lambda level: (isinstance(level, str), level)))
    return _resolve(map(str, wanted), by_text, _level_text, f"--level: {name} has no level", f"its levels are {listed}")


def _known_subjects(name: str, problems: Sequence[Problem], wanted: Iterable[str]) -> set[str]:
    known = {problem.subject for problem in problems if problem.subject is not None}
    if not known:
        raise DodonaError(f"--subject: the problems of {name} have no subjects")
    by_text: dict[str, set[str]] = {}
    for subject in known:
        by_text.setdefault(_plain(subject), set()).add(subject)
    there = f"its subjects are {_listed(sorted(known))}"
    return _resolve(wanted, by_text, _plain, f"--subject: {name} has no subject", there)


def _resolve(
    wanted: Iterable[str], known: Mapping[str, set[T]], plain: Callable[[str], str], missing: str, there: str
) -> set[T]:
    """What the texts mean. One that is known as a whole may have commas in it; any other is a list."""
    found: set[T] = set()
    for text in wanted:
        parts = [text] if plain(text) in known else text.split(",")
        for part in parts:
            if plain(part) not in known:
                near = difflib.get_close_matches(plain(part), list(known), n=1, cutoff=0.8)
                hint = f"; did you mean {next(iter(known[near[0]]))}?" if near else ""
                raise DodonaError(f"{missing} {part.strip()!r}: {there}{hint}")
            found |= known[plain(part)]
    return found


def _level_text(level: Level) -> str:
    read = read_level(level)
    return _plain(str(level if read is None else read))


def _plain(text: str) -> str:
    """Counting & Probability as counting_and_probability is meant."""
    return " ".join(re.findall(r"\w+", text.casefold().replace("&", " and ").replace("_", " ")))


def _listed(values: Sequence[object]) -> str:
    more = f", ... ({len(values)} in all)" if len(values) > MOST_NAMED else ""
    return ", ".join(map(str, values[:MOST_NAMED])) + more


def _filters(selection: Selection) -> str:
    """The filters as the user wrote them."""
    given = (("--ids", selection.ids), ("--level", selection.levels), ("--subject", selection.subjects))
    return " ".join(f"{option} {','.join(map(str, values))}" for option, values in given if values)
