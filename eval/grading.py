"""Whether a model's answer is right.

`check` takes what a model wrote, a whole completion or only the answer, and the gold answer. It goes from cheap to dear
and ends where the question is decided:

1. the answer is taken out of the completion (checker/extract.py);
2. the same text, but for spaces and spelling (checker/normalise.py, checker/words.py);
3. read by a small grammar (checker/reader.py) and compared (checker/compare.py): exactly where both are rational, to
   480 digits where they are not, at many points where they have variables;
4. Math-Verify, in a process of its own with a time limit (checker/pool.py), for what is left.

Nothing that a model wrote is ever evaluated as code, by Python or by sympy.

What counts as the same answer, where graders differ:

- a decimal is the exact number that it shows: 0.33 is not 1/3. A number that cannot be written out (the square root of
  2) may be given by six decimal places or more, rounded or cut off;
- a unit, a sign of degrees or of per cent, and "x =" may be left out, but a wrong unit is a wrong answer. 50 % is also
  0.5;
- 3:30 p.m. is 15:30 too, and 3:30 where that is all an answer says; 15:30 and 3:30 are different;
- lists and sets have no order; points, intervals, vectors and matrices have one. A point's brackets may be left out;
- an expression, an equation or an inequality is the same in any form, also not simplified.
"""

from __future__ import annotations

import os
import re
import threading
from functools import cache
from typing import Final, NamedTuple

from dodona.engine.errors import DodonaError
from dodona.eval.checker.choice import chosen_letter
from dodona.eval.checker.clock import Clock, TooLong
from dodona.eval.checker.compare import Comparison
from dodona.eval.checker.equal import Equality, Judgement
from dodona.eval.checker.extract import final_answers, gold_answers
from dodona.eval.checker.lexer import Unreadable
from dodona.eval.checker.nodes import Node
from dodona.eval.checker.normalise import normal_text
from dodona.eval.checker.pool import NO_RESULT, Pool
from dodona.eval.checker.reader import read
from dodona.eval.checker.words import in_words

SECONDS = 2.5  # for one answer, in all of its readings
SECONDS_OF_ARITHMETIC = 0.8  # of these, for one reading, as processor time

_THOUSANDS: Final = re.compile(r"\d,\d{3}")  # one number, or two: both readings are tried
_ONE_NUMBER: Final = re.compile(r"[-+$\\\s]*\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![,\d]).*", re.DOTALL)
_OPTION: Final = re.compile(
    r"\s*\\(?:text|textbf|mathrm|mathbf|textrm)\s*\{\s*\(?(?P<letter>[A-Z])[).:]*\s*\}[\s~.:)]*(?:\\[ ,;:]|\\q?quad\s)*"
    r"(?P<content>[^\s.,;:)+*/=^_({-].*)|\s*\((?P<bare>[A-H])\)\s+(?P<rest>[^\s(].*)",
    re.DOTALL,
)
_LETTER: Final = re.compile(r"\W*(?:text\w*\W)?\W*[A-Z]\W*")
_MARKED: Final = re.compile(r"\s*([A-J])[.)]\s+\S.*", re.DOTALL)  # C. 12


class Verdict(NamedTuple):
    """Whether an answer is right, and how that was found."""

    correct: bool
    extracted: str | None  # the answer as the completion has it; None: no answer was found
    method: str  # text, exact, numeric, structure, math-verify, choice; empty: there was nothing to compare
    reason: str


def check(prediction: str, gold: str) -> Verdict:
    """Whether a completion, or a bare answer, gives the gold answer.

    Args:
        prediction: what a model wrote.
        gold: the answer, a sentence that says what it is, or a worked solution with it in a box or after ``####``.

    Never raises for what a model wrote, and takes three seconds at most, but for the first start of Math-Verify and for
    waiting while other threads ask it. It may be called from any thread.

    Raises:
        DodonaError: the gold answer is empty.
    """
    wanted = gold_answers(gold)
    if not wanted:
        raise DodonaError("the gold answer is empty")
    given = final_answers(prediction)
    if prediction.strip() == gold.strip():
        return Verdict(True, (given or wanted)[0], "text", "the same text")
    if not given:
        return Verdict(False, None, "", "no answer was found")
    checker = _checker(os.getpid())
    judgement = Judgement(None, "", "")
    time = _Time()
    for answer in given:
        for right in wanted:
            judgement = checker.judge(right, answer, time)
            if judgement.equal:
                return Verdict(True, answer, judgement.method, judgement.reason)
    return Verdict(False, given[-1], judgement.method, judgement.reason)


