"""Solutions in search of wrong ones: how many more of a problem have to be drawn, and which become prefixes.

Draws are numbered, and what is asked of a problem depends on its own first draws alone. So it makes no difference how
many are drawn at once, or how often the work was stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from dodona.eval.recover.rows import Sample
from dodona.eval.recover.settings import Settings

Tries = Mapping[int, Sample]  # by their numbers


class Cut(NamedTuple):
    """Where a solution is cut."""

    solution: Sample
    fraction: float
    length: int  # tokens that stay


def next_tries(done: Tries, most: int, missing: Callable[[Sequence[Sample]], int]) -> list[int]:
    """The numbers of the draws that have to be made now; none when there are enough, or as many as there may be.

    Args:
        done: what is drawn already.
        most: draws at most.
        missing: how many more are needed at least, from the first draws in their order; 0: no more.
    """
    count = 0
    while True:
        needed = missing([done[number] for number in range(count)])
        block = range(count, min(count + needed, most))
        if absent := [number for number in block if number not in done]:
            return absent
        if not block:
            return []
        count = block.stop


def used(done: Tries, most: int, missing: Callable[[Sequence[Sample]], int]) -> list[Sample]:
    """The draws that these settings make, all of which are there; what was drawn beyond them is left out."""
    count = 0
    while needed := missing([done[number] for number in range(count)]):
        if count == most:
            break
        count = min(count + needed, most)
    return [done[number] for number in range(count)]


def wrong_ones(tries: Sequence[Sample], most: int) -> list[Sample]:
    """The first different wrong solutions."""
    found: dict[tuple[int, ...], Sample] = {}
    for sample in tries:
        if sample.wrong and len(sample.body) > 1:
            found.setdefault(sample.body, sample)
    return list(found.values())[:most]


def right_ones(tries: Sequence[Sample]) -> list[Sample]:
    """The right solutions that can be cut."""
    return [sample for sample in tries if sample.correct and len(sample.body) > 1]


def cuts(solutions: Sequence[Sample], fractions: Sequence[float]) -> list[Cut]:
    """Each solution cut at each fraction: at least one token stays, and at least one is left to write."""
    found = []
    for solution in solutions:
        length = len(solution.body)
        for fraction in fractions:
            # 0.7 * 10 is below 7 in floating point.
            found.append(Cut(solution, fraction, min(length - 1, max(1, math.floor(fraction * length + 1e-9)))))
    return found


def donor(cut: Cut, *authors: Sequence[Sample]) -> Sample | None:
    """A right solution that can be cut as long, of the first author with one; of several the one of nearest length."""
    for solutions in authors:
        long_enough = [solution for solution in solutions if len(solution.body) > cut.length]
        if long_enough:
            length = len(cut.solution.body)
            return min(long_enough, key=lambda solution: (abs(len(solution.body) - length), solution.number))
    return None


def missing_weak(settings: Settings) -> Callable[[Sequence[Sample]], int]:
    """What is still needed of the weak model: wrong solutions, and a right one for each of their prefixes."""

    def missing(tries: Sequence[Sample]) -> int:
        wrong, right = wrong_ones(tries, settings.wrong_solutions), right_ones(tries)
        lacking = any(donor(cut, right) is None for cut in cuts(wrong, settings.fractions))
        return max(settings.wrong_solutions - len(wrong), int(lacking))

    return missing


def missing_strong(settings: Settings, weak: Sequence[Sample], *, sometimes: bool) -> Callable[[Sequence[Sample]], int]:
    """What is still needed of the strong model: wrong solutions, and a right one for every prefix that has none yet.

    Args:
        weak: the weak model's solutions of this problem, all of them.
        sometimes: whether the strong model solved the problem in some samples of the appraisal and not in others.
    """
    most = settings.wrong_solutions
    theirs = [cut for cut in cuts(wrong_ones(weak, most), settings.fractions) if donor(cut, right_ones(weak)) is None]

    def missing(tries: Sequence[Sample]) -> int:
        wrong, right = wrong_ones(tries, most) if sometimes else [], right_ones(tries)
        lacking = any(donor(cut, right) is None for cut in [*theirs, *cuts(wrong, settings.fractions)])
        lacking = lacking or (settings.edited and not right)
        return max(most - len(wrong) if sometimes else 0, int(lacking))

    return missing
