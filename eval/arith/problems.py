"""Arithmetic problems with worked solutions: the text on which the embedded pair was trained and is measured.

A problem is a question about one integer expression, at level 1 (two small numbers) to 5 (a product inside a longer
expression), and a solution that works column by column, the way it is done on paper, and ends in ``\\boxed{}``.
Everything is drawn from the ``random.Random`` that is passed in; the same seed gives the same problems on every
machine and Python version from 3.10 on.

Training and evaluation never meet: whether an expression may be trained on is decided by a hash of its text
(``is_held_out``), so a held-out problem is one that no training run has seen, whatever its seed or length.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

LEVELS = (1, 2, 3, 4, 5)
_QUESTIONS = ("What is {}?", "Compute {}.", "Find the value of {}.", "Work out {}.")
_HELD_OUT_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with its gold answer and a worked solution."""

    problem_id: str
    level: int
    question: str
    answer: str
    solution: str


def is_held_out(expression: str) -> bool:
    """Whether an expression belongs to the held-out fifth, which training never draws."""
    digest = hashlib.blake2b(expression.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") < _HELD_OUT_SHARE * 2**32


# --- the three operations, worked column by column: each returns (steps, value) ---------------------------------------


def _digits(number: int) -> list[int]:
    """Decimal digits of a non-negative integer, units first."""
    return [int(digit) for digit in reversed(str(number))]


def _worked(left: str, columns: list[str], value: int) -> tuple[str, int]:
    steps = ", ".join(columns)
    return f"{left}: {steps}, so {left} = {value}.\n", value


def worked_addition(a: int, b: int) -> tuple[str, int]:
    """Column addition of two non-negative integers; a carry is written as ``+1``."""
    columns, carry = [], 0
    digits_a, digits_b = _digits(a), _digits(b)
    for place in range(max(len(digits_a), len(digits_b))):
        terms = [str(digits[place]) for digits in (digits_a, digits_b) if place < len(digits)]
        if carry:
            terms.append("1")
        total = sum(map(int, terms))
        columns.append(f"{'+'.join(terms)}={total}")
        carry = total // 10
    return _worked(f"{a} + {b}", columns, a + b)


def worked_subtraction(a: int, b: int) -> tuple[str, int]:
    """Column subtraction; a borrow is written as ``10+`` and repaid as ``-1``. A negative result is turned round."""
    if a < b:
        steps, value = worked_subtraction(b, a)
        return f"{steps}{a} is less than {b}, so {a} - {b} = -{value}.\n", -value
    columns, borrow = [], 0
    digits_a, digits_b = _digits(a), _digits(b)
    for place, digit in enumerate(digits_a):
        taken = digits_b[place] if place < len(digits_b) else 0
        total = digit - taken - borrow
        terms = ("10+" if total < 0 else "") + str(digit)
        if place < len(digits_b):
            terms += f"-{taken}"
        if borrow:
            terms += "-1"
        borrow = int(total < 0)
        columns.append(f"{terms}={total % 10}")
    return _worked(f"{a} - {b}", columns, a - b)


def worked_product(a: int, b: int) -> tuple[str, int]:
    """Long multiplication of non-negative integers by the digits of ``b``; partial products are then added."""
    if b < 10:
        columns, carry = [], 0
        for digit in _digits(a):
            total = digit * b + carry
            columns.append(f"{digit}*{b}" + (f"+{carry}" if carry else "") + f"={total}")
            carry = total // 10
        return _worked(f"{a} * {b}", columns, a * b)
    units, rest = b % 10, b - b % 10
    steps_tens, tens = worked_product(a, rest // 10)
    if units == 0:
        return f"{steps_tens}{a} * {b} = {tens * 10}.\n", tens * 10
    steps_units, low = worked_product(a, units)
    steps_sum, value = worked_addition(tens * 10, low)
    return f"{steps_tens}{a} * {rest} = {tens * 10}.\n{steps_units}{steps_sum}", value


# --- levels -----------------------------------------------------------------------------------------------------------


def _sum_or_difference(rng: random.Random, a: int, b: int) -> tuple[str, str, int]:
    if rng.random() < 0.5:
        return f"{a} + {b}", *worked_addition(a, b)
    return f"{a} - {b}", *worked_subtraction(a, b)


def _then(rng: random.Random, expression: str, steps: str, value: int, limit: int) -> tuple[str, str, int]:
    """``expression + c`` or ``- c`` with 2 <= c <= limit, worked after the steps that gave ``value`` >= 0."""
    c = rng.randint(2, limit)
    sign, work = ("+", worked_addition) if rng.random() < 0.5 else ("-", worked_subtraction)
    more, total = work(value, c)
    return f"{expression} {sign} {c}", steps + more, total


def _level_1(rng: random.Random) -> tuple[str, str, int]:
    return _sum_or_difference(rng, rng.randint(2, 99), rng.randint(2, 99))


def _level_2(rng: random.Random) -> tuple[str, str, int]:
    if rng.random() < 0.5:
        return _sum_or_difference(rng, rng.randint(100, 999), rng.randint(10, 999))
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    return _then(rng, *_sum_or_difference(rng, max(a, b), min(a, b)), limit=99)


def _level_3(rng: random.Random) -> tuple[str, str, int]:
    a, b = rng.randint(12, 99), rng.randint(2, 9)
    product = (f"{a} * {b}", *worked_product(a, b))
    return product if rng.random() < 0.3 else _then(rng, *product, limit=99)


def _level_4(rng: random.Random) -> tuple[str, str, int]:
    if rng.random() < 0.5:
        a, b = rng.randint(12, 99), rng.randint(11, 99)
        return (f"{a} * {b}", *worked_product(a, b))
    a, b = rng.randint(10, 60), rng.randint(10, 60)
    expression, steps, value = _sum_or_difference(rng, max(a, b), min(a, b))
    factor = rng.randint(3, 9)
    more, total = worked_product(value, factor)
    return f"({expression}) * {factor}", steps + more, total


def _level_5(rng: random.Random) -> tuple[str, str, int]:
    if rng.random() < 0.5:
        a, b = rng.randint(12, 99), rng.randint(11, 99)
        return _then(rng, f"{a} * {b}", *worked_product(a, b), limit=999)
    a, b = rng.randint(10, 49), rng.randint(10, 49)
    expression, steps, value = _sum_or_difference(rng, max(a, b), min(a, b))
    factor = rng.randint(11, 39)
    more, total = worked_product(value, factor)
    return _then(rng, f"({expression}) * {factor}", steps + more, total, limit=99)


_BY_LEVEL = {1: _level_1, 2: _level_2, 3: _level_3, 4: _level_4, 5: _level_5}


def draw_problem(rng: random.Random, level: int, *, held_out: bool, problem_id: str = "") -> Problem:
    """Draw one problem of a level, from the held-out expressions or from the rest.

    Raises:
        ValueError: a level outside 1 to 5.
    """
    if level not in _BY_LEVEL:
        raise ValueError(f"level {level} is not one of {', '.join(map(str, LEVELS))}")
    while True:
        expression, steps, value = _BY_LEVEL[level](rng)
        if is_held_out(expression) == held_out:
            break
    question = rng.choice(_QUESTIONS).format(expression)
    return Problem(problem_id, level, question, str(value), f"{steps}The answer is \\boxed{{{value}}}.")


def held_out_problems(count: int, *, seed: int = 0, levels: tuple[int, ...] = LEVELS) -> list[Problem]:
    """``count`` different held-out problems, levels taken in turn; a longer list begins with the shorter one."""
    return list(_distinct(count, seed, levels))


def _distinct(count: int, seed: int, levels: tuple[int, ...]) -> Iterator[Problem]:
    rng = random.Random(f"arith-held-out-{seed}")
    seen: set[str] = set()
    while len(seen) < count:
        level = levels[len(seen) % len(levels)]
        problem = draw_problem(rng, level, held_out=True, problem_id=f"arith-{seed}-{len(seen)}")
        if problem.question not in seen:
            seen.add(problem.question)
            yield problem
