"""Brings points, matrices, quantities and words that are written in several ways into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from dodona.eval.checker.nodes import Node, add, name, number, product
from dodona.eval.checker.shape import assignment, without_name
from dodona.eval.checker.units import measure
from dodona.eval.checker.words import meaning, spelt_fraction


def point(node: Node) -> Node:
    """(1, 2) of (x, y) = (1, 2), and {1, 2} of S = {1, 2}."""
    found = assignment(node)
    return found[1] if found is not None and (found[0].op == "group" or found[1].op == "set") else node


def binomial(node: Node) -> Node:
    """C(8, 3), next to what is no point."""
    if node.op == "mul" and node.args[0] == name("C") and len(node.args) == 2 and node.args[1].op == "group":
        return Node("binom", node.args[1].args)
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
