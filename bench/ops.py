"""The operator benchmark: each kernel is checked against its float64 reference, then timed beside its peers.

`OPS` lists every kernel. A row is the JSON object of one case; `measured_row` makes it, whatever goes wrong on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from dodona.bench.apart import Lost, Work, reason
from dodona.bench.birth import clocks
from dodona.bench.case import DTYPE, FULL, QUICK, Case, Inputs, Peer, Plan, Spec, cloned, size_of
from dodona.bench.cases import attention, layer, logits, products
from dodona.bench.checks import Comparison, poisoned_memory
from dodona.bench.lookups import recorded
from dodona.bench.timing import Timing, copies_needed, gb_per_second, measure_ceilings, time_calls
from dodona.kernels.launch import LLAMA_SHAPES, interpreting

SCHEMA = 1
CEILINGS = "ceilings"  # the name of the piece of work that is no case
PEERS = ("torch", "compile", "cublas", "product")
MODELS = tuple(shape.name for shape in LLAMA_SHAPES)
PASSED, FAILED, ERROR = "passed", "failed", "error"


class Op(NamedTuple):
    """A kernel of the benchmark."""

    specs: Callable[[Plan], Iterator[Spec]]
    configs: tuple[str, ...]  # what it looks up in the tuning table


OPS: Mapping[str, Op] = MappingProxyType(
    {
        "uncertainty": Op(logits.uncertainty_specs, ("uncertainty",)),
        "sample": Op(logits.sample_specs, ("sample",)),
        "pair": Op(logits.pair_specs, ("pair",)),
        "pair_of_products": Op(logits.pair_of_products_specs, ("pair_of_products",)),
        "lm_head": Op(products.lm_head_specs, ("lm_head",)),
        "linear": Op(products.linear_specs, ("linear", "linear_silu_mul")),
        "qkv_append": Op(products.qkv_append_specs, ("qkv_append",)),
        "attention_decode": Op(attention.decode_specs, ("attention",)),
        "attention_extend": Op(attention.extend_specs, ("attention",)),
        "attention_signals": Op(attention.signals_specs, ("attention_signals",)),
        "rms_norm": Op(layer.rms_norm_specs, ("rms_norm",)),
        "rope_append": Op(layer.rope_append_specs, ("rope_append",)),
        "silu_mul": Op(layer.silu_mul_specs, ("silu_mul",)),
    }
)


@dataclass(frozen=True, slots=True)
class Options:
    """What to run."""

    ops: tuple[str, ...] = tuple(OPS)
    models: tuple[str, ...] = MODELS
    peers: tuple[str, ...] = PEERS
    quick: bool = False
    timed: bool = True

    @property
    def plan(self) -> Plan:
        """The shapes."""
        if self.quick:
            return QUICK
        return FULL._replace(models=tuple(shape for shape in FULL.models if shape.name in self.models))

    def specs(self) -> list[Spec]:
        """All cases."""
        return [spec for op in self.ops for spec in OPS[op].specs(self.plan)]


def the_device() -> torch.device:
    """Where kernels run here: the CPU in the interpreter."""
    return torch.device("cpu") if interpreting() else torch.device("cuda", torch.cuda.current_device())


def worker(options: Options) -> Work:
    """Gives the row of a case by its key, and the ceilings of the device."""
    specs = {spec.key: spec for spec in options.specs()}
    device = the_device()

    def work(name: str) -> Any:
        if name == CEILINGS:
            found = measure_ceilings(device)
            return {"read_gb_s": found.read, "copy_gb_s": found.copy, "clocks": clocks()}
        return measured_row(specs[name], options, device)

    return work


def measured_row(spec: Spec, options: Options, device: torch.device) -> dict[str, Any]:
    """Build, check and time one case; an exception ends up in the row."""
    row = empty_row(spec)
    try:
        with torch.inference_mode():
            _fill(row, spec, options, device)
    except Exception as error:
        row["check"] = {"status": ERROR, "error": reason(error)}
    if device.type == "cuda":
        with suppress(RuntimeError):  # a device that is lost; the row says by what
            torch.cuda.empty_cache()
    return row


def empty_row(spec: Spec, lost: Lost | None = None) -> dict[str, Any]:
    """A row without results; with `lost`, the row of a case whose process ended."""
    row: dict[str, Any] = {"op": spec.op, "shape": spec.shape, "dtype": str(DTYPE).removeprefix("torch.")}
    row["goal"] = None if spec.goal is None else spec.goal._asdict()
    row["check"] = {"status": ERROR, "error": lost.reason} if lost else None
    row["ours"], row["peers"] = None, {}
    return row


def checked(case: Case, want: Any) -> list[Comparison]:
    """Run the case on inputs of its own, in memory full of NaN, and compare."""
    inputs = cloned(case.inputs)
    with poisoned_memory():
        got = case.run(inputs)
    return list(case.compare(inputs, want, got))


def verdict(comparisons: list[Comparison]) -> dict[str, Any]:
    """Comparisons as a part of a row."""
    worst = max(comparisons, key=lambda comparison: comparison.error)
    status = PASSED if all(comparison.passed for comparison in comparisons) else FAILED
    error = worst.error if worst.error < 1e30 else None  # JSON knows no infinity
    return {"status": status, "outputs": len(comparisons), "worst": {"output": worst.name, "error": error}}


def _fill(row: dict[str, Any], spec: Spec, options: Options, device: torch.device) -> None:
    case = spec.build(device)
    row["moved"], row["bytes"] = dict(case.moved), case.bytes
    row["from_memory"], row["operations"] = case.from_memory, case.operations
    want = case.expect(case.inputs)
    with recorded() as found:
        row["check"] = verdict(checked(case, want))
    row["configs"] = {f"{op} {shape}": config for (op, shape), (_, config) in found.items()}
    timed = options.timed and device.type == "cuda"
    if timed and row["check"]["status"] == PASSED:
        row["ours"] = _figures(time_calls(calls_of(case, case.run, device), device), case)
    for name, peer in case.peers.items():
        if name in options.peers and (timed or not peer.compiled):
            row["peers"][name] = _peer(peer, case, want, device, timed=timed)


def _peer(peer: Peer, case: Case, want: Any, device: torch.device, *, timed: bool) -> dict[str, Any]:
    """A peer's check (where it does the same work) and figures, or why there are none."""
    result: dict[str, Any] = {}
    try:
        run = peer.run
        if peer.compiled:
            torch._dynamo.reset()  # or earlier shapes count against this one's limit of compilations
            run = torch.compile(peer.run, dynamic=False)
        if peer.compare is not None:
            result["check"] = verdict(list(peer.compare(want, run(cloned(case.inputs)))))
            if result["check"]["status"] == FAILED:
                return result
        if timed:
            result["figures"] = _figures(time_calls(calls_of(case, run, device), device), case)
    except Exception as error:
        result["error"] = reason(error)
    return result


def calls_of(case: Case, run: Callable[[Inputs], Any], device: torch.device) -> list[Callable[[], Any]]:
    """The calls to time: on one set of inputs, or on copies that together do not fit in L2."""
    count = copies_needed(size_of(*case.inputs.values()), device) if case.from_memory else 1
    return [partial(run, case.inputs if index == 0 else cloned(case.inputs)) for index in range(count)]


def _figures(timing: Timing, case: Case) -> dict[str, Any]:
    return {
        "us": {"p20": timing.p20, "p50": timing.p50, "p80": timing.p80},
        "gb_s": gb_per_second(case.bytes, timing.p50),
        "tflop_s": case.operations / timing.p50 / 1e6 if case.operations else None,
        "method": timing.method,
        "copies": timing.copies,
        "samples": timing.samples,
    }
