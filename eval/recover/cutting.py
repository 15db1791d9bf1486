"""From solutions to prefixes: wrong ones cut, right ones cut and changed, and for each a right one as control."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from dodona.engine.tokenizer import Tokenizer
from dodona.eval.recover.edit import NumberEditor, applied
from dodona.eval.recover.rows import EDITED, OFF, ON, RIGHT, Prefix, Sample, prefix_record
from dodona.eval.recover.settings import STRONG, WEAK, Settings
from dodona.eval.recover.solutions import Cut, cuts, donor, right_ones, wrong_ones
from dodona.eval.tasks.problem import Problem

_BOX: Final = re.compile(r"\\(?:boxed|fbox)\s*\{\s*\S")  # closed or not: the first of its characters may be all


class Solved(NamedTuple):
    """One problem's solutions, of those draws that count."""

    weak: Sequence[Sample]
    strong: Sequence[Sample]
    sometimes: bool  # whether the strong model's own wrong ones become prefixes


class Cutter:
    """Makes the prefixes of problems."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer, seed: int) -> None:
        self.settings, self.tokenizer, self.seed = settings, tokenizer, seed
        self._editor = NumberEditor(tokenizer)

    def records(self, problem: Problem, solved: Solved) -> Iterator[dict[str, Any]]:
        """All prefixes of a problem as records, in a stable order."""
        most, fractions = self.settings.wrong_solutions, self.settings.fractions
        weak, strong = right_ones(solved.weak), right_ones(solved.strong)
        for cut in cuts(wrong_ones(solved.weak, most), fractions):
            yield from self._with_control(problem, cut, OFF, WEAK, donor(cut, weak, strong))
        if solved.sometimes:
            for cut in cuts(wrong_ones(solved.strong, most), fractions):
                yield from self._with_control(problem, cut, ON, STRONG, donor(cut, strong, weak))
        if self.settings.edited:
            for cut in cuts(strong[:1], fractions):
                yield from self._edited(problem, cut)

    def _with_control(
        self, problem: Problem, cut: Cut, kind: str, author: str, control: Sample | None
    ) -> Iterator[dict[str, Any]]:
        name = f"{cut.solution.row_id}@{cut.fraction:g}"
        ids = cut.solution.body[: cut.length]
        yield self._record(problem, cut, self._prefix(name, problem, kind, author, cut, ids, cut.solution.answer))
        if control is not None:
            yield self._control(problem, cut, control, of=name)

    def _edited(self, problem: Problem, cut: Cut) -> Iterator[dict[str, Any]]:
        name = f"{cut.solution.row_id}@{cut.fraction:g}/{EDITED}"
        ids = cut.solution.body[: cut.length]
        edit = self._editor.edit(ids, f"{self.seed}/{name}")
        if edit is None:
            return
        made = self._prefix(name, problem, EDITED, STRONG, cut, applied(ids, edit), None, edit.as_dict(self.tokenizer))
        yield self._record(problem, cut, made)
        yield self._control(problem, cut, cut.solution, of=name)

    def _control(self, problem: Problem, cut: Cut, control: Sample, of: str) -> dict[str, Any]:
        taken = Cut(control, cut.fraction, cut.length)
        ids = control.body[: cut.length]
        made = self._prefix(f"{of}/{RIGHT}", problem, RIGHT, control.role, taken, ids, None, None, of)
        return self._record(problem, taken, made)

    def _prefix(
        self,
        name: str,
        problem: Problem,
        kind: str,
        author: str,
        cut: Cut,
        ids: tuple[int, ...],
        answer: str | None,
        edit: dict[str, Any] | None = None,
        of: str | None = None,
    ) -> Prefix:
        text = self.tokenizer.decode(ids)
        answered = is_answered(text)
        return Prefix(name, problem.problem_id, kind, author, cut.fraction, ids, text, answered, answer, of, edit)

    def _record(self, problem: Problem, cut: Cut, prefix: Prefix) -> dict[str, Any]:
        return prefix_record(prefix, problem, cut.solution.row_id, cut.length, len(cut.solution.body))


def is_answered(text: str) -> bool:
    """Whether a prefix contains a boxed answer, or the beginning of one."""
    return _BOX.search(text) is not None
