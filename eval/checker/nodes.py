"""What an answer says, as a tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Node:
    """A part of an answer.

    Values: ``number`` (value), ``name`` (label), ``add``, ``mul``, ``neg``, ``inv``, ``pow``, ``root`` (index, of),
    ``pm`` and ``mp`` (left, right), ``percent``, ``degree``, ``fact``, ``abs``, ``floor``, ``ceil``, ``binom``,
    ``call`` (label: the function), ``log`` (base, of), ``apply`` (label: an unknown function), ``based`` (label: the
    digits; its base), ``unit`` (label: the unit's words; its number), ``mod`` (value, modulus).

    Answers: ``list`` (label: "or" or ","), ``group`` (label: its two brackets; two or more items, so a point or an
    interval), ``set``, ``builder`` (element, conditions), ``union``, ``intersection``, ``difference``, ``matrix`` and
    ``cases`` of ``row``, ``det``, ``relation`` (label: its signs, with spaces between), ``text`` (label: its words).
    """

    op: str
    args: tuple[Node, ...] = ()
    label: str = ""
    value: Fraction | None = None
    places: int | None = field(default=None, compare=False)  # digits after the decimal point, if it is written with one
    digits: int = field(default=0, compare=False)  # significant digits, likewise


def number(value: Fraction | int, places: int | None = None, digits: int = 0) -> Node:
    """A rational number."""
    return Node("number", value=Fraction(value), places=places, digits=digits)


def name(label: str) -> Node:
    """A variable or a constant."""
    return Node("name", label=label)


def text(words: str) -> Node:
    """Words."""
    return Node("text", label=words)


def negative(node: Node) -> Node:
    """Minus a value."""
    return Node("neg", (node,))


def inverse(node: Node) -> Node:
    """One over a value."""
    return Node("inv", (node,))


def add(*terms: Node) -> Node:
    """A sum; one term is itself."""
    return terms[0] if len(terms) == 1 else Node("add", terms)


def product(*factors: Node) -> Node:
    """A product; one factor is itself."""
    return factors[0] if len(factors) == 1 else Node("mul", factors)


def walk(node: Node) -> Iterator[Node]:
    """A node and all below it."""
    todo = [node]
    while todo:
        node = todo.pop()
        yield node
        todo += node.args
