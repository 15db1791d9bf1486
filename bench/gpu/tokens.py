"""Part (c), second half: in float32 both loops write the same tokens, on the embedded pair."""

from __future__ import annotations

from typing import Any

from dodona.bench.apart import Work
from dodona.bench.gpu.options import EMBEDDED, Options
from dodona.bench.gpu.piece import Outcome, outcome
from dodona.engine.engine import Engine
from dodona.engine.request import Request
from dodona.engine.result import Result
from dodona.eval.arith.problems import held_out_problems

NEAR = 1e-4  # two probabilities closer than this may change places by rounding
NEAR_TIE = "a near-tie, "

SETTINGS: dict[str, dict[str, Any]] = {
    "base alone": {"c": 0},
    "guided by entropy": {"c": 3, "k": 5, "trigger": "entropy > 0.5"},
    "guided after every 6": {"c": 4, "k": 3, "trigger": "every(6)", "when": "after"},
    "drawn": {"c": 3, "k": 5, "trigger": "u < 0.1", "temperature": 0.8, "top_k": 20},
    "oracle alone": {"c": float("inf"), "k": float("inf"), "trigger": "always"},
}


def pieces(options: Options) -> tuple[str, ...]:
    """Each kind of request."""
    return tuple(SETTINGS)


def worker(options: Options) -> Work:
    """Gives a piece by its name."""
    common: dict[str, Any] = {"oracle": EMBEDDED[1], "device": options.device, "dtype": "float32", "max_batch": 4}
    host = Engine(EMBEDDED[0], ops="torch", loop="host", **common)
    device = Engine(EMBEDDED[0], ops=options.ops, loop="device", **common)
    questions = [problem.question for problem in held_out_problems(3 if options.quick else 12)]
    tokens = 24 if options.quick else 96

    def work(name: str) -> Outcome:
        asked = [
            Request(prompt=text, id=str(number), max_new_tokens=tokens, **SETTINGS[name])
            for number, text in enumerate(questions)
        ]
        want, found = ({result.request.id: result for result in engine.generate(asked)} for engine in (host, device))
        told = [difference(want[key], found[key]) for key in want]
        figures = {
            "texts": len(asked),
            "tokens": sum(len(result.ids) for result in want.values()),
            "consults": sum(result.consults for result in want.values()),
            "equal": sum(text is None for text in told),
        }
        return outcome(figures, [text for text in told if text is not None and not text.startswith(NEAR_TIE)])

    return work


def difference(want: Result, found: Result) -> str | None:
    """Where two results part; None if they do not. A near-tie is named as such."""
    if found.error or want.error:
        return f"text {want.request.id}: {found.error or want.error}"
    for position, (expected, written) in enumerate(zip(want.ids, found.ids, strict=False)):
        if expected != written:
            margin = float(want.signals["margin"][position])
            name = NEAR_TIE if margin < NEAR else ""
            what = f"token {position} is {written} and not {expected} (margin {margin:.2g})"
            return f"{name}text {want.request.id}: {what}"
    if len(want.ids) != len(found.ids):
        return f"text {want.request.id}: {len(found.ids)} tokens and not {len(want.ids)}"
    if want.cheat_positions != found.cheat_positions:
        return f"text {want.request.id}: consults at {found.cheat_positions} and not {want.cheat_positions}"
    return None
