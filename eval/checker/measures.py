"""Values with units: takes the unit off, also where it was read as letters that are multiplied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dodona.eval.checker.nodes import Node, name, negative, number, product
from dodona.eval.checker.units import Measure, measure
from dodona.eval.checker.values import symbols

_EXPONENTS: Final = {number(n): n for n in (2, 3)} | {negative(number(n)): -n for n in (1, 2, 3)}


def measured(node: Node) -> tuple[Node, Measure]:
    """A value without its unit or its sign of degrees, and that unit."""
    if node.op == "unit":
        return node.args[0], measure(node.label)
    if node.op == "degree":
        return node.args[0], Measure((("angle", 1),))
    if node.op == "neg" and node.args[0].op in ("unit", "degree", "percent", "based"):
        inner, unit = measured(node.args[0])
        if inner.op == "percent":
            return Node("percent", (negative(inner.args[0]),)), unit
        if inner.op == "based":
            return Node("based", inner.args, f"-{inner.label}"), unit
        return negative(inner), unit
    return node, measure("")


def spelt_like(node: Node, other: Node) -> Node:
    """``3 mg``, read as milligrams, as three times m times g where the other answer has these letters."""
    letters = node.label if node.op == "unit" and len(node.label) > 1 and node.label.isalpha() else ""
    if not letters or "add" in (node.args[0].op, other.op) or other.op == "unit":
        return node
    if symbols(other) != symbols(node.args[0]) | set(letters):
        return node
    return product(node.args[0], *map(name, letters))


def lettered(node: Node, unit: Measure) -> tuple[Node, Measure]:
    """``5 m``, read as five times m, and ``3 m/s``, with their letters as units."""
    if unit.dimensions or node.op != "mul":
        return node, unit
    factors = list(_factors(node))
    numbers = [factor for factor, power in factors if power == 1 and not symbols(factor)]
    letters = [(factor, power) for factor, power in factors if factor.op == "name" and measure(factor.label).dimensions]
    if len(numbers) + len(letters) < len(factors) or factors[0][0] not in numbers:
        return node, unit
    if all(power < 0 for _, power in letters):  # 1/A
        return node, unit
    label = " ".join(f"{'*' if power > 0 else '/'} {factor.label} ^{abs(power)}" for factor, power in letters)
    return product(*numbers), measure(label)


def _factors(node: Node, power: int = 1) -> Iterator[tuple[Node, int]]:
    """What is multiplied, each with its power."""
    if node.op == "mul":
        for arg in node.args:
            yield from _factors(arg, power)
    elif node.op == "inv":
        yield from _factors(node.args[0], -power)
    elif node.op == "pow" and node.args[0].op == "name" and (exponent := _EXPONENTS.get(node.args[1])) is not None:
        yield node.args[0], power * exponent
    else:
        yield node, power


def digits_of(node: Node) -> str | None:
    """The digits of a whole number, also of one with letters, as 1A; None where it is written in another way."""
    if node.op == "based":
        return node.label.lstrip("0").upper()
    if node.op == "neg":
        inner = digits_of(node.args[0])
        return None if inner is None else f"-{inner}"
    if node.op == "mul" and all(arg.op in ("name", "number") for arg in node.args):  # 1A
        parts = [digits_of(arg) if arg.op == "number" else arg.label for arg in node.args]
        return None if None in parts else "".join(part for part in parts if part is not None)
    whole = node.op == "number" and node.value is not None and node.value.denominator == 1 and node.places is None
    return str(node.value) if whole else None
