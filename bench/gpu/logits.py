"""Part (c), first half: the logits of both backends on the same ids, against the same weights in float32.

bfloat16 rounds differently in every order of summation, so the kernels' logits are not asked to equal torch's: both are
compared with float32 on the rounded weights, and the kernels' error may be at most twice that of torch's own products.
Every position's logits are compared (teacher-forced), as the loops compute them: read in one ragged forward, and by
programs of fixed shape with few tokens or many.
"""

from __future__ import annotations

import gc
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dodona.bench.apart import Work
from dodona.bench.gpu.options import Options
from dodona.bench.gpu.piece import Outcome, outcome
from dodona.bench.subject import prompt_ids
from dodona.engine.cache import Feed
from dodona.engine.checkpoint import load_model, open_checkpoint
from dodona.engine.ops import make_ops
from dodona.engine.runner import Runner

FACTOR = 2.0  # of torch's own error in bfloat16
SLACK, ENTROPY_SLACK = 1e-6, 0.01  # where that is nothing; nats


class Way(NamedTuple):
    """How ids are read."""

    name: str
    queries: int | None  # tokens a program; None: one ragged forward
    sequences: int


class Forced(NamedTuple):
    """What a model says of some ids, M sequences of T."""

    logits_MTV: Tensor  # float32
    entropy_MT: Tensor  # float32, nats, from the statistics that come with them


class Error(NamedTuple):
    """How far logits and statistics are from others."""

    max_abs: float
    relative: float  # norm of the difference over the norm of the reference
    agreement: float  # share of positions with the same most likely token
    clear_agreement: float  # likewise, of those where the reference's two best are further apart than the errors
    entropy: float  # the largest error of the statistics' entropy, nats

    @classmethod
    def of(cls, found: Forced, want: Forced) -> Error:
        """Compare, in float32."""
        entropy = float((found.entropy_MT - want.entropy_MT).abs().max())
        return cls(*cls._of_logits(found.logits_MTV, want.logits_MTV), entropy)

    @staticmethod
    def _of_logits(found: Tensor, want: Tensor) -> tuple[float, float, float, float]:
        difference = (found - want).abs()
        top = want.topk(2, -1)
        same = found.argmax(-1) == top.indices[..., 0]
        clear = top.values[..., 0] - top.values[..., 1] > 2 * difference.amax(-1)
        return (
            float(difference.max()),
            float(difference.norm() / want.norm().clamp_min(1e-30)),
            float(same.float().mean()),
            float(same[clear].float().mean()) if bool(clear.any()) else 1.0,
        )


def ways(options: Options) -> tuple[Way, ...]:
    """Of a quick run fewer."""
    few = (Way("one ragged forward", None, 1), Way("1 token a program", 1, 1), Way("1 token of 4 sequences", 1, 4))
    if options.quick:
        return (*few, Way("8 tokens a program", 8, 1))
    return (*few, Way("16 tokens a program", 16, 1), Way("128 tokens a program", 128, 1))


def pieces(options: Options) -> tuple[str, ...]:
    """Each model, each way."""
    return tuple(f"{model}: {way.name}" for model in ("base", "oracle") for way in ways(options))


def worker(options: Options) -> Work:
    """Gives a piece by its name; one model's runners are kept for its pieces."""
    held: dict[str, Runners] = {}

    def work(name: str) -> Outcome:
        model, _, way = name.partition(": ")
        if model not in held:
            held.clear()
            gc.collect()
            held[model] = Runners(options, model)
        with torch.inference_mode():
            return held[model].compared(next(each for each in ways(options) if each.name == way))

    return work


