"""Reads the text of a trigger into the program that `trigger.ExpressionTrigger` runs, and executes none of it.

Grammar, a part of Python's: `and or not`, comparisons (chained; `in` and `not in` with a list of numbers), `+ - * /`,
unary minus, parentheses, numbers, `inf`, `True`, `False`, `min max abs log exp sqrt`, `ema(signal, decay)`. The text is
read with `ast.parse` and a whitelist, and never executed. Booleans are not numbers: `boundary + 1` is refused.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NoReturn, overload

import numpy as np

from dodona.engine.errors import TriggerError
from dodona.engine.presets import (
    BOOLEAN,
    COLUMNS,
    COUNTERS,
    FUNCTIONS,
    PRESETS,
    Argument,
    expand,
    known_columns,
    refusal,
)
from dodona.engine.trigger import ExpressionTrigger, Instruction, Trigger, ema_column, on_constants

MAX_LENGTH: Final = 4096  # characters of a text
MAX_DEPTH: Final = 50  # levels of nesting
_LARGEST: Final = float(np.finfo(np.float32).max)
_SYMBOLS: Final[Mapping[type[ast.AST], str]] = MappingProxyType(
    {
        **{ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.And: "and", ast.Or: "or"},
        **{ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="},
        **{ast.In: "in", ast.NotIn: "not in", ast.USub: "negative", ast.Not: "not"},
    }
)
_INSTEAD: Final[Mapping[str, str]] = MappingProxyType(
    {
        **{"&": "and", "|": "or", "!": "not", "~": "not", "=": "==", "is": "==", "is not": "!="},
        **{"≥": ">=", "≤": "<=", "≠": "!=", "−": "-", "×": "*", "∞": "inf"},
    }
)


def _hint(symbol: str) -> str:
    return f"; write `{_INSTEAD[symbol]}`" if symbol in _INSTEAD else ""


class _Compiler:
    """Turns one text into a postfix program; `emit` says whether a node is a true/false value, else it is a number."""

    def __init__(self, line: str, when: str, offline: bool) -> None:
        self.line = line
        self.known = known_columns(when, offline)
        self.program: list[Instruction] = []
        self.names: set[str] = set()
        self.emas: dict[tuple[str, float], None] = {}

    def fail(self, where: ast.AST | int, message: str) -> NoReturn:
        """Raise TriggerError with the line and a caret; what follows a line break in `message` comes below them."""
        column = where if isinstance(where, int) else int(getattr(where, "col_offset", 0))
        first = max(0, column - 60)
        before, after = "..." if first else "", "..." if len(self.line) > first + 100 else ""
        shown = before + "".join(c if c.isprintable() else "?" for c in self.line[first : first + 100]) + after
        message, _, more = message.partition("\n")
        lines = [f"trigger, column {column + 1}: {message}", shown, " " * (len(before) + column - first) + "^", more]
        raise TriggerError("\n    ".join(lines).rstrip())

    def source(self, node: ast.AST) -> str:
        """What the user wrote for this node, shortened."""
        text = self.line[getattr(node, "col_offset", 0) : getattr(node, "end_col_offset", None)]
        return text if len(text) <= 40 else text[:37] + "..."

    def parse(self) -> ast.expr:
        """The syntax tree of the line; nothing in it is checked yet."""
        if len(self.line) > MAX_LENGTH:
            self.fail(0, f"the text has {len(self.line)} characters, more than {MAX_LENGTH}")
        if not self.line:
            self.fail(0, "the text is empty")
        # Comments could hide a line; without other alphabets a byte offset of ast is a column.
        if strange := re.search(r"[^ -~]|[#\\]", self.line):
            self.fail(strange.start(), f"{strange.group()!r} cannot stand here{_hint(strange.group())}")
        try:
            return ast.parse(self.line, mode="eval").body
        except SyntaxError as error:
            column = error.offset - 1 if error.offset else len(self.line)
            problem = error.msg if error.offset else "the text ends too early"
            if "'=='" in error.msg and (single := re.search(r"(?<![<>=!:])=(?!=)", self.line)):
                column = single.start()
            if (character := self.line[column : column + 1]) in _INSTEAD:
                problem = f"`{character}` cannot stand here{_hint(character)}"
        except (ValueError, MemoryError, RecursionError):
            column, problem = 0, "it is nested too deeply"
        self.fail(column, problem)

    def expand_preset(self, tree: ast.expr) -> tuple[str, int | None] | None:
        """Expression text and step_size if the whole tree is a preset's name or a call of one."""
        call = ast.Call(func=tree, args=[], keywords=[], col_offset=0) if isinstance(tree, ast.Name) else tree
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in PRESETS:
            return None
        arguments = [Argument(None, self.literal(node), node) for node in call.args]
        arguments += [Argument(k.arg or "**", self.literal(k.value), k) for k in call.keywords]
        return expand(call.func.id, call, arguments, self.fail)

    def push(self, name: str, arity: int, value: Any = None) -> None:
        """Append an instruction; one whose operands are all constants is computed now."""
        step, operands = Instruction(name, arity, value), self.program[len(self.program) - arity :]
        if arity and all(operand.name == "constant" for operand in operands):
            result = on_constants(step, [operand.value for operand in operands])
            del self.program[len(self.program) - arity :]
            step = Instruction("constant", 0, result)
        self.program.append(step)

    def literal(self, node: ast.AST) -> float | None:
        """The value of a number, a negative number or inf; None for anything else. Rewrites a number canonically."""
        match node:
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant() | ast.Name() as operand):
                value = self.literal(operand)
                return None if value is None else -value
            case ast.Name(id="inf"):
                return np.inf
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                if abs(number) > _LARGEST:
                    self.fail(node, "this number is too large for float32; write inf")
                node.value = int(number) if number == int(number) and abs(number) < 1e15 else float(number)
                return float(number)
        return None

    def numbers(self, node: ast.expr) -> tuple[ast.Tuple, tuple[float, ...]]:
        """The list of numbers after `in`."""
        items = node.elts if isinstance(node, ast.Tuple | ast.List) else []
        if not items:
            self.fail(node, "`in` needs a list of numbers, as in `position in (3, 17)` or `position in (3,)`")
        values = []
        for item in items:
            if (value := self.literal(item)) is None:
                self.fail(item, "a list holds only numbers")
            values.append(value)
        return ast.Tuple(elts=items, ctx=ast.Load()), tuple(values)

    def need(self, node: ast.expr, boolean: bool, depth: int) -> None:
        if self.emit(node, depth + 1) is boolean:
            return
        if boolean:
            self.fail(node, f"`{self.source(node)}` is a number where true or false is due; compare it with something")
        self.fail(node, f"`{self.source(node)}` is true or false where a number is due; use it with and, or, not")

    def operator(self, op: ast.AST, start: int) -> str:
        """The instruction of the operator that stands after column `start`; refuses what is not in the grammar."""
        if type(op) in _SYMBOLS:
            return _SYMBOLS[type(op)]
        found = re.compile(r"is( +not)?|\*\*|//|<<|>>|[^\s()\w]").search(self.line, start)
        assert found is not None
        symbol = " ".join(found.group().split())
        self.fail(found.start(), f"`{symbol}` is not part of a trigger{_hint(symbol)}")

    def emit(self, node: ast.expr, depth: int = 0) -> bool:
        if depth > MAX_DEPTH:
            self.fail(node, f"it is nested more than {MAX_DEPTH} levels deep")
        if (value := self.literal(node)) is not None:
            self.push("constant", 0, value)
            return False
        match node:
            case ast.Constant(value=bool(value)):
                self.push("constant", 0, value)
                return True
            case ast.Name(id=name):
                self.column(node, name)
                self.push("column", 0, name)
                return name in BOOLEAN
            case ast.BoolOp(op=op, values=values):
                for index, part in enumerate(values):
                    self.need(part, True, depth)
                    if index:
                        self.push(_SYMBOLS[type(op)], 2)
                return True
            case ast.UnaryOp(op=op, operand=operand):
                name = self.operator(op, node.col_offset)
                self.need(operand, name == "not", depth)
                self.push(name, 1)
                return name == "not"
            case ast.BinOp(left=left, op=op, right=right):
                name = self.operator(op, left.end_col_offset or 0)
                self.need(left, False, depth)
                self.need(right, False, depth)
                self.push(name, 2)
                return False
            case ast.Compare():
                self.compare(node, depth)
                return True
            case ast.Call(func=ast.Name(id=name)):
                self.call(node, name, depth)
                return False
        self.fail(node, f"`{self.source(node)}` is not part of a trigger")

    def compare(self, node: ast.Compare, depth: int) -> None:
        left = node.left
        for index, (op, right) in enumerate(zip(node.ops, list(node.comparators), strict=True)):
            name = self.operator(op, left.end_col_offset or 0)
            self.need(left, False, depth)
            if name in ("in", "not in"):
                listed, values = self.numbers(right)
                node.comparators[index] = listed
                self.push(name, 1, values)
            else:
                self.need(right, False, depth)
                self.push(name, 2)
            if index:
                self.push("and", 2)
            left = right

    def column(self, node: ast.AST, name: str) -> None:
        if name not in self.known:
            self.fail(node, refusal(name, self.known))
        self.names.add(name)

    def call(self, node: ast.Call, name: str, depth: int) -> None:
        if name in COLUMNS and name not in PRESETS:
            self.fail(node, f"`{name}` is a column, not a function")
        if name not in FUNCTIONS:
            self.fail(node, refusal(name, self.known))
        if node.keywords:
            self.fail(node.keywords[0], f"`{name}` takes no named argument")
        if name == "ema":
            return self.ema(node)
        several = name in ("min", "max")
        if len(node.args) < 2 if several else len(node.args) != 1:
            self.fail(node, f"`{name}` takes {'two or more arguments' if several else 'one argument'}")
        for index, argument in enumerate(node.args):
            self.need(argument, False, depth)
            if index or not several:
                self.push(name, 2 if several else 1)

    def ema(self, node: ast.Call) -> None:
        match node.args:
            case [ast.Name(id=signal) as first, second]:
                self.column(first, signal)
                if signal in COUNTERS or signal in BOOLEAN:
                    self.fail(first, f"`ema` averages a signal, and `{signal}` is none")
                decay = self.literal(second)
                if decay is None or not 0 <= np.float32(decay) < 1:
                    self.fail(second, "the decay of `ema` must be a number from 0 to below 1, written out")
                self.emas[signal, decay] = None
                self.push("column", 0, ema_column(signal, decay))
            case _:
                self.fail(node, "`ema` takes a signal and a decay, as in ema(entropy, 0.9)")


