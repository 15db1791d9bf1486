"""The process that asks Math-Verify: one JSON request a line on standard input, one answer a line on standard output.

latex2sympy turns each number into sympy's by way of `sympify`, which evaluates text. Here numbers are made from their
digits instead; and as sympy has more ways from text to code, before the first request is read `parse_expr` is replaced
by a function that reads numbers only, and `lambdify` by one that refuses.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import threading
from contextlib import suppress
from importlib import import_module
from queue import SimpleQueue
from typing import Any, Final, NoReturn

from dodona.eval.checker.pool import READY

NUMERIC_DIGITS = 60  # to which Math-Verify compares what it cannot simplify
ROUNDING = 60  # places; there are no floating-point numbers here that it could matter for
MOST_MEMORY = 2 * 2**30  # bytes of address space
MOST_SECONDS = 10  # of processor time for one request; the other side stops waiting much earlier


def equal(gold: str, answer: str) -> tuple[bool, str]:
    """Whether Math-Verify calls two answers in LaTeX equal, and a reason."""
    from math_verify.grader import verify
    from sympy.core.relational import Relational

    left, right = _converted(gold), _converted(answer)
    if left is None or right is None:
        return False, "Math-Verify reads nothing"
    if isinstance(left, Relational) and isinstance(right, Relational) and not _comparable(left, right):
        return False, "relations that cannot be compared"
    if _says_nothing(left) and _says_nothing(right):
        return False, "a relation between numbers, which is true or false and no answer"
    left, right = _worked_out(left), _worked_out(right)
    found = verify(
        left, right, float_rounding=ROUNDING, numeric_precision=NUMERIC_DIGITS, timeout_seconds=None, strict=True
    )
    return bool(found), "Math-Verify calls them equal" if found else "Math-Verify calls them different"


def _worked_out(value: Any) -> Any:
    """With its sums and integrals done, which Math-Verify leaves as they are."""
    from sympy import Derivative, Integral, Limit, Product, Sum

    unfinished = hasattr(value, "has") and value.has(Sum, Product, Integral, Limit, Derivative)
    return value.doit() if unfinished else value


def _comparable(left: Any, right: Any) -> bool:
    """Two relations are compared by their solutions, and those of which none is found would be equal."""
    from sympy import solve

    if left.free_symbols != right.free_symbols or not left.free_symbols:
        return False
    return left.func != right.func or not left.is_Equality or bool(solve(left, left.free_symbols))


def _says_nothing(value: Any) -> bool:
    """Whether it is, or holds, a relation without a variable: all that are true would be equal."""
    from sympy.logic.boolalg import Boolean

    parts = value.args if getattr(value, "is_iterable", False) else (value,)
    return any(isinstance(part, Boolean) and not part.free_symbols for part in parts)


def _converted(latex: str) -> Any:
    """The answer as a sympy object, by latex2sympy's grammar."""
    from latex2sympy2_extended.latex2sympy2 import (
        ConversionConfig,
        NormalizationConfig,
        normalize_latex,
    )
    from math_verify.grader import should_treat_as_complex

    looks = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
    )
    text = normalize_latex(latex, looks)
    config = ConversionConfig(lowercase_symbols=False)
    return _converter()(is_real=not should_treat_as_complex(text), config=config).parse(text)


def _converter() -> Any:
    from latex2sympy2_extended import latex2sympy2

    class Converter(latex2sympy2._Latex2Sympy):  # type: ignore[misc,name-defined,unused-ignore]
        def parse_number(self, text: str) -> Any:
            return rational(text)

    latex2sympy2.convert_number = rational
    return Converter


_NUMERAL: Final = re.compile(r"([+-]?)(?=\.?\d)(\d*)(?:\.(\d*))?(?:/(\d+))?", re.ASCII)


def rational(text: str) -> Any:
    """The number of a text of digits, as in 5, 0.25 or 3/2; nothing else is read.

    Raises:
        ValueError: it is something else.
    """
    import sympy

    match = _NUMERAL.fullmatch(text.replace(",", "").replace(" ", ""))
    if match is None:
        raise ValueError("text is not evaluated here")
    sign, whole, fraction, divisor = match.groups(default="")
    return sympy.Rational(int(sign + whole + fraction), 10 ** len(fraction) * int(divisor or 1))


def refuse_text() -> None:
    """Make sympy refuse to evaluate text, whichever way it comes to do so; it may still read its own numbers."""
    import sympy.parsing.sympy_parser
    import sympy.utilities.lambdify

    def read(text: str, *args: object, **options: object) -> Any:
        return rational(text)

    def refuse(*args: object, **options: object) -> NoReturn:
        raise ValueError("text is not evaluated here")

    sympy.parsing.sympy_parser.eval_expr = sympy.parsing.sympy_parser.stringify_expr = refuse
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").split(".")[0] in ("sympy", "math_verify", "latex2sympy2_extended"):
            for name, substitute in (("parse_expr", read), ("lambdify", refuse)):
                if callable(vars(module).get(name)):
                    setattr(module, name, substitute)


def limit_process() -> None:
    """Bound its memory, where the system can; and processor time, so that it ends even if nobody is left to end it."""
    try:
        import resource
    except ImportError:
        return
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_request() -> None:
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    with suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + MOST_SECONDS, most))


def _requests() -> SimpleQueue[str]:
    """Lines of standard input, read by a thread that ends the process when the other side is gone."""
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return lines


def serve() -> NoReturn:
    """Answer requests until the other side is gone."""
    limit_process()
    logging.disable(logging.CRITICAL)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a library that prints must not print between the answers
    requests = _requests()
    warm_up()
    print(READY, file=answers, flush=True)
    while True:
        request = json.loads(requests.get())
        _limit_request()
        try:
            found, reason = equal(request["gold"], request["answer"])
        except Exception as error:  # sympy fails in every way; each is one answer that is not equal
            found, reason = False, f"Math-Verify failed: {type(error).__name__}"
        except RecursionError:
            found, reason = False, "Math-Verify failed: RecursionError"
        print(json.dumps({"equal": found, "reason": reason}), file=answers, flush=True)


def warm_up() -> None:
    """Import what requests need, as some of it evaluates texts of its own then; after that shut the ways to text."""
    logging.disable(logging.CRITICAL)
    import_module("sympy.physics.units")
    for gold, answer in _EXAMPLES:
        with suppress(Exception):
            equal(gold, answer)
    refuse_text()


_EXAMPLES: Final = (
    ("x+1", "1+x"),
    ("xy=4", r"y=\frac{4}{x}"),
    ("x^2>4", r"(-\infty,-2)\cup(2,\infty)"),
    (r"\mathbb{R}\setminus\{0\}", r"(-\infty,0)\cup(0,\infty)"),
    (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}"),
    (r"\int_0^1 \sin x dx", r"1-\cos 1"),
    (r"\begin{pmatrix}1 & x\end{pmatrix}", r"\begin{pmatrix}1 & 2\end{pmatrix}"),
)
