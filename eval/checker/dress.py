"""Brings points, matrices, quantities and words that are written in several ways into one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

from dodona.eval.checker.nodes import Node, add, inverse, name, negative, number, product
from dodona.eval.checker.shape import assignment, without_name
from dodona.eval.checker.units import Dimensions, measure
from dodona.eval.checker.words import meaning, spelt_fraction

_LINE: Final = re.compile("(overline|bar|overleftrightarrow|overrightarrow|vec):([A-Z])([A-Z])")
_HOURS_BEFORE: Final[dict[Dimensions, int]] = {(("morning", 1),): 0, (("afternoon", 1),): 12}


def point(node: Node) -> Node:
    """(1, 2) of (x, y) = (1, 2), and {1, 2} of S = {1, 2}."""
    found = assignment(node)
    return found[1] if found is not None and (found[0].op == "group" or found[1].op == "set") else node


def counted(node: Node) -> Node:
    """C(8, 3), and P(8, 3) for the ordered ones, next to what is no point."""
    if node.op == "mul" and len(node.args) == 2 and node.args[1].op == "group" and len(node.args[1].args) == 2:
        above, below = node.args[1].args
        if node.args[0] == name("C"):
            return Node("binom", (above, below))
        if node.args[0] == name("P") and above.op == below.op == "number":
            return product(Node("fact", (above,)), inverse(Node("fact", (add(above, negative(below)),))))
    return without_name(node)


def row_of(row: Node) -> Node:
    """The cells of a matrix's row, in their order."""
    return Node("group", row.args, "()")


def matrix_of(node: Node) -> Node:
    """The matrix of [[1, 2], [3, 4]]; anything else as it is."""
    nested = node.op == "group" and node.label == "[]" and all((a.op, a.label) == ("group", "[]") for a in node.args)
    return Node("matrix", tuple(Node("row", row.args) for row in node.args)) if nested else node


def one_quantity(node: Node) -> Node:
    """The one quantity of "1 hour and 30 minutes", which is written like a list; anything else as it is."""
    if node.op != "list" or node.label != "," or any(item.op != "unit" for item in node.args):
        return node
    units = [measure(item.label) for item in node.args]
    falling = all(one.factor > other.factor for one, other in pairwise(units))
    if not falling or not units[0].dimensions or any(unit.dimensions != units[0].dimensions for unit in units):
        return node
    factors = [number(unit.factor / units[0].factor) for unit in units]
    terms = [product(item.args[0], factor) for item, factor in zip(node.args, factors, strict=True)]
    return replace(node.args[0], args=(add(*terms),))


def coordinates(node: Node) -> Sequence[Node] | None:
    r"""The coordinates of (1, 2), of \langle 1, 2 \rangle, and of a matrix with one row or one column."""
    if node.op == "group" and (node.label in ("()", "<>") or len(node.args) > 2):
        return node.args
    if node.op == "matrix" and (len(node.args) == 1 or all(len(row.args) == 1 for row in node.args)):
        return [cell for row in node.args for cell in row.args]
    return None


def in_numbers(node: Node) -> Node:
    """The number that is spelt out; anything else as it is."""
    value = spelt_fraction(node.label) if node.op == "text" else None
    return node if value is None else number(value)


def spelling(node: Node) -> str | None:
    """The words of an answer, where it may be meant as such."""
    if node == name("emptyset"):
        return "no solution"
    if node.op == "name" or (node.op == "mul" and all(arg.op == "name" for arg in node.args)):
        return meaning(node.label or "".join(arg.label for arg in node.args))
    return meaning(node.label) if node.op == "text" else None


def minute_of_day(node: Node) -> int | None:
    """The minutes from midnight to 3:30 p.m., to 15:30, or to 0:15; None where it may be another time, as 3:30."""
    before = _HOURS_BEFORE.get(measure(node.label).dimensions) if node.op == "unit" else None
    time = node.args[0] if before is not None else node
    parts = time.args if time.op == "relation" and set(time.label.split()) == {":"} else (time,)
    numbers = [int(part.value) for part in parts if part.value is not None and part.value.denominator == 1]
    hours, minutes = (*numbers, 0)[:2] if numbers else (0, 0)
    if len(numbers) != len(parts) or len(parts) > 2 or not 0 <= minutes < 60:
        return None
    if before is not None:
        return (hours % 12 + before) * 60 + minutes if 0 < hours <= 12 else None
    return hours * 60 + minutes if len(parts) == 2 and (hours == 0 or 12 < hours < 24) else None


def ratio_apart(node: Node) -> Node:
    """A:B = 2:3 as an equation between ratios; anything else as it is."""
    signs = node.label.split() if node.op == "relation" else []
    if set(signs) != {":", "="} or signs.count("=") != 1:
        return node
    middle = signs.index("=")
    return Node("relation", (_ratio(node.args[: middle + 1]), _ratio(node.args[middle + 1 :])), "=")


def _ratio(parts: Sequence[Node]) -> Node:
    return parts[0] if len(parts) == 1 else Node("relation", tuple(parts), " ".join(":" * (len(parts) - 1)))


def solutions(node: Node) -> Node:
    """The points of "x = 1, y = 2 or x = 2, y = 1", which is written like one list; anything else as it is."""
    pairs = [pair for item in node.args if (pair := assignment(item))] if node.op == "list" else []
    names = sorted({pair[0].label for pair in pairs if pair[0].op == "name"})
    width = len(names)
    if width < 2 or len(pairs) != len(node.args) or len(pairs) % width or len(pairs) == width:
        return node
    groups = [{of.label: value for of, value in pairs[at : at + width]} for at in range(0, len(pairs), width)]
    if any(sorted(group) != names for group in groups):
        return node
    return replace(node, args=tuple(Node("group", tuple(group[label] for label in names), "()") for group in groups))


def same_line(gold: Node, prediction: Node) -> bool:
    """Whether both name one line by two of its points, of which one answer has no bar or arrow over them."""
    (mark, *ends), (other_mark, *other_ends) = _line(gold), _line(prediction)
    if not ends or not other_ends or (mark and other_mark and mark != other_mark) or not (mark or other_mark):
        return False
    directed = {mark, other_mark} & {"overrightarrow", "vec"}
    return ends == other_ends or (not directed and ends == other_ends[::-1])


def _line(node: Node) -> tuple[str, ...]:
    match = _LINE.fullmatch(node.label) if node.op == "name" else None
    if match is not None:
        return tuple(match.groups())
    letters = [arg.label for arg in node.args if arg.op == "name" and len(arg.label) == 1 and arg.label.isupper()]
    return ("", *letters) if node.op == "mul" and len(node.args) == len(letters) == 2 else ("",)
