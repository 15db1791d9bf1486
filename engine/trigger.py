"""Triggers: a boolean expression over the columns of one position says whether to consult the oracle there.

    entropy > 2.0 and varentropy > 1.5
    margin < 0.1 and since_consult >= 8 and position >= 3
    0.8*ema(entropy, 0.9) - 1.2*margin > 0.3

How a text is read: trigger_parser.py. Here is what a trigger is, and how its program runs.

The same program runs on torch tensors inside the engine's step and on NumPy columns of a recorded trace, and gives the
same decisions: every operation is elementwise float32 with one rounding, in the same order, constants included. `sqrt`,
`log` and `exp` are computed in float64 and rounded, because the float32 ones of NumPy, torch and CUDA differ in the
last bit: `sqrt` is then always equal, `log` and `exp` but for a chance of about 1e-8 a value. Under torch.compile this
promise does not hold, since fusion may contract a*b + c.

A comparison with NaN is False, `!=` and `not in` included, and so is a boolean column that is NaN; but `not` turns
False into True, so `not entropy > 2` holds where entropy is NaN. Division by zero gives inf or NaN, as in IEEE 754.
"""

from __future__ import annotations

import functools
import operator
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

import numpy as np

from dodona.engine.errors import TriggerError
from dodona.engine.presets import (
    ATTENTION,
    BOOLEAN,
    COLUMNS,
    FUNCTIONS,
    PRESETS,
    known_columns,
    number_text,
)

__all__ = ["ATTENTION", "BOOLEAN", "COLUMNS", "FUNCTIONS", "PRESETS", "Array", "ExpressionTrigger", "Trigger"]
__all__ += ["ema_column", "ema_step", "known_columns"]

Array: TypeAlias = Any  # a torch.Tensor or a NumPy array; one kind in a call


def ema_column(signal: str, decay: float) -> str:
    """The name of the column that holds an exponential moving average, as in "ema(entropy,0.9)"."""
    return f"ema({signal},{number_text(decay)})"


def ema_step(previous: Array, value: Array, decay: float) -> Array:
    """One step of the average, float32: `value` where `previous` is NaN (the first position, and after a NaN value),
    else float32(decay) * previous + float32(1 - decay) * value. NumPy scalars and arrays, or torch tensors.
    """
    ops = _ops_of(value)
    old, new = ops.number(previous), ops.number(value)
    with np.errstate(all="ignore"):
        return ops.where(old != old, new, ops.constant(decay) * old + ops.constant(1.0 - decay) * new)


class Columns(dict[str, Array]):
    """Columns by name; to read one that is not there is a TriggerError."""

    def __missing__(self, name: str) -> NoReturn:
        raise TriggerError(f"the trigger needs the column `{name}`, and is given only: {', '.join(self)}")


class Trigger(ABC):
    """A rule that says, for a batch of sequences, which of them consult now; subclass it for what no text says."""

    __slots__ = ()

    @abstractmethod
    def decide(self, columns: Mapping[str, Array]) -> Array:
        """Columns of shape [B], at least `names`, `emas` and `position`, to a bool array of shape [B].

        Numbers are float32, torch tensors in the engine and NumPy arrays in a replay; units are those of
        `presets.COLUMNS`. What it raises ends the sequences that asked it, with the error as their reason.
        """

    def ask(self, columns: Mapping[str, Array]) -> Array:
        """What `decide` says, as a bool array of the kind and shape of `columns["position"]`.

        Raises:
            TriggerError: whatever it raised, or an answer of another shape.
        """
        position = columns["position"]
        try:
            decisions = _ops_of(position).decisions(self.decide(Columns(columns)), position)
            if decisions.shape != position.shape:
                raise TriggerError(f"it decided {list(decisions.shape)} where {list(position.shape)} is due")
        except Exception as error:  # a user's class may raise anything
            raise TriggerError(f"the trigger {self.text!r} raised {type(error).__name__}: {error}") from error
        return decisions

    @property
    def names(self) -> frozenset[str]:
        """Columns that must be computed: by default all that are known before the commit."""
        return frozenset(known_columns())

    @property
    def text(self) -> str:
        """What records call this trigger."""
        return type(self).__name__

    @property
    def emas(self) -> tuple[tuple[str, float], ...]:
        """(signal, decay) of each average that must be computed; it comes as the column `ema_column(signal, decay)`."""
        return ()

    @property
    def step_size(self) -> int | None:
        """Base tokens from one boundary to the next; None: the request's."""
        return None

    @property
    def attention(self) -> bool:
        """Whether attention signals must be computed."""
        return not ATTENTION.isdisjoint(self.names)


class Instruction(NamedTuple):
    """One step of a postfix program: takes `arity` values off the stack and puts one back."""

    name: str
    arity: int
    value: Any = None


