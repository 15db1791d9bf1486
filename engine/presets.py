"""The words of a trigger: columns, functions, and presets.

A preset is an expression with a few numbers to fill in, nothing more: `random(p0=0.5)` is
`boundary and u < 0.5 + (1 - 0.5) * position / max_new_tokens`. `dodona.engine.trigger` reads the text, hands the
arguments to `expand` and compiles what comes back, so a preset can do nothing that an expression cannot.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final, NamedTuple, NoReturn

ATTENTION: Final = frozenset({"attn_entropy", "attn_varentropy", "agreement", "interaction_strength"})
BOOLEAN: Final = frozenset({"boundary", "agree"})
SIGNALS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "entropy": "H = -sum p ln p of the base's next token, nats",
        "varentropy": "sum p (ln p + H)^2, nats^2",
        "top_prob": "largest probability",
        "margin": "largest minus second largest probability",
        "attn_entropy": "mean over heads of the last query's attention entropy over live keys, nats",
        "attn_varentropy": "variance over heads of those entropies, nats^2",
        "agreement": "mean over heads and live keys of abs(a - mean over heads of a): in fact a disagreement",
        "interaction_strength": "mean over heads and live keys of abs(q.k/sqrt(d)), before the softmax",
    }
)
AFTER_SIGNALS: Final[Mapping[str, str]] = MappingProxyType(
    {"logprob": 'ln p of the token just committed, nats (only with when="after")'}
)
COUNTERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "position": "generated-token index, from 0",
        "max_new_tokens": "the request's limit",
        "since_consult": "tokens since the first token of the last consult's burst; inf before any",
        "consults": "consults so far",
        "c": "the consult budget, may be inf",
        "boundary": "true at the first position, after a burst, and after every step_size base tokens",
        "base_run": "base tokens since the last burst or the start",
        "u": "this position's uniform draw, float32 in [0, 1)",
    }
)
OFFLINE_SIGNALS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "oracle_logprob": "ln p of the token under the oracle, nats (offline)",
        "oracle_rank": "the token's rank under the oracle (offline)",
        "oracle_top1": "the oracle's most probable token id (offline)",
        "oracle_entropy": "entropy of the oracle's distribution, nats (offline)",
        "oracle_margin": "the oracle's largest minus second largest probability (offline)",
        "agree": "true where base and oracle have the same argmax, false where unknown (offline)",
        "kl": "Kullback-Leibler divergence of base from oracle, nats (offline)",
        "js": "Jensen-Shannon divergence of base and oracle, nats (offline)",
    }
)
COLUMNS: Final[Mapping[str, str]] = MappingProxyType({**SIGNALS, **AFTER_SIGNALS, **COUNTERS, **OFFLINE_SIGNALS})
FUNCTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "min": "smallest of two or more; NaN if any is",
        "max": "largest of two or more; NaN if any is",
        "abs": "absolute value",
        "log": "natural logarithm",
        "exp": "exponential",
        "sqrt": "square root",
        "ema": "ema(signal, decay): decay * its previous value + (1 - decay) * signal, decay a number in [0, 1)",
    }
)


def known_columns(when: str = "before", offline: bool = False) -> tuple[str, ...]:
    """The columns that a trigger may use; offline all of them, whatever `when` is."""
    after = AFTER_SIGNALS if offline or when == "after" else {}
    return (*SIGNALS, *after, *COUNTERS, *(OFFLINE_SIGNALS if offline else ()))


def refusal(name: str, known: Sequence[str]) -> str:
    """Why `name` cannot stand where a column is due, `known` being the columns allowed there."""
    if name in AFTER_SIGNALS:
        return f"`{name}` is not known before the commit: it is the committed token's; use when='after'"
    if name in OFFLINE_SIGNALS:
        return f"`{name}` exists only after the fact, so a live trigger cannot use it; the replay of a trace can"
    if name in PRESETS:
        return f"`{name}` is a preset and must stand alone; in an expression write `{PRESETS[name].example}`"
    if name in FUNCTIONS:
        return f"`{name}` is a function and needs arguments"
    words = [*known, *FUNCTIONS, "inf", "True", "False"]
    near = get_close_matches(name, [*words, *PRESETS], n=1) or get_close_matches(name.lower(), words, n=1)
    meant = f", did you mean `{near[0]}`?" if near else ""
    return f"unknown word `{name}`{meant}\nknown: {', '.join(words)}; presets: {', '.join(PRESETS)}"


# Called with the node to point at and the sentence to say; raises TriggerError.
Fail = Callable[[ast.AST, str], NoReturn]


class Parameter(NamedTuple):
    """A number that a preset takes, with its range (both ends allowed)."""

    default: float | None = None  # None: left to the request
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return kind if math.isinf(self.low) else f"{kind} from {number_text(self.low)} to {number_text(self.high)}"


class Argument(NamedTuple):
    """An argument as the user wrote it."""

    keyword: str | None
    value: float | None  # None: not a literal number
    node: ast.AST


class Preset(NamedTuple):
    """One row of the table in the README."""

    signature: str
    expression: str  # {braces} hold the parameters
    meaning: str
    parameters: Mapping[str, Parameter]

    @property
    def example(self) -> str:
        """The expression with the defaults filled in."""
        defaults = {key: number_text(p.default) for key, p in self.parameters.items() if p.default is not None}
        return self.expression.format(positions="3, 17", **defaults)


def number_text(value: float) -> str:
    """The shortest text that reads back as `value`; whole numbers without a point."""
    return str(int(value)) if abs(value) < 1e15 and value == int(value) else repr(value)


def _preset(name: str, expression: str, meaning: str, **parameters: Parameter) -> Preset:
    shown = (f"{key}={'...' if p.default is None else p.default}" for key, p in parameters.items())
    signature = f"{name}({', '.join(shown)})" if parameters else name
    return Preset(signature, expression, meaning, MappingProxyType(parameters))


_EXACT: Final = 2.0**24  # float32 counts every whole number up to here
_POSITION: Final = Parameter(low=0, high=_EXACT, whole=True)
_COUNT: Final = Parameter(low=1, high=_EXACT, whole=True)
_CHANCE: Final = Parameter(default=0.3, low=0, high=1)

PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    {
        "random": _preset(
            "random",
            "boundary and u < {p0} + (1 - {p0}) * position / max_new_tokens",
            "at each boundary, with a chance that grows from p0 to 1 over the text; step_size: the request's if not "
            "given",
            p0=_CHANCE,
            step_size=_COUNT,
        ),
        "constant": _preset(
            "constant",
            "boundary and u < {p}",
            "at each boundary, with chance p; step_size: the request's if not given",
            p=_CHANCE,
            step_size=_COUNT,
        ),
        "every": _preset(
            "every",
            "base_run >= {n}",
            "after every n base tokens, counted from the start or from the last burst",
            n=_COUNT._replace(default=32),
        ),
        "at": Preset(
            "at(3, 17, ...)",
            "position in ({positions})",
            "at these positions; one that falls inside a burst is passed over",
            MappingProxyType({}),
        ),
        # Algorithm S (selection sampling): Knuth, The Art of Computer Programming, vol. 2, 3.4.2.
        "uniform": _preset(
            "uniform",
            "position < {L} and u * ({L} - position) < c - consults",
            "c positions drawn uniformly from the first L (Algorithm S; a finite c); positions that a burst covers are "
            "passed over and later ones become likelier, so a consult is lost only to a burst that covers position L-1",
            L=_COUNT._replace(default=256),
        ),
        "entropy": _preset(
            "entropy", "entropy > {threshold}", "the base is uncertain", threshold=Parameter(default=2.0)
        ),
        "quadrant": _preset(
            "quadrant",
            "entropy > {entropy} and varentropy > {varentropy}",
            "the base is uncertain, and unevenly so",
            entropy=Parameter(default=2.0),
            varentropy=Parameter(default=1.5),
        ),
        "always": _preset("always", "True", "at every position"),
        "never": _preset("never", "False", "at no position: the base alone"),
    }
)


def expand(name: str, call: ast.AST, arguments: Sequence[Argument], fail: Fail) -> tuple[str, int | None]:
    """The expression text of preset `name`, and its step_size (None: the request's)."""
    preset = PRESETS[name]
    if name == "at":
        for keyword, _, node in arguments:
            if keyword is not None:
                fail(node, f"`at` takes positions only, not `{keyword}=`")
        positions = sorted({_check("a position of `at`", a, _POSITION, fail) for a in arguments})
        if not positions:
            fail(call, "`at` needs at least one position, as in at(3, 17, 40)")
        listed = ", ".join(map(number_text, positions)) + ("," if len(positions) == 1 else "")
        return preset.expression.format(positions=listed), None

    keys = list(preset.parameters)
    given: dict[str, float] = {}
    for index, argument in enumerate(arguments):
        if argument.keyword is None and index >= len(keys):
            fail(argument.node, f"too many arguments: it is {preset.signature}")
        key = keys[index] if argument.keyword is None else argument.keyword
        if key not in preset.parameters:
            near = get_close_matches(key, keys, n=1)
            hint = f", did you mean `{near[0]}`?" if near else ""
            fail(argument.node, f"unknown argument `{key}` of {preset.signature}{hint}")
        if key in given:
            fail(argument.node, f"`{key}` is given twice")
        given[key] = _check(f"`{key}` of `{name}`", argument, preset.parameters[key], fail)
    values = {key: p.default for key, p in preset.parameters.items()} | given
    step_size = values.pop("step_size", None)
    texts = {key: number_text(value) for key, value in values.items() if value is not None}
    return preset.expression.format(**texts), None if step_size is None else int(step_size)


def _check(what: str, argument: Argument, parameter: Parameter, fail: Fail) -> float:
    value = argument.value
    if value is None or not parameter.low <= value <= parameter.high or (parameter.whole and value != int(value)):
        fail(argument.node, f"{what} must be {parameter}")
    return value
