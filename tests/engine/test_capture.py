"""What a captured step must not do, on tensors of a device that is not the host's and holds nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_launches import counted_launches
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dodona.engine.config import LlamaConfig
from dodona.engine.kernel_step import KernelStep
from dodona.engine.llama import Llama
from dodona.engine.ops import Ops, TorchOps
from dodona.engine.placement import on_one
from dodona.engine.runner import Runner
from dodona.engine.seats import Seats
from dodona.engine.step import Shape, Step, Watch
from dodona.engine.trigger_parser import parse_trigger
from dodona.engine.triton_ops import TritonOps
from dodona.kernels.launch import interpreting
from dodona.kernels.trigger import code_of

META = torch.device("meta")
VOCAB = 317
TRIGGERS = (
    "every(6)",
    "at(1, 4)",
    "uniform(L=9)",
    "random(p0=0.3, step_size=2)",
    "always",
    "1 > 0",
    "3/entropy > 0.1 and (position in (1, 2) or max(margin, 0.5) < exp(u)) or not True",
    "ema(entropy, 0.9) > 1 or min(varentropy, abs(margin - 1)) >= c - consults",
)


class OffTheDevice(TorchDispatchMode):
    """Operations that read or make a tensor on the host, and masks as indices, whose number of places is asked for.

    Whatever else needs a value raises by itself, as there is none.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.found: list[str] = []
        for name in ("tensor", "as_tensor"):
            patch.setattr(torch, name, self._noted(name, getattr(torch, name)))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        masks = [leaf for leaf in tree_leaves(args[1:2]) if isinstance(leaf, Tensor) and leaf.dtype == torch.bool]
        if any(leaf.device.type == "cpu" for leaf in leaves) or ("aten.index" in str(func) and masks):
            self.found.append(str(func))
        return out

    def _noted(self, name: str, make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def noted(values: Any, **options: Any) -> Tensor:
            if not isinstance(values, Tensor):
                self.found.append(f"torch.{name}")
            return make(values, **options)

        return noted


def runner_of(name: str, ops: Ops) -> Runner:
    options = dict(
        architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=VOCAB, hidden_size=64,
        intermediate_size=112, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    config = LlamaConfig.from_hf(options, name="tiny")
    with META:
        model = Llama(config)
    model.placement = on_one(config, META)
    runner = Runner(name, model, ops, pages=64, page_size=16)
    runner.cache.grow(8, 16)
    model.rope_tables()  # made in the first warm-up
    return runner


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("tokens", [1, 4, 32])
@pytest.mark.parametrize("name", ["base", "oracle"])
@pytest.mark.parametrize("kernels", [False, True], ids=["torch", "kernels"])
def test_a_step_stays_on_the_device(
    kernels: bool, name: str, tokens: int, filtered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number that is asked for, a constant that is copied from the host: a graph can hold neither, and no CPU test
    sees the second. Every kind of trigger that each can ask."""
    if kernels and not interpreting():
        pytest.skip("kernels are launched in name only in the interpreter")
    with torch.inference_mode():
        triggers = [parse_trigger(text) for text in TRIGGERS]
        if kernels:  # with one that they cannot ask, torch asks all
            triggers = [trigger for trigger in triggers if code_of([(0, trigger.program)]) is not None]
        places = {pair: number for number, pair in enumerate(pair for each in triggers for pair in each.emas)}
        seats = Seats(3, VOCAB, torch.float32, META)
        seats.reserve(200, len(places))
        ends = torch.zeros(3, VOCAB, dtype=torch.bool, device=META)
        failures: dict[int, str] = {}
        make, ops = (KernelStep, TritonOps()) if kernels else (Step, TorchOps())
        step = make(runner_of(name, ops), seats, ends, places, failures)
        watched = [Watch(number, trigger) for number, trigger in enumerate(triggers)] if name == "base" else []
        rows_M = torch.zeros(3, dtype=torch.int64, device=META)
        shape = Shape(name, 3, tokens, tokens, 4, True, filtered, filtered)
        with counted_launches(executed=False) as names, OffTheDevice(monkeypatch) as watch:
            record = step.run(shape, rows_M, watched)
        assert record.device == META and record.shape == (3, 9)
    assert watch.found == [] and failures == {}
    assert ("_settle_kernel" in names) == (kernels and tokens == 1)


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x + torch.tensor([1.0, 2.0, 3.0], device=META),
        lambda x: torch.as_tensor(True, device=META),
        lambda x: x + torch.zeros(3).to(META),
        lambda x: x.masked_fill(x > 0, 1.0).index_put_((x > 0,), x[0]),
        lambda x: x.__setitem__(x > 0, 1.0),
    ],
    ids=["a list", "a decision", "another device", "a mask", "a mask to set"],
)
def test_the_watch_can_fail(step: Callable[[Tensor], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch that sees nothing."""
    x = torch.zeros(3, device=META)
    with OffTheDevice(monkeypatch) as watch:
        step(x)
    assert watch.found
