"""What ``dodona bench peers`` measures where nothing else is said."""

from __future__ import annotations

import math

from dodona.bench.compare import BASE_ALONE, GUIDED, PARTS, PEERS, Comparison, Guided
from dodona.eval.arith.problems import held_out_problems

PAIR = ("arith-base", "arith-oracle")
TEXT = ("smollm2@drop=24,26", "smollm2")
STORY = "Tell me a story about a fox and a crow."
SOME = Guided(8, 8, "every(12)")
MANY = Guided(math.inf, 1, "every(2)")  # consults decided token by token
EACH = Guided(math.inf, 1, "every(1)")  # as often as two models can take turns
FEW = Guided(8, 4, "every(4)")  # for texts too short for SOME
ALL = tuple(peer for peer, _ in PEERS if peer != "url")


def problems(count: int) -> tuple[str, ...]:
    """Held-out problems of the highest level, whose solutions are the longest texts of the embedded pair."""
    found = [problem.question for problem in held_out_problems(20 * count) if problem.level == 5]
    return tuple(found[:count])


def default_prompts(base: str, count: int) -> tuple[str, ...]:
    """Prompts that suit a model."""
    return problems(count) if base in PAIR else (STORY,)


def default_comparisons(*, quick: bool) -> tuple[Comparison, ...]:
    """The embedded pair, whose steps are so short that a hop shows, and real text in both dtypes.

    The whole set leaves the naive loop out where a run of it takes minutes and shows what another row shows.
    """
    if quick:
        return (
            _pair(
                prompts=1,
                tokens=96,
                repeats=3,
                peers=("careful", "http", "servers-by-token", "generate"),
                guided=(SOME, EACH),
                parts=(GUIDED, BASE_ALONE),
            ),
            _text(
                "bfloat16",
                tokens=20,
                repeats=2,
                peers=("naive", "careful", "generate"),
                guided=(FEW,),
                parts=(GUIDED, BASE_ALONE),
            ),
            _text("float32", tokens=16, repeats=2, peers=("generate",), guided=(), parts=(BASE_ALONE,)),
        )
    return (
        _pair(prompts=4, tokens=256, repeats=7, peers=tuple(peer for peer in ALL if peer != "compiled")),
        _text("bfloat16", tokens=256, repeats=3, peers=ALL),
        _text("float32", tokens=256, repeats=3, peers=tuple(peer for peer in ALL if peer != "naive")),
    )


def _pair(
    *,
    prompts: int,
    tokens: int,
    repeats: int,
    peers: tuple[str, ...],
    guided: tuple[Guided, ...] = (SOME, MANY, EACH),
    parts: tuple[str, ...] = PARTS,
) -> Comparison:
    return Comparison(
        base=PAIR[0],
        oracle=PAIR[1],
        dtype="float32",
        prompts=problems(prompts),
        tokens=tokens,
        guided=guided,
        peers=peers,
        repeats=repeats,
        parts=parts,
    )


def _text(
    dtype: str,
    *,
    tokens: int,
    repeats: int,
    peers: tuple[str, ...],
    guided: tuple[Guided, ...] = (SOME,),
    parts: tuple[str, ...] = PARTS,
) -> Comparison:
    return Comparison(
        base=TEXT[0],
        oracle=TEXT[1],
        dtype=dtype,
        prompts=(STORY,),
        tokens=tokens,
        guided=guided,
        peers=peers,
        repeats=repeats,
        parts=parts,
        ignore_eos=True,  # in bfloat16 a near-tie may end one text before another
    )
