"""Measure accuracy over a grid of budgets, burst lengths and triggers.

Every combination of the lists is an arm, and every arm runs on the same problems. Records are appended to a file an arm
as the runs finish; the same command goes on where it was stopped, and more arms or problems may be added later. The
denominator is every problem asked for: a run without an answer, one that hit the token limit and one that failed count
as wrong. `accelerate launch -m dodona eval ...` and torchrun divide the problems among their processes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dodona.engine.errors import DodonaError
from dodona.engine.request import DEFAULT_CONSULTS, Request
from dodona.eval.arms import grid
from dodona.eval.commands.options import (
    add_engine_options,
    add_request_options,
    budget,
    check_oracle_options,
    listed,
    request_options,
    whole,
)
from dodona.eval.commands.running import (
    EXIT_INTERRUPTED,
    Interrupted,
    Loader,
    add_running_options,
    check_running,
    print_interruption,
    screen_of,
    with_others,
    work,
    writable,
)
from dodona.eval.compat.switches import GUIDED_INFERENCE, SWITCHES, read_switches
from dodona.eval.job import Job
from dodona.eval.models import Models
from dodona.eval.plan import calibrated, make_plan
from dodona.eval.report.files import check_apart, write_file
from dodona.eval.run import PER_RUN
from dodona.eval.shard import Shard, current_shard
from dodona.eval.store import Place, default_place
from dodona.eval.tasks.options import add_task_options, task_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    default = Request(prompt="")
    add_task_options(parser)
    arms = parser.add_argument_group("arms", "lists have commas between their values; every option may be repeated")
    arms.add_argument(
        "--c",
        metavar="LIST",
        type=listed(budget),
        action="append",
        help=f"consult budgets, as in 0,1,2,inf; 0 is the base alone (default: {DEFAULT_CONSULTS}, without oracle 0)",
    )
    arms.add_argument(
        "--k", metavar="LIST", type=listed(budget), action="append", help=f"burst lengths (default: {default.k})"
    )
    arms.add_argument(
        "--trigger",
        metavar="T",
        action="append",
        help=f"a preset or an expression; repeat it for several (default: {default.parsed_trigger.text})",
    )
    arms.add_argument(
        "--when", metavar="LIST", type=listed(str), action="append", help=f"before, after (default: {default.when})"
    )
    arms.add_argument(
        "--seed", metavar="LIST", type=listed(whole), action="append", help=f"seeds (default: {default.seed})"
    )
    arms.add_argument(
        "--compat",
        metavar="LIST",
        action="append",
        help=f"also count as the first experiments did, which is no valid measure: {GUIDED_INFERENCE}, or some of "
        f"{', '.join(SWITCHES)}",
    )
    add_engine_options(parser)
    add_request_options(parser, without=PER_RUN)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output-dir",
        metavar="DIR",
        help="records, a file an arm (default: runs/DATASET-BASE-ORACLE, with the models' names)",
    )
    output.add_argument("--output-file", metavar="FILE", help="records of all arms in this one file instead")
    add_running_options(output)


def run(args: argparse.Namespace) -> int:
    """Run the grid and print the table."""
    check_running(args)
    shard = current_shard()
    job = job_of(args, shard)
    if args.dry_run:
        return dry_run(args, job, shard)
    stats_file = writable(args.stats_file) if args.stats_file and shard.first else None
    screen = screen_of(args, shard)
    try:
        outcome = work(job, shard, screen, Loader())
        if not shard.first:
            return 0
        if not shard.whole:
            outcome = with_others(outcome, shard, screen)
    except Interrupted as stop:
        print_interruption(stop, shard)
        return EXIT_INTERRUPTED
    if stats_file is not None:
        write_file(stats_file, json.dumps(outcome.report(), indent=1) + "\n")
    print(json.dumps(outcome.report()) if args.json else "\n".join(outcome.lines()))
    return 0


def dry_run(args: argparse.Namespace, job: Job, shard: Shard) -> int:
    """Print what would be run."""
    if not shard.first:
        return 0
    plan = make_plan(job)
    if args.calibrate and plan.left:
        plan = calibrated(plan, job.models_on(shard).load())
    print(json.dumps(plan.as_dict()) if args.json else "\n".join(plan.lines()))
    return 0


def job_of(args: argparse.Namespace, shard: Shard) -> Job:
    """The job that the options describe; what is wrong with it is known before a model is looked for.

    Raises:
        DodonaError: an option out of range, no data set, or two places for the records.
    """
    if args.output_dir is not None and args.output_file is not None:
        raise DodonaError("--output-dir and --output-file both say where the records go: give one of them")
    check_apart({"--output-file": args.output_file, "--stats-file": args.stats_file})
    models = Models.of(args)
    check_oracle_options(args, models)
    compat = read_switches(args.compat or ())
    default = Request(prompt="")
    arms = grid(
        _flat(args.c, [DEFAULT_CONSULTS if models.guided else 0]),
        _flat(args.k, [default.k]),
        args.trigger or [default.parsed_trigger.text],
        _flat(args.when, [default.when]),
        _flat(args.seed, [default.seed]),
    )
    task, problems = task_from(args, note=None if shard.first else _say_nothing)
    if args.output_file is not None:
        place = Place(Path(args.output_file), folder=False)
    elif args.output_dir is not None:
        place = Place(Path(args.output_dir))
    else:
        place = default_place(task.name, models.names)
    options = task.recipe.options() | request_options(args, without=PER_RUN)
    arms += [variant for arm in arms for variant in arm.variants(compat)]
    return Job(task, problems, arms, models, place, options, compat, args.trace)


def _say_nothing(text: str) -> None:
    """The first process says it."""


def _flat(lists: Iterable[list[Any]] | None, default: list[Any]) -> list[Any]:
    return default if lists is None else [value for values in lists for value in values]
