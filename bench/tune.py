"""The tuner: looks for better block sizes, warps and stages of each kernel at each shape, and keeps them in the table.

Knob by knob: from the kernel's default, each value of `KNOBS` is tried for one knob while the others stay, the best is
kept, and this goes round until a round changes nothing (`ROUNDS` at most). A candidate must pass the case's check
before it is timed, and must beat the best so far by `GAIN` to replace it, so that noise does not choose.

A lookup that several cases share is tuned on the first of them. What is in the table already is left alone, so the same
command goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from dodona.bench.apart import Work, device_answers, reason
from dodona.bench.case import FULL, Case, Plan, Spec, cloned
from dodona.bench.lines import write_text
from dodona.bench.lookups import Config, Lookup, recorded, replaced
from dodona.bench.ops import MODELS, OPS, calls_of, checked, the_device
from dodona.bench.timing import time_calls
from dodona.kernels import launch

ROUNDS = 2
GAIN = 0.02

Values = Callable[[int], tuple[int, ...]]  # what to try instead of a value
Timer = Callable[[Config], float]  # microseconds of a call with this configuration, which is in force
TimerOf = Callable[[Case, torch.device], Timer]


class DeviceLostError(Exception):
    """The device answers to nothing any more; only another process can go on."""


def one_of(*values: int) -> Values:
    """These values."""
    return lambda _: values


def scaled(*factors: float) -> Values:
    """The value times these."""
    return lambda value: tuple(int(value * factor) for factor in factors if value * factor >= 1)


def stages(value: int) -> tuple[int, ...]:
    """Stages of a pipelined loop; a kernel whose default is one has none."""
    return () if value == 1 else (2, 3, 4, 5, 6)


WARPS = one_of(1, 2, 4, 8, 16)
_STREAM = {
    "BLOCK_N": scaled(0.25, 0.5, 2, 4),
    "BLOCK_K": scaled(0.25, 0.5, 2),
    "SPLITS": one_of(1, 2, 4, 8),
    "num_warps": WARPS,
    "num_stages": stages,
}

KNOBS: Mapping[str, Mapping[str, Values]] = MappingProxyType(
    {
        "uncertainty": {
            "RUNS": one_of(1, 2, 4, 8),
            "LANES": one_of(64, 128, 256, 512),
            "VEC": one_of(4, 8, 16),
            "num_warps": WARPS,
            "programs_per_sm": one_of(1, 2, 4, 8),
        },
        "sample": {
            "BLOCK": one_of(512, 1024, 2048, 4096),
            "SEARCH_BLOCK": one_of(128, 256, 512, 1024),
            "num_warps": WARPS,
            "programs_per_sm": one_of(1, 2, 4, 8),
        },
        "pair": {
            "BLOCK": one_of(512, 1024, 2048, 4096),
            "num_warps": WARPS,
            "programs_per_sm": one_of(1, 2, 4, 8),
        },
        "pair_of_products": {
            "BLOCK_V": one_of(64, 128, 256),
            "BLOCK_K": one_of(32, 64, 128),
            "BLOCK_N": one_of(16, 32, 64),
            "num_warps": WARPS,
            "num_stages": stages,
        },
        "lm_head": {
            "BLOCK_V": one_of(16, 32, 64, 128, 256),
            "BLOCK_K": one_of(64, 128, 256, 512),
            "num_warps": WARPS,
            "num_stages": stages,
        },
        "linear": _STREAM,
        "linear_silu_mul": _STREAM,
        "qkv_append": _STREAM,
        "attention": {
            "BLOCK_C": one_of(16, 32, 64, 128),
            "num_warps": WARPS,
            "num_stages": stages,
            "programs_per_sm": one_of(1, 2, 4, 8),
        },
        "attention_signals": {
            "BLOCK_C": one_of(32, 64, 128),
            "SHARES": one_of(8, 16, 32, 64),
            "num_warps": WARPS,
            "num_stages": stages,
        },
        "rms_norm": {"num_warps": one_of(1, 2, 4, 8, 16, 32)},
        "rope_append": {"BLOCK_HEADS": one_of(1, 2, 4, 8, 16, 32, 64), "num_warps": WARPS},
        "silu_mul": {"BLOCK": one_of(128, 256, 512, 1024, 2048, 4096), "num_warps": WARPS},
    }
)

# Each lookup once, at the shape that matters most: one row of the products, one long sequence, few queries.
PLAN = FULL._replace(
    logits=(*((rows, 128256) for rows in (1, 2, 4, 8, 16, 32, 64, 128, 256)), (8192, 151936)),
    draws=(1, 4, 16, 64),
    rows=(1, 2, 16),
    tokens=(1,),
    sequences=(1,),
    lengths=(4096,),
    lags=(8, 128),
)


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """What to tune."""

    ops: tuple[str, ...] = tuple(OPS)
    models: tuple[str, ...] = MODELS
    again: bool = False  # also what the table has already
    plan: Plan = PLAN

    def specs(self) -> list[Spec]:
        """The cases to tune on."""
        plan = self.plan._replace(models=tuple(shape for shape in self.plan.models if shape.name in self.models))
        return [spec for op in self.ops for spec in OPS[op].specs(plan)]


def tuner(options: TuneOptions) -> Work:
    """Gives, by the key of a case, the entries found on it."""
    specs = {spec.key: spec for spec in options.specs()}
    device = the_device()
    known = set() if options.again else in_table(device_name(device))

    def work(key: str) -> list[dict[str, Any]]:
        with torch.inference_mode():
            found = list(tuned(specs[key], device, known, timer_of))
        with suppress(RuntimeError):  # a device that is lost
            torch.cuda.empty_cache()
        return found

    return work


def tuned(spec: Spec, device: torch.device, known: set[Lookup], make_timer: TimerOf) -> Iterator[dict[str, Any]]:
    """Tune every lookup of a case that its op owns and that is not known yet; adds to `known`."""
    case = spec.build(device)
    with recorded() as found:
        try:
            case.run(cloned(case.inputs))
        except Exception:
            if not found:
                raise  # else it is the default configuration that fails, and another may not
    todo = {
        wanted: default
        for wanted, (default, _) in found.items()
        if wanted.op in OPS[spec.op].configs and wanted not in known
    }
    if not todo:
        return
    want, timer = case.expect(case.inputs), make_timer(case, device)
    for wanted, default in todo.items():
        known.add(wanted)
        result = descend(wanted, default, case, want, device, timer)
        yield {"op": wanted.op, "shape": wanted.shape, "case": spec.key} | result
        if result["device_lost"]:
            return


def descend(
    wanted: Lookup, default: Config, case: Case, want: Any, device: torch.device, timer: Timer
) -> dict[str, Any]:
    """Walk from the default knob by knob; see the top of this file."""
    times: dict[tuple[tuple[str, int], ...], float] = {}
    rejected: list[dict[str, Any]] = []

    def time_of(config: Config) -> float:
        key = tuple(sorted(config.items()))
        if key not in times:
            times[key] = float("inf")
            try:
                with replaced(wanted, config):
                    wrong = [comparison.name for comparison in checked(case, want) if not comparison.passed]
                    if not wrong:
                        times[key] = timer(config)
                if wrong:
                    rejected.append({"config": dict(config), "error": f"wrong: {', '.join(wrong)}"})
            except Exception as error:  # too many registers, too much shared memory, a block the kernel cannot have
                rejected.append({"config": dict(config), "error": reason(error)})
                if not device_answers():
                    raise DeviceLostError from error
        return times[key]

    best, lost = dict(default), False
    try:
        time_of(best)
        for _ in range(ROUNDS):
            before = best
            for knob, values in KNOBS[wanted.op].items():
                for value in values(best[knob]):
                    candidate = {**best, knob: value}
                    if time_of(candidate) < time_of(best) * (1 - GAIN):
                        best = candidate
            if best == before:
                break
    except DeviceLostError:
        lost = True  # what was found before stands
    default_us, best_us = time_of(default), time_of(best)
    finite = best_us < float("inf")
    return {
        "device_lost": lost,
        "default": dict(default),
        "default_us": default_us if default_us < float("inf") else None,
        "config": best if finite else None,
        "us": best_us if finite else None,
        "tried": len(times),
        "rejected": rejected,
    }


def timer_of(case: Case, device: torch.device) -> Timer:
    """The median of a call."""
    calls = calls_of(case, case.run, device)
    return lambda _: time_calls(calls, device).p50


def device_name(device: torch.device) -> str:
    """As the table names it."""
    return torch.cuda.get_device_name(device)


def in_table(device: str, table: Path | None = None) -> set[Lookup]:
    """What the table has for a device."""
    entries = _read(table or launch.TUNING_TABLE).get(device, {})
    return {Lookup(op, shape) for op, shapes in entries.items() for shape in shapes}


def write_entries(device: str, found: Sequence[Mapping[str, Any]], table: Path | None = None) -> int:
    """Put what was found for a device into the table, and keep everything else; how many entries that were.

    The file is replaced as a whole, so a reader sees the old one or the new one.
    """
    path = table or launch.TUNING_TABLE
    entries = [entry for entry in found if entry["config"] is not None]
    if not entries:
        return 0
    whole = _read(path)
    for entry in entries:
        whole.setdefault(device, {}).setdefault(entry["op"], {})[entry["shape"]] = dict(entry["config"])
    write_text(path, _formatted(whole))
    launch._table.cache_clear()
    launch._table_entry.cache_clear()
    return len(entries)


def _read(path: Path) -> dict[str, dict[str, dict[str, dict[str, int]]]]:
    whole: dict[str, dict[str, dict[str, dict[str, int]]]] = json.loads(path.read_text(encoding="utf-8"))
    return whole


def _formatted(whole: Mapping[str, Mapping[str, Mapping[str, Config]]]) -> str:
    """JSON with sorted keys and one line an entry."""
    devices = []
    for device, ops in sorted(whole.items()):
        blocks = []
        for op, shapes in sorted(ops.items()):
            lines = [
                f"      {json.dumps(shape)}: {json.dumps(dict(config), sort_keys=True)}"
                for shape, config in sorted(shapes.items(), key=lambda item: _numbers(item[0]))
            ]
            blocks.append(f"    {json.dumps(op)}: {{\n" + ",\n".join(lines) + "\n    }")
        devices.append(f"  {json.dumps(device)}: {{\n" + ",\n".join(blocks) + "\n  }")
    return "{\n" + ",\n".join(devices) + "\n}\n"


def _numbers(shape: str) -> list[int]:
    return [int(number) for number in shape.split("x")]
