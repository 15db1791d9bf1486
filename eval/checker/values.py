"""What a value is worth: exactly where it is rational, else to any number of digits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Final

from dodona.eval.checker.clock import Clock
from dodona.eval.checker.nodes import Node, walk

MOST_BITS = 20_000  # of an exact number
MOST_EXPONENT = 10**9  # of a power of a real number
MOST_SPREAD = 8000  # bits from the smallest to the largest term of a sum
MOST_DIGITS_OF_GAMMA = 500  # the time it takes grows with their cube
CONSTANTS: Final = frozenset({"pi", "e", "i", "oo", "log base"})
VALUES: Final = frozenset(
    {"number", "name", "add", "mul", "neg", "inv", "pow", "root", "percent", "degree", "fact", "abs", "floor", "ceil"}
    | {"binom", "call", "log"}
)


class Unevaluable(Exception):
    """No number: an unknown function, a division by zero, or a size beyond all answers."""


class TooLarge(Unevaluable):
    """A number that no computation reaches."""


class NotReal(Exception):
    """The value is complex where only real ones were asked for."""


def symbols(node: Node) -> set[str]:
    """The variables in it."""
    return {part.label for part in walk(node) if part.op == "name"} - CONSTANTS


def is_value(node: Node) -> bool:
    """Whether it is made of values only, all of which can be computed."""
    return all(part.op in VALUES and (part.op != "name" or part.label != "emptyset") for part in walk(node))


# --- exactly ---


def exact(node: Node) -> Fraction | None:
    """Its value where that is found by exact rational arithmetic, else None.

    Raises:
        Unevaluable: a division by zero.
    """
    if node.op == "number":
        return node.value
    if node.op not in _EXACT:
        return None
    args = []
    for arg in node.args:
        value = exact(arg)
        if value is None:
            return None
        args.append(value)
    try:
        result = _rational(node, args)
    except ZeroDivisionError:
        raise Unevaluable("a division by zero") from None
    return None if result is None or _bits(result) > MOST_BITS else result


_EXACT: Final = VALUES - {"number", "name", "degree", "log"}


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _rational(node: Node, args: list[Fraction]) -> Fraction | None:
    first = args[0]
    match node.op:
        case "add" | "mul":
            result = first
            for arg in args[1:]:
                result = result + arg if node.op == "add" else result * arg
                if _bits(result) > MOST_BITS:
                    return None
            return result
        case "neg":
            return -first
        case "inv":
            return 1 / first
        case "percent":
            return first / 100
        case "abs":
            return abs(first)
        case "floor":
            return Fraction(math.floor(first))
        case "ceil":
            return Fraction(math.ceil(first))
        case "pow":
            power = args[1]
            if power.denominator != 1 or _bits(first) * abs(power) > MOST_BITS:
                return None
            return Fraction(first ** int(power))
        case "root":
            return _exact_root(*args)
        case "fact":
            return Fraction(math.factorial(int(first))) if _is_count(first) else None
        case "binom":
            above, below = args
            return Fraction(math.comb(int(above), int(below))) if _is_count(above) and _is_count(below) else None
    return _exact_call(node.label, args)


def _is_count(value: Fraction) -> bool:
    return value.denominator == 1 and 0 <= value <= 1000


def _exact_root(index: Fraction, of: Fraction) -> Fraction | None:
    if index != 2 or of < 0:
        return None
    root = Fraction(math.isqrt(of.numerator), math.isqrt(of.denominator))
    return root if root * root == of else None


def _exact_call(function: str, args: list[Fraction]) -> Fraction | None:
    if function in ("max", "min"):
        return max(args) if function == "max" else min(args)
    if function in ("gcd", "lcm") and all(arg.denominator == 1 for arg in args):
        whole = [int(arg) for arg in args]
        return Fraction(math.gcd(*whole) if function == "gcd" else math.lcm(*whole))
    return None


# --- numerically ---


class Numeric:
    """Computes values for these values of the variables.

    Args:
        ctx: an mpmath context, used by one thread at a time.
        real: raise NotReal where a value inside of it is complex.
        log_base: what a bare log means; 0 is e.
    """

    def __init__(
        self,
        ctx: Any,
        clock: Clock,
        variables: Mapping[str, Fraction] | None = None,
        *,
        real: bool = False,
        log_base: int = 10,
    ) -> None:
        self.ctx, self.clock = ctx, clock
        self.variables = variables or {}
        self.real, self.log_base = real, log_base
        self._spread = 0  # bits from the smallest to the largest term of one sum

    def __call__(self, node: Node, digits: int) -> Any:
        """The value as mpf or mpc, finite, computed with so many digits.

        Raises:
            Unevaluable: there is none.
            NotReal: see `real`.
            TooLong: the clock ran out.
        """
        self.ctx.dps = digits
        return self.value(node)

    def difference(self, left: Node, right: Node) -> Callable[[int], Any]:
        """The difference of two values, as a function of the digits that each term of their sums keeps.

        In 10^{2000} + 1 there are 2000 digits between the terms, so that many more are needed to see the smaller one.
        """

        def difference(digits: int) -> Any:
            while True:
                spread = self._spread
                if spread > MOST_SPREAD:
                    raise TooLarge("terms of too different sizes")
                found = self(left, digits + spread // 3) - self(right, digits + spread // 3)
                if self._spread <= spread:
                    return found

        return difference

    def value(self, node: Node) -> Any:
        """The value with the digits that the context has now."""
        self.clock.check()
        try:
            result = self._value(node)
        except (ZeroDivisionError, ValueError, OverflowError, self.ctx.NoConvergence) as error:
            raise Unevaluable(str(error) or type(error).__name__) from None
        if not self.ctx.isfinite(result):
            raise Unevaluable("it is infinite")
        if self.real and self.ctx.im(result) != 0:
            raise NotReal
        return self.ctx.re(result) if self.ctx.im(result) == 0 else result

    def _value(self, node: Node) -> Any:
        ctx = self.ctx
        if node.op == "number":
            value = node.value or Fraction(0)
            return ctx.mpf(value.numerator) / value.denominator
        if node.op == "name":
            return self._name(node.label)
        args = [self.value(arg) for arg in node.args]
        first = args[0]
        match node.op:
            case "add":
                sizes = [ctx.mag(arg) for arg in args if arg != 0] or [0]
                self._spread = max(self._spread, int(max(sizes) - min(sizes)))
                return sum(args[1:], first)
            case "mul":
                return math.prod(args[1:], start=first)
            case "neg":
                return -first
            case "inv":
                return 1 / first
            case "percent":
                return first / 100
            case "degree":
                return first * ctx.pi / 180
            case "abs":
                return abs(first)
            case "floor" | "ceil":
                return self._rounded(node.op, first)
            case "pow":
                return self._power(first, args[1], node.args[1])
            case "root":
                return self._power(args[1], 1 / first, Node("inv", (node.args[0],)))
            case "fact" | "binom":
                if ctx.dps > MOST_DIGITS_OF_GAMMA and not all(ctx.isint(arg) for arg in args):
                    raise TooLarge("a factorial of a fraction with too many digits")
                function = ctx.factorial if node.op == "fact" else ctx.binomial
                return function(*(self._bounded(arg, 10**6) for arg in args))
            case "log":
                return ctx.log(args[1]) / ctx.log(first)
            case "call":
                return self._call(node.label, args)
        raise Unevaluable(f"{node.op} has no value")

    def _name(self, label: str) -> Any:
        if label in self.variables:
            value = self.variables[label]
            return self.ctx.mpf(value.numerator) / value.denominator
        if label == "log base":
            return self.ctx.mpf(10) if self.log_base == 10 else +self.ctx.e
        if label in ("pi", "e"):
            return +getattr(self.ctx, label)
        if label == "i":
            return self.ctx.mpc(0, 1)
        raise Unevaluable(f"{label} has no value")

    def _bounded(self, value: Any, most: int) -> Any:
        if abs(value) > most:
            raise TooLarge("a number too large to compute")
        return value

    def _rounded(self, op: str, value: Any) -> Any:
        if self.ctx.im(value) != 0:
            raise Unevaluable(f"{op} of a complex number")
        nearest = self.ctx.nint(value)
        if abs(value - nearest) < self.ctx.mpf(10) ** (-self.ctx.dps // 2):
            return nearest  # as floor(sqrt(2) sqrt(2)) is 2 and not 1
        return self.ctx.floor(value) if op == "floor" else self.ctx.ceil(value)

    def _power(self, base: Any, exponent: Any, node: Node) -> Any:
        ctx = self.ctx
        self._bounded(exponent, MOST_EXPONENT)
        if base == 0:
            if ctx.re(exponent) <= 0:
                raise Unevaluable("a power of zero")
            return ctx.mpf(0)
        self._bounded(ctx.log(abs(base)) * exponent, 10**10)
        if ctx.im(base) == 0 and base < 0:
            power = exact(node) if len(node.args) < 3 else None
            if power is not None and power.denominator % 2 == 1 and power.denominator > 1:
                root = (-base) ** exponent  # the real root, as a cube root is meant
                return -root if power.numerator % 2 else root
        return base**exponent

    def _call(self, function: str, args: list[Any]) -> Any:
        ctx = self.ctx
        if function in ("max", "min"):
            if any(ctx.im(arg) != 0 for arg in args):
                raise Unevaluable("an order of complex numbers")
            return max(args) if function == "max" else min(args)
        if function in _CALLS:
            return getattr(ctx, _CALLS[function])(self._bounded(args[0], 10**6))
        raise Unevaluable(f"{function} has no value")


_BOTH: Final = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")
_CALLS: Final = {
    **{name: name for name in (*_BOTH, "coth", "sech", "csch")},
    **{f"arc{name}": f"a{name}" for name in _BOTH},
    **{"arsinh": "asinh", "arcosh": "acosh", "artanh": "atanh"},
}
