"""``dodona bench gpu``: all parts, one after the other, each in a process of its own, within some minutes.

A part that fails, hangs or takes its process along costs its own results and nobody else's. What is known is on the
disk after every piece.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dodona.bench import apart
from dodona.bench.apart import Lost, Work
from dodona.bench.birth import birth_certificate, described
from dodona.bench.gpu import batches, kernels, logits, machine, replays, times, tokens
from dodona.bench.gpu.budget import LEAST, Budget
from dodona.bench.gpu.options import Options
from dodona.bench.gpu.piece import FAILED, NOT_RUN, PASSED, RUNNING, SKIPPED
from dodona.bench.gpu.report import SCHEMA, markdown, summary
from dodona.bench.lines import write_json, write_text
from dodona.engine.whole_file import check_writable

JSON, MARKDOWN = "gpu.json", "gpu.md"
NO_TIME = "no time left"
NEEDS_CUDA = "needs a CUDA device"

Report = dict[str, Any]


class Part(NamedTuple):
    """A part of the check."""

    name: str
    title: str
    weight: float  # of its share of the time
    pieces: Callable[[Options], tuple[str, ...]]
    worker: Callable[[Options], Work]
    cuda_only: bool = False
    limit: float = math.inf  # seconds that a piece may take, however much time there is


PARTS = (
    Part("machine", "the machine", 4, machine.pieces, machine.worker),
    Part("kernels", "kernels against their references", 24, kernels.pieces, kernels.worker, cuda_only=True, limit=60),
    Part("logits", "logits of eager and triton on the same ids", 12, logits.pieces, logits.worker),
    Part("tokens", "tokens of both loops in float32", 8, tokens.pieces, tokens.worker),
    Part("replays", "graph replays and host synchronisations", 10, replays.pieces, replays.worker),
    Part("times", "times at batch 1", 26, times.pieces, times.worker),
    Part("batches", "throughput", 16, batches.pieces, batches.worker),
)


def run(options: Options, minutes: float, folder: Path, command: str, *, say: Callable[[str], None]) -> Report:
    """Run all parts and write ``gpu.json`` and ``gpu.md``.

    Args:
        minutes: for everything.
        folder: where the files go.
        command: what the user typed.
        say: is given each line for the terminal.

    Raises:
        DodonaError: the folder cannot be written.
    """
    check_writable(folder / JSON)
    report = begun(options, minutes, command)
    for line in described(report["birth"]):
        say(line)
    started = time.monotonic()
    budget = Budget(60 * minutes, {part.name: part.weight for part in PARTS if runs(part, options)})
    for part in PARTS:
        record = next(each for each in report["parts"] if each["name"] == part.name)
        if runs(part, options):
            options = run_part(part, options, budget, record, report, folder, say)
        else:
            record |= {"status": SKIPPED, "reason": NEEDS_CUDA}
        say(f"{part.name}: {record['status']}" + (f", {record['reason']}" if record["reason"] else ""))
        report["seconds"] = time.monotonic() - started
        write(report, folder)
    report["finished"] = True
    write(report, folder)
    for line in summary(report):
        say(line)
    return report


def runs(part: Part, options: Options) -> bool:
    """Whether the device can run a part."""
    return options.on_cuda or not part.cuda_only


def passed(report: Report) -> bool:
    """Whether every part that the device can run has passed."""
    return all(part["status"] in (PASSED, SKIPPED) for part in report["parts"])


def begun(options: Options, minutes: float, command: str) -> Report:
    """A report without results."""
    device = options.torch_device
    parts: list[Report] = [
        {"name": part.name, "title": part.title, "status": NOT_RUN, "reason": None, "seconds": 0.0, "pieces": []}
        for part in PARTS
    ]
    return {
        "schema": SCHEMA,
        "bench": "gpu",
        "birth": birth_certificate(command, device),
        "base": options.base,
        "oracle": options.oracle,
        "device": options.device,
        "quick": options.quick,
        "minutes": minutes,
        "seconds": 0.0,
        "finished": False,
        "parts": parts,
    }


def run_part(
    part: Part,
    options: Options,
    budget: Budget,
    record: Report,
    report: Report,
    folder: Path,
    say: Callable[[str], None],
) -> Options:
    """Run a part's pieces as long as its time lasts, and note them; returns the options for the parts after it."""
    seconds, started = budget.begin(part.name), time.monotonic()
    record |= {"allowed_seconds": seconds, "status": RUNNING}
    try:
        names = list(part.pieces(options))
    except Exception as error:  # a name that no model has, say: nobody else's business
        record |= {"status": FAILED, "reason": apart.reason(error)}
        return options
    if seconds < LEAST:
        record |= {"status": NOT_RUN, "reason": NO_TIME}
        record["pieces"] = [not_run(name) for name in names]
        return options
    before = time.monotonic()
    for name, result in outcomes(part, options, names, budget):
        now = time.monotonic()
        piece: Report = {"name": name, "seconds": now - before, **result}
        before = now
        record["pieces"].append(piece)
        record["seconds"] = now - started
        say(f"  {part.name}: {name}: {piece['status']}" + "".join(f"\n      {text}" for text in piece["problems"]))
        write(report, folder)
        if part.name == "machine" and name == "ceilings" and piece["figures"]:
            options = replace(options, ceilings=piece["figures"])
    record["pieces"] += [not_run(name) for name in names[len(record["pieces"]) :]]
    record |= judged(record["pieces"])
    return options


def outcomes(part: Part, options: Options, names: list[str], budget: Budget) -> Iterator[tuple[str, Report]]:
    """Each piece with what came of it, until the part's time is over."""
    found = apart.results(entered, (part.worker, options), names, lambda: min(part.limit, budget.patience()))
    try:
        for name, result in found:
            if isinstance(result, Lost):
                yield name, {"status": FAILED, "problems": [result.reason], "figures": None}
            else:
                yield name, result
            if budget.over:
                return
    finally:
        found.close()


def entered(worker: Callable[[Options], Work], options: Options) -> Work:
    """A part's worker, in its own process, on the device that was asked for."""
    if options.torch_device.index is not None:
        torch.cuda.set_device(options.torch_device)
    return worker(options)


def not_run(name: str) -> Report:
    """A piece for which there was no time."""
    return {"name": name, "seconds": 0.0, "status": NOT_RUN, "problems": [NO_TIME], "figures": None}


def judged(pieces: list[Report]) -> Report:
    """A part's status, and in a few words why it has not passed."""
    counts = {status: sum(piece["status"] == status for piece in pieces) for status in (PASSED, FAILED, NOT_RUN)}
    if counts[FAILED]:
        return {"status": FAILED, "reason": f"{counts[FAILED]} of {len(pieces)} pieces failed"}
    if counts[NOT_RUN]:
        return {"status": NOT_RUN, "reason": f"{NO_TIME} for {counts[NOT_RUN]} of {len(pieces)} pieces"}
    return {"status": PASSED, "reason": None}


def write(report: Report, folder: Path) -> None:
    """Put both files on the disk."""
    write_json(folder / JSON, report)
    write_text(folder / MARKDOWN, markdown(report))
