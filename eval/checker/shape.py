"""Brings answers of different dress into one form: signs of both kinds, assignments, inequalities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dodona.eval.checker.nodes import Node, add, name, negative, number, walk
from dodona.eval.checker.values import symbols

SET_OPERATIONS = frozenset({"union", "intersection", "difference", "both"})
NUMBER_SETS = frozenset({"R_set", "Z_set", "N_set", "Q_set", "C_set"})
FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_INFINITY = name("oo")
_COMPOUND = frozenset({"list", "set", "group", "matrix", "cases", "builder"}) | SET_OPERATIONS


def items(node: Node) -> list[Node]:
    """What a list or a set holds, with both values of every ±; of anything else, the thing itself."""
    inside = node.args if node.op in ("list", "set") else (node,)
    return [value for item in inside for value in both_signs(item)]


def both_signs(node: Node) -> list[Node]:
    """The values of an item with ±; all of its signs change together."""
    if node.op in _COMPOUND or not any(part.op in ("pm", "mp") for part in walk(node)):
        return [node]
    return [_signed(node, plus=True), _signed(node, plus=False)]


def _signed(node: Node, plus: bool) -> Node:
    args = tuple(_signed(arg, plus) for arg in node.args)
    if node.op in ("pm", "mp"):
        left, right = args
        return add(left, right if plus == (node.op == "pm") else negative(right))
    return replace(node, args=args)


def is_name(node: Node) -> bool:
    """Whether it only names what is asked for: x, f(x), AB, |v|, dy/dx, A:B, Area."""
    if node.op in ("mul", "inv"):
        return all(is_name(arg) and arg.op != "text" for arg in node.args)
    if node.op in ("abs", "norm", "group") or (node.op == "relation" and set(node.label.split()) == {":"}):
        return all(is_name(arg) for arg in node.args)
    return (node.op == "name" and bool(symbols(node))) or node.op in ("apply", "text")


def is_quantity(node: Node) -> bool:
    """Whether it may be what was asked for, as x + y; with a number added, as x + y - 7, it is half of an equation."""
    if node.op == "add" and not all(symbols(term) for term in node.args):
        return False
    return bool(symbols(node)) and node.op not in ("neg", "group")


def assignment(node: Node) -> tuple[Node, Node] | None:
    """The name and the value of ``x = 5``, or of a chain ``x = 2 + 3 = 5``; the last value is meant."""
    if node.op == "relation" and set(node.label.split()) == {"="} and is_name(node.args[0]):
        if symbols(node.args[0]) & symbols(node.args[-1]) and node.args[0].op != "apply":
            return None
        return node.args[0], node.args[-1]
    return None


def without_name(node: Node) -> Node:
    r"""``5`` of ``x = 5``, and S of ``x \in S``; of ``P(x, y) = (1, 2)`` the point. Anything else as it is."""
    found = assignment(node)
    if found is not None:
        return found[1]
    if node.op == "relation" and node.label == "in":
        return node.args[1]
    if node.op == "mul" and len(node.args) == 2 and (node.args[1].op, node.args[1].label) == ("group", "()"):
        point = node.args[0].op == "name" and node.args[0].label[:1].isupper()
        return node.args[1] if point else node  # A(1, 2)
    return node


def variable(node: Node) -> str | None:
    """The one variable that an answer is about."""
    names = symbols(node) - NUMBER_SETS - {"emptyset"}
    return names.pop() if len(names) == 1 else None


# --- sets of real numbers ---


def is_region(node: Node) -> bool:
    """Whether it says by more than one bracket which numbers are allowed: an inequality, a union, the real numbers."""
    if node.op in SET_OPERATIONS or node.op == "builder" or node in (name("R_set"), name("emptyset")):
        return True
    if node.op == "add" and len(node.args) == 2 and node.args[1].op == "neg":  # R - {0}
        return is_region(node.args[0]) or node.args[1].args[0].op == "set"
    if node.op == "list":
        first, *others = node.args
        return is_region(first) and all(other.op == "relation" or "!=" in first.label for other in others)
    return node.op == "relation" and bool(set(node.label.split()) & {*FLIPPED, "!=", "in", "notin"})


def region(node: Node) -> Node | None:
    r"""The set of the numbers that an answer allows, by brackets and operations; None where that is not seen.

    ``1 < x \le 2`` is ``(1, 2]``, ``x < 1 or x > 2`` a union, ``\{x : x < 1\}`` and ``x \in (1, 2)`` likewise. The
    operation ``both`` is left open: an intersection, or a union where that is empty.
    """
    if node.op in ("group", "set") or node in (name("R_set"), name("emptyset")):
        return node
    if node.op == "add" and len(node.args) == 2 and node.args[1].op == "neg":
        node = Node("difference", (node.args[0], node.args[1].args[0]))
    if node.op in SET_OPERATIONS:
        parts = [region(arg) for arg in node.args]
        return None if None in parts else Node(node.op, tuple(part for part in parts if part is not None))
    if node.op == "builder":
        return _built(node)
    if node.op == "list" and is_region(node):
        return _listed(node)
    return _interval(node) if node.op == "relation" else None


def _built(node: Node) -> Node | None:
    element, *conditions = node.args
    if element.op == "relation" and element.label == "in" and element.args[1] == name("R_set"):
        element = element.args[0]
    if element.op != "name" or any(variable(condition) != element.label for condition in conditions):
        return None
    return region(conditions[0] if len(conditions) == 1 else Node("list", tuple(conditions), ","))


def _listed(node: Node) -> Node | None:
    first, *others = node.args
    if first.label == "!=" and all(other.op != "relation" for other in others):  # x != 1, 2
        excluded = Node("set", (first.args[1], *others))
        return Node("difference", (name("R_set"), excluded)) if first.args[0].op == "name" else None
    parts = [region(item) for item in node.args]
    if None in parts or len({variable(item) for item in node.args}) > 1:
        return None
    return Node("union" if node.label == "or" else "both", tuple(part for part in parts if part is not None))


def rising(node: Node) -> Node:
    """An inequality with the smaller side first, as a < b for b > a; anything else as it is."""
    signs = node.label.split()
    if not signs or not set(signs) <= {">", ">="}:
        return node
    return Node("relation", node.args[::-1], " ".join(FLIPPED[sign] for sign in signs[::-1]))


def _interval(node: Node) -> Node | None:
    node = rising(node)
    signs, args = node.label.split(), list(node.args)
    if signs in (["in"], ["notin"]) and args[0].op == "name":
        inside = region(args[1])
        return inside if inside is None or signs == ["in"] else Node("difference", (name("R_set"), inside))
    if signs == ["!="] and args[0].op == "name" and args[0].label not in symbols(args[1]):
        return Node("difference", (name("R_set"), Node("set", (args[1],))))
    if not set(signs) <= {"<", "<="}:
        return None
    closed = [sign == "<=" for sign in signs]
    if len(args) == 2:
        low, high = args
        if (center := _distance_from(low)) is not None and not symbols(high):
            return _group(add(center, negative(high)), add(center, high), closed[0], closed[0])
        if (center := _distance_from(high)) is not None and not symbols(low):
            inside = _group(add(center, negative(low)), add(center, low), not closed[0], not closed[0])
            return Node("difference", (name("R_set"), inside))
        if _is_variable(low) and not _is_variable(high):
            return _group(negative(_INFINITY), high, False, closed[0] and high != _INFINITY)
        if _is_variable(high) and not _is_variable(low):
            return _group(low, _INFINITY, closed[0] and low != negative(_INFINITY), False)
    if len(args) == 3 and _is_variable(args[1]) and not _is_variable(args[0]) and not _is_variable(args[2]):
        low, _, high = args
        return _group(low, high, closed[0] and low != negative(_INFINITY), closed[1] and high != _INFINITY)
    return None


def _is_variable(node: Node) -> bool:
    """x or f(x)"""
    return (node.op == "name" and bool(symbols(node))) or node.op == "apply"


def _distance_from(node: Node) -> Node | None:
    """0 of |x|, 3 of |x - 3|; None of anything else."""
    if node.op != "abs":
        return None
    inner = node.args[0]
    if inner.op == "add" and len(inner.args) == 2 and not symbols(inner.args[1]):
        return negative(inner.args[1]) if _is_variable(inner.args[0]) else None
    return number(0) if _is_variable(inner) else None


def _group(low: Node, high: Node, low_closed: bool, high_closed: bool) -> Node:
    return Node("group", (low, high), ("[" if low_closed else "(") + ("]" if high_closed else ")"))


def regions_within(node: Node) -> Iterator[Node]:
    """The intervals and sets that a region is made of."""
    if node.op in SET_OPERATIONS:
        for arg in node.args:
            yield from regions_within(arg)
    else:
        yield node
