"""Triggers inside a kernel: a seat's decision from the signals and counters of its position.

A trigger's expression comes as a program in postfix form and is unrolled when the kernel is compiled, in float32, one
operation at a time, so that it decides as it does on torch tensors and NumPy columns (``engine/trigger.py``). Whoever
calls it is compiled without fused multiply-adds.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

import triton
import triton.language as tl

# Instructions of a trigger's code: (operation, place, argument) each. An operation finds its operands at ``place`` and
# the place after it, and leaves its result at ``place``; true is 1 and false 0.
SYMBOLS: Final = (
    "column", "constant", "+", "-", "*", "/", "negative", "abs", "<", "<=", ">", ">=", "==", "!=", "and", "or", "not",
    "min", "max", "is", "is not", "move", "fire",
)  # fmt: skip
COLUMNS: Final = (
    "entropy", "varentropy", "top_prob", "margin", "logprob", "position", "max_new_tokens", "since_consult", "consults",
    "c", "boundary", "base_run", "u",
)  # fmt: skip
DEEPEST: Final = 6  # places of values

Code = tuple[int | float, ...]


def _float32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", float(value)))[0]


def code_of(programs: Sequence[tuple[int, Sequence[Any]]]) -> Code | None:
    """The code of some triggers: (number, postfix instructions with ``name``, ``arity`` and ``value``) each.

    None where an instruction is not for this kernel: a function that rounds, a moving average, too many values at once.
    """
    code: list[int | float] = []
    for number, program in programs:
        depth = 0  # values so far
        for name, arity, value in program:
            place = depth - arity
            if name == "column":
                if value not in COLUMNS:
                    return None
                code += (SYMBOLS.index(name), place, COLUMNS.index(value))
            elif name == "constant":
                code += (SYMBOLS.index(name), place, _float32(value))
            elif name in ("in", "not in"):  # the place after the value's gathers the answer, which then moves down
                test, start = ("is", 0.0) if name == "in" else ("is not", 1.0)
                code += (SYMBOLS.index("constant"), place + 1, start)
                for one in value:
                    code += (SYMBOLS.index(test), place, _float32(one))
                code += (SYMBOLS.index("move"), place, 0)
            elif name in SYMBOLS:
                code += (SYMBOLS.index(name), place, 0)
            else:
                return None
            depth += 1 - arity
            if depth >= DEEPEST:
                return None
        code += (SYMBOLS.index("fire"), depth - 1, number)
    return tuple(code)


@triton.jit
def _at(PLACE: tl.constexpr, r0, r1, r2, r3, r4, r5):
    """The value in a place, known while the kernel is compiled."""
    if PLACE == 0:  # noqa: SIM116 - while it is compiled; there are no dictionaries here
        return r0
    elif PLACE == 1:
        return r1
    elif PLACE == 2:
        return r2
    elif PLACE == 3:
        return r3
    elif PLACE == 4:
        return r4
    else:
        return r5


@triton.jit
def _applied(OPERATION: tl.constexpr, a, b, ARGUMENT: tl.constexpr):
    """One operation on the values of its place and the next."""
    if OPERATION == 1:
        return tl.full((), ARGUMENT, tl.float32)
    elif OPERATION == 2:
        return a + b
    elif OPERATION == 3:
        return a - b
    elif OPERATION == 4:
        return a * b
    elif OPERATION == 5:
        return tl.div_rn(a, b)
    elif OPERATION == 6:
        return -a
    elif OPERATION == 7:
        return tl.abs(a)
    elif OPERATION == 8:
        return (a < b).to(tl.float32)
    elif OPERATION == 9:
        return (a <= b).to(tl.float32)
    elif OPERATION == 10:
        return (a > b).to(tl.float32)
    elif OPERATION == 11:
        return (a >= b).to(tl.float32)
    elif OPERATION == 12:
        return (a == b).to(tl.float32)
    elif OPERATION == 13:
        return ((a < b) | (a > b)).to(tl.float32)
    elif OPERATION == 14:
        return a * b
    elif OPERATION == 15:
        return tl.maximum(a, b)
    elif OPERATION == 16:
        return 1.0 - a
    elif OPERATION == 17:
        return tl.where((b < a) | (b != b), b, a)
    elif OPERATION == 18:
        return tl.where((b > a) | (b != b), b, a)
    elif OPERATION == 19:
        return tl.maximum(b, (a == ARGUMENT).to(tl.float32))
    elif OPERATION == 20:
        return tl.minimum(b, ((a < ARGUMENT) | (a > ARGUMENT)).to(tl.float32))
    else:
        return b


@triton.jit
def _kept(OPERATION: tl.constexpr, PLACE: tl.constexpr, HERE: tl.constexpr, old, new):
    """What a place holds after an operation: "is" and "is not" leave their result in the place after theirs."""
    if OPERATION == 19 or OPERATION == 20:
        if PLACE + 1 == HERE:
            return new
        else:
            return old
    else:
        if PLACE == HERE:
            return new
        else:
            return old


@triton.jit
def _column(
    NUMBER: tl.constexpr, entropy, varentropy, top_prob, margin, logprob, position, max_new, since, consults, budget,
    boundary, run, draw,
):  # fmt: skip
    """A column of COLUMNS."""
    if NUMBER == 0:  # noqa: SIM116 - likewise
        return entropy
    elif NUMBER == 1:
        return varentropy
    elif NUMBER == 2:
        return top_prob
    elif NUMBER == 3:
        return margin
    elif NUMBER == 4:
        return logprob
    elif NUMBER == 5:
        return position
    elif NUMBER == 6:
        return max_new
    elif NUMBER == 7:
        return since
    elif NUMBER == 8:
        return consults
    elif NUMBER == 9:
        return budget
    elif NUMBER == 10:
        return boundary
    elif NUMBER == 11:
        return run
    else:
        return draw


@triton.jit
def fires(
    trigger, entropy, varentropy, top_prob, margin, logprob, position, max_new, since, consults, budget, boundary, run,
    draw, CODE: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """Whether the code of the seat's own trigger ends with true."""
    fired = trigger != trigger
    r0, r1, r2, r3, r4, r5 = entropy, entropy, entropy, entropy, entropy, entropy
    for i in tl.static_range(COUNT):
        if CODE[3 * i] == 22:
            mine = trigger == CODE[3 * i + 2]
            fired = fired | (mine & (_at(CODE[3 * i + 1], r0, r1, r2, r3, r4, r5) > 0))
        else:
            if CODE[3 * i] == 0:
                value = _column(
                    CODE[3 * i + 2], entropy, varentropy, top_prob, margin, logprob, position, max_new, since, consults,
                    budget, boundary, run, draw,
                )  # fmt: skip
            else:
                a = _at(CODE[3 * i + 1], r0, r1, r2, r3, r4, r5)
                b = _at(CODE[3 * i + 1] + 1, r0, r1, r2, r3, r4, r5)
                value = _applied(CODE[3 * i], a, b, CODE[3 * i + 2])
            r0 = _kept(CODE[3 * i], CODE[3 * i + 1], 0, r0, value)
            r1 = _kept(CODE[3 * i], CODE[3 * i + 1], 1, r1, value)
            r2 = _kept(CODE[3 * i], CODE[3 * i + 1], 2, r2, value)
            r3 = _kept(CODE[3 * i], CODE[3 * i + 1], 3, r3, value)
            r4 = _kept(CODE[3 * i], CODE[3 * i + 1], 4, r4, value)
            r5 = _kept(CODE[3 * i], CODE[3 * i + 1], 5, r5, value)
    return fired