@dataclass(frozen=True, slots=True)
class ExpressionTrigger(Trigger):
    """A parsed expression; make one with `parse_trigger`. Equal if expression and step_size are."""

    text: str = field(compare=False)  # as the user typed it
    expression: str = field()  # canonical, presets expanded
    names: frozenset[str] = field(compare=False, repr=False)  # columns used, the signals inside ema() among them
    emas: tuple[tuple[str, float], ...] = field(compare=False, repr=False)  # in order of appearance
    step_size: int | None = field()
    program: tuple[Instruction, ...] = field(compare=False, repr=False)

    def decide(self, columns: Mapping[str, Array]) -> Array:
        """Bool array of the shape of `columns["position"]`. TriggerError names a column that is missing."""
        columns = Columns(columns)
        ops = _ops_of(columns["position"])
        stack: list[Any] = []
        with np.errstate(all="ignore"):
            for step in self.program:
                taken = [stack.pop() for _ in range(step.arity)][::-1]
                if step.name == "column":
                    values = columns[step.value]
                    stack.append(ops.boolean(values) if step.value in BOOLEAN else ops.number(values))
                else:
                    stack.append(_apply(ops, step, taken))
            return ops.filled(stack.pop(), columns["position"])


class _NumPy:
    """What differs between NumPy and torch. Constants are scalars that never widen float32."""

    def number(self, values: Array) -> Array:
        return np.asarray(values).astype(np.float32, copy=False)

    def boolean(self, values: Array) -> Array:
        values = np.asarray(values)
        return values if values.dtype == np.bool_ else self.number(values) > 0

    def constant(self, value: float | bool) -> Any:
        return np.bool_(value) if isinstance(value, bool) else np.float32(value)

    def where(self, condition: Array, a: Array, b: Array) -> Array:
        result: Array = np.where(condition, a, b)
        return result[()]

    def divide(self, a: Array, b: Array) -> Array:
        return np.divide(a, b)

    def rounded(self, function: str, x: Array) -> Array:
        return getattr(np, function)(x.astype(np.float64)).astype(np.float32)

    def filled(self, result: Array, like: Array) -> Array:
        return np.array(np.broadcast_to(result, np.shape(like)))

    def decisions(self, values: Array, like: Array) -> Array:
        values = np.asarray(values)
        return _no_floats(values, values.dtype.kind in "biu").astype(np.bool_, copy=False)


class _Torch:
    def __init__(self, torch: Any) -> None:
        self.torch = torch

    def number(self, values: Array) -> Array:
        return values.to(self.torch.float32)

    def boolean(self, values: Array) -> Array:
        return values if values.dtype == self.torch.bool else self.number(values) > 0

    def constant(self, value: float | bool) -> Any:
        return value if isinstance(value, bool) else float(np.float32(value))

    def where(self, condition: Array, a: Array, b: Array) -> Array:
        return self.torch.where(condition, a, b)

    def divide(self, a: Array, b: Array) -> Array:
        # scalar / tensor, and on CUDA tensor / scalar too, would multiply by a rounded reciprocal.
        if not self.torch.is_tensor(a):
            a = self.torch.full_like(b, a)
        elif not self.torch.is_tensor(b):
            b = self.torch.full_like(a, b)
        return self.torch.div(a, b)

    def rounded(self, function: str, x: Array) -> Array:
        return getattr(self.torch, function)(x.double()).float()

    def filled(self, result: Array, like: Array) -> Array:
        if not self.torch.is_tensor(result):
            return self.torch.full(like.shape, result, dtype=self.torch.bool, device=like.device)
        return result.expand(like.shape).clone()

    def decisions(self, values: Array, like: Array) -> Array:
        values = self.torch.as_tensor(values, device=like.device)
        return _no_floats(values, not (values.is_floating_point() or values.is_complex())).bool()


def _no_floats(values: Array, are_decisions: bool) -> Array:
    if not are_decisions:  # NaN, and any signal but 0, would be a consult
        raise TriggerError(f"it decided {values.dtype} where bool is due")
    return values


_NUMPY: Final = _NumPy()


def _ops_of(values: Array) -> _NumPy | _Torch:
    torch = sys.modules.get("torch")  # a tensor cannot exist before torch is imported
    return _Torch(torch) if torch is not None and isinstance(values, torch.Tensor) else _NUMPY


def _unequal(a: Array, b: Array) -> Array:
    return (a < b) | (a > b)


_SHARED: Final[Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {
        **{"+": operator.add, "-": operator.sub, "*": operator.mul, "negative": operator.neg, "abs": abs},
        **{"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq},
        **{"!=": _unequal, "and": operator.and_, "or": operator.or_, "not": operator.invert},
    }
)


def _apply(ops: _NumPy | _Torch, step: Instruction, taken: list[Any]) -> Any:
    name = step.name
    if name in _SHARED:
        return _SHARED[name](*taken)
    if name == "constant":
        return ops.constant(step.value)
    if name == "/":
        return ops.divide(*taken)
    if name == "in":
        return functools.reduce(operator.or_, (taken[0] == ops.constant(v) for v in step.value))
    if name == "not in":
        return functools.reduce(operator.and_, (_unequal(taken[0], ops.constant(v)) for v in step.value))
    if name in ("min", "max"):
        a, b = taken
        return ops.where((b < a if name == "min" else b > a) | (b != b), b, a)
    return ops.rounded(name, *taken)


def on_constants(step: Instruction, values: list[Any]) -> bool | float:
    """What an instruction makes of constants, which is known before anything runs."""
    with np.errstate(all="ignore"):
        result = _apply(_NUMPY, step, [_NUMPY.constant(value) for value in values])
    return bool(result) if isinstance(result, np.bool_) else float(result)
