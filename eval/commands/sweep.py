"""Run a whole study from a file: models x tasks x c x k x trigger x when x seed.

The file is TOML; docs/sweep-example.toml shows all of it. Each pair of models and task is an experiment in a folder of
its own under output_dir. The same command goes on where it was stopped. A pair that cannot be run is reported, and the
others are run nevertheless. `accelerate launch -m dodona sweep ...` and torchrun divide the problems among processes.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

from dodona.engine.errors import DodonaError
from dodona.eval.commands.running import (
    EXIT_INTERRUPTED,
    Interrupted,
    Loader,
    Outcome,
    add_running_options,
    check_running,
    print_interruption,
    screen_of,
    with_others,
    work,
    writable,
)
from dodona.eval.plan import Plan, calibrated, duration, make_plan
from dodona.eval.report.files import write_file
from dodona.eval.shard import Shard, current_shard
from dodona.eval.sweep import Pairing, read_sweep

EXIT_FAILED = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE.toml", help="what to run")
    add_running_options(parser.add_argument_group("output"))


def run(args: argparse.Namespace) -> int:
    """Run every pair that can be run, and print their tables."""
    check_running(args)
    pairings = read_sweep(args.file)
    shard = current_shard()
    if args.dry_run:
        return dry_run(args, pairings, shard) if shard.first else 0
    stats_file = writable(args.stats_file) if args.stats_file and shard.first else None
    screen, loader = screen_of(args, shard), Loader()
    outcomes: list[Outcome | None] = []
    reports: list[dict[str, Any]] = []
    try:
        for number, pairing in enumerate(pairings, 1):
            if not screen.quiet:
                print(f"--- {number} of {len(pairings)}: {pairing.folder} ---", file=sys.stderr)
            try:
                job = replace(pairing.job(note=None if shard.first else _say_nothing), trace=args.trace)
                outcome = work(job, shard, screen, loader)
            except DodonaError as error:
                print(f"dodona: error: {pairing.folder}: {error}", file=sys.stderr)
                outcomes.append(None)
                reports.append({"folder": str(pairing.folder), "error": str(error)})
                continue
            outcomes.append(outcome)
            reports.append({"folder": str(pairing.folder)})
            if shard.whole:
                _print(outcome, pairing, reports[-1], quiet=args.json)
        if not shard.whole and shard.first:
            for done, pairing, report in zip(outcomes, pairings, reports, strict=True):
                if done is not None:
                    _print(with_others(done, shard, screen), pairing, report, quiet=args.json)
    except Interrupted as stop:
        print_interruption(stop, shard)
        return EXIT_INTERRUPTED
    failed = outcomes.count(None)
    if shard.first:
        if stats_file is not None:
            write_file(stats_file, json.dumps({"pairs": reports}, indent=1) + "\n")
        if args.json:
            print(json.dumps({"pairs": reports}))
        elif failed:
            print(f"{failed} of {len(pairings)} pairs of models and task could not be run", file=sys.stderr)
    return EXIT_FAILED if failed else 0


def dry_run(args: argparse.Namespace, pairings: list[Pairing], shard: Shard) -> int:
    """Print what would be run, pair by pair, and the sum."""
    plans: list[Plan] = []
    reports: list[dict[str, Any]] = []
    loader = Loader()
    for pairing in pairings:
        try:
            job = pairing.job()
            plan = make_plan(job)
            if args.calibrate and plan.left:
                plan = calibrated(plan, loader.engine(job.models_on(shard)))
        except DodonaError as error:
            print(f"dodona: error: {pairing.folder}: {error}", file=sys.stderr)
            reports.append({"folder": str(pairing.folder), "error": str(error)})
            continue
        plans.append(plan)
        reports.append({"folder": str(pairing.folder), **plan.as_dict()})
        if not args.json:
            print("\n".join([f"--- {pairing.folder} ---", *plan.lines(), ""]))
    if args.json:
        print(json.dumps({"pairs": reports}))
    else:
        print(total(plans))
    return EXIT_FAILED if len(plans) < len(pairings) else 0


def total(plans: list[Plan]) -> str:
    """One line over all plans."""
    runs, left = sum(plan.experiment.size for plan in plans), sum(plan.left for plan in plans)
    if not left:
        return f"in all {runs} runs, and nothing is left to run"
    known = [plan.seconds for plan in plans if plan.seconds is not None]
    time = f"about {duration(sum(known))}" if len(known) == len(plans) else "an unknown time"
    tokens = sum(plan.most_tokens for plan in plans)
    return f"in all {runs} runs, {left} left: at most {tokens} tokens to write, {time} in one process"


def _print(outcome: Outcome, pairing: Pairing, report: dict[str, Any], *, quiet: bool) -> None:
    report.update(outcome.report())
    if not quiet:
        print("\n".join([f"--- {pairing.folder} ---", *outcome.lines(), ""]), flush=True)


def _say_nothing(text: str) -> None:
    """The first process says it."""
