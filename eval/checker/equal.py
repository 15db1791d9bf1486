"""Whether two values are the same number, or the same expression."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Final, NamedTuple

import mpmath

from dodona.eval.checker.clock import Clock
from dodona.eval.checker.nodes import Node, add, inverse, negative, number, product, walk
from dodona.eval.checker.values import NotReal, Numeric, TooLarge, Unevaluable, exact, is_value, symbols

DIGITS_OF_A_NUMBER: Final = (30, 60, 120, 240, 480)
DIGITS_AT_A_POINT: Final = (30, 60, 120)
LEAST_POINTS = 4  # at which two expressions must be defined to be called the same
LEAST_PLACES = 6  # after the point, of a decimal that stands for an irrational number
_WHOLE_NAMES: Final = frozenset("abcdijklmnpqsMNK")  # of variables that a floor or a ceiling leaves whole
_SCALES: Final = (1, 1, 5, 5, 0.5, 0.5, 0.9, 30, 30, 300, 0.01, 5000)


class Judgement(NamedTuple):
    """Whether two things are equal, and how that was found."""

    equal: bool | None  # None: not decided
    method: str
    reason: str


SAME: Final = Judgement(True, "structure", "the same, part by part")


class Equality:
    """Compares values; one thread uses it at a time.

    Args:
        clock: what ends a computation that takes too long, by raising TooLong.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._ctx: Any = mpmath.MPContext()

    def same(self, gold: Node, prediction: Node) -> Judgement:
        """Whether two values are equal: exactly where both are rational, else to 480 digits, or at many points.

        A decimal with six places or more may stand for an irrational gold value that it is rounded or cut off from:
        such a number cannot be written out, and a rational one can. Six are what Math-Verify asks for by default.
        Nothing else is ever approximate.
        """
        if gold == prediction:
            return SAME
        if not is_value(gold) or not is_value(prediction):
            return Judgement(None, "", "not a value")
        infinite = _infinite(gold), _infinite(prediction)
        if any(infinite):
            return Judgement(infinite[0] == infinite[1], "exact", "infinite" if all(infinite) else "one is infinite")
        try:
            left, right = exact(gold), exact(prediction)
            if left is not None and right is not None:
                return Judgement(left == right, "exact", "equal numbers" if left == right else "different numbers")
            if symbols(gold) or symbols(prediction):
                return _any_base(self._same_expression, gold, prediction)
            if left is None and _decimal(prediction) is not None:
                return self._is_rounded(gold, prediction)
            return _any_base(self._same_number, gold, prediction)
        except Unevaluable as error:  # what is too large for us is so for others
            return Judgement(False if isinstance(error, TooLarge) else None, "numeric", str(error))
        except NotReal:
            return Judgement(None, "", "complex")

    def order(self, left: Node, right: Node) -> int | None:
        """-1, 0 or 1 as the left real number is smaller, equal or larger; None where that is not known."""
        if symbols(left) | symbols(right) or not is_value(left) or not is_value(right):
            return None
        infinite = [{"": 0, "-oo": -1, "oo": 1}[_infinite(node)] for node in (left, right)]
        if any(infinite):
            return (infinite[0] > infinite[1]) - (infinite[0] < infinite[1])
        same = self.same(left, right)
        if same.equal is None:
            return None
        if same.equal:
            return 0
        at = Numeric(self._ctx, self.clock, real=True).difference(left, right)
        try:
            for digits in DIGITS_OF_A_NUMBER:
                difference = at(digits)
                if abs(difference) > self._ctx.mpf(10) ** -(digits // 2):
                    break
        except (Unevaluable, NotReal):
            return None
        return 1 if difference > 0 else -1

    def same_equation(self, gold: tuple[Node, Node], prediction: tuple[Node, Node]) -> int:
        """Whether two equations are one, up to a factor: its sign, or 0 where they are not, as far as can be seen."""
        left, right = (add(sides[0], negative(sides[1])) for sides in (gold, prediction))
        names = symbols(left)
        if not names or names != symbols(right) or not is_value(left) or not is_value(right):
            return 0
        for point in _points(sorted(names))[:3]:  # one at which neither is zero or undefined
            numeric = Numeric(self._ctx, self.clock, point)
            try:
                factors = [numeric(side, 60) for side in (left, right)]
            except (Unevaluable, NotReal):
                continue
            if 0 in factors or any(self._ctx.im(factor) != 0 for factor in factors):
                continue
            scaled = [product(side, inverse(_at(side, point))) for side in (left, right)]
            if self.same(*scaled).equal:
                return 1 if factors[0] * factors[1] > 0 else -1
            return 0
        return 0

    def _same_number(self, gold: Node, prediction: Node, log_base: int) -> Judgement:
        numeric = Numeric(self._ctx, self.clock, log_base=log_base)
        equal = is_zero(numeric.difference(gold, prediction), DIGITS_OF_A_NUMBER)
        reason = f"equal to {DIGITS_OF_A_NUMBER[-1]} digits" if equal else "different numbers"
        return Judgement(equal, "numeric", reason)

    def _same_expression(self, gold: Node, prediction: Node, log_base: int) -> Judgement:
        """Compares at points where both are real; where nowhere both are, at all points.

        The points are rational numbers with large denominators, so what is equal at each of them to 120 digits is the
        same function, and a random coincidence is out of the question.
        """
        both = gold, prediction
        complex_meant = any(part.op == "name" and part.label == "i" for side in both for part in walk(side))
        names = sorted(symbols(gold) | symbols(prediction))
        rounds = any(map(_rounds, both))
        points = _whole_points(names) if rounds or any(map(_alternates, both)) else []
        if not points or (rounds and not _WHOLE_NAMES.issuperset(names)):
            points += _points(names)
        for real in (False,) if complex_meant else (True, False):
            defined = too_large = 0
            for point in points:
                numeric = Numeric(self._ctx, self.clock, point, real=real, log_base=log_base)
                try:
                    if not is_zero(numeric.difference(gold, prediction), DIGITS_AT_A_POINT):
                        return Judgement(False, "numeric", "different expressions")
                    defined += 1
                except TooLarge:
                    too_large += 1
                except (Unevaluable, NotReal):
                    continue
            if defined >= LEAST_POINTS:
                return Judgement(True, "numeric", f"equal at {defined} points")
            if too_large == len(points):
                raise TooLarge("numbers too large to compute")
        return Judgement(None, "", "defined at too few points")

    def _is_rounded(self, gold: Node, prediction: Node) -> Judgement:
        """Whether a decimal is an irrational number, rounded or cut off after the digits that it shows."""
        decimal = _decimal(prediction)
        assert decimal is not None and decimal.places is not None
        if min(decimal.digits, decimal.places) < LEAST_PLACES:
            reason = f"a decimal of fewer than {LEAST_PLACES} places for an irrational number"
            return Judgement(False, "numeric", reason)
        numeric = Numeric(self._ctx, self.clock)
        digits = decimal.digits + abs(decimal.places) + 30
        distance = abs(numeric(gold, digits) - numeric(prediction, digits))
        close = bool(distance < self._ctx.mpf(10) ** -decimal.places)
        reason = f"equal in all of its {decimal.digits} digits" if close else "different numbers"
        return Judgement(close, "numeric", reason)


def is_zero(difference: Callable[[int], Any], digits: Sequence[int]) -> bool:
    """Whether a difference, computed with more and more digits, is zero.

    One that is not keeps its value as the digits grow; what is only rounding shrinks. So no tolerance is needed, and
    values as small as 1e-400 differ from zero and from each other.

    Raises:
        Unevaluable: the difference grows with the digits, as near tan(pi/2), where one side has no value.
    """
    before: Any = None
    for count in digits:
        now = difference(count)
        if before is not None and now != 0 and abs(now - before) < abs(now) * 1e-6:
            return False
        if before and abs(now) > abs(before) * 1e6:
            raise Unevaluable("it has a pole there")
        before = now
    return True


def _infinite(node: Node) -> str:
    sign = ""
    while node.op == "neg":
        sign = "" if sign == "-" else "-"
        node = node.args[0]
    return f"{sign}oo" if node.op == "name" and node.label == "oo" else ""


def _any_base(compare: Callable[[Node, Node, int], Judgement], gold: Node, prediction: Node) -> Judgement:
    """A bare log is taken as the decimal one, then as the natural one: books use it for both."""
    judgement = compare(gold, prediction, 10)
    if not judgement.equal and any(part.label == "log base" for side in (gold, prediction) for part in walk(side)):
        natural = compare(gold, prediction, 0)
        return natural if natural.equal else judgement
    return judgement


def _rounds(node: Node) -> bool:
    r"""Whether it rounds a variable: \lfloor n/2 \rfloor + 1 is \lceil n/2 \rceil but at whole numbers."""
    return any(part.op in ("floor", "ceil") and symbols(part) for part in walk(node))


def _alternates(node: Node) -> bool:
    """Whether it has a (-1)^n, which is meant for whole n."""
    for part in walk(node):
        if part.op == "pow" and symbols(part.args[1]) and not symbols(part.args[0]) and is_value(part.args[0]):
            base = exact(part.args[0])
            if base is not None and base < 0:
                return True
    return False


def _whole_points(names: list[str]) -> list[dict[str, Fraction]]:
    """Positive whole numbers: the first variable runs from 1 to 39, and then all are of the sizes of other points."""
    generator = random.Random(20_000)
    others = [{name: Fraction(generator.randrange(1, 40)) for name in names[1:]} for _ in range(1, 40)]
    small = [{names[0]: Fraction(first), **point} for first, point in enumerate(others, 1)]
    return small + [{name: Fraction(max(1, round(abs(at)))) for name, at in point.items()} for point in _points(names)]


def _points(names: list[str]) -> list[dict[str, Fraction]]:
    """The same points every time: first positive ones, then of all signs, of sizes from 0.01 to 5000."""
    generator = random.Random(20_000)
    points = []
    for index, scale in enumerate(_SCALES):
        point = {}
        for name in names:
            size = Fraction(generator.randrange(10**9, 2 * 10**9), 2 * 10**9 + 11) * Fraction(str(scale))
            point[name] = -size if index % 2 and generator.random() < 0.6 else size
        points.append(point)
    return points


def _decimal(node: Node) -> Node | None:
    """The number that is written out with a decimal point, without its sign."""
    found = node.args[0] if node.op == "neg" else node
    return found if found.places is not None else None


def _at(node: Node, point: dict[str, Fraction]) -> Node:
    """The node with numbers for its variables."""
    if node.op == "name" and node.label in point:
        return number(point[node.label])
    return Node(node.op, tuple(_at(arg, point) for arg in node.args), node.label, node.value)