class Runners:
    """One model three times: in float32, on torch's operations, and on those that are looked at."""

    def __init__(self, options: Options, model: str) -> None:
        self.tokens, self.ops = (16 if options.quick else 128), options.ops
        device = options.torch_device
        checkpoint = open_checkpoint(options.base if model == "base" else options.oracle)
        low = torch.bfloat16

        def runner(ops: str, *, exact: bool) -> Runner:
            loaded = load_model(checkpoint, device=device, dtype=low)
            weights, size = (loaded.float() if exact else loaded), (256 if options.on_cuda else 32)
            pages = 4 * -(-self.tokens // size) + 1
            return Runner(model, weights, make_ops(ops, device), pages=pages, page_size=size)

        self.exact = runner("torch", exact=True)
        self.eager = runner("torch", exact=False)
        self.ours = runner(options.ops, exact=False)
        vocab = checkpoint.config.vocab_size
        self.ids = torch.tensor([prompt_ids(self.tokens, vocab, number) for number in range(4)], device=device)

    def compared(self, way: Way) -> Outcome:
        """The errors of a way of reading."""
        want = forced(self.exact, self.ids[: way.sequences], None)
        found = {
            name: forced(runner, self.ids[: way.sequences], way.queries)
            for name, runner in (("eager", self.eager), (self.ops, self.ours))
        }
        errors = {name: Error.of(logits, want) for name, logits in found.items()}
        between = Error.of(found[self.ops], found["eager"])
        figures: dict[str, Any] = {"sequences": way.sequences, "tokens": self.tokens}
        figures |= {name: error._asdict() for name, error in errors.items()}
        return outcome(figures | {"between": between._asdict()}, problems(errors[self.ops], errors["eager"]))


def problems(ours: Error, eager: Error) -> list[str]:
    """Why our error is too large; nothing if it is not."""
    limit = FACTOR * eager.relative + SLACK
    found = []
    if not ours.relative <= limit:
        found.append(f"relative error {ours.relative:.3g}, and at most {limit:.3g} is right")
    if ours.clear_agreement < 1:
        found.append(f"only {100 * ours.clear_agreement:.1f} % of the clear positions have the reference's best token")
    limit = FACTOR * eager.entropy + ENTROPY_SLACK
    if not ours.entropy <= limit:
        found.append(f"entropy off by {ours.entropy:.3g} nats, and at most {limit:.3g} is right")
    return found


def forced(runner: Runner, ids_MT: Tensor, queries: int | None) -> Forced:
    """Every position of some sequences, read from an empty cache: as the loops do it on the host, or on the device."""
    cache = runner.cache
    slots = [cache.pool.open() for _ in ids_MT]
    try:
        return _at_once(runner, slots, ids_MT) if queries is None else _in_programs(runner, slots, ids_MT, queries)
    finally:
        for slot in slots:
            cache.pool.close(slot)


def _at_once(runner: Runner, slots: list[int], ids_MT: Tensor) -> Forced:
    feeds = [Feed(slot, ids.tolist(), len(ids)) for slot, ids in zip(slots, ids_MT, strict=True)]
    logits_NV = runner.model.logits(runner.forward(feeds))
    entropy_N = runner.ops.statistics(logits_NV).entropy
    return Forced(logits_NV.float().view(*ids_MT.shape, -1), entropy_N.view_as(ids_MT))


def _in_programs(runner: Runner, slots: list[int], ids_MT: Tensor, queries: int) -> Forced:
    cache, (count, length) = runner.cache, ids_MT.shape
    for slot in slots:
        cache.reserve(slot, length)
    slots_M, pages = torch.tensor(slots, device=ids_MT.device), cache.pool.pages_for(length)
    logits, entropies = [], []
    for start in range(0, length, queries):
        ids_Mn = ids_MT[:, start : start + queries].contiguous()
        grid = runner.grid(slots_M, torch.full_like(slots_M, start), queries, pages)
        hidden_NE = runner.model(ids_Mn.flatten(), grid, None)
        scores = runner.model.score(hidden_NE, ids_Mn, None, want_logits=True)
        assert scores.logits_NV is not None
        logits.append(scores.logits_NV.float().view(count, queries, -1))
        entropies.append(scores.stats.entropy.view(count, queries))
    return Forced(torch.cat(logits, 1), torch.cat(entropies, 1))