@overload
def parse_trigger(text: str, *, when: str = ..., offline: bool = ...) -> ExpressionTrigger: ...
@overload
def parse_trigger(text: str | Trigger, *, when: str = ..., offline: bool = ...) -> Trigger: ...
def parse_trigger(text: str | Trigger, *, when: str = "before", offline: bool = False) -> Trigger:
    """The trigger that `text` says: an expression, a preset's name, or a call of one. A Trigger comes back as it is.

    Args:
        text: an expression over `COLUMNS`, or one of `PRESETS`.
        when: "before" or "after" the base's token is committed; `logprob` exists only after.
        offline: allow every column, for the replay of a trace.

    Raises:
        TriggerError: with the expression and a caret under the fault.
    """
    if when not in ("before", "after"):
        raise TriggerError(f'when is "before" or "after", not {when!r}')
    if isinstance(text, ExpressionTrigger):
        parse_trigger(text.text, when=when, offline=offline)
        return text
    if isinstance(text, Trigger):
        if missing := sorted(text.names.difference(known_columns(when, offline))):
            raise TriggerError(f"the trigger {text.text} wants {', '.join(missing)}, not known {when} the commit")
        return text
    if not isinstance(text, str):
        if isinstance(text, type):
            raise TriggerError(f"a trigger is text or an instance; {text.__name__} is a class: write {text.__name__}()")
        raise TriggerError(f"a trigger is text or an instance of Trigger, not {type(text).__name__}")

    compiler, step_size = _Compiler(re.sub(r"\s", " ", text).strip(), when, offline), None
    tree = compiler.parse()
    if preset := compiler.expand_preset(tree):
        expression, step_size = preset
        compiler = _Compiler(expression, when, offline)
        tree = compiler.parse()
    if not compiler.emit(tree):
        compiler.fail(tree, "a trigger must be true or false, and this is a number; compare it with something")
    names, emas = frozenset(compiler.names), tuple(compiler.emas)
    return ExpressionTrigger(text, ast.unparse(tree), names, emas, step_size, tuple(compiler.program))