def check_choice(prediction: str, letter: str) -> Verdict:
    """Whether a completion, or a bare letter, chooses the right letter.

    Args:
        prediction: what a model wrote; any letter from A to Z counts as a choice.
        letter: the right one, as ``B`` or ``(B)``.

    Raises:
        DodonaError: the letter is none of A to Z.
    """
    wanted = letter.strip().strip("()").strip().upper()
    if len(wanted) != 1 or not "A" <= wanted <= "Z":
        raise DodonaError(f"the letter of a choice is one of A to Z, not {letter!r}")
    chosen = chosen_letter(prediction)
    if chosen is None:
        return Verdict(False, None, "", "no choice was found")
    return Verdict(chosen == wanted, chosen, "choice", "the same letter" if chosen == wanted else "another letter")


class _Time:
    """What is left of the seconds for one answer."""

    def __init__(self) -> None:
        self.left = SECONDS


class _Checker:
    """What a process needs to compare answers."""

    def __init__(self) -> None:
        self.pool = Pool()
        self.lock = threading.Lock()  # mpmath keeps constants that two threads must not compute at once

    def judge(self, gold: str, answer: str, time: _Time) -> Judgement:
        """Compare two answers, each of which may be an option: a letter, and what it stands for."""
        options = _option(gold), _option(answer)
        if options[0] and options[1] is None:
            return max((self._judge(part, answer, time) for part in options[0]), key=lambda found: found.equal is True)
        if options[1] and options[0] is None:
            letter, content = options[1]
            return self._judge(gold, letter if _LETTER.fullmatch(gold) else content, time)
        if _LETTER.fullmatch(gold) and (marked := _MARKED.fullmatch(answer)):
            return self._judge(gold, marked[1], time)
        return self._judge(gold, answer, time)

    def _judge(self, gold: str, answer: str, time: _Time) -> Judgement:
        if not answer.strip():
            return Judgement(False, "", "the answer is empty")
        words = in_words(gold)
        if normal_text(gold) == normal_text(answer) or (words is not None and words == in_words(answer)):
            return Judgement(True, "text", "the same text")
        if time.left <= 0:
            return Judgement(False, "", "no time left")
        try:
            with self.lock:
                clock = Clock(time.left, SECONDS_OF_ARITHMETIC)
                try:
                    judgement = self._compare(gold, answer, Comparison(Equality(clock)))
                finally:
                    time.left = clock.left
        except TooLong:
            return Judgement(False, "numeric", "not decided in time")
        except RecursionError:  # called from near the interpreter's limit
            return Judgement(False, "", "nested too deep")
        if judgement.equal is not None:
            return judgement
        found = self.pool.equal(gold, answer, time.left)
        if found.reason.startswith(NO_RESULT):
            time.left = 0
        return found

    def _compare(self, gold: str, answer: str, comparison: Comparison) -> Judgement:
        last: Judgement | None = None
        for commas in _readings(gold):
            for others in _readings(answer, prediction=True):
                try:
                    found = comparison.compare(read(gold, commas=commas), _read_value(answer, gold, commas=others))
                except Unreadable as error:
                    found = Judgement(None, "", f"not read: {error}")
                if found.equal:
                    return found
                last = found if last is None or last.equal is not None else last
        assert last is not None
        return last


@cache
def _checker(process: int) -> _Checker:
    """The one of this process: after a fork, locks and pipes belong to the parent."""
    return _Checker()


def _read_value(answer: str, gold: str, *, commas: bool) -> Node:
    """A prediction; of P(A|B) = 1/2, where what is asked for is not in the grammar, the value."""
    try:
        return read(answer, commas=commas)
    except Unreadable:
        label, equals, value = answer.rpartition("=")
        if not equals or "=" in gold or not re.search("[A-Za-z]", label) or re.search(r"[=<>]|\\[lg]e", label):
            raise
        return read(value, commas=commas)


def _readings(answer: str, *, prediction: bool = False) -> tuple[bool, ...]:
    """Whether 1,234 is one number, or two; a gold answer that can be one number is one."""
    if not _THOUSANDS.search(answer):
        return (True,)
    return (True,) if not prediction and _ONE_NUMBER.fullmatch(answer.strip().strip("$")) else (True, False)


def _option(answer: str) -> tuple[str, str] | None:
    r"""The letter and the text of ``\textbf{(B)}\ 12``."""
    match = _OPTION.fullmatch(answer)
    return None if match is None else (match["letter"] or match["bare"], match["content"] or match["rest"])
