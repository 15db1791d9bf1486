"""Reads an answer: recursive descent over its tokens. What this file and atoms.py do not name is never read."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Final

from dodona.eval.checker.atoms import CONSTANTS, Atoms
from dodona.eval.checker.cursor import END
from dodona.eval.checker.lexer import Token, Unreadable, tokenize
from dodona.eval.checker.nodes import Node, add, inverse, negative, number, product, text
from dodona.eval.checker.symbols import FUNCTIONS
from dodona.eval.checker.units import measure

_RELATIONS: Final = {"=", "<", ">", "<=", ">=", "!=", "in", "notin", "approx", "subset", "subseteq", ":"}
_SET_OPERATIONS: Final = {"cup": "union", "cap": "intersection", "setminus": "difference"}


def read(answer: str, *, commas: bool = True) -> Node:
    """The answer as a tree.

    Raises:
        Unreadable: it is no answer of the grammar.
    """
    tokens = tokenize(answer, commas=commas)
    if not tokens:
        raise Unreadable("nothing is there")
    kinds = {token.kind for token in tokens}
    if kinds <= {"word", "text", "unit", "letter"} and kinds & {"word", "text"}:
        return text("".join(" " * token.spaced + token.text for token in tokens).strip())
    return _Reader(tokens).answer()


class _Reader(Atoms):
    def answer(self) -> Node:
        items, alternatives = self.items()
        if self.sees("over"):
            items = [self.over(items)]
        if self.next is not END:
            raise Unreadable(f"{self.next.text!r} is left over")
        return items[0] if len(items) == 1 else Node("list", tuple(items), "or" if alternatives else ",")

    def items(self) -> tuple[list[Node], bool]:
        """Items with separators between, and whether one of those is an `or`."""
        items, alternatives = [self.item()], False
        while self.sees(",", ";", "or"):
            while self.sees(",", ";", "or"):
                alternatives = self.takes("or") or not self.takes(",", ";") or alternatives
            items.append(self.item())
        return items, alternatives

    def item(self) -> Node:
        return self.deeper(self.relation)

    def relation(self) -> Node:
        operands, signs = [self.sets()], []
        while self.next.text in _RELATIONS and self.next.kind in ("sign", "command"):
            signs.append(self.next.text)
            self.at += 1
            operands.append(self.sets())
        if not signs:
            return operands[0]
        last = operands[-1]
        if last.op == "unit" and set(signs) == {":"}:  # 10:30 a.m.
            return replace(last, args=(Node("relation", (*operands[:-1], *last.args), " ".join(signs)),))
        return Node("relation", tuple(operands), " ".join(signs))

    def sets(self) -> Node:
        left = self.sum()
        while self.next.kind == "command" and self.next.text in _SET_OPERATIONS:
            operation = _SET_OPERATIONS[self.next.text]
            self.at += 1
            right = self.sum()
            if left.op == operation == "union":
                left = Node("union", (*left.args, right))
            elif left.op in ("number", "name", "group", "set", "text", "union"):
                left = Node(operation, (left, right))
            else:
                raise Unreadable("too many set operations without brackets")
        return left

    # --- values ---

    def sum(self) -> Node:
        unit = self.currency()
        minus = False
        double = ""
        while self.sees("+", "-", "pm", "mp") and not double:
            minus ^= self.sees("-")
            double = self.next.text if self.sees("pm", "mp") else ""
            self.at += 1
        unit = unit or self.currency()
        first = self.term()
        terms = [negative(first) if minus else first]
        node = Node(double, (number(0), first)) if double else None
        while self.sees("+", "-", "pm", "mp"):
            sign = self.next.text
            self.at += 1
            term = self.term()
            if sign in ("pm", "mp"):
                left = node or add(*terms)
                node, terms = Node(sign, (left, term)), []
            else:
                terms.append(negative(term) if sign == "-" else term)
                if node is not None:
                    node, terms = add(node, *terms), []
        total = node or add(*terms)
        if self.takes("pmod", "bmod", "mod"):
            return Node("mod", (total, self.deeper(self.primary)))
        words = unit + self.unit()
        if not words:
            return total
        value = Node("unit", (total,), words)
        return self.together(value) if self.next.kind == "number" else value

    def together(self, first: Node) -> Node:
        """1 hour 30 minutes"""
        second = self.sum()
        units = [measure(node.label) for node in (first, second)]
        if second.op != "unit" or units[0].dimensions != units[1].dimensions or not units[0].dimensions:
            raise Unreadable("a number after a unit")
        rest = product(second.args[0], number(units[1].factor / units[0].factor))
        return replace(first, args=(add(first.args[0], rest),))

    def currency(self) -> str:
        if self.next.kind == "unit":
            self.at += 1
            return self.tokens[self.at - 1].text
        return ""

    def unit(self) -> str:
        """Words of a unit behind a value, as in ``km / h``; empty where there is none."""
        words: list[str] = []
        while True:
            after = self.tokens[self.at + 1] if self.at + 1 < len(self.tokens) else END
            if self.next.kind == "unit":
                words.append(self.next.text)
            elif words and self.sees("^") and after.kind == "number" and after.text in ("2", "3"):
                words.append("^" + after.text)
                self.at += 1
            elif words and self.sees("^") and after.text == "{":
                power = "".join(token.text for token in self.tokens[self.at + 2 : self.at + 5]).split("}")[0]
                if power not in ("2", "3", "-1", "-2"):
                    raise Unreadable("a unit's power")
                words.append("^" + power)
                self.at += 2 + len(power)
            elif words and self.sees("/", "*") and (after.kind == "unit" or _is_unit_letter(after)):
                words.append(self.next.text)
                if after.kind != "unit":
                    words.append(after.text)
                    self.at += 1
            else:
                return " ".join(words)
            self.at += 1

    def term(self) -> Node:
        factors = [self.factor()]
        while True:
            if self.takes("*"):
                factors.append(self.factor())
            elif self.sees("/"):
                self.at += 1
                factors.append(inverse(self.factor()))
            elif self.starts_factor():
                before = self.tokens[self.at - 1].kind
                exponent = self.at > 1 and self.tokens[self.at - 2].text == "^"  # 2^n 3^m
                if self.next.kind == "number" and before == "number":
                    factors[-1] = self.mixed(factors[-1])
                elif self.next.kind == "number" and before == "letter" and self.next.spaced and not exponent:
                    raise Unreadable("a number after a letter")
                else:
                    factors.append(self.power())
            else:
                if len(factors) > 1 and any(factor.op == "text" for factor in factors):
                    raise Unreadable("words among values")
                return product(*factors)

    def mixed(self, whole: Node) -> Node:
        """``2 1/2``: a whole number, a space and a fraction."""
        over = self.tokens[self.at : self.at + 3]
        if len(over) < 3 or over[1].text != "/" or any(t.value is None or t.places is not None for t in over[::2]):
            raise Unreadable("two numbers side by side")
        above, below = over[0].value, over[2].value
        if whole.op != "number" or whole.places is not None or above is None or not below:
            raise Unreadable("two numbers side by side")
        self.at += 3
        return number((whole.value or Fraction(0)) + above / below)

    def starts_factor(self) -> bool:
        token = self.next
        if token.kind in ("number", "letter"):
            return True
        if token.kind == "sign":
            return token.text in ("(", "[", "{") or (token.text == "|" and self.bars == 0)
        return token.kind == "command" and (
            token.text in FUNCTIONS
            or token.text in CONSTANTS
            or token.text in ("frac", "sqrt", "cbrt", "binom", "lfloor", "lceil", "vert", "begin:pmatrix", "angle")
        )

    def factor(self) -> Node:
        if self.takes("-"):
            return negative(self.deeper(self.factor))
        if self.takes("+"):
            return self.deeper(self.factor)
        return self.power()

    def power(self) -> Node:
        base = self.postfix(self.deeper(self.primary))
        return self.raised(base)

    def raised(self, base: Node) -> Node:
        while self.sees("^"):
            self.at += 1
            if self.is_degree():
                base = self.degree(base)
            elif self.sees("'", "prime"):
                raise Unreadable("a prime")
            else:
                base = Node("pow", (base, self.exponent()))
            base = self.postfix(base)
        return base

    def is_degree(self) -> bool:
        braced = [token.text for token in self.tokens[self.at : self.at + 3]] == ["{", "circ", "}"]
        return self.sees("circ") or braced

    def degree(self, of: Node) -> Node:
        self.at += 1 if self.sees("circ") else 3
        if self.next.kind in ("letter", "unit") and self.next.text in ("C", "F"):
            self.at += 1
            return Node("unit", (of,), f"°{self.tokens[self.at - 1].text}")
        return Node("degree", (of,))

    def exponent(self) -> Node:
        if self.sees("-", "+"):
            minus = self.takes("-") or not self.takes("+")
            inner = self.deeper(self.exponent)
            return negative(inner) if minus else inner
        inner = self.deeper(self.primary)
        if self.sees("^") and self.tokens[self.at - 1].text != "}":  # 2^3^4 is 2^(3^4)
            self.at += 1
            return Node("pow", (inner, self.deeper(self.exponent)))
        return inner

    def postfix(self, node: Node) -> Node:
        for _ in range(4):
            if self.takes("!"):
                node = Node("fact", (node,))
            elif self.takes("%"):
                node = Node("percent", (node,))
            elif self.takes("circ"):
                self.at -= 1
                node = self.degree(node)
            elif self.sees("_") and self.tokens[self.at - 1].text == ")" and (node.op, node.places) == ("number", None):
                self.at += 1  # (101)_2
                node = Node("based", (self.deeper(self.primary),), str(node.value))
            else:
                break
        return node


def _is_unit_letter(token: Token) -> bool:
    return token.kind == "letter" and token.text in ("s", "h", "m", "L", "g")
