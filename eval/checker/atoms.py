r"""Reads the parts of an answer that stand by themselves: numbers, letters, brackets, commands, matrices."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from fractions import Fraction
from typing import Final

from dodona.eval.checker.cursor import END, Cursor
from dodona.eval.checker.lexer import Token, Unreadable
from dodona.eval.checker.nodes import Node, inverse, name, negative, number, product, text
from dodona.eval.checker.symbols import FUNCTIONS

CONSTANTS: Final = {"pi": "pi", "infty": "oo", "emptyset": "emptyset", "imath": "i", "e": "e"}
_SETS: Final = {"R_set", "Z_set", "N_set", "Q_set", "C_set"}
_MATRICES: Final = {"pmatrix", "bmatrix", "matrix", "Bmatrix", "smallmatrix", "array", "vmatrix", "cases"}
_INVERSE: Final = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sec": "arcsec", "csc": "arccsc"}
_UNKNOWN_FUNCTIONS: Final = {"f", "g", "h", "F", "G", "H"}


class Atoms(Cursor):
    """Everything below a power; what brackets hold is read by the class that inherits from this one."""

    @abstractmethod
    def items(self) -> tuple[list[Node], bool]:
        """Items with separators between, and whether one of those is an `or`."""

    @abstractmethod
    def item(self) -> Node:
        """A value, a set or a relation."""

    @abstractmethod
    def sum(self) -> Node:
        """A value."""

    @abstractmethod
    def power(self) -> Node:
        """A factor with its exponents."""

    @abstractmethod
    def exponent(self) -> Node:
        """What stands after ``^``."""

    @abstractmethod
    def starts_factor(self) -> bool:
        """Whether a factor can begin with the next token."""

    def primary(self) -> Node:
        token = self.next
        self.at += 1
        if token.kind == "number":
            return self.after_number(token)
        if token.kind == "letter":
            return self.after_letter(token.text)
        if token.kind == "digits":
            self.expect("_")
            return Node("based", (self.deeper(self.primary),), token.text)
        if token.kind == "word":
            return self.after_word(token.text)
        if token.kind == "text":
            return text(token.text)
        if token.kind == "sign":
            return self.bracket(token.text)
        if token.kind == "command":
            return self.command(token.text)
        raise Unreadable(f"{token.text!r} is where a value should be" if token is not END else "the end comes early")

    def after_number(self, token: Token) -> Node:
        value = token.value or Fraction(0)
        if self.takes("_"):
            if token.places is not None:
                raise Unreadable("a base of a decimal")
            return Node("based", (self.deeper(self.primary),), token.text)
        node = number(value, token.places, token.digits)
        if token.places is None and self.sees("frac"):
            here = self.at
            self.at += 1
            fraction = self.fraction()
            above, below = fraction.args[0], fraction.args[-1].args[0]
            if above.op == below.op == "number" and above.places is None and below.value and below.places is None:
                return number(value + (above.value or Fraction(0)) / below.value)
            self.at = here
        return node

    def after_letter(self, letter: str) -> Node:
        label = letter
        while self.takes("'", "prime"):
            label += "'"
        if letter in _UNKNOWN_FUNCTIONS:
            inverse = "".join(token.text for token in self.tokens[self.at : self.at + 6])
            if inverse == "^{-1}(":
                self.at += 5
                label += "^-1"
        if self.takes("_"):
            label += "_" + _plain(self.deeper(self.primary))
        at_zero = [token.text for token in self.tokens[self.at : self.at + 3]] == ["(", "0", ")"]  # I(0), no product
        if (letter in _UNKNOWN_FUNCTIONS or label.endswith("'") or at_zero) and self.takes("("):
            args, _ = self.items()
            self.expect(")")
            return Node("apply", tuple(args), label)
        return name(label)

    def after_word(self, word: str) -> Node:
        if word.isalpha() and word.islower() and len(word) <= 4 and not self.sees("="):
            return Node("mul", tuple(name(letter) for letter in word))
        return text(word)

    def bracket(self, sign: str) -> Node:
        if sign in ("(", "["):
            bars, self.bars = self.bars, 0
            items, _ = self.items()
            self.bars = bars
            closing = self.expect(")", "]")
            if len(items) == 1:
                if sign + closing not in ("()", "[]"):
                    raise Unreadable("brackets that do not match")
                return items[0]
            return Node("group", tuple(items), sign + closing)
        if sign == "{":
            bars, self.bars = self.bars, 0
            if self.takes("}"):
                return Node("set")
            items, _ = self.items()
            self.bars = bars
            if self.sees("over", "choose"):
                items = [self.over(items)]
            self.expect("}")
            return items[0] if len(items) == 1 else Node("set", tuple(items))
        if sign == r"\{":
            return self.set()
        if sign in ("|", "||"):
            self.bars += 1
            inner = self.deeper(self.sum)
            self.bars -= 1
            self.expect(sign)
            return Node("abs" if sign == "|" else "norm", (inner,))
        raise Unreadable(f"{sign!r} is where a value should be")

    def over(self, above: list[Node]) -> Node:
        r"""``{1 \over 2}`` and ``{5 \choose 2}``, from the sign on."""
        fraction = not self.takes("choose") and self.takes("over")
        below = self.item()
        if len(above) != 1:
            raise Unreadable("several things above a line")
        return product(above[0], inverse(below)) if fraction else Node("binom", (above[0], below))

    def set(self) -> Node:
        if self.takes(r"\}"):
            return name("emptyset")
        bars, self.bars = self.bars, 1
        items, alternatives = self.items()
        self.bars = bars
        if len(items) == 1 and self.takes("|"):
            conditions, alternatives = self.items()
            self.expect(r"\}")
            return _builder(items[0], conditions, alternatives=alternatives)
        self.expect(r"\}")
        first, *others = items
        signs = first.label.split() if first.op == "relation" else []
        if ":" in signs[:-1]:  # {x : x < 0}
            place = signs.index(":")
            left, right = (first.args[: place + 1], signs[:place]), (first.args[place + 1 :], signs[place + 1 :])
            element, condition = (
                replace(first, args=args, label=" ".join(names)) if names else args[0] for args, names in (left, right)
            )
            return _builder(element, [condition, *others], alternatives=alternatives)
        return Node("set", tuple(items))

    def command(self, command: str) -> Node:
        if command in CONSTANTS:
            return name(CONSTANTS[command])
        if command in _SETS:
            return name(command)
        if command == "frac":
            return self.fraction()
        if command == "binom":
            return Node("binom", (self.argument(), self.argument()))
        if command in ("sqrt", "cbrt"):
            index = number(3 if command == "cbrt" else 2)
            if command == "sqrt" and self.takes("["):
                index = self.item()
                self.expect("]")
            return Node("root", (index, self.deeper(self.primary)))
        if command in FUNCTIONS:
            return self.function(command)
        if command in ("lfloor", "lceil"):
            inner = self.item()
            self.expect("r" + command[1:])
            return Node("floor" if command == "lfloor" else "ceil", (inner,))
        if command == "langle":
            items, _ = self.items()
            self.expect("rangle")
            return Node("group", tuple(items), "<>")
        if command in ("angle", "triangle"):
            letters = []
            while self.next.kind == "letter":
                letters.append(self.next.text)
                self.at += 1
            return name(f"{command} {''.join(letters)}")
        if command.startswith("begin:") and command[6:] in _MATRICES:
            return self.matrix(command[6:])
        raise Unreadable(f"\\{command} is not read here")

    def argument(self) -> Node:
        r"""What ``\frac`` takes: a group, or one digit of a number, or one token."""
        token = self.next
        if token.kind == "number" and len(token.text) > 1 and token.text.isdigit():
            rest = token.text[1:]
            self.tokens[self.at] = token._replace(text=rest, value=Fraction(rest), digits=len(rest.lstrip("0")))
            return number(int(token.text[0]))
        return self.deeper(self.primary)

    def fraction(self) -> Node:
        above, below = self.argument(), self.argument()
        changes = [_differential(node) for node in (above, below)]
        return name("/".join(changes)) if all(changes) else product(above, inverse(below))

    def function(self, function: str) -> Node:
        base, exponent = None, None
        for _ in range(2):
            if function == "log" and self.takes("_"):
                base = self.argument()
            elif self.takes("^"):
                exponent = self.exponent()
        if exponent == negative(number(1)) and function in _INVERSE:
            function, exponent = _INVERSE[function], None
        args = self.function_arguments()
        if function == "log":
            call = Node("log", (base or name("log base"), args[0]))
        elif function == "ln":
            call = Node("log", (name("e"), args[0]))
        elif function in ("exp", "cis"):
            call = Node("pow", (name("e"), args[0] if function == "exp" else product(name("i"), args[0])))
        else:
            call = Node("call", tuple(args), function)
        return call if exponent is None else Node("pow", (call, exponent))

    def function_arguments(self) -> list[Node]:
        if self.takes("(", "[", r"\{"):
            items, _ = self.items()
            self.expect(")", "]", r"\}")
            return items
        factors = [self.power()]
        while self.starts_factor() and not (self.next.text in FUNCTIONS or self.sees("(", "[", "|")):
            factors.append(self.power())
        return [product(*factors)]

    def matrix(self, kind: str) -> Node:
        if kind == "array" and self.takes("{"):
            while not self.takes("}"):
                if self.next is END:
                    raise Unreadable("a matrix does not end")
                self.at += 1
        rows: list[Node] = []
        while not self.takes(f"end:{kind}"):
            row = [self.item()]
            while self.takes("&") or (self.takes(",", ".") and self.takes("&")):  # x + 1, & x < 0.
                row.append(self.item())
            rows.append(Node("row", tuple(row)))
            if not self.takes("\\\\") and not self.sees(f"end:{kind}"):
                raise Unreadable("a matrix does not end")
        matrix = Node("cases" if kind == "cases" else "matrix", tuple(rows))
        return Node("det", (matrix,)) if kind == "vmatrix" else matrix


def _builder(element: Node, conditions: list[Node], *, alternatives: bool) -> Node:
    """The set of the elements that meet all conditions, or one of them."""
    met = (Node("list", tuple(conditions), "or"),) if alternatives else tuple(conditions)
    return Node("builder", (element, *met))


def _differential(node: Node) -> str:
    """dx, of which the d is no factor; empty for anything else."""
    is_one = node.op == "mul" and len(node.args) == 2 and node.args[0] == name("d") and node.args[1].op == "name"
    return f"d{node.args[1].label}" if is_one else ""


def _plain(node: Node) -> str:
    """A subscript as text: x_1 and x_{1} are the same name, and so are they from any spelling of 1."""
    if node.op == "number":
        return str(node.value)
    return node.label or "(" + " ".join([node.op, *map(_plain, node.args)]) + ")"
